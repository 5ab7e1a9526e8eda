"""What a proofreading session does with a request: once, once more, and while it is busy."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtWidgets import QWidget

from napari_cad.proofreading import painting
from napari_cad.proofreading.from_labels import source_from_labels
from napari_cad.proofreading.operations import plan_separate
from napari_cad.proofreading.queue import Question
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.viewer.embedding_layers import camera_of
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.proofreading import Proofreader
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


# ---------------------------------------------------------------------- notes


def test_a_note_while_cutting_leaves_a_cut_that_can_be_made(hand):
    hand.click(0)
    hand.run("split")
    hand.click(0)
    hand.click(0, SHIFT, z=1)
    mode, session = hand.proofreader.split_mode, hand.session
    first = mode.preview
    hand.note()
    assert mode.preview is not first
    assert mode.preview.revision == session.revision
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
