"""Labels of any origin: the segments are the labels, and can be corrected."""

from __future__ import annotations

import numpy as np
import pytest

from napari_cad.core.errors import ShapeError
from napari_cad.proofreading.from_labels import source_from_labels
from napari_cad.proofreading.queue import UncertaintyQueue
from napari_cad.proofreading.session import ProofreadingSession


def some_labels(seed: int = 0) -> np.ndarray:
    """Blobs with large and sparse ids, background, and parts of a label that do not touch."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 7, 7, 1000, 2**40, 2**40 + 1], (3, 4, 5))
    return coarse.repeat(3, axis=1).repeat(4, axis=2)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a.ravel().astype(np.uint64), b.ravel().astype(np.uint64)]), axis=1)
    return len(pairs[0]) == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))


@pytest.mark.parametrize("evidence", ["nothing", "image", "affinities"])
@pytest.mark.parametrize("seed", range(3))
def test_the_segments_are_the_labels(evidence, seed):
    labels = some_labels(seed)
    before = labels.copy()
    rng = np.random.default_rng(seed)
    options = {
        "nothing": {},
        "image": {"image": rng.normal(100, 30, labels.shape)},
        "affinities": {"affinities": rng.integers(0, 256, (3, *labels.shape), np.uint8)},
    }[evidence]
    session = ProofreadingSession(source_from_labels(labels, **options))
    shown = session.lut[session.fragments[...]]
    assert same_partition(labels, shown)
    assert not shown[labels == 0].any()
    np.testing.assert_array_equal(labels, before)
    assert bool(session.messages) == (evidence != "affinities")
    sizes = session.segment_sizes()
    np.testing.assert_array_equal(sizes[shown[shown > 0]] > 0, True)
    assert sizes.sum() == (labels > 0).sum()
    # with any evidence there is something to ask about
    assert bool(UncertaintyQueue(session).ranked()) == (evidence != "nothing")


def test_a_label_is_cut_where_the_image_is_dark():
    labels = np.full((3, 8, 12), 5)
    image = np.full(labels.shape, 200.0)
    image[:, :, 6] = 20
    session = ProofreadingSession(source_from_labels(labels, image=image, voxel_size=(30, 6, 6)))
    red, blue = [(z, 4, 1) for z in range(3)], [(z, 4, 10) for z in range(3)]
    session.apply_cut(session.preview_cut(red, blue))
    shown = session.lut[session.fragments[...]]
    assert len(np.unique(shown)) == 2
    assert len(np.unique(shown[:, :, :6])) == len(np.unique(shown[:, :, 7:])) == 1


def test_parts_that_do_not_touch_are_cut_apart_for_nothing():
    labels = np.zeros((1, 4, 9), np.int64)
    labels[0, :, :3] = labels[0, :, 6:] = 3
    session = ProofreadingSession(source_from_labels(labels))
    preview = session.preview_cut([(0, 0, 0)], [(0, 0, 8)])
    assert preview.n_contacts == 0
    assert np.isnan(preview.affinity)
    session.apply_cut(preview)
    assert len(np.unique(session.lut[session.fragments[...]])) == 3


@pytest.fixture
def two_pieces():
    """One label of two pieces that do not touch."""
    labels = np.zeros((1, 8, 20), np.int64)
    labels[0, :, :8] = labels[0, :, 12:] = 3
    return ProofreadingSession(source_from_labels(labels))


def test_what_does_not_touch_stays_together_when_it_is_painted_on(two_pieces):
    session = two_pieces
    session.relabel((0, 0, 12), np.ones((1, 2, 2), np.bool_))
    shown = session.lut[session.fragments[...]]
    assert shown[0, 4, 4] == shown[0, 4, 16] == 1
    assert (shown == shown[0, 0, 12]).sum() == 4
    session.relabel((0, 3, 12), np.ones((1, 1, 8), np.bool_), erase=True)  # a line through it
    shown = session.lut[session.fragments[...]]
    assert shown[0, 7, 16] == 1  # the larger part stays with the other piece
    session.set_threshold(1.0)
    assert session.lut[session.fragments[0, 0, 12]] != 1
    session.go_to(0)
    assert set(np.unique(session.lut[session.fragments[...]])) == {0, 1}


def test_what_is_painted_takes_nothing_along_that_does_not_touch(two_pieces):
    session = two_pieces
    session.relabel((0, 0, 12), np.ones((1, 6, 8), np.bool_))  # most of a piece
    shown = session.lut[session.fragments[...]]
    assert shown[0, 4, 4] == shown[0, 7, 16]
    assert (shown == shown[0, 0, 12]).sum() == 48


def test_what_does_not_touch_stays_together_when_it_is_divided(two_pieces):
    session = two_pieces
    session.apply_cut(session.preview_cut([(0, 4, 12)], [(0, 4, 19)]))
    shown = session.lut[session.fragments[...]]
    assert shown[0, 4, 12] != shown[0, 4, 19]
    assert shown[0, 4, 4] in (shown[0, 4, 12], shown[0, 4, 19])


def test_a_cut_between_pieces_stays_when_one_is_painted_on(two_pieces):
    session = two_pieces
    session.apply_cut(session.preview_cut([(0, 4, 4)], [(0, 4, 16)]))
    session.relabel((0, 0, 12), np.ones((1, 2, 2), np.bool_))
    session.set_threshold(1.0)
    shown = session.lut[session.fragments[...]]
    assert shown[0, 4, 4] != shown[0, 4, 16]


def test_what_is_not_labels_is_refused():
    with pytest.raises(ShapeError, match="integers"):
        source_from_labels(np.zeros((2, 3, 3)))
    with pytest.raises(ShapeError, match="integers"):
        source_from_labels(np.zeros((3, 3), np.int64))
    with pytest.raises(ShapeError, match="image of labels"):
        source_from_labels(np.zeros((2, 3, 3), np.int64), image=np.zeros((2, 3, 4)))


def test_empty_labels_have_no_segments():
    session = ProofreadingSession(source_from_labels(np.zeros((2, 3, 3), np.uint8)))
    assert session.lut.tolist() == [0]
