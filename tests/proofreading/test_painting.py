"""Painted corrections that are worked out in one state of a session and made in another."""

from __future__ import annotations

import numpy as np
import pytest

from napari_cad.proofreading.errors import StalePlanError
from napari_cad.proofreading.from_labels import source_from_labels
from napari_cad.proofreading.painting import plan_relabel
from napari_cad.proofreading.session import ProofreadingSession


def test_a_plan_is_good_for_one_state_only():
    labels = np.zeros((3, 20, 20), np.uint32)
    labels[:, 2:18, 2:18] = 1
    session = ProofreadingSession(source_from_labels(labels))
    session.relabel((1, 5, 5), np.ones((1, 3, 3), np.bool_))
    mask = np.ones((1, 2, 2), np.bool_)
    plan = plan_relabel(session, (1, 5, 5), mask, None, erase=False)
    session.undo()
    lut = session.lut.copy()
    with pytest.raises(StalePlanError, match="there was an edit since"):
        session.commit(plan)
    np.testing.assert_array_equal(session.lut, lut)
    assert len(session.history.edits) == 1
    outcome = session.commit(plan_relabel(session, (1, 5, 5), mask, None, erase=False))
    assert session.size_of(session.lut[session.fragments[1, 5, 5]]) == 4
    assert outcome.edit.id == 2
    voxels = session.fragments[...]
    np.testing.assert_array_equal(
        np.flatnonzero(session.graph.alive), np.unique(voxels[voxels > 0])
    )


def test_a_segment_may_be_given_as_the_table_has_it(tmp_path):
    labels = np.zeros((1, 6, 12), np.uint32)
    labels[0, :, :6], labels[0, :, 6:] = 1, 2
    source = source_from_labels(labels)
    with ProofreadingSession(source, tmp_path / "session") as session:
        session.relabel((0, 1, 7), np.ones((1, 2, 2), np.bool_), session.lut[1])
    with ProofreadingSession(source, tmp_path / "session") as session:
        assert session.size_of(1) == 40
