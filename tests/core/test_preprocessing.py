from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_cad.core.config import FitConfig
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.preprocessing import Preprocessing, resize_affinities, resize_section

TO_UNIT = IntensityMapping("limits", 0, 255)


@pytest.fixture
def section() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)


def test_off_is_the_intensity_mapping_to_the_last_bit(section):
    made = Preprocessing.of(TO_UNIT, FitConfig())(section)
    assert np.array_equal(made, TO_UNIT(section))


def test_smoothing_is_in_voxels_of_the_section(section):
    made = Preprocessing(TO_UNIT, smooth=1.5)(section)
    expected = ndimage.gaussian_filter(section.astype(np.float64) / 255, 1.5)
    np.testing.assert_allclose(made, expected, atol=1e-5)
    assert made.dtype == np.float32


@pytest.mark.parametrize(("factor", "size"), [(0.5, (10, 15)), (1.5, (30, 45)), (0.01, (1, 1))])
def test_rescaling_gives_the_size_that_it_says(section, factor, size):
    preprocessing = Preprocessing(TO_UNIT, rescale=factor)
    assert preprocessing.network_size(section.shape) == size
    assert preprocessing(section).shape == size


def test_shrinking_averages(section):
    values = section.astype(np.float32)
    made = resize_section(values, (1, 1))
    assert abs(made[0, 0] - values.mean()) < 15  # a triangle over the whole, not one pixel
    assert np.allclose(resize_section(np.full((20, 30), 0.25, np.float32), (7, 9)), 0.25)


def test_the_section_is_not_changed(section):
    before = section.copy()
    Preprocessing(TO_UNIT, smooth=1, rescale=0.7)(section)
    assert np.array_equal(section, before)


def reference_resized(affinities: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Voxel by voxel: where the face or the centre lies, the weakest of the faces spanned."""

    def sample(line: np.ndarray, at: float) -> float:
        at = min(max(at, 0), len(line) - 1)
        low = int(at)
        high = min(low + 1, len(line) - 1)
        return line[low] + (at - low) * (line[high] - line[low])

    def line_resized(line: np.ndarray, length: int, faces: bool) -> np.ndarray:
        step = len(line) / length
        spanned = max(1, round(step))
        if faces and len(line) != length:
            weakest = []
            for i in range(len(line)):
                window = range(i - spanned // 2, i - spanned // 2 + spanned)
                weakest.append(min(line[min(max(j, 0), len(line) - 1)] for j in window))
            line = np.array(weakest)
        places = [i * step if faces else (i + 0.5) * step - 0.5 for i in range(length)]
        return np.array([sample(line, place) for place in places])

    out = np.empty((3, *size))
    for channel in range(3):
        columns = [line_resized(c, size[0], channel == 1) for c in affinities[channel].T]
        rows = [line_resized(r, size[1], channel == 2) for r in np.array(columns).T]
        out[channel] = np.array(rows)
    return out


@pytest.mark.parametrize("size", [(14, 22), (7, 11), (10, 15), (5, 11), (3, 4), (20, 11), (7, 30)])
def test_affinities_are_resized_as_the_slow_way_does(size):
    affinities = np.random.default_rng(0).random((3, 7, 11)).astype(np.float32)
    made = resize_affinities(affinities, size)
    assert made.shape == (3, *size)
    np.testing.assert_allclose(made, reference_resized(affinities, size), atol=1e-6)


@pytest.mark.parametrize(("row", "above"), [(8, 4), (7, 4), (9, 5)])
def test_a_thin_boundary_survives_both_ways(row, above):
    """One low face: at twice its row in twice the size; at half its row or next to it in half."""
    affinities = np.ones((3, 16, 16), np.float32)
    affinities[1, row] = 0
    larger = resize_affinities(affinities, (32, 32))
    assert np.flatnonzero(larger[1, :, 0] < 0.5 - 1e-6).tolist() == [2 * row]
    assert larger[1, :, 0].min() == 0
    smaller = resize_affinities(affinities, (8, 8))
    assert np.flatnonzero(smaller[1, :, 0] < 0.5).tolist() == [above]
    assert smaller[1, above, 0] == 0
    assert larger[[0, 2]].min() == smaller[[0, 2]].min() == 1


def test_stored_affinities_of_the_right_size_are_not_touched():
    stored = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    assert Preprocessing(TO_UNIT, rescale=1.0).affinities_back(stored, (4, 5)) is stored


def test_resizing_keeps_constant_levels():
    for level in (0, 1, 127, 254, 255):
        stored = np.full((3, 6, 6), level, np.uint8)
        back = Preprocessing(TO_UNIT).affinities_back(stored, (9, 4))
        assert back.dtype == np.uint8
        assert np.all(back == level)
