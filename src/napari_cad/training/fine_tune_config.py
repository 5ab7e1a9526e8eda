"""What a fine-tuning is asked for and what it shows; nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_cad.core.errors import ConfigError
from napari_cad.core.events import Event
from napari_cad.training.settings import Settings, setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from napari_cad.core.volume import EMVolume

#: The job, as `JobProcess` wants it.
FINE_TUNE = "napari_cad.training.fine_tune:fine_tune"

#: With fewer labelled sections all of them are learned from.
_LEAST_TO_SPLIT = 6

#: Weight of L_keep where nothing is learned between sections. Of 0, 0.3 and 1 the best for one
#: labelled section of ISBI 2012, on its sections 14-19, which no figure of the docs is about; with
#: two or more neighbouring ones 0 was the best.
_RETENTION = 0.3


@dataclass(frozen=True)
class FineTuneConfig(Settings):
    """How a checkpoint is fine-tuned; what is not here is as in `TrainingConfig`."""

    steps: int = setting(
        300, "Steps of the whole run; with more, it can be gone on with.", min=1, max=1_000_000
    )
    learning_rate: float = setting(
        0.0005,
        "Highest; a training from random weights takes four times that.",
        min=0.0,
        max=1.0,
        step=0.0001,
    )
    patch: int = setting(
        160, "Height and width of a patch, a multiple of 16.", unit="voxels", min=32, max=1024
    )
    batch: int = setting(4, "Patches per step; fewer need less memory.", min=1, max=256)
    every: int = setting(
        50, "Steps from one saved checkpoint, validation and picture to the next.", min=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch % 16:
            raise ConfigError(f"a patch's side is a multiple of 16, got {self.patch}")


@dataclass(frozen=True)
class Truth:
    """A stack with its labels.

    Parameters
    ----------
    image, labels : EMVolume
        Of the same shape.
    sparse : bool
        Whether label 0 is not labelled, instead of the border between neurites.
    unlabelled : int, optional
        A further label that means not labelled.
    complete : bool
        Whether labelled neurites are whole; see `TrainingVolume`.
    labelled : tuple of int, optional
        Sections whose labels are truth; by default all.
    """

    image: EMVolume
    labels: EMVolume
    sparse: bool = False
    unlabelled: int | None = None
    complete: bool = False
    labelled: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Compared(Event):
    """What the student makes of one section at a step.

    Parameters
    ----------
    step : int
        0 is before fine-tuning.
    picture : ndarray, shape (Y, 4 X, 3), uint8
        Side by side: image, affinities (z, y, x as red, green, blue), segments, truth.
    scores : dict of str to float
        Of the whole volume that is validated on, or of the few sections that are shown.
    kept_out : bool
        Whether the section is not learned from.
    """

    step: int
    picture: npt.NDArray[np.uint8]
    scores: dict[str, float]
    kept_out: bool


def retention_for(labelled: Sequence[int]) -> float:
    """Weight that L_keep should have for these labelled sections.

    Parameters
    ----------
    labelled : sequence of int
        Sections that are learned from.

    Returns
    -------
    float
        0 where two of them are neighbours. Else there is no truth between sections, and the student
        would forget what it knows of that: a positive weight.
    """
    known = set(labelled)
    return 0.0 if any(z + 1 in known for z in known) else _RETENTION


def split_sections(
    labelled: Sequence[int], validation: Sequence[int] | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose which labelled sections are learned from, and which choose the best weights.

    Parameters
    ----------
    labelled : sequence of int
        Sections with truth.
    validation : sequence of int, optional
        Those to keep out; by default the last fifth, at least two, of six or more.

    Returns
    -------
    training, validation : tuple of int
        Without a section in common, both in order.

    Raises
    ------
    ConfigError
        If a section to keep out has no truth, or none is left to learn from.
    """
    every = sorted(set(labelled))
    if validation is None:
        n = max(2, len(every) // 5) if len(every) >= _LEAST_TO_SPLIT else 0
        validation = every[len(every) - n :]
    unknown = sorted(set(validation) - set(every))
    if unknown:
        raise ConfigError(
            f"sections to validate on must be labelled, {unknown} are not: labelled are {every}"
        )
    training = [z for z in every if z not in set(validation)]
    if not training:
        raise ConfigError(
            f"nothing is left to learn from: of {len(every)} labelled sections "
            f"{len(set(validation))} are to validate on"
        )
    return tuple(training), tuple(sorted(set(validation)))
