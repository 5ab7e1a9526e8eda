"""What edits do to segments, ids, locks and the threshold, and what they refuse."""

from __future__ import annotations

import json
from unittest import mock

import numpy as np
import pytest

from napari_cad.proofreading import questions
from napari_cad.proofreading.errors import ConflictError, ProofreadingError, SessionError
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource


def row(n: int = 6, **options) -> ProofreadingSource:
    """Fragments 1 … n in a row; edge i joins at i / 10, so threshold t joins the first 10 t."""
    u = np.arange(1, n)
    options.setdefault("sizes", [0, *[10] * n])
    return ProofreadingSource.from_arrays(
        u, u + 1, np.full(n - 1, 0.5), u / 10, threshold=0.25, **options
    )


class TestMerge:
    def test_ties_segments_at_any_threshold(self):
        session = ProofreadingSession(row())
        assert session.lut.tolist() == [0, 1, 1, 1, 4, 5, 6]
        outcome = session.merge([1, 4])
        assert session.lut.tolist() == [0, 1, 1, 1, 1, 5, 6]
        assert outcome.segments == (1,)
        session.set_threshold(0.0)
        assert session.lut.tolist() == [0, 1, 2, 3, 3, 5, 6]

    def test_the_chosen_id_stays_or_that_of_the_largest(self):
        session = ProofreadingSession(row(sizes=[0, 1, 1, 1, 1, 100, 1]))
        session.merge([1, 5])
        assert session.lut.tolist() == [0, 5, 5, 5, 4, 5, 6]
        session.undo()
        session.merge([1, 5], keep=1)
        assert session.lut.tolist() == [0, 1, 1, 1, 4, 1, 6]
        session.undo()
        session.merge([6, 4, 1], keep=6)
        assert session.lut.tolist() == [0, 6, 6, 6, 6, 5, 6]

    def test_the_strongest_contact_is_linked(self):
        source = ProofreadingSource.from_arrays(
            [1, 3, 1], [2, 4, 4], [0.1, 0.9, 0.2], [0.1, 0.1, 0.8], threshold=0.5, area=[9, 9, 9]
        )
        session = ProofreadingSession(source)
        session.merge([1, 3])
        assert list(session.decisions.links) == [(1, 4)]

    def test_segments_that_do_not_touch_are_merged_with_a_warning(self):
        centroids = np.zeros((7, 3), np.float32)
        centroids[1:, 2] = np.arange(6) * 100
        session = ProofreadingSession(row(centroids=centroids, voxel_size=(30.0, 6.0, 6.0)))
        outcome = session.merge([1, 6])
        assert list(session.decisions.links) == [(3, 6)]  # the nearest, not the first
        assert outcome.warnings == ("segments 1 and 6 do not touch: they are 1800 nm apart",)

    def test_what_was_cut_apart_is_a_conflict_that_can_be_forced(self):
        session = ProofreadingSession(row())
        session.detach(3)
        with pytest.raises(ConflictError, match="cut apart by hand in edit 1") as info:
            session.merge([1, 3])
        assert info.value.forceable
        assert info.value.conflicts[0].segments == (1, 3)
        session.merge([1, 3], force=True)
        assert session.lut.tolist() == [0, 1, 1, 1, 4, 5, 6]
        assert not session.decisions.cut.any()

    @pytest.mark.parametrize("segments", [[1], [1, 1], []])
    def test_one_segment_is_no_merge(self, segments):
        with pytest.raises(ProofreadingError, match="choose two"):
            ProofreadingSession(row()).merge(segments)

    def test_segments_have_to_exist(self):
        with pytest.raises(ProofreadingError, match="no segment 2"):
            ProofreadingSession(row()).merge([1, 2])


