"""Where segments end inside the volume, and how much was done."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from napari_cad.proofreading import session as session_module
from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource
from napari_cad.proofreading.statistics import statistics
from napari_cad.proofreading.suspects import confirm_end, ends_inside


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
