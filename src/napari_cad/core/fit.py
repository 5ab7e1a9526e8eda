"""Fit a student to a stack that it was not trained on: try a few settings, rank them, no labels.

`suggest` is a plain generator, like a run: it yields an event per setting and can be abandoned
after any. `Fitter` is what it and a live preview stand on: it keeps the batch-norm statistics that
it has measured, so that another strength costs nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_cad.core.agreement import N_CROPS, reversal_agreement, sample_crops
from napari_cad.core.config import InferenceConfig
from napari_cad.core.errors import ConfigError
from napari_cad.core.fit_settings import (
    FitGrid,
    FitSetting,
    FitSuggested,
    ScoredSetting,
    SettingScored,
)
from napari_cad.core.segmentation_job import chosen_intensity
from napari_cad.core.volume import VolumeSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_cad.core.adaptation import Statistics
    from napari_cad.core.checkpoint import Checkpoint
    from napari_cad.core.config import FitConfig
    from napari_cad.core.inference import AffinityPredictor
    from napari_cad.core.intensity import IntensityMapping
    from napari_cad.core.network import StudentNetwork
    from napari_cad.core.preprocessing import Preprocessing
    from napari_cad.core.volume import EMVolume

__all__ = [
    "N_CROPS",
    "FitGrid",
    "FitSetting",
    "FitSuggested",
    "Fitter",
    "ScoredSetting",
    "SettingScored",
    "suggest",
]

#: Pairs, and the side of their windows in voxels, that a first look at a setting is content with.
_ROUGH_SECTIONS = 3
_ROUGH_WINDOW = 128


@dataclass
class Fitter:
    """Makes fitted students of one checkpoint for one stack; remembers what it has measured.

    Attributes
    ----------
    volume : EMVolume
        The whole stack: statistics are measured on sections spread over it.
    checkpoint : Checkpoint
    inference : InferenceConfig
        Where the students run.
    """

    volume: EMVolume
    checkpoint: Checkpoint
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    _measured: dict[tuple[Preprocessing, int], Statistics] = field(default_factory=dict, repr=False)
    _rough: dict[tuple[Preprocessing, int], Statistics] = field(default_factory=dict, repr=False)

    def predictor(
        self, intensity: IntensityMapping, fit: FitConfig
    ) -> tuple[AffinityPredictor, Preprocessing]:
        """Make what predicts affinities under a setting.

        Parameters
        ----------
        intensity : IntensityMapping
            Resolved for the volume.
        fit : FitConfig
            The setting. Measuring for it takes seconds; another strength alone takes no time.

        Returns
        -------
        predictor : AffinityPredictor
        preprocessing : Preprocessing
            To call it with: `predictor.predict(volume, preprocessing, sections)`.

        Raises
        ------
        VolumeError
            See `measure_statistics`.
        """
        from napari_cad.core.inference import AffinityPredictor
        from napari_cad.core.preprocessing import Preprocessing

        for _ in self.measure(intensity, fit):
            pass
        network = self.network(intensity, fit)
        return AffinityPredictor(network, self.inference), Preprocessing.of(intensity, fit)

    def is_measured(self, intensity: IntensityMapping, fit: FitConfig) -> bool:
        """Whether `network` gives what a run under this setting has."""
        return fit.adapt == 0 or self._key(intensity, fit) in self._measured

    def measure(self, intensity: IntensityMapping, fit: FitConfig) -> Iterator[None]:
        """Measure what a setting needs and nobody has measured yet, one pair of sections a step.

        Raises
        ------
        VolumeError
            See `measure_statistics`.
        """
        from napari_cad.core.adaptation import measured_so_far

        if self.is_measured(intensity, fit):
            return
        key = self._key(intensity, fit)
        latest: Statistics | None = None
        for so_far in measured_so_far(
            self.checkpoint.build(), self.volume, *key, device=self._device()
        ):
            latest = so_far
            yield
        if latest is not None:
            self._measured[key] = latest

    def network(self, intensity: IntensityMapping, fit: FitConfig) -> StudentNetwork:
        """Make the student under a setting, without waiting for `measure`.

        Returns
        -------
        StudentNetwork
            Until `measure` has ended, with statistics of a few small windows, measured in a
            fraction of a second.

        Raises
        ------
        VolumeError
            See `measure_statistics`.
        """
        from napari_cad.core.adaptation import blend_statistics, measured_so_far

        network = self.checkpoint.build()
        if fit.adapt == 0:
            return network
        key = self._key(intensity, fit)
        if key not in self._measured and key not in self._rough:
            *_, self._rough[key] = measured_so_far(
                network, self.volume, key[0], _ROUGH_SECTIONS, window=_ROUGH_WINDOW,
                device=self._device(),
            )  # fmt: skip
        statistics = self._measured.get(key) or self._rough[key]
        return blend_statistics(network, statistics, fit.adapt)

    def _key(self, intensity: IntensityMapping, fit: FitConfig) -> tuple[Preprocessing, int]:
        from napari_cad.core.preprocessing import Preprocessing

        return Preprocessing.of(intensity, fit), fit.sampled_sections

    def _device(self) -> str:
        from napari_cad.core.device import pick_device

        return pick_device(self.inference.device, self.inference.precision).name


def suggest(
    volume: EMVolume | VolumeSource,
    checkpoints: Sequence[str],
    *,
    intensity: IntensityMapping | None = None,
    invert: bool = False,
    grid: FitGrid | None = None,
    inference: InferenceConfig | None = None,
    n_crops: int = N_CROPS,
    crop_size: int = 256,
) -> Iterator[SettingScored | FitSuggested]:
    """Try settings on a few small crops and rank them by how well each agrees with itself.

    All arguments can be pickled, so that it can run in a child process.

    Parameters
    ----------
    volume : EMVolume or VolumeSource
        The stack, of at least two sections.
    checkpoints : sequence of str
        As `resolve_checkpoint` takes them; the grid is tried for each.
    intensity : IntensityMapping, optional
        By default each checkpoint's, as in a run.
    invert : bool
        Exchange black and white, whichever mapping it is.
    grid : FitGrid, optional
        What to try.
    inference : InferenceConfig, optional
        Where the network runs.
    n_crops, crop_size : int
        How many crops, and their side in voxels; see `sample_crops`.

    Yields
    ------
    SettingScored
        After each setting.
    FitSuggested
        At the end.

    Raises
    ------
    ConfigError
        If there is no checkpoint, or a value of the grid is not allowed.
    NapariCadError
        See `open_source`, `resolve_checkpoint` and `sample_crops`.
    """
    from napari_cad.core.readers import open_source
    from napari_cad.core.registry import resolve_checkpoint

    if not checkpoints:
        raise ConfigError("a suggestion needs at least one checkpoint")
    if isinstance(volume, VolumeSource):
        volume = open_source(volume)
    grid = grid or FitGrid()
    fitters: list[tuple[Fitter, list[FitSetting]]] = []
    for name in checkpoints:
        checkpoint = resolve_checkpoint(name)
        chosen = chosen_intensity(volume, checkpoint.metadata, intensity, invert=invert)
        mapping = chosen.resolve(volume)
        fitter = Fitter(volume, checkpoint, inference or InferenceConfig())
        fitters.append((fitter, grid.settings(volume, name, checkpoint.metadata, mapping)))
    crops = sample_crops(volume, n_crops, crop_size)
    total = sum(len(settings) for _, settings in fitters)
    results: list[ScoredSetting] = []
    for fitter, settings in fitters:
        for setting in settings:
            started = time.monotonic()
            predictor, preprocessing = fitter.predictor(setting.intensity, setting.fit)
            agreement = reversal_agreement(predictor, preprocessing, crops)
            results.append(ScoredSetting(setting, agreement, time.monotonic() - started))
            yield SettingScored(results[-1], len(results), total)
    # a stable sort: of equals the one tried first, which changes the student less
    yield FitSuggested(tuple(sorted(results, key=lambda result: -result.agreement)))