class TestDetach:
    def test_cuts_a_fragment_off_its_segment(self):
        session = ProofreadingSession(row())
        session.detach(2)
        assert session.lut.tolist() == [0, 1, 2, 3, 4, 5, 6]
        session.set_threshold(0.55)
        assert session.lut.tolist() == [0, 1, 2, 3, 3, 3, 3]

    def test_isolate_cuts_it_off_everything(self):
        session = ProofreadingSession(row())
        session.isolate(3)
        session.set_threshold(1.0)
        assert session.lut.tolist() == [0, 1, 1, 3, 4, 4, 4]

    def test_a_fragment_alone_cannot_be_detached(self):
        session = ProofreadingSession(row())
        with pytest.raises(ProofreadingError, match="segment of its own already"):
            session.detach(4)
        session.isolate(4)
        with pytest.raises(ProofreadingError, match="nothing holds it"):
            session.isolate(4)

    def test_a_link_is_a_conflict(self):
        session = ProofreadingSession(row())
        session.merge([1, 4])
        with pytest.raises(ConflictError, match="merged by hand in edit 1"):
            session.detach(4)
        session.detach(4, force=True)
        assert session.lut.tolist() == [0, 1, 1, 1, 4, 5, 6]


class TestLock:
    def test_a_locked_segment_is_frozen(self):
        session = ProofreadingSession(row())
        session.lock([1])
        assert session.is_locked(1)
        for threshold in (0.0, 1.0):
            session.set_threshold(threshold)
            assert session.fragments_of(1).tolist() == [1, 2, 3]
        for edit in (
            lambda: session.merge([1, 4]),
            lambda: session.detach(2),
            lambda: session.isolate(2),
            lambda: session.preview_cut([1], [3]),
            lambda: questions.accept(session, 2),
        ):
            with pytest.raises(ConflictError, match="segment 1 is locked") as info:
                edit()
            assert not info.value.forceable
            assert info.value.conflicts[0].kind == "locked"
            assert info.value.conflicts[0].edits == (1,)

    def test_two_locked_segments_are_named_both(self):
        session = ProofreadingSession(row())
        session.lock([1, 4])
        with pytest.raises(ConflictError, match="segment 1 and 4 is locked and cannot be merged"):
            session.merge([1, 4])

    def test_unlocked_it_follows_the_threshold_again(self, by_hand):
        session = ProofreadingSession(row())
        session.lock([1])
        session.set_threshold(0.45)
        assert session.lut.tolist() == [0, 1, 1, 1, 4, 4, 6]
        outcome = session.unlock([1])
        np.testing.assert_array_equal(session.lut, by_hand(session))
        assert session.lut.tolist() == [0, 1, 1, 1, 1, 1, 6]
        assert outcome.edit.before == (1, 4)
        session.undo()
        assert session.lut.tolist() == [0, 1, 1, 1, 4, 4, 6]

    def test_locking_twice_is_no_edit(self):
        session = ProofreadingSession(row())
        session.lock([1])
        with pytest.raises(ProofreadingError, match="locked already"):
            session.lock([1])
        with pytest.raises(ProofreadingError, match="not locked already"):
            session.unlock([4])


class TestThreshold:
    def test_a_preview_changes_nothing(self):
        session = ProofreadingSession(row())
        lut = session.lut.copy()
        assert session.preview_threshold(0.55).tolist() == [0, 1, 1, 1, 1, 1, 1]
        np.testing.assert_array_equal(session.lut, lut)
        assert session.history.edits == {}

    def test_below_means_below(self):
        session = ProofreadingSession(row())
        session.set_threshold(0.2)
        assert session.lut.tolist() == [0, 1, 1, 3, 4, 5, 6]

    def test_sides_of_a_cut_that_meet_again_are_reported(self):
        # a ring: cut at one place, a higher threshold leads around
        source = ProofreadingSource.from_arrays(
            [1, 2, 3, 1], [2, 3, 4, 4], [0.5] * 4, [0.1, 0.1, 0.6, 0.6], threshold=0.5
        )
        session = ProofreadingSession(source)
        session.apply_cut(session.preview_cut([1], [3]))
        assert session.lut[1] != session.lut[3]
        outcome = session.set_threshold(0.7)
        (conflict,) = outcome.conflicts
        assert conflict.kind == "cut"
        assert conflict.edits == (1,)
        assert conflict.segments == (int(session.lut[1]),)
        assert session.set_threshold(0.8).conflicts == ()  # nothing new

    @pytest.mark.parametrize("threshold", [np.nan, np.inf])
    def test_it_is_a_number(self, threshold):
        with pytest.raises(ProofreadingError, match="edge score"):
            ProofreadingSession(row()).set_threshold(threshold)


