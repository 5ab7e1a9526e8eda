"""What is filled in where a person leaves something open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import AgglomerationConfig, FitConfig, FragmentConfig
from napari_cad.core.errors import ConfigError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.segmentation_job import SegmentationOptions
from napari_cad.core.volume import EMVolume

PLAIN = CheckpointMetadata(name="tiny", training_data="none", licence="none")


def mapping(dtype, options=None, checkpoint=PLAIN) -> IntensityMapping:
    """The mapping of a run on values from 0 to 100, with its limits."""
    volume = EMVolume.from_array(np.arange(101).astype(dtype).reshape(1, 1, 101))
    config = (options or SegmentationOptions()).config(volume, checkpoint)
    return config.intensity.resolve(volume)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "f4"])
def test_inverting_changes_nothing_else(dtype):
    plain, inverted = mapping(dtype), mapping(dtype, SegmentationOptions(invert=True))
    assert not plain.invert
    assert inverted == replace(plain, invert=True)
    assert (plain.low, plain.high) == ((0, 255) if dtype == "u1" else pytest.approx((0.1, 99.9)))


def test_inverted_uint8_is_recorded_as_it_always_was():
    """A run that was begun before goes on: this is what stands in its signature."""
    assert mapping("u1", SegmentationOptions(invert=True)).to_json() == {
        "method": "limits", "low": 0.0, "high": 255.0, "percentiles": [0.1, 99.9], "invert": True,
    }  # fmt: skip


def test_inverting_keeps_the_mapping_of_the_checkpoint_and_that_of_the_person():
    own = replace(PLAIN, intensity=IntensityMapping("limits", 10, 60))
    inverted = mapping("u1", SegmentationOptions(invert=True), own)
    assert (inverted.low, inverted.high, inverted.invert) == (10, 60, True)
    chosen = SegmentationOptions(intensity=IntensityMapping("limits", 20, 30), invert=True)
    inverted = mapping("u1", chosen, own)
    assert (inverted.low, inverted.high, inverted.invert) == (20, 30, True)
    # it is set, not toggled
    bright = replace(PLAIN, intensity=IntensityMapping(invert=True))
    assert mapping("u1", SegmentationOptions(invert=True), bright).invert


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
@pytest.mark.parametrize(
    ("config", "name"),
    [
        (AgglomerationConfig, "threshold"),
        (FragmentConfig, "boundary_threshold"),
        (FitConfig, "adapt"),
        (FitConfig, "smooth"),
        (FitConfig, "rescale"),
    ],
)
def test_numbers_are_finite(config, name, value):
    with pytest.raises(ConfigError, match=f"{name} must be a finite number, got"):
        config(**{name: value})
