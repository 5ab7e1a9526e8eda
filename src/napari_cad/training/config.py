"""Every setting of a training run, as frozen dataclasses; see `napari_cad.core.config`.

A configuration is written in TOML with one table per part (`[data]`, `[[data.volumes]]`,
`[augment]`, `[teacher]`, `[loss]`, …), or made in Python. What is not named keeps its default; with
no `[teacher]` the student learns alone.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from napari_cad.core.config import DEVICES, PRECISIONS
from napari_cad.core.errors import ConfigError
from napari_cad.core.teacher import PUBLISHED_WIDTHS
from napari_cad.training.data_config import AugmentConfig, DataConfig, VolumeConfig
from napari_cad.training.published import STALE_COLUMNS
from napari_cad.training.settings import Settings, is_whole, setting

if TYPE_CHECKING:
    import os

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "LossConfig",
    "OptimiserConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainingConfig",
    "ValidationConfig",
    "VolumeConfig",
]

BALANCES = ("channel", "patch", "published")
OPTIMISERS = ("adamw", "adam")
SCHEDULES = ("constant", "linear", "cosine")
SELECTIONS = ("voi", "loss")


@dataclass(frozen=True)
class StudentConfig(Settings):
    """The network that is wanted."""

    checkpoint: str | None = setting(
        None,
        "Checkpoint to go on from (default, a name or a file); it sets the size. "
        "By default random weights.",
    )
    width: int = setting(16, "Channels of the first stage.", min=1, max=256)
    embedding_dim: int = setting(16, "Channels of an embedding.", min=1, max=256)


@dataclass(frozen=True)
class TeacherConfig(Settings):
    """The 3D network that it is distilled from."""

    checkpoint: str | None = setting(
        None, "A teacher's file to start from; it sets the size. By default random."
    )
    frozen: bool = setting(False, "Keep the teacher as it is; needs a checkpoint.")
    widths: tuple[int, ...] = setting(
        PUBLISHED_WIDTHS, "Channels of the levels; each further one halves height and width."
    )
    norm_momentum: float = setting(
        0.01,
        "Of the batch norms' running statistics; published 0.001, which needs thousands of steps.",
        min=0.0,
        max=1.0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frozen and self.checkpoint is None:
            raise ConfigError("a frozen teacher never learns: give it a checkpoint")
        if not self.widths or not all(is_whole(n, 1) for n in self.widths):
            raise ConfigError(f"widths are one or more positive whole numbers, got {self.widths}")


@dataclass(frozen=True)
class LossConfig(Settings):
    """Which losses, with what weights. A loss with weight 0 is not computed."""

    teacher: float = setting(1.0, "Weight of L_3D.", min=0.0)
    slice: float = setting(1.0, "Weight of L_slice.", min=0.0)
    cross: float = setting(1.0, "Weight of L_CAD, the distillation.", min=0.0)
    interaction: float = setting(1.0, "Weight of L_FGI, the grafting.", min=0.0)
    start_distillation: int = setting(
        0, "Step from which on L_CAD and L_FGI count; published 10000.", unit="steps", min=0
    )
    nearest_weight: float = setting(10.0, "Of the nearest neighbours within L_3D.", min=0.0)
    detach_teacher: bool = setting(
        False, "Give the teacher no gradient from L_CAD and L_FGI; published: off."
    )
    unlabelled_weight: float = setting(0.0, "Weight of voxels without truth in L_CAD.", min=0.0)
    retention: float = setting(
        0.0,
        "Weight of L_keep: where there is no truth, the affinities of the checkpoint that training "
        "goes on from are kept.",
        min=0.0,
    )
    balance: str = setting(
        "channel",
        "Over what positives and negatives are balanced: each offset by itself, "
        "the patch, or the patch as published.",
        choices=BALANCES,
    )
    clamped: bool = setting(
        False, "Give opposite embeddings of one neurite no gradient, as published."
    )
    sum_pairs: bool = setting(
        False,
        "Sum L_slice, L_CAD and the published L_FGI over the pairs of a patch, as published, "
        "instead of taking their mean.",
    )
    published_fgi: bool = setting(
        False,
        "L_FGI and L_CAD as the published code computes them, with its mistakes; for comparisons. "
        "They know no voxels without truth: set augment.missing to 0.",
    )


@dataclass(frozen=True)
class OptimiserConfig(Settings):
    """How the weights are moved."""

    name: str = setting("adamw", "adamw, or adam as published.", choices=OPTIMISERS)
    learning_rate: float = setting(0.002, "Highest.", min=0.0)
    teacher_rate: float = setting(1.0, "Factor of the teacher's learning rate.", min=0.0)
    weight_decay: float = setting(0.001, "Per step.", min=0.0)
    eps: float = setting(1e-08, "Of Adam; published 0.01.", min=0.0)
    amsgrad: bool = setting(False, "Of Adam; published: on.")
    schedule: str = setting(
        "linear", "How the learning rate falls to zero at the end.", choices=SCHEDULES
    )
    warmup: int = setting(100, "Steps of rising learning rate.", unit="steps", min=0)
    decay: float = setting(
        0.25, "Last part of the steps, over which the learning rate falls.", min=0.0, max=1.0
    )
    clip: float = setting(5.0, "Largest norm of a network's gradient; 0 is without limit.", min=0.0)
    average: float = setting(
        0.998,
        "Decay of the running average of the weights, which is what is validated "
        "and saved; 0 saves the weights themselves.",
        min=0.0,
        max=0.99999,
    )

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Learning rate of a step.

        Parameters
        ----------
        step : int
            From 0.
        steps : int
            Of the whole run.

        Returns
        -------
        float
            Rising over `warmup`, then constant, then falling over the last `decay` of the run.
        """
        return self.learning_rate * learning_rate_factor(
            step, steps, warmup=self.warmup, decay=self.decay, schedule=self.schedule
        )