class TestQuestions:
    def test_yes_holds_at_any_threshold(self):
        session = ProofreadingSession(row())
        questions.accept(session, 4)  # between segments
        questions.accept(session, 0)  # inside one
        session.set_threshold(0.0)
        assert session.lut.tolist() == [0, 1, 1, 3, 4, 5, 5]
        assert session.decisions.answers == {4: "accept", 0: "accept"}

    def test_no_holds_at_any_threshold(self):
        session = ProofreadingSession(row())
        questions.reject(session, 4)
        questions.reject(session, 1)
        session.set_threshold(1.0)
        assert session.lut.tolist() == [0, 1, 1, 3, 3, 3, 6]
        session.undo()
        session.undo()
        assert session.decisions.answers == {4: "reject"}

    def test_the_sides_of_a_join_are_the_parts_before_it(self):
        source = ProofreadingSource.from_arrays(
            [1, 3, 2, 1], [2, 4, 3, 4], [0.9, 0.9, 0.5, 0.5], [0.1, 0.1, 0.4, 0.4], threshold=0.5
        )
        session = ProofreadingSession(source)
        edge = int(np.flatnonzero((source.u == 2) & (source.v == 3))[0])
        a, b = questions.sides(session, edge)
        assert (a.tolist(), b.tolist()) == ([1, 2], [3, 4])
        questions.reject(session, edge)
        assert session.lut.tolist() == [0, 1, 1, 3, 3]
        assert session.decisions.cut.sum() == 2  # both edges across
        a, b = questions.sides(session, edge)
        assert (a.tolist(), b.tolist()) == ([1, 2], [3, 4])

    def test_later(self):
        session = ProofreadingSession(row())
        questions.postpone(session, 4)
        assert session.decisions.answers == {4: "later"}
        questions.accept(session, 4)
        session.undo()
        assert session.decisions.answers == {4: "later"}


class TestNotes:
    def test_on_a_place_and_on_a_segment(self, tmp_path):
        source = row()
        with ProofreadingSession(source, tmp_path / "s") as session:
            session.add_note("a spine?", position=(1.0, 2.5, 3.0))
            session.add_note("glia", segment=4)
            session.remove_note(1)
            with pytest.raises(ProofreadingError, match="no note 1"):
                session.remove_note(1)
            assert session.history.edits[3].describe() == "remove note: a spine?"
        with ProofreadingSession(source, tmp_path / "s") as session:
            assert {n: note.text for n, note in session.decisions.notes.items()} == {2: "glia"}
            assert session.segment_of(session.decisions.notes[2].fragment) == 4
            session.undo()
            assert session.decisions.notes[1].position == (1.0, 2.5, 3.0)
            session.add_note("third")
            assert 3 in session.decisions.notes


def test_lineage_follows_ids_through_merges_and_cuts():
    session = ProofreadingSession(row())
    session.merge([4, 5])  # edit 1: 4
    session.merge([1, 4])  # edit 2: 1
    session.lock([6])  # edit 3, of another segment
    session.detach(1)  # edit 4
    kinds = [(edit.id, edit.kind) for edit in session.lineage(session.segment_of(5))]
    assert kinds == [(1, "merge"), (2, "merge"), (4, "detach")]
    assert [edit.id for edit in session.lineage(6)] == [3]
    assert session.history.edits[2].describe() == "merge: 1, 4 → 1"


def test_the_weakest_join_of_a_segment():
    session = ProofreadingSession(row())
    assert session.weakest_join(1) == pytest.approx(0.2)
    assert session.weakest_join(4) is None
    assert session.size_of(1) == 30
    assert session.segment_sizes().tolist() == [0, 30, 0, 0, 10, 10, 10]


