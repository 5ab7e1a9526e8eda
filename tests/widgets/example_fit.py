"""Stands in for the jobs of fitting, without a network; imported by a child process."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from napari_cad.core.config import FitConfig
from napari_cad.core.errors import ConfigError
from napari_cad.core.fit_job import PreviewFailed, PreviewMade
from napari_cad.core.fit_settings import FitSetting, FitSuggested, ScoredSetting, SettingScored
from napari_cad.core.intensity import IntensityMapping

TRIED = [(0.0, 0.0), (1.0, 0.0), (1.0, 2.0), (0.5, 1.0)]


def serve(volume, inference, requests):
    """Numbers tell of the request; adapted ones are rough first."""
    if volume.name == "broken":
        raise ConfigError("no such device")
    while (wanted := requests.get()) is not None:
        if Path(wanted.checkpoint).stem == "fails":
            yield PreviewFailed(wanted, "no such checkpoint")
            continue
        size = (wanted.rows[1] - wanted.rows[0], wanted.columns[1] - wanted.columns[0])
        affinities = np.empty((3, *size), np.uint8)
        values = (wanted.z, round(100 * wanted.fit.adapt), round(10 * wanted.fit.smooth))
        affinities[:] = np.reshape(values, (3, 1, 1))
        fragments = np.ones(size, np.uint32)
        fragments[:, size[1] // 2 :] = 2
        rgb = np.full((*size, 3), 7, np.uint8)
        if wanted.fit.adapt:
            yield PreviewMade(wanted, affinities // 2, rgb, fragments, True, 0.0)
            time.sleep(0.3)
        yield PreviewMade(wanted, affinities, rgb, fragments, False, 0.0)


def suggest(volume, checkpoints, intensity, grid, inference, n_crops):
    """Every checkpoint tried is better than the one before; adapting helps, smoothing does not."""
    results = []
    for i, checkpoint in enumerate(checkpoints):
        for adapt, smooth in TRIED:
            time.sleep(0.5 if Path(checkpoint).stem == "slow" else 0)
            mapping = intensity or IntensityMapping("limits", 0, 255)
            setting = FitSetting(checkpoint, mapping, FitConfig(adapt=adapt, smooth=smooth))
            score = 0.5 + adapt / 10 - smooth / 100 + i / 5
            results.append(ScoredSetting(setting, score, 0.1))
            yield SettingScored(results[-1], len(results), len(checkpoints) * len(TRIED))
    yield FitSuggested(tuple(sorted(results, key=lambda result: -result.agreement)))
