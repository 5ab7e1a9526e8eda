"""What a proofreading session does with a request: once, once more, and while it is busy."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtWidgets import QWidget

from napari_cad.proofreading import cutting, painting
from napari_cad.proofreading.from_labels import source_from_labels
from napari_cad.proofreading.operations import plan_separate
from napari_cad.proofreading.queue import Question, UncertaintyQueue
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.state import SessionState
from napari_cad.viewer import proofreading_walk
from napari_cad.viewer.embedding_layers import camera_of
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.proofreading import Proofreader
from napari_cad.viewer.proofreading_labels import VERIFIED
from napari_cad.viewer.proofreading_picking import Picked

CONTROL, SHIFT = {"Control"}, {"Shift"}


class Hand:
    """A session without a window: four bars side by side, through two sections."""

    def __init__(self, qtbot):
        labels = np.zeros((2, 20, 40), np.uint32)
        for i in range(4):
            labels[:, 2:18, 2 + 9 * i : 11 + 9 * i] = i + 1
        self.qtbot, self.parent, self.viewer = qtbot, QWidget(), ViewerModel()
        qtbot.addWidget(self.parent)
        self.viewer.add_labels(labels, name="bars", scale=(30.0, 6.0, 6.0), units=("nm",) * 3)
        self.session = ProofreadingSession(source_from_labels(labels))
        placement = Placement.of_layer(self.viewer.layers["bars"])
        self.proofreader = Proofreader(
            self.viewer, self.session, placement, "bars", "key", self.parent
        )
        self.proofreader.actions.ask = lambda _question: "look here"
        self.said = []
        self.proofreader.said.connect(lambda text, _level: self.said.append(text))

    def pick(self, bar, z=0):
        voxel = (z, 5, 5 + 9 * bar)
        fragment = int(self.session.fragments[voxel])
        return Picked(voxel, fragment, int(self.session.lut[fragment]))

    def click(self, bar, modifiers=(), z=0):
        self.proofreader.pointer.click(self.pick(bar, z), modifiers)
        return self.said[-1]

    def run(self, name):
        self.proofreader.run(name)
        return self.said[-1] if self.said else ""

    def separate(self, a, b):
        plan = plan_separate(self.session, self.pick(a).segment, self.pick(b).segment)
        self.session.commit(plan)

    def ask(self, a, b):
        """Ask whether two bars belong together, as the walk does."""
        graph, ends = self.session.graph, (self.pick(a), self.pick(b))
        edge = int(graph.edges_between(*(np.array([end.fragment]) for end in ends))[0])
        segments = tuple(end.segment for end in ends)
        place = tuple(graph.position[edge].tolist())
        question = Question(
            edge, (int(graph.u[edge]), int(graph.v[edge])), segments, joined=False, join_score=0.5,
            affinity=0.5, area=1, position=place, smaller_side=1, postponed=False,
        )  # fmt: skip
        self.proofreader.walk.current = question
        self.proofreader.select(segments)
        return question

    @property
    def segments(self):
        return [self.pick(bar).segment for bar in range(4)]

    def note(self):
        self.run("note")
        notes = self.session.decisions.notes
        return notes[len(notes)]


@pytest.fixture
def hand(qtbot):
    hand = Hand(qtbot)
    yield hand
    hand.proofreader.end()


@pytest.fixture
def slow(monkeypatch, hand):
    """Painting is worked out until this is set."""
    plan, go_on = painting.plan_relabel, threading.Event()

    def wait_and_plan(*args, **options):
        assert go_on.wait(30)
        return plan(*args, **options)

    monkeypatch.setattr(painting, "plan_relabel", wait_and_plan)
    yield go_on
    go_on.set()


# ---------------------------------------------------------------------- once more


def test_a_refused_control_click_leaves_the_selection_as_it_was(hand):
    hand.separate(0, 1)
    one, two, three, _ = hand.segments
    hand.click(0)
    assert "cut apart by hand" in hand.click(1, CONTROL)
    assert hand.said[-1].endswith("Control-click once more does it all the same.")
    assert hand.proofreader.selection == [one]
    hand.click(2, CONTROL)  # meant is the first with the third
    assert hand.segments[:3] == [one, two, one]
    assert hand.session.decisions.cut.any()
    # what was refused is still refused, and the same once more is done
    assert two != three
    assert "cut apart by hand" in hand.click(1, CONTROL)
    hand.click(1, CONTROL)
    assert hand.segments[:3] == [one, one, one]
    assert not hand.session.decisions.cut.any()


def test_a_merge_of_others_is_another_request(hand):
    hand.separate(0, 1)
    hand.separate(2, 3)
    before = hand.segments
    hand.click(0)
    hand.click(1, SHIFT)
    assert "(G) once more" in hand.run("merge")
    hand.click(2)
    hand.click(3, SHIFT)
    assert "(G) once more" in hand.run("merge")
    assert hand.segments == before
    hand.run("merge")
    assert hand.segments == [*before[:2], before[2], before[2]]


def test_what_was_clicked_and_what_is_asked_belong_to_the_request(hand):
    hand.separate(0, 1)
    hand.click(0)
    hand.click(1, SHIFT)
    hand.run("merge")
    hand.proofreader.picked = hand.pick(2)
    assert "once more" in hand.run("merge")
    hand.separate(2, 3)
    assert "once more" in hand.run("merge")
    hand.proofreader.select(hand.segments[2:])  # from elsewhere than a click
    assert "once more" in hand.run("merge")
    hand.ask(2, 3)
    assert "once more" in hand.run("merge")
    assert len(set(hand.segments)) == 4


def test_nothing_is_detached_that_was_clicked_before_something_else_was_selected(hand):
    hand.click(0)
    hand.proofreader.select([hand.pick(2).segment])  # as a question does
    assert hand.run("detach") == "click the fragment first"
    hand.click(0)
    hand.run("cancel")
    assert hand.run("detach") == "click the fragment first"
    hand.click(0)
    hand.click(1, SHIFT)
    hand.run("detach")
    assert hand.session.history.edits[1].details == {"fragment": hand.pick(1).fragment}


# ---------------------------------------------------------------------- while it is busy


def paint(hand, *voxels):
    layer = hand.proofreader.scribbles.layer
    layer.data_setitem(tuple(np.array(voxels).T), 1)


def begin_to_paint(hand):
    hand.proofreader.scribbles.target = "new"
    hand.run("scribble")
    paint(hand, (0, 4, 4), (0, 4, 5))
    hand.run("apply")
    assert hand.proofreader.patience.busy


def end_waiting(hand, go_on):
    go_on.set()
    hand.qtbot.waitUntil(lambda: not hand.proofreader.patience.busy)


def test_what_is_painted_while_it_is_busy_stays(hand, slow):
    begin_to_paint(hand)
    paint(hand, (0, 10, 30), (0, 4, 5))
    layer = hand.proofreader.scribbles.layer
    end_waiting(hand, slow)
    lut, fragments = hand.session.lut, hand.session.fragments
    new = lut[fragments[0, 4, 4]]
    assert hand.session.size_of(new) == 2
    assert hand.proofreader.scribbles.layer is layer
    assert str(layer.mode) == "paint"
    np.testing.assert_array_equal(np.argwhere(layer.data), [(0, 10, 30)])
    hand.run("apply")
    assert not hand.proofreader.scribbles.active
    assert len(hand.session.history.edits) == 2


def test_a_painting_for_another_state_is_refused_and_kept(hand, monkeypatch):
    plan, started, go_on = painting.plan_relabel, threading.Event(), threading.Event()

    def plan_and_wait(*args, **options):
        planned = plan(*args, **options)
        started.set()
        assert go_on.wait(30)
        return planned

    hand.session.relabel((0, 4, 4), np.ones((1, 3, 3), np.bool_))
    monkeypatch.setattr(painting, "plan_relabel", plan_and_wait)
    begin_to_paint(hand)
    assert started.wait(30)
    hand.session.undo()  # by whatever way
    end_waiting(hand, go_on)
    assert "there was an edit since" in hand.said[-1]
    layer = hand.proofreader.scribbles.layer
    np.testing.assert_array_equal(np.argwhere(layer.data), [(0, 4, 4), (0, 4, 5)])
    assert len(hand.session.history.edits) == 1
    hand.run("apply")
    assert not hand.proofreader.scribbles.active
    graph, voxels = hand.session.graph, hand.session.fragments[...]
    np.testing.assert_array_equal(np.flatnonzero(graph.alive), np.unique(voxels[voxels > 0]))


def test_another_kind_of_question_is_looked_for_at_once(hand, monkeypatch):
    go_on = threading.Event()

    class SlowQueue(UncertaintyQueue):
        def refresh(self):
            assert go_on.wait(30)
            super().refresh()

    monkeypatch.setattr(proofreading_walk, "UncertaintyQueue", SlowQueue)
    proofreader, walk = hand.proofreader, hand.proofreader.walk
    hand.session.detach(hand.pick(0, z=1).fragment)  # two ends, at either side of the cut
    hand.run("next_question")
    assert proofreader.patience.what == "Looking for uncertain places"
    walk.choose("ends")
    assert proofreader.patience.what == "Looking for uncertain places"
    end_waiting(hand, go_on)
    assert hand.said[-1].startswith(f"Segment {walk.current.segment} ends here")
    assert walk.progress is None  # counted in a moment
    hand.qtbot.waitUntil(lambda: walk.progress == (2, 2))
    # given up, it is not looked for by a choice
    go_on.clear()
    walk.choose("all")
    hand.run("next_question")
    hand.run("cancel")
    walk.choose("ends")
    assert not proofreader.patience.busy
    assert walk.current is None


def test_the_threshold_stays_while_it_is_busy(hand, slow):
    begin_to_paint(hand)
    threshold, shown = hand.session.threshold, hand.proofreader.layers.segments.values.copy()
    hand.proofreader.try_threshold(1.0)
    hand.proofreader.set_threshold(1.0)
    assert hand.said[-1] == "Dividing fragments … Escape gives it up."
    assert hand.session.threshold == threshold
    np.testing.assert_array_equal(hand.proofreader.layers.segments.values, shown)
    hand.click(0)
    assert "Escape gives it up" in hand.click(1, CONTROL)
    assert hand.proofreader.selection == [hand.pick(0).segment]
    assert not hand.session.history.edits
    end_waiting(hand, slow)
    assert len(hand.session.history.edits) == 1


# ---------------------------------------------------------------------- a cut that takes long


@pytest.fixture
def slow_cut(monkeypatch, hand):
    """A cut of the first bar; its preview is worked out until this is set."""
    preview_cut, go_on = cutting.preview_cut, threading.Event()

    def wait_and_preview(*args, **options):
        assert go_on.wait(30)
        return preview_cut(*args, **options)

    monkeypatch.setattr(cutting, "preview_cut", wait_and_preview)
    hand.click(0)
    hand.run("split")
    hand.click(0)
    hand.click(0, SHIFT, z=1)
    assert hand.proofreader.patience.busy
    yield go_on
    go_on.set()


def end_with_a_cut(hand, go_on):
    """The preview comes, and can be applied."""
    end_waiting(hand, go_on)
    assert "contacts are cut" in hand.said[-1]
    assert hand.proofreader.split_mode.preview is not None
    hand.run("apply")
    assert not hand.proofreader.split_mode.active
    assert hand.pick(0).segment != hand.pick(0, z=1).segment


@pytest.mark.parametrize("name", ["apply", "later", "next_question", "undo", "split"])
def test_a_key_pressed_too_early_is_answered_and_the_preview_still_comes(hand, slow_cut, name):
    hand.proofreader.walk.current = None
    assert hand.run(name) == "Working out the cut … Escape gives it up."
    assert not hand.session.history.edits
    end_with_a_cut(hand, slow_cut)


def test_a_click_elsewhere_does_not_lose_the_preview(hand, slow_cut):
    assert "seeds lie in segment 1" in hand.click(2)
    assert "a seed on this voxel already" in hand.click(0)
    assert hand.proofreader.patience.busy
    end_with_a_cut(hand, slow_cut)


def test_a_seed_put_meanwhile_counts(hand, slow_cut):
    voxel = (0, 10, 5)
    fragment = int(hand.session.fragments[voxel])
    hand.proofreader.pointer.click(Picked(voxel, fragment, hand.pick(0).segment))
    end_waiting(hand, slow_cut)
    seeds = hand.proofreader.split_mode.preview.plan.details["seeds"]
    assert seeds == {"red": [[0, 5, 5], [0, 10, 5]], "blue": [[1, 5, 5]]}


def test_a_preview_that_was_given_up_is_worked_out_when_it_is_applied(hand, slow_cut):
    assert hand.run("cancel") == "Given up; nothing was changed."
    assert hand.proofreader.split_mode.active
    slow_cut.set()
    assert "contacts are cut" in hand.run("apply")
    assert not hand.session.history.edits  # only a look: it was not seen before
    end_with_a_cut(hand, slow_cut)


@pytest.mark.parametrize(
    "name", ["accept", "reject", "later", "next_question", "previous_question", "scribble"]
)
def test_what_leads_elsewhere_loses_no_seeds(hand, name):
    hand.ask(0, 1)
    hand.run("split")
    hand.click(0)
    hand.click(0, SHIFT, z=1)
    mode = hand.proofreader.split_mode
    preview = mode.preview
    assert hand.run(name) == "apply or cancel the cut first"
    assert mode.active
    assert mode.preview is preview
    assert not hand.session.history.edits
    # a cut without seeds is nothing that could be lost
    hand.run("undo")
    hand.run("undo")
    hand.run(name)
    assert not mode.active


@pytest.mark.parametrize("name", ["accept", "reject", "later", "next_question", "split"])
def test_what_leads_elsewhere_loses_no_paint(hand, name):
    hand.ask(0, 1)
    hand.run("scribble")
    paint(hand, (0, 4, 22))
    selection = hand.proofreader.selection
    assert hand.run(name) == "apply or cancel what is painted first"
    assert hand.proofreader.selection == selection
    hand.run("apply")
    assert hand.session.lut[hand.session.fragments[0, 4, 22]] == selection[0]


# ---------------------------------------------------------------------- what is shown


def test_a_question_follows_edits(hand):
    hand.ask(0, 1)
    one = hand.pick(0).segment
    hand.run("merge")
    assert hand.proofreader.walk.current.segments == (one, one)
    assert "Are both sides" in hand.proofreader.walk.line()


def test_marks_of_what_is_verified_follow_a_leap_in_time(hand):
    session, marks = hand.session, hand.proofreader.layers.marks
    one = hand.pick(0).segment
    session.lock([one])
    session.undo()
    session.detach(hand.pick(0, z=1).fragment)
    session.lock([one])  # less than before, with the same id
    assert np.flatnonzero(marks.values == VERIFIED).tolist() == [1]
    session.go_to(1)
    verified = np.flatnonzero(session.decisions.lock).tolist()
    assert np.flatnonzero(marks.values == VERIFIED).tolist() == verified == [1, 5]


def test_the_pointer_is_about_the_session_while_another_threshold_is_tried(hand):
    proofreader = hand.proofreader
    proofreader.try_threshold(-1.0)  # every fragment a segment
    assert (proofreader.layers.segments.values == np.arange(9)).all()
    segment = hand.session.segment_of(hand.pick(0, z=1).fragment)
    assert segment == 1
    assert proofreader.picker.in_section((1, 5, 5)).segment == segment
    assert f"segment {segment} · fragment 5 · 288 voxels" in proofreader.pointer.describe(
        np.array((1.0, 5.0, 5.0))
    )
    hand.click(0)
    proofreader.pointer.click(proofreader.picker.in_section((1, 5, 14)), SHIFT)
    assert proofreader.selection == [1, 2]


def test_the_session_is_shown_once_a_threshold_is_set_that_is_not_the_one_tried(hand):
    proofreader, session = hand.proofreader, hand.session
    shown = proofreader.layers.segments
    # on the way of a slider, whose last step was not tried
    for tried, threshold in ((-1.0, 0.4), (0.4, 0.6), (0.6, -1.0), (0.6, -1.0)):
        proofreader.try_threshold(tried)
        proofreader.set_threshold(threshold)
        np.testing.assert_array_equal(shown.values, session.lut)
    assert len(session.history.edits) == 3


def test_an_edit_while_a_threshold_is_tried_shows_the_session(hand):
    hand.proofreader.try_threshold(-1.0)
    hand.session.merge(hand.segments[:2])
    np.testing.assert_array_equal(hand.proofreader.layers.segments.values, hand.session.lut)


def test_what_has_gone_since_it_was_picked_is_described_without_its_size(hand):
    gone = hand.pick(1)
    hand.session.merge(hand.segments[:2])
    hand.proofreader.pointer.click(gone)
    assert hand.said[-1] == f"segment {gone.segment} · fragment {gone.fragment}"


def test_what_stays_in_the_viewer_is_the_session_and_keeps_nothing_of_it(hand):
    proofreader, session = hand.proofreader, hand.session
    session.relabel((0, 4, 4), np.ones((1, 2, 2), np.bool_))
    shown = session.lut[session.fragments[...]]
    layer = proofreader.layers.layer
    proofreader.try_threshold(-1.0)
    proofreader.end(keep=True)
    np.testing.assert_array_equal(np.asarray(layer.data), shown)
    kept = [layer.data, layer.data._fragments, layer.data._fragments.source]
    closures = [cell.cell_contents for cell in kept[-1]._voxels.__closure__]
    assert not any(isinstance(part, SessionState) for part in closures)
    assert kept[-1]._patches() is not session.decisions.patches


# ---------------------------------------------------------------------- notes


def test_a_note_that_was_undone_is_not_shown(hand):
    hand.click(3)
    hand.note()
    notes = hand.proofreader.layers.find("proofread_notes")
    np.testing.assert_array_equal(notes.data, [hand.pick(3).voxel])
    hand.run("undo")
    assert not len(notes.data)
    hand.run("redo")
    np.testing.assert_array_equal(notes.data, [hand.pick(3).voxel])
    assert notes.features["text"].tolist() == ["look here"]


def test_a_note_while_cutting_leaves_a_cut_that_can_be_made(hand):
    hand.click(0)
    hand.run("split")
    hand.click(0)
    hand.click(0, SHIFT, z=1)
    mode, session = hand.proofreader.split_mode, hand.session
    first = mode.preview
    hand.note()
    assert mode.preview is not first
    assert mode.preview.plan.revision == session.revision
    # it cannot be cut while it is verified, and can be again
    hand.run("lock")
    assert mode.preview is None
    hand.run("lock")
    assert mode.preview is not None
    hand.run("apply")
    assert not mode.active
    assert hand.pick(0).segment != hand.pick(0, z=1).segment


def test_a_note_lies_in_the_segment_that_it_is_about(hand):
    proofreader = hand.proofreader
    hand.click(3)
    assert hand.note().position == hand.pick(3).voxel
    proofreader.go_to((1, 9, 14))
    proofreader.select([hand.pick(0).segment])  # from elsewhere than a click
    assert hand.note().position == (1, 9, 14)
    proofreader.select(())
    assert hand.note().position == (1, 9, 14)


def test_a_note_on_a_question_lies_where_that_is(hand):
    proofreader = hand.proofreader
    hand.click(3)
    asked = hand.ask(0, 1)
    proofreader.go_to((1, 9, 14))
    assert hand.note().position == asked.position
    proofreader.select([hand.pick(2).segment])
    assert hand.note().position == (1, 9, 14)


def test_a_note_needs_a_place_or_a_segment(hand):
    proofreader = hand.proofreader
    camera_of(hand.viewer).center = (0, -1000, -1000)
    assert "click the place" in hand.run("note")
    proofreader.select([hand.pick(1).segment])
    note = hand.note()
    assert note.position is None
    assert hand.session.segment_of(note.fragment) == hand.pick(1).segment
