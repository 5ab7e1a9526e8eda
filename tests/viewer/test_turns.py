from __future__ import annotations

import time

import numpy as np
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QWidget

from napari_cad.viewer import turns as module
from napari_cad.viewer.embedding_layers import SectionCache
from napari_cad.viewer.turns import Turns, in_turn

PATIENCE = 10_000


def test_one_thing_per_turn_in_order_and_next_goes_before(qtbot):
    owner = QObject()
    turns, done = Turns(owner), []

    def first():
        done.append("first")
        turns.next(lambda: done.append("at once after"))

    turns.then(first)
    turns.then(lambda: done.append("second"))
    assert not done
    turns._turn()
    assert done == ["first"]
    assert turns.busy
    qtbot.waitUntil(lambda: not turns.busy, timeout=PATIENCE)
    assert done == ["first", "at once after", "second"]


def test_a_step_per_turn_after_what_waits(qtbot):
    owner, done = QObject(), []
    turns = Turns(owner)
    turns.each(done.append(i) for i in range(3))
    turns.then(lambda: done.append("other"))
    turns._turn()
    turns._turn()
    assert done == [0, "other"]
    qtbot.waitUntil(lambda: not turns.busy, timeout=PATIENCE)
    assert done == [0, "other", 1, 2]


def test_what_waits_can_be_forgotten_and_ends_with_the_owner(qtbot):
    owner, done = QWidget(), []
    qtbot.addWidget(owner)
    turns = Turns(owner)
    turns.then(lambda: done.append(1))
    turns.forget()
    assert not turns.busy
    turns.then(lambda: done.append(2))
    owner.deleteLater()
    del owner, turns
    qtbot.wait(100)
    assert not done


def test_without_turns_it_is_done_at_once():
    done = []
    in_turn(None, lambda: done.append(1))
    assert done == [1]


def test_provisional_sections_are_shown_until_there_are_better_ones():
    cache = SectionCache((3, 2, 2, 3), np.uint8)
    grey, red = np.full((2, 2, 3), 9, np.uint8), np.full((2, 2, 3), 200, np.uint8)
    cache.put(1, grey, provisional=True)
    assert 1 in cache  # nobody asks for it a second time, so long as there is nothing better
    assert cache.is_provisional(1)
    cache.outdate()
    assert 1 not in cache
    assert cache.is_provisional(1)
    np.testing.assert_array_equal(cache.section(1), grey)
    cache.put(1, red)
    assert 1 in cache
    assert not cache.is_provisional(1)
    np.testing.assert_array_equal(cache[1], red)


def test_after_a_long_turn_qt_is_next_and_not_another_queue(qtbot, monkeypatch):
    monkeypatch.setattr(module, "_REST", 0.2)
    owner, done = QObject(), []
    first, second = Turns(owner), Turns(owner)

    def act(name):
        QTimer.singleShot(50, lambda: done.append(f"{name} painted"))
        time.sleep(0.06)  # both queues are due by then
        done.append(name)

    first.then(lambda: act("a"))
    second.then(lambda: act("b"))
    qtbot.waitUntil(lambda: len(done) == 4, timeout=PATIENCE)
    assert done == ["a", "a painted", "b", "b painted"]


def test_what_is_waited_for_comes_before_what_follows(qtbot, monkeypatch):
    owner, done, ready = QObject(), [], []
    turns = Turns(owner)
    turns.when(lambda: True, lambda: done.append("at once"))
    assert done == ["at once"]
    turns.when(lambda: bool(ready), lambda: done.append("ready"))
    turns.then(lambda: done.append("after"))
    qtbot.wait(100)
    assert done == ["at once"]
    ready.append(True)
    qtbot.waitUntil(lambda: not turns.busy, timeout=PATIENCE)
    assert done == ["at once", "ready", "after"]
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.05)
    turns.when(lambda: False, lambda: done.append("no longer"))
    qtbot.waitUntil(lambda: done[-1] == "no longer", timeout=PATIENCE)