def learning_rate_factor(
    step: int, steps: int, *, warmup: int, decay: float, schedule: str
) -> float:
    """Part of the highest learning rate that a step has; see `OptimiserConfig`."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    falling = decay * steps
    if schedule == "constant" or falling <= 0:
        return rise
    left = min(1.0, (steps - step) / falling)
    fall = left if schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
    return rise * fall


@dataclass(frozen=True)
class ValidationConfig(Settings):
    """How the best weights are chosen."""

    every: int = setting(500, "Steps between validations.", unit="steps", min=1)
    size: int | None = setting(
        512,
        "Side of the middle of the sections that is validated on; by default all.",
        unit="voxels",
        min=16,
    )
    threshold: float | None = setting(
        None,
        "Agglomeration threshold of the VOI, the same in every validation, and what the new "
        "checkpoint recommends. By default that of the checkpoint that is gone on from, else 0.5.",
        min=0.0,
        max=1.0,
    )
    select: str = setting("voi", "What must be lowest.", choices=SELECTIONS)
    at_start: bool = setting(
        False, "Validate before the first step too, so that fine-tuning must beat its start."
    )
    patience: int = setting(
        0, "Validations without a better one after which training stops; 0 never stops.", min=0
    )

    @property
    def fixed_threshold(self) -> float:
        """Give the threshold, also where neither the settings nor a checkpoint say one."""
        return 0.5 if self.threshold is None else self.threshold


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """Everything that a training run needs to know."""

    name: str = setting("student", "Name of the checkpoint.")
    training_data: str = setting(
        "", "What the checkpoint says it was trained on; by default the volumes."
    )
    licence: str = setting("", "Terms under which the checkpoint may be used.")
    steps: int = setting(6000, "Of the whole run.", min=1)
    seed: int = setting(0, "Of the weights and of the patches.", min=0)
    device: str = setting("auto", "Where to train; auto takes CUDA, then MPS, then the CPU.")
    precision: str = setting(
        "auto",
        "Arithmetic of the networks; auto is half precision on CUDA, float32 elsewhere.",
        choices=PRECISIONS,
    )
    save_every: int = setting(100, "Steps between saved states.", unit="steps", min=1)
    log_every: int = setting(10, "Steps that one point of the curve averages.", unit="steps", min=1)
    data: DataConfig = field(default_factory=DataConfig, metadata={"parts": DataConfig})
    augment: AugmentConfig = field(default_factory=AugmentConfig, metadata={"parts": AugmentConfig})
    student: StudentConfig = field(default_factory=StudentConfig, metadata={"parts": StudentConfig})
    teacher: TeacherConfig | None = field(default=None, metadata={"parts": TeacherConfig})
    loss: LossConfig = field(default_factory=LossConfig, metadata={"parts": LossConfig})
    optimiser: OptimiserConfig = field(
        default_factory=OptimiserConfig, metadata={"parts": OptimiserConfig}
    )
    validation: ValidationConfig = field(
        default_factory=ValidationConfig, metadata={"parts": ValidationConfig}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device not in DEVICES and not self.device.startswith("cuda:"):
            raise ConfigError(
                f"device must be one of {', '.join(DEVICES)} or cuda:N, got {self.device!r}"
            )
        distils = self.teacher is not None and (self.loss.cross > 0 or self.loss.interaction > 0)
        if self.loss.slice == 0 and not (distils and self.loss.start_distillation == 0):
            raise ConfigError(
                "the student learns nothing: give loss.slice a weight, or distil from a teacher "
                "from step 0 on"
            )
        if self.loss.retention > 0 and self.student.checkpoint is None:
            raise ConfigError(
                "loss.retention keeps what a checkpoint knows: give student.checkpoint, or set "
                "loss.retention to 0"
            )
        if self.teacher is None:
            return
        multiple = 2 ** (len(self.teacher.widths) - 1)
        if self.data.patch[1] % multiple or self.data.patch[2] % multiple:
            raise ConfigError(
                f"a teacher with {len(self.teacher.widths)} levels needs patches whose height and "
                f"width are multiples of {multiple}, got {self.data.patch}"
            )
        if self.loss.published_fgi and self.data.patch[2] <= STALE_COLUMNS:
            raise ConfigError(
                f"the published L_CAD leaves out {STALE_COLUMNS} columns: patches must be wider, "
                f"got {self.data.patch}"
            )

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Self:
        """Read settings from a TOML file.

        Parameters
        ----------
        path : str or Path
            The file. Relative paths of volumes and checkpoint files in it are taken from the
            folder it lies in.

        Returns
        -------
        TrainingConfig

        Raises
        ------
        ConfigError
            If there is no such file, it is no TOML, or a setting is unknown or not allowed.
        """
        path = Path(path).expanduser()
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path} cannot be read as a TOML file: {error}") from error
        try:
            config = cls.from_json(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        return config._relative_to(path.parent)

    def _relative_to(self, folder: Path) -> Self:
        def moved(volumes: tuple[VolumeConfig, ...]) -> tuple[VolumeConfig, ...]:
            return tuple(volume.relative_to(folder) for volume in volumes)

        data = dataclasses.replace(
            self.data,
            volumes=moved(self.data.volumes),
            validation=moved(self.data.validation),
        )
        student, teacher = self.student, self.teacher
        if student.checkpoint is not None and (folder / student.checkpoint).is_file():
            student = dataclasses.replace(student, checkpoint=_join(folder, student.checkpoint))
        if teacher is not None and teacher.checkpoint is not None:
            teacher = dataclasses.replace(teacher, checkpoint=_join(folder, teacher.checkpoint))
        return dataclasses.replace(self, data=data, student=student, teacher=teacher)

    @classmethod
    def published(cls, **changes: Any) -> Self:
        """Train teacher and student jointly, as the publication's code does.

        Without its weight-0 pass of 2D patches, which only moves the student's batch norms, and
        with one forward pass for all pairs of a batch. Patches are varied as often as there, by
        the same transforms: flips in every patch, grey values within the ranges of ours, and
        corners that a rotation leaves empty have no truth instead of background.

        Parameters
        ----------
        **changes
            Settings that replace those of the publication.

        Returns
        -------
        TrainingConfig
        """
        settings: dict[str, Any] = {
            "steps": 200_000,
            "seed": 555,
            "precision": "float32",
            "data": DataConfig(patch=(18, 160, 160), margin=20, batch=2, balanced=0.0),
            "teacher": TeacherConfig(norm_momentum=0.001),
            # each transform with probability 1/2 in half of the patches; grey values are changed
            # for the patch or for its sections, again with probability 1/2
            "augment": AugmentConfig(
                rotate=0.25, zoom=0.0, stretch=0.0, elastic=0.25, misalign=0.0, missing=0.0,
                contrast=0.125, section_contrast=0.125, defocus=0.0, noise=0.0,
            ),
            "loss": LossConfig(
                start_distillation=10_000, balance="published", clamped=True, sum_pairs=True,
                published_fgi=True,
            ),
            "optimiser": OptimiserConfig(
                name="adam", learning_rate=1e-4, weight_decay=1e-6, eps=0.01, amsgrad=True,
                schedule="constant", warmup=0, clip=0.0, average=0.0,
            ),
            "validation": ValidationConfig(every=1000),
        }  # fmt: skip
        return cls(**{**settings, **changes})


def _join(folder: Path, path: str) -> str:
    return str(folder / Path(path).expanduser())
