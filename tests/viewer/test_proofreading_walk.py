"""Walking through uncertain places while the session changes; no window is needed."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future

import numpy as np
import pytest

from napari_cad.proofreading import questions
from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.from_labels import source_from_labels
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.suspects import ends_inside
from napari_cad.viewer.proofreading_walk import QuestionWalk


class Owner:
    """What a walk asks of a proofreader, its patience, requests and contacts.

    With `hold`, outcomes wait.
    """

    def __init__(self, session):
        self.session = session
        self.patience = self.requests = self.contacts = self
        self.hold, self.waiting, self.said, self.counts = False, [], [], 0
        self.selection = []
        self.walk = QuestionWalk(self)

    @property
    def what(self):
        return "Looking for uncertain places" if self.waiting else ""

    def run(self, function, then, _what):
        self.waiting.clear()  # one at a time: what was run before is not wanted any more
        future = Future()
        try:
            future.set_result(function())
        except ProofreadingError as error:
            future.set_exception(error)
        if self.hold:
            self.waiting.append(lambda: then(future))
        else:
            then(future)

    @contextlib.contextmanager
    def reporting(self, _name):
        try:
            yield
        except ProofreadingError as error:
            self.said.append(str(error))

    def select(self, segments):
        self.selection = list(segments)
        self.redraw()

    def redraw(self):
        self.walk.marks()

    def recount(self):
        self.counts += 1
        self.walk.count()

    def say(self, text):
        self.said.append(text)

    def go_to(self, _place):
        pass

    def show(self, *_columns):
        pass

    def forget(self):
        pass


@pytest.fixture
def owner():
    """One neurite in two pieces, sections 1–2 and 3–5, and a spot in section 3."""
    labels = np.zeros((7, 30, 30), np.uint32)
    labels[1:3, 2:12, 2:12] = 1
    labels[3:6, 2:12, 2:12] = 2
    labels[3, 20:25, 20:25] = 3
    image = np.random.default_rng(0).integers(0, 255, labels.shape).astype(np.uint8)
    return Owner(ProofreadingSession(source_from_labels(labels, image=image)))


def asked(walk, n):
    """Fragments of the next `n` ends."""
    fragments = []
    for _ in range(n):
        walk.step(forward=True)
        fragments.append(None if walk.current is None else walk.current.fragment)
    return fragments


def test_an_accepted_end_is_not_asked_again_and_undo_is_counted(owner):
    walk, session = owner.walk, owner.session
    walk.choose("ends")
    ends = [end.fragment for end in ends_inside(session)]
    assert asked(walk, 1) == ends[:1]
    assert walk.progress == (5, 5)
    walk.answer("accept", force=False)
    walk.count()
    assert walk.progress == (4, 5)
    assert asked(walk, 5) == [*ends[1:], None]
    assert "last one" in owner.said[-1]
    session.undo()
    walk.count()
    assert walk.progress == (5, 5)
    assert asked(walk, 1) == ends[:1]


def test_ends_that_a_merge_ended_are_passed_by_and_counted(owner):
    walk, session = owner.walk, owner.session
    walk.choose("ends")
    asked(walk, 1)
    session.merge(sorted({e.segment for e in ends_inside(session) if e.cross_section == 100}))
    left = {end.fragment for end in ends_inside(session)}
    later = asked(walk, 3)
    assert later[-1] is None
    assert set(later[:-1]) <= left
    assert walk.progress == (3, 3)


def test_an_end_that_was_painted_over_is_not_asked_nor_marked(owner):
    walk, session = owner.walk, owner.session
    walk.choose("ends")
    spot = ends_inside(session)[-1].fragment
    while asked(walk, 1) != [spot]:
        pass
    assert walk.marks()
    shown = walk.current
    walk.step(forward=False)
    session.relabel((3, 20, 20), np.ones((1, 2, 5), np.bool_))
    assert not session.graph.alive[spot]
    assert spot not in asked(walk, 8)
    assert not any("no fragment" in line for line in owner.said)
    walk.current = shown
    assert walk.marks() == {}
    walk.follow()
    assert walk.current is None


def test_what_is_painted_over_while_ends_are_looked_for_is_not_asked(owner):
    walk, session = owner.walk, owner.session
    walk.choose("ends")
    first = ends_inside(session)[0]
    owner.hold = True
    walk.step(forward=True)
    z, y, x = map(int, first.position)
    session.relabel((z, y, x), np.ones((1, 2, 2), np.bool_))
    owner.waiting.pop()()
    assert walk.current is not None
    assert session.graph.alive[walk.current.fragment]
    assert owner.selection == [walk.current.segment]


def test_another_kind_chosen_meanwhile_is_what_is_looked_for(owner):
    walk, session = owner.walk, owner.session
    owner.hold = True
    walk.step(forward=True)
    walk.choose("ends")
    (found,) = owner.waiting
    owner.waiting.clear()
    found()
    ends = [end.fragment for end in ends_inside(session)]
    assert walk.current.fragment == ends[0]
    owner.hold = False
    walk.choose("all")  # nothing is looked for until somebody asks
    assert walk.current is None
    walk.choose("ends")
    assert asked(walk, 2) == ends[:2]


def test_a_question_is_about_the_segments_that_there_are_now(owner):
    walk, session = owner.walk, owner.session
    walk.step(forward=True)
    one, other = walk.current.fragments
    segment = session.segment_of(one)
    assert f"Are both sides of segment {segment} one?" in walk.line()
    session.apply_cut(session.preview_cut([one], [other]))  # by hand
    walk.follow()
    a, b = session.segment_of(one), session.segment_of(other)
    assert walk.current.segments == (a, b)
    assert f"Do segments {a} and {b} belong together?" in walk.line()
    session.undo()
    walk.follow()
    assert walk.current.segments == (segment, segment)


def test_what_was_passed_by_is_not_asked_first_again_after_an_undo(owner):
    walk, session = owner.walk, owner.session
    session.add_note("so that there is something to undo")
    edges = []
    for _ in range(2):
        walk.step(forward=True)
        edges.append(walk.current.edge)
    session.undo()
    walk.step(forward=True)
    assert walk.current.edge not in edges
    walk.step(forward=False)
    assert walk.current.edge == edges[1]


def test_an_answer_that_was_undone_is_asked_and_counted_again(owner):
    walk, session = owner.walk, owner.session
    walk.step(forward=True)
    first, total = walk.current, walk.progress[0]
    questions.accept(session, first.edge)
    walk.choose("all")  # as on the next day
    walk.step(forward=True)
    assert walk.current.edge != first.edge
    assert walk.progress[0] < total
    session.undo()
    walk.count()
    assert walk.progress is None  # until somebody asks for the next one
    walk.step(forward=True)
    assert walk.current.edge == first.edge
    assert walk.progress == (total, total)