def test_contacts_of_a_segment_lead_out_of_it(new_source):
    session = ProofreadingSession(new_source())
    graph, lut = session.graph, session.lut
    for segment in np.unique(lut[lut > 0]).tolist():
        expected = [
            e
            for e in range(graph.n_edges)
            if (lut[graph.u[e]] == segment) != (lut[graph.v[e]] == segment)
        ]
        assert session.contacts_of(segment).tolist() == expected


def test_the_signal_names_what_changed_and_comes_when_it_is_on_the_disk(tmp_path):
    session = ProofreadingSession(row(), tmp_path / "s")
    log = tmp_path / "s" / "edits.jsonl"
    seen = []

    def look(event):
        on_disk = [json.loads(line) for line in log.read_text().splitlines()]
        seen.append((event.segments, event.fragments.tolist(), session.lut.tolist(), on_disk[-1]))

    session.segments_changed.connect(look)
    session.merge([1, 4])
    session.lock([5])  # changes no segment
    session.undo()
    session.undo()
    first, second = seen
    assert first[:3] == ((1, 4), [4], [0, 1, 1, 1, 1, 5, 6])
    assert first[3]["kind"] == "merge"
    assert second[:3] == ((1, 4), [4], [0, 1, 1, 1, 4, 5, 6])
    assert second[3]["move"] == 0


@pytest.mark.parametrize("fails", ["os.write", "os.fsync"])
def test_an_edit_that_cannot_be_written_is_not_made(fails, tmp_path, new_source):
    source = new_source()
    path = tmp_path / "s"
    session = ProofreadingSession(source, path)
    session.isolate(3)
    state, log = session.lut.copy(), (path / "edits.jsonl").read_bytes()
    fragments = session.fragments[...]
    shown = []
    session.segments_changed.connect(shown.append)
    session.history_changed.connect(lambda: shown.append(None))
    edits = (
        lambda: session.set_threshold(0.7),
        lambda: session.relabel((0, 1, 1), np.ones((1, 3, 3), np.bool_)),
        session.undo,
    )
    for edit in edits:
        with (
            mock.patch(fails, side_effect=OSError(28, "No space left on device")),
            pytest.raises(SessionError, match="No space left"),
        ):
            edit()
        np.testing.assert_array_equal(session.lut, state)
        np.testing.assert_array_equal(session.fragments[...], fragments)
        assert session.history.current == 1
        assert (path / "edits.jsonl").read_bytes() == log
    assert shown == []
    # and everything works again once there is room
    session.relabel((0, 1, 1), np.ones((1, 3, 3), np.bool_))
    session.undo()
    session.redo()
    last = session.lut.copy()
    session.close()
    with ProofreadingSession(source, path) as again:
        np.testing.assert_array_equal(again.lut, last)


def test_numbers_of_numpy_are_as_good_as_others(tmp_path):
    source = row()
    with ProofreadingSession(source, tmp_path / "s") as session:
        a, b = session.lut[1], session.lut[4]
        session.merge([a, b], keep=a)
        session.lock(session.lut[5:6])
        session.detach(np.int64(2), force=True)
        session.isolate(np.uint32(6))
        session.set_threshold(np.float32(0.5))
        session.add_note("here", position=tuple(np.zeros(3)), segment=session.lut[5])
        questions.postpone(session, np.int64(1))
        last = session.lut.copy()
    with ProofreadingSession(source, tmp_path / "s") as session:
        np.testing.assert_array_equal(session.lut, last)


def test_a_session_in_memory_needs_no_folder():
    session = ProofreadingSession(row())
    session.merge([1, 4])
    assert session.undo()
    assert not session.undo()
    assert session.redo()
    assert not session.redo()


def test_ids_of_the_store_are_kept_where_nothing_was_done(new_source):
    source = new_source()
    session = ProofreadingSession(source)
    np.testing.assert_array_equal(session.lut, source.base_lut(0.3))
