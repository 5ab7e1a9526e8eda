"""What is needed to use a checkpoint rightly, and where it comes from; no weights here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from napari_cad import __version__
from napari_cad.core.errors import CheckpointError, ConfigError
from napari_cad.core.intensity import IntensityMapping

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The only architecture there is so far.
ARCHITECTURE = "y-student-2d"

#: Far more channels than a student has; it keeps a forged file from asking for huge memory.
MAX_CHANNELS = 256


@dataclass(frozen=True, kw_only=True)
class CheckpointMetadata:
    """What is needed to use a checkpoint rightly, and where it comes from.

    Parameters
    ----------
    name : str
        Short name, for lists.
    architecture : str
        Always "y-student-2d".
    width, embedding_dim : int
        Of the network: see `StudentNetwork`.
    voxel_size : tuple of float, optional
        (z, y, x) in nm of the training data; None = not known.
    intensity : IntensityMapping
        How the numbers in a file become the intensities that the network was trained on.
    merge_function : str
        Recommended for agglomeration.
    threshold : float
        Recommended agglomeration threshold, an edge score in [0, 1].
    training_data : str
        What it was trained on.
    licence : str
        Terms of use.
    code_version : str
        Version of napari-cad that made it; empty for checkpoints from elsewhere.
    notes : str
        Anything else that a user should know.

    Raises
    ------
    CheckpointError
        If a value is not what is said here.
    """

    name: str
    architecture: str = ARCHITECTURE
    width: int = 16
    embedding_dim: int = 16
    voxel_size: tuple[float, float, float] | None = None
    intensity: IntensityMapping = field(default_factory=IntensityMapping)
    merge_function: str = "median"
    threshold: float = 0.5
    training_data: str
    licence: str
    code_version: str = __version__
    notes: str = ""

    def __post_init__(self) -> None:
        texts = ("name", "merge_function", "training_data", "licence", "code_version", "notes")
        for key in texts:
            if not isinstance(getattr(self, key), str):
                raise CheckpointError(f"{key}: expected a text, got {getattr(self, key)!r}")
        if not self.name:
            raise CheckpointError("name: expected a text, got an empty one")
        if self.architecture != ARCHITECTURE:
            raise CheckpointError(
                f"architecture: expected {ARCHITECTURE!r}, got {self.architecture!r}"
            )
        for key in ("width", "embedding_dim"):
            value = getattr(self, key)
            if type(value) is not int or not 1 <= value <= MAX_CHANNELS:
                raise CheckpointError(
                    f"{key}: expected a whole number from 1 to {MAX_CHANNELS}, got {value!r}"
                )
        if not isinstance(self.intensity, IntensityMapping):
            raise CheckpointError(
                f"intensity: expected an IntensityMapping, got {type(self.intensity).__name__}"
            )
        threshold = _numbers("threshold", [self.threshold], 1)[0]
        if not 0 <= threshold <= 1:
            raise CheckpointError(f"threshold: expected an edge score in [0, 1], got {threshold}")
        object.__setattr__(self, "threshold", threshold)
        if self.voxel_size is not None:
            voxel_size = _numbers("voxel size", self.voxel_size, 3)
            if min(voxel_size) <= 0:
                raise CheckpointError(
                    f"voxel size: expected three positive numbers (z, y, x) in nm, got {voxel_size}"
                )
            object.__setattr__(self, "voxel_size", voxel_size)

    def to_json(self) -> dict[str, Any]:
        """Make a dictionary that `json` can write."""
        values = asdict(self)
        values["intensity"] = self.intensity.to_json()
        values["voxel_size"] = None if self.voxel_size is None else list(self.voxel_size)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CheckpointMetadata:
        """Make metadata from what `to_json` gave.

        Keys that are not known are passed over: a later release may add some.

        Raises
        ------
        CheckpointError
            If a key is missing or a value is not allowed.
        """
        known = {key: values[key] for key in (f.name for f in fields(cls)) if key in values}
        missing = sorted({"name", "training_data", "licence", "intensity"} - set(known))
        if missing:
            raise CheckpointError(f"checkpoint metadata without {', '.join(missing)}")
        if not isinstance(known["intensity"], dict):
            raise CheckpointError(f"intensity: expected a JSON object, got {known['intensity']!r}")
        try:
            known["intensity"] = IntensityMapping.from_json(known["intensity"])
        except (ConfigError, TypeError, ValueError) as error:
            raise CheckpointError(f"intensity of a checkpoint: {error}") from error
        return cls(**known)


def _numbers(key: str, values: Any, count: int) -> tuple[Any, ...]:
    try:
        numbers = tuple(float(v) for v in values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{key}: expected {count} numbers, got {values!r}") from error
    if len(numbers) != count or not all(math.isfinite(n) for n in numbers):
        raise CheckpointError(f"{key}: expected {count} finite numbers, got {values!r}")
    return numbers
