"""Where segments end inside the volume, and how much was done."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from napari_cad.proofreading import session as session_module
from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.from_labels import source_from_labels
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource
from napari_cad.proofreading.statistics import statistics
from napari_cad.proofreading.suspects import EndQueue, confirm_end, ends_inside


def ends_by_hand(session):
    """One segment at a time, voxel by voxel."""
    labels = session.lut[session.fragments[...]]
    n_sections, height, width = labels.shape
    found = {}
    for segment in np.unique(labels[labels > 0]).tolist():
        if session.is_locked(segment):
            continue
        z, y, x = np.nonzero(labels == segment)
        for last, limit in ((z.min(), 0), (z.max(), n_sections - 1)):
            here = z == last
            at_side = (y[here] == 0) | (y[here] == height - 1) | (x[here] == 0)
            at_side |= x[here] == width - 1
            if last != limit and not at_side.any():
                found[segment, int(last)] = int(here.sum())
    return found


@pytest.mark.parametrize("seed", range(4))
def test_ends_are_where_a_segment_stops_inside(seed, new_source):
    session = ProofreadingSession(new_source(seed, shape=(6, 20, 20), per_section=14))
    session.relabel((2, 8, 8), np.ones((2, 4, 4), np.bool_))
    session.lock([int(session.lut[session.lut > 0][-1])])
    expected = ends_by_hand(session)
    ends = ends_inside(session)
    assert expected
    assert {(e.segment, int(e.position[0])): e.cross_section for e in ends} == expected
    sizes = [end.cross_section for end in ends]
    assert sizes == sorted(sizes, reverse=True)
    for end in ends:
        assert session.segment_of(end.fragment) == end.segment
        assert end.size == session.size_of(end.segment)
    confirm_end(session, ends[0].fragment)
    assert ends[0].fragment not in {end.fragment for end in ends_inside(session)}
    session.undo()
    assert len(ends_inside(session)) == len(ends)
    assert all(end.size >= 40 for end in ends_inside(session, min_size=40))


def test_without_boxes_it_is_not_known():
    source = ProofreadingSource.from_arrays([1], [2], [0.5], [0.1])
    with pytest.raises(ProofreadingError, match="no bounding boxes"):
        ends_inside(ProofreadingSession(source))


@pytest.fixture
def broken_neurite():
    """One neurite in two pieces, sections 1–2 and 3–5, and a spot in section 3."""
    labels = np.zeros((7, 30, 30), np.uint32)
    labels[1:3, 2:12, 2:12] = 1
    labels[3:6, 2:12, 2:12] = 2
    labels[3, 20:25, 20:25] = 3
    return ProofreadingSession(source_from_labels(labels))


def test_a_segment_of_one_section_ends_once(broken_neurite):
    ends = ends_inside(broken_neurite)
    assert [end.cross_section for end in ends] == [100] * 4 + [25]
    assert len({end.fragment for end in ends}) == 5


def test_a_queue_of_ends_follows_answers_locks_and_undo(broken_neurite):
    session = broken_neurite
    queue = EndQueue(session)
    ends = ends_inside(session)
    assert queue.progress() == (5, 5)
    assert [queue.next() for _ in range(2)] == ends[:2]
    confirm_end(session, ends[2].fragment)
    assert queue.progress() == (4, 5)
    assert queue.next() == ends[3]
    session.lock([ends[4].segment])
    assert not queue.is_stale
    assert queue.progress() == (3, 4)
    assert queue.next() is None
    assert queue.previous() == ends[1]
    session.undo()
    session.undo()
    assert queue.progress() == (5, 5)
    # what had been visited after the one gone back to, and then from the first one again
    assert [queue.next() for _ in range(6)] == [ends[3], *ends]


def test_a_queue_of_ends_begins_again_after_the_last(broken_neurite):
    ends = ends_inside(broken_neurite)
    queue = EndQueue(broken_neurite)
    asked = [queue.next() for _ in range(7)]
    assert asked == [*ends, None, ends[0]]


def test_a_merge_ends_both_ends(broken_neurite):
    session = broken_neurite
    queue = EndQueue(session)
    first = queue.next()
    ends = ends_inside(session)
    session.merge(sorted({end.segment for end in ends if end.cross_section == 100}))
    assert queue.is_stale
    after = EndQueue(session, queue)
    left = ends_inside(session)
    assert len(left) == 3
    assert after.progress() == (3, 3)
    not_visited = [end for end in left if end.fragment != first.fragment]
    assert [after.next() for _ in not_visited] == not_visited
    assert after.next() is None


def test_a_queue_of_ends_passes_by_what_was_painted_over(broken_neurite):
    session = broken_neurite
    queue = EndQueue(session)
    spot = ends_inside(session)[-1]
    session.relabel((3, 20, 20), np.ones((1, 2, 5), np.bool_))
    assert not session.graph.alive[spot.fragment]
    asked = [queue.next() for _ in range(5)]
    assert spot.fragment not in {end.fragment for end in asked if end is not None}
    assert asked[-1] is None


def test_statistics_count_what_is_in_force(new_source):
    session = ProofreadingSession(new_source(), user="ana")
    times = iter(f"2026-01-01T00:{m:02d}:00+00:00" for m in (0, 1, 2, 10, 11, 12, 13))
    with mock.patch.object(session_module, "_now", side_effect=times):
        session.isolate(3)
        session.isolate(4)
        segment = session.segment_of(5)
        session.lock([segment])
        session.add_note("after a pause")
        session.undo()
    found = statistics(session)
    assert found.edits == {"isolate": 2, "lock": 1}
    assert found.undone == 1
    assert found.active_seconds == 120.0
    assert found.seconds_by_user == {"ana": 120.0}
    assert found.verified_segments == 1
    assert found.verified_voxels == session.size_of(segment)
    assert found.voxels == 3 * 14 * 16
    assert found.verified_fraction == pytest.approx(session.size_of(segment) / (3 * 14 * 16))
    assert found.verified_volume == pytest.approx(session.size_of(segment) * 30 * 6 * 6 / 1e9)
