"""Every setting of a run, as frozen dataclasses.

A field's metadata holds what a form or a help text needs: `help`, and where they apply `unit`,
`min`, `max` and `choices`. Values are checked when a config is made, so that a config that exists
is valid. `to_json` and `from_json` are inverses; the JSON stands in the store.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Self

from napari_cad.core.errors import ConfigError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.tiling import ALIGNMENT, smallest_tile

DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
AUGMENTATIONS = ("none", "order", "flips", "dihedral", "all")


class _Config:
    """Checks fields against their metadata, and JSON both ways."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if value is None:
                continue
            # NaN would pass the comparisons below, and equals nothing, not even itself on resuming
            if isinstance(value, Real) and not math.isfinite(value):
                raise ConfigError(f"{f.name} must be a finite number, got {value}")
            choices, low, high = (f.metadata.get(key) for key in ("choices", "min", "max"))
            if choices is not None and value not in choices:
                raise ConfigError(f"{f.name} must be one of {', '.join(choices)}, got {value!r}")
            if (low is not None and value < low) or (high is not None and value > high):
                raise ConfigError(f"{f.name} must be between {low} and {high}, got {value}")

    def to_json(self) -> dict[str, Any]:
        """Plain values that `json` can write."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make a config from what `to_json` gave.

        Raises
        ------
        ConfigError
            If a key is unknown or a value not allowed.
        """
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"{cls.__name__} has no setting {', '.join(unknown)}: known are "
                f"{', '.join(sorted(known))}"
            )
        return cls(**values)


