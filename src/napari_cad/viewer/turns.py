"""Doing things one after the other, with time in between for everything else.

napari needs a tenth of a second to add a layer, and again as long to draw it for the first time.
Two layers at once would be felt as a stumble of the viewer; one per turn of the event loop is not.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Milliseconds between two turns, in which Qt paints and the person clicks.
_PAUSE = 25
#: Seconds from which on a turn counts as long, and that all queues then leave to Qt: of two
#: long turns in a row the first would not have been painted yet, and both be felt as one.
_LONG, _REST = 0.005, 0.02
#: Seconds that something is waited for.
_LONGEST_WAIT = 0.5


class Turns(QObject):
    """A queue of things to do, of which one is done per turn of the event loop.

    After a long turn Qt has time to paint, whichever queue is next.

    Parameters
    ----------
    parent : QObject
        Its owner; what is still to be done when that goes is not done.
    """

    _resting_until = 0.0  # of all queues

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._waiting: deque[Callable[[], None]] = deque()
        self._timer = QTimer(self)
        self._timer.setInterval(_PAUSE)
        self._timer.timeout.connect(self._tick)

    @property
    def busy(self) -> bool:
        """Whether there is something left to do."""
        return bool(self._waiting)

    def then(self, act: Callable[[], None]) -> None:
        """Do something after all that waits already."""
        self._waiting.append(act)
        self._timer.start()

    def next(self, act: Callable[[], None]) -> None:
        """Do something before all that waits already, but not in this turn."""
        # the owner may have gone in the turn that asks for this
        if isalive(self):  # type: ignore[no-untyped-call]
            self._waiting.appendleft(act)
            self._timer.start()

    def when(self, ready: Callable[[], bool], act: Callable[[], None]) -> None:
        """Do something as soon as it is ready, or after half a second, before all that follows."""
        until = time.monotonic() + _LONGEST_WAIT

        def look() -> None:
            if ready() or time.monotonic() > until:
                act()
            else:
                self.next(look)

        if self.busy or not ready():
            self.then(look)
        else:
            act()

    def each(self, steps: Iterator[object]) -> None:
        """Take one step per turn, after all that waits, until there are no more."""

        def step() -> None:
            if next(steps, self) is not self:
                self.then(step)

        self.then(step)

    def forget(self) -> None:
        """Do nothing of what waits."""
        self._waiting.clear()
        self._timer.stop()

    def _tick(self) -> None:
        if time.monotonic() >= Turns._resting_until:
            self._turn()

    def _turn(self) -> None:
        if len(self._waiting) <= 1:
            self._timer.stop()
        if self._waiting:
            began = time.monotonic()
            self._waiting.popleft()()
            ended = time.monotonic()
            if ended - began > _LONG:
                Turns._resting_until = ended + _REST


def in_turn(turns: Turns | None, act: Callable[[], None]) -> None:
    """Do something in its turn, or at once where nobody keeps turns (a script, a test)."""
    if turns is None:
        act()
    else:
        turns.then(act)
