from __future__ import annotations

import copy
import gc
import threading
import time

import numpy as np
import pytest
from qtpy.QtWidgets import QWidget

from napari_cad.core._lazy import LazyArray
from napari_cad.viewer import read_ahead as module
from napari_cad.viewer.error_layers import go_to
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.read_ahead import ReadAhead, Sections, read_ahead
from napari_cad.viewer.turns import Turns

SHAPE = (9, 4, 5)


class Counted(LazyArray):
    """Section z is full of z; remembers which thread has read which sections."""

    def __init__(self, shape=SHAPE):
        super().__init__(shape, np.uint8)
        self.read = []

    def _read(self, z, y, x):
        self.read.append((threading.current_thread(), *range(z.start, z.stop)))
        values = np.broadcast_to(np.arange(self.shape[0], dtype=np.uint8)[:, None, None], SHAPE)
        return values[z, y, x].copy()

    def sections(self, here=None):
        """Read sections in order; only those of this thread, or only those of another."""
        this = threading.current_thread()
        return [z for who, *many in self.read for z in many if here in (None, who is this)]


def wait_for(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_neighbours_are_read_in_another_thread():
    data = Counted()
    array = ReadAhead(data)
    np.testing.assert_array_equal(array[4], np.full(SHAPE[1:], 4))
    wait_for(lambda: sorted(data.sections()) == [3, 4, 5])
    assert data.sections(here=True) == [4]
    np.testing.assert_array_equal(array[5, 1:3, ::2], np.full((2, 3), 5))
    assert data.sections(here=True) == [4]  # nothing was waited for


def reading_threads():
    return [one for one in threading.enumerate() if one.name.startswith(module.THREAD)]


def test_who_wants_a_section_does_not_wait_for_the_pause(monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 60.0)
    array = ReadAhead(Counted())
    array[4]
    began = time.monotonic()
    assert array[5].min() == 5  # the thread has begun with it, and sleeps
    assert array[3].min() == 3  # it waits behind the other
    assert time.monotonic() - began < 10


def test_arrays_do_not_wait_for_one_another():
    held, slow = threading.Event(), []

    def make_slowly(z):
        slow.append(z)
        held.wait(60)
        return z

    blocked, free = Sections(make_slowly, 9, 1), Sections(lambda z: z, 9, 1)
    blocked.ahead(4)
    wait_for(lambda: slow == [4])
    assert free.ahead(4).result(timeout=10) == 4
    held.set()


def test_nothing_goes_on_when_nobody_has_the_array(monkeypatch):
    """As when its layer is removed, or the window is closed."""
    monkeypatch.setattr(module, "_PAUSE", 60.0)
    before = reading_threads()
    data = Counted()
    array = ReadAhead(data)
    array[4]
    (thread,) = set(reading_threads()) - set(before)
    del array
    gc.collect()
    wait_for(lambda: not thread.is_alive())
    assert data.sections() == [4, 5]  # it slept over 5; 3 waited behind it


def test_a_closed_one_reads_only_what_is_asked_for():
    sections = Sections(lambda z: z, SHAPE[0], 1)
    assert sections.get(4) == 4
    sections.close()
    sections.close()
    assert sections.get(7) == 7
    assert sections.ahead(2) is None


def test_sections_asked_for_longest_ago_are_forgotten():
    data = Counted()
    sections = Sections(lambda z: data[z], SHAPE[0], module._MOST_BYTES // 2)
    for z in (1, 5, 1, 7, 1, 5):
        sections.get(z)
    assert data.sections() == [1, 5, 7, 5]  # no neighbours: there is no room for them


def test_large_sections_are_not_kept():
    sections = Sections(lambda z: z, SHAPE[0], module._MOST_BYTES)
    assert not sections.kept
    assert sections.ahead(2) is None


class Failing:
    """Answers to one call after the other; errors are raised."""

    def __init__(self, *answers):
        self._answers = iter(answers)

    def __call__(self, _z):
        answer = next(self._answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def test_what_failed_is_tried_again():
    sections = Sections(Failing(OSError("gone"), "there"), 1, 1)
    with pytest.raises(OSError, match="gone"):
        sections.get(0)
    assert sections.get(0) == "there"


def test_what_failed_ahead_is_tried_by_who_wants_it():
    sections = Sections(Failing(OSError("busy"), "there"), 1, 1)
    wait_for(sections.ahead(0).done)
    assert sections.get(0) == "there"
    sections = Sections(Failing(OSError("gone"), OSError("still gone"), "there"), 1, 1)
    wait_for(sections.ahead(0).done)
    with pytest.raises(OSError, match="still gone"):
        sections.get(0)
    assert sections.ahead(0).result(timeout=10) == "there"


def test_parts_and_other_processes_get_the_array_itself():
    data = Counted()
    array = ReadAhead(data)
    np.testing.assert_array_equal(array[2:4, 0, 0], [2, 3])
    np.testing.assert_array_equal(np.asarray(array), np.asarray(data))
    data.read.clear()
    assert isinstance(copy.copy(ReadAhead(np.zeros(SHAPE))), np.ndarray)
    array[0][:] = 7
    assert array[0].max() == 0  # a reader may write into what it was given


def test_the_viewer_goes_to_a_place_when_its_section_has_been_read(make_napari_viewer, qtbot):
    viewer, owner = make_napari_viewer(), QWidget()
    qtbot.addWidget(owner)
    data, hidden = Counted(), Counted()
    placement = Placement.of_volume((30.0, 6.0, 6.0))
    settings = placement.for_axes(3)
    viewer.add_image(ReadAhead(data), contrast_limits=(0, 9), **settings)
    viewer.add_image(ReadAhead(hidden), contrast_limits=(0, 9), visible=False, **settings)
    viewer.dims.set_current_step(0, 0)
    wait_for(lambda: 1 in data.sections())
    data.read.clear(), hidden.read.clear()
    go_to(viewer, placement, (7, 1, 1), Turns(owner))
    qtbot.waitUntil(lambda: viewer.dims.current_step[0] == 7)
    assert data.sections(here=False)[0] == 7
    assert data.sections(here=True) == hidden.sections() == []
    viewer.dims.ndisplay = 3
    assert read_ahead(viewer, (60.0, 0.0, 0.0)) == []
    # nothing goes on when the window is closed
    threads = reading_threads()
    assert threads
    viewer.close()
    gc.collect()
    qtbot.waitUntil(lambda: not any(thread.is_alive() for thread in threads), timeout=10_000)
