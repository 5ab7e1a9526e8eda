from __future__ import annotations

import numpy as np
import pytest

from napari_cad.core.live_segmentation import LiveSegmentation
from napari_cad.core.merge_tree import MergeHistory, MergeTree
from napari_cad.viewer import live_labels
from napari_cad.viewer.live_labels import LiveLabels

SHAPE = (4, 9, 11)


@pytest.fixture(params=["consecutive ids", "ids far apart"])
def fragments(request, monkeypatch):
    """Section-wise fragments with background, and a section without any."""
    if request.param == "ids far apart":
        monkeypatch.setattr(live_labels, "_MOST_IDS", 0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 20, SHAPE).astype(np.uint32)
    labels[labels > 0] += (
        (np.arange(4, dtype=np.uint32) * 20)[:, None, None].repeat(9, 1).repeat(11, 2)[labels > 0]
    )
    labels[3] = 0
    return labels


@pytest.fixture
def live():
    rng = np.random.default_rng(1)
    a, b = rng.integers(1, 81, (2, 120)).astype(np.uint32)
    history = MergeHistory(a, b, np.sort(rng.random(120)).astype(np.float32))
    sizes = rng.integers(1, 50, 81)
    sizes[0] = 0
    return LiveSegmentation("median", MergeTree.from_history(80, history).with_sizes(sizes), sizes)


@pytest.mark.parametrize("key", [np.s_[0], np.s_[2, 3:, ::2], np.s_[:], np.s_[3], np.s_[1:3, 4, 5]])
def test_what_is_read_are_the_segments_of_its_fragments(fragments, live, key):
    labels = LiveLabels(fragments, live.at(0.1))
    for threshold, smallest in ((0.1, 0), (0.4, 0), (0.4, 60), (0.9, 1000)):
        labels.show(live.at(threshold, smallest))
        expected = live.lut(threshold, smallest)[fragments[key]]
        np.testing.assert_array_equal(labels[key], expected)
        assert labels._lut is None  # nobody asked for all
    assert labels[key].dtype == labels.dtype == np.uint16


def test_the_lut_is_there_for_who_asks_and_any_other_can_be_shown(fragments, live):
    labels = LiveLabels(fragments, live.at(0.3))
    np.testing.assert_array_equal(labels.lut, live.lut(0.3))
    assert labels.lut is labels.lut

    before = labels.shown
    labels.show(live.at(0.4))
    assert labels.shown is not before
    np.testing.assert_array_equal(labels.lut, live.lut(0.4))

    other = np.arange(81)[::-1].copy()
    other[0] = 0
    labels.set_lut(other)
    np.testing.assert_array_equal(labels[:], other[fragments])
    assert labels.shown is labels.lut