@dataclass(frozen=True)
class InferenceConfig(_Config):
    """How the network runs; none of it changes the result beyond rounding."""

    device: str = field(
        default="auto",
        metadata={
            "help": "Where the network runs; auto takes CUDA, then MPS, then the CPU "
            "(cuda:1 names the second GPU).",
        },
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": "Arithmetic of the network; auto is half precision on CUDA and float32 "
            "elsewhere.",
            "choices": PRECISIONS,
        },
    )
    batch: int | None = field(
        default=None,
        metadata={
            "help": "Pairs of sections at once; by default 1 on a CPU and what fits on a GPU.",
            "min": 1,
            "max": 64,
        },
    )
    tile: int | None = field(
        default=None,
        metadata={
            "help": "Longest side the network sees at once, halo included; by default a whole "
            "section where memory allows.",
            "unit": "voxels",
            "min": 64,
        },
    )
    memory: int | None = field(
        default=None,
        metadata={
            "help": "What one step may take of the main memory on a CPU; by default half of what "
            "is free.",
            "unit": "bytes",
            "min": 1,
        },
    )
    halo: int = field(
        default=144,
        metadata={
            "help": "Margin of a tile that is computed and thrown away. From 144 voxels on, "
            "tiles give what the whole section gives.",
            "unit": "voxels",
            "min": 0,
            "max": 512,
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device not in DEVICES and not self.device.startswith("cuda:"):
            raise ConfigError(
                f"device must be one of {', '.join(DEVICES)} or cuda:N, got {self.device!r}"
            )
        if self.halo % ALIGNMENT:
            raise ConfigError(f"halo must be a multiple of {ALIGNMENT}, got {self.halo}")
        if self.tile is not None and self.tile < smallest_tile(self.halo):
            raise ConfigError(
                f"a tile of {self.tile} voxels leaves nothing inside a halo of {self.halo} on "
                f"each side: use at least {smallest_tile(self.halo)}"
            )


@dataclass(frozen=True)
class FragmentConfig(_Config):
    """The published recipe of fragments, section by section."""

    boundary_threshold: float = field(
        default=0.5,
        metadata={
            "help": "A voxel is inside a neurite where 1 minus its mean in-section affinity is "
            "below this; seeds are the maxima of the distance to the rest.",
            "min": 0.0,
            "max": 1.0,
        },
    )


@dataclass(frozen=True)
class AgglomerationConfig(_Config):
    """Which fragments become one segment."""

    merge_function: str = field(
        default="median",
        metadata={"help": "Statistic of the affinities between two regions; median is published."},
    )
    threshold: float = field(
        default=0.5,
        metadata={
            "help": "Regions merge while 1 minus that statistic is below this; higher merges more.",
            "min": 0.0,
            "max": 1.0,
        },
    )
    absorb: int = field(
        default=0,
        metadata={
            "help": "Segments of fewer voxels join the neighbour that they would merge with first; "
            "0 leaves all as they are.",
            "unit": "voxels",
            "min": 0,
        },
    )


@dataclass(frozen=True)
class FitConfig(_Config):
    """How a student is fitted to a stack that it was not trained on; by default not at all."""

    adapt: float = field(
        default=0.0,
        metadata={
            "help": "Share of the batch-norm statistics that is measured on the stack instead of "
            "taken from the checkpoint: 0 is the checkpoint as it is, 1 is fully adapted.",
            "min": 0.0,
            "max": 1.0,
        },
    )
    sampled_sections: int = field(
        default=6,
        metadata={
            "help": "Section pairs, spread over the stack, on which they are measured.",
            "min": 1,
            "max": 64,
        },
    )
    smooth: float = field(
        default=0.0,
        metadata={
            "help": "Standard deviation of a Gaussian that smooths every section first.",
            "unit": "voxels",
            "min": 0.0,
            "max": 10.0,
        },
    )
    rescale: float = field(
        default=1.0,
        metadata={
            "help": "In-plane size at which the network sees a section, as a multiple of its own; "
            "affinities and labels keep the section's own size.",
            "min": 0.125,
            "max": 8.0,
        },
    )

    def recorded(self) -> dict[str, Any]:
        """Give what of it decides the voxels of a run; empty where nothing is fitted."""
        values = {"smooth": self.smooth, "rescale": self.rescale, "adapt": self.adapt}
        off = FitConfig()
        chosen: dict[str, Any] = {k: v for k, v in values.items() if v != getattr(off, k)}
        if self.adapt > 0:
            chosen["sampled_sections"] = self.sampled_sections
        return chosen


@dataclass(frozen=True)
class SegmentationConfig(_Config):
    """Everything that a run needs to know besides the volume and the checkpoint."""

    intensity: IntensityMapping = field(default_factory=IntensityMapping)
    fit: FitConfig = field(default_factory=FitConfig, kw_only=True)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    fragments: FragmentConfig = field(default_factory=FragmentConfig)
    agglomeration: AgglomerationConfig = field(default_factory=AgglomerationConfig)
    augmentation: str = field(
        default="none",
        kw_only=True,
        metadata={
            "help": "Average the affinities of several views of each pair of sections: order "
            "(from above and below, 2 times the time), flips (4), dihedral (8) or all (16).",
            "choices": AUGMENTATIONS,
        },
    )
    workers: int | None = field(
        default=None,
        metadata={
            "help": "Processes that make fragments and edges; 0 makes them in the calling "
            "process, by default one per core.",
            "min": 0,
            "max": 256,
        },
    )
    memory: int | None = field(
        default=None,
        kw_only=True,
        metadata={
            "help": "What all processes of the run together may take of the main memory; by "
            "default there is no limit.",
            "unit": "bytes",
            "min": 1,
        },
    )

    def to_json(self) -> dict[str, Any]:
        """Plain values that `json` can write."""
        return {
            "intensity": self.intensity.to_json(),
            "fit": self.fit.to_json(),
            "inference": self.inference.to_json(),
            "fragments": self.fragments.to_json(),
            "agglomeration": self.agglomeration.to_json(),
            "augmentation": self.augmentation,
            "workers": self.workers,
            "memory": self.memory,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make a config from what `to_json` gave; see `_Config.from_json`."""
        parts = {
            "intensity": IntensityMapping,
            "fit": FitConfig,
            "inference": InferenceConfig,
            "fragments": FragmentConfig,
            "agglomeration": AgglomerationConfig,
        }
        made = {
            key: parts[key].from_json(value) if key in parts else value  # type: ignore[attr-defined]
            for key, value in values.items()
        }
        return super().from_json(made)

    @property
    def n_workers(self) -> int:
        """Worker processes: `workers`, or one per core and eight at most."""
        if self.workers is not None:
            return self.workers
        return min(8, os.cpu_count() or 1)
