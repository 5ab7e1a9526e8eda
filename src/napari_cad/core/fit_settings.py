"""What fitting tries and what comes out: plain values, nothing that takes long to import."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from napari_cad.core.config import FitConfig
from napari_cad.core.errors import ConfigError
from napari_cad.core.events import Event
from napari_cad.core.segmentation_job import own_size_rescale

if TYPE_CHECKING:
    from napari_cad.core.checkpoint_metadata import CheckpointMetadata
    from napari_cad.core.intensity import IntensityMapping
    from napari_cad.core.volume import EMVolume

#: Voxel sizes that differ by less than this ratio are taken for the same.
_SAME_VOXEL_SIZE = 1.15

#: Factors by which a grid rescales at most, either way.
_RESCALE_LIMIT = 4.0


@dataclass(frozen=True)
class FitGrid:
    """The settings to try; every combination of them.

    Attributes
    ----------
    adapt : tuple of float
        Strengths of the adaptation.
    smooth : tuple of float
        Standard deviations of the Gaussian, in voxels.
    rescale : tuple of float, optional
        In-plane factors; by default 1, and the one that gives the stack the voxel size of the
        checkpoint's training data where that differs.
    both_polarities : bool
        Also try the inverted intensities.
    sampled_sections : int
        See `FitConfig`.
    """

    adapt: tuple[float, ...] = (0.0, 0.5, 1.0)
    smooth: tuple[float, ...] = (0.0, 1.0)
    rescale: tuple[float, ...] | None = None
    both_polarities: bool = False
    sampled_sections: int = FitConfig().sampled_sections

    def __post_init__(self) -> None:
        if not (self.adapt and self.smooth) or self.rescale == ():
            raise ConfigError("a grid needs at least one value of each setting")

    def settings(
        self,
        volume: EMVolume,
        checkpoint: str,
        metadata: CheckpointMetadata,
        intensity: IntensityMapping,
    ) -> list[FitSetting]:
        """Make all combinations for a checkpoint; those that share a measurement are neighbours.

        Raises
        ------
        ConfigError
            If a value is not allowed.
        """
        rescale = self.rescale
        if rescale is None:
            factor = own_size_rescale(volume, metadata)
            far = max(factor, 1 / factor)
            rescale = (
                (1.0, round(factor, 3)) if _SAME_VOXEL_SIZE < far <= _RESCALE_LIMIT else (1.0,)
            )
        intensities = [intensity]
        if self.both_polarities:
            intensities.append(replace(intensity, invert=not intensity.invert))
        return [
            FitSetting(
                checkpoint, mapping, FitConfig(strength, self.sampled_sections, smooth, factor)
            )
            for mapping, factor, smooth, strength in product(
                intensities, rescale, self.smooth, self.adapt
            )
        ]


@dataclass(frozen=True)
class FitSetting:
    """A checkpoint and how it is fitted.

    Attributes
    ----------
    checkpoint : str
        As `resolve_checkpoint` takes it.
    intensity : IntensityMapping
        Resolved for the volume.
    fit : FitConfig
    """

    checkpoint: str
    intensity: IntensityMapping
    fit: FitConfig

    def to_json(self) -> dict[str, Any]:
        """Plain values that `json` can write."""
        return {
            "checkpoint": self.checkpoint,
            "intensity": self.intensity.to_json(),
            "fit": self.fit.to_json(),
        }


@dataclass(frozen=True)
class ScoredSetting:
    """A setting and its score.

    Attributes
    ----------
    setting : FitSetting
    agreement : float
        See `reversal_agreement`; 0 to 1, higher is better.
    seconds : float
        What it took.
    """

    setting: FitSetting
    agreement: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values that `json` can write."""
        return {**self.setting.to_json(), "agreement": self.agreement, "seconds": self.seconds}


@dataclass(frozen=True)
class SettingScored(Event):
    """One more setting was tried, `done` of `total` are."""

    result: ScoredSetting
    done: int
    total: int


@dataclass(frozen=True)
class FitSuggested(Event):
    """All settings were tried.

    Attributes
    ----------
    ranking : tuple of ScoredSetting
        The best first.
    """

    ranking: tuple[ScoredSetting, ...]

    @property
    def best(self) -> ScoredSetting:
        """The suggested setting."""
        return self.ranking[0]
