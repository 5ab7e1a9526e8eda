"""The tree of edits: nothing is lost, and there is a way from everywhere to everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_cad.proofreading.edits import Edit
from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.history import BEGINNING, EditHistory


def make(history: EditHistory) -> int:
    history.add(Edit(history.next_id, history.current, "note", ()))
    return history.current


def test_undo_and_redo_walk_along_the_branch():
    history = EditHistory()
    edits = [make(history) for _ in range(3)]
    for expected in (2, 1, BEGINNING):
        history.go_to(history.undo_target())
        assert history.current == expected
    assert history.undo_target() is None
    for expected in edits:
        history.go_to(history.redo_target())
        assert history.current == expected
    assert history.redo_target() is None


def test_an_edit_after_undoing_begins_a_branch_and_the_undone_one_stays():
    history = EditHistory()
    for _ in range(3):
        make(history)
    history.go_to(1)
    make(history)  # 4, beside 2
    assert history.path() == [1, 4]
    assert history.branches(1) == (2, 4)
    history.go_to(3)
    assert history.path() == [1, 2, 3]
    # redo leads along the branch that was left last
    history.go_to(1)
    assert history.redo_target() == 2
    history.go_to(4)
    history.go_to(BEGINNING)
    history.go_to(history.redo_target())
    assert history.redo_target() == 4


def test_jumping_far_sets_the_way_back():
    history = EditHistory()
    for _ in range(4):
        make(history)
    history.go_to(2)
    history.go_to(BEGINNING)
    history.go_to(4)
    history.go_to(2)
    assert history.redo_target() == 3


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=30))
def test_every_route_undoes_to_the_common_ancestor_and_redoes_from_there(steps):
    history = EditHistory()
    parents = {}
    for is_edit, number in steps:
        if is_edit or not history.edits:
            parent = history.current
            parents[make(history)] = parent
            continue
        target = number % history.next_id
        undo, redo = history.route(target)
        place = history.current
        for edit in undo:
            assert edit == place
            place = parents[edit]
        for edit in redo:
            assert parents[edit] == place
            place = edit
        assert place == target
        assert not set(undo) & set(redo)
        history.go_to(target)
    # redo never leads anywhere but to a child
    for place in range(history.next_id):
        history.go_to(place)
        target = history.redo_target()
        assert target is None or parents[target] == place
        assert (target is None) == (not history.branches())


def test_what_does_not_continue_the_history_is_refused():
    history = EditHistory()
    make(history)
    with pytest.raises(ProofreadingError, match="does not continue"):
        history.add(Edit(3, 1, "note", ()))
    with pytest.raises(ProofreadingError, match="does not continue"):
        history.add(Edit(2, 7, "note", ()))
    for move in (history.go_to, history.route):
        with pytest.raises(ProofreadingError, match="no edit 2"):
            move(2)
