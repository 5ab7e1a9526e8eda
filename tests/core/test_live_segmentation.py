from __future__ import annotations

import numpy as np
import pytest

from napari_cad.core.errors import StoreError
from napari_cad.core.live_segmentation import LiveSegmentation, size_histogram
from napari_cad.core.merge_tree import MergeHistory, MergeTree


@pytest.fixture
def live():
    """Five fragments: 1 and 2 join at 0.2, 3 and 4 at 0.4, all four at 0.6; 5 stays alone."""
    history = MergeHistory(
        np.array([1, 3, 2], np.uint32),
        np.array([2, 4, 4], np.uint32),
        np.array([0.2, 0.4, 0.6], np.float32),
    )
    sizes = np.array([0, 10, 20, 30, 40, 5])
    return LiveSegmentation("median", MergeTree.from_history(5, history), sizes)


@pytest.mark.parametrize(
    ("threshold", "lut", "sizes"),
    [
        (0.1, [0, 1, 2, 3, 4, 5], [10, 20, 30, 40, 5]),
        (0.3, [0, 1, 1, 3, 4, 5], [30, 30, 40, 5]),
        (0.5, [0, 1, 1, 3, 3, 5], [30, 70, 5]),
        (0.9, [0, 1, 1, 1, 1, 5], [100, 5]),
    ],
)
def test_segments_and_their_sizes(live, threshold, lut, sizes):
    now = live.lut(threshold)
    assert now.tolist() == lut
    assert sorted(live.sizes(now)) == sorted(sizes)


def test_small_segments_are_hidden(live):
    now = live.lut(0.5, smallest=30)
    assert now.tolist() == [0, 1, 1, 3, 3, 0]
    assert sorted(live.sizes(now)) == [30, 70]
    assert live.sizes(live.lut(0.5, smallest=1000)).tolist() == []


def test_absorbing_wants_a_forest(live):
    with pytest.raises(StoreError, match="forest"):
        live.lut(0.5, absorb=10)


def test_histogram_has_four_bins_for_a_power_of_ten():
    counts = size_histogram(np.array([1, 1, 2, 9, 10, 99, 100, 1000]))
    assert counts.tolist() == [2, 1, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 1]
    assert size_histogram(np.zeros(0, int)).tolist() == [0]
