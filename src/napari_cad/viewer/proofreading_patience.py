"""Working something out without keeping the person waiting.

What an edit comes down to is worked out by looking at the session only, and takes milliseconds,
mostly. Where it takes longer (a cut through a very large segment, a large fragment to be divided),
it goes on in a thread, the viewer stays awake, and nothing is edited meanwhile.
"""

from __future__ import annotations

import functools
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.QtCore import QObject, QTimer

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtpy.QtWidgets import QWidget

#: Seconds that a person does not notice much.
_AT_ONCE = 0.2

#: Milliseconds between two looks at what takes longer.
_INTERVAL = 30


class Patience(QObject):
    """Runs one function at a time, in a thread.

    Parameters
    ----------
    parent : QWidget
        Its owner.

    Attributes
    ----------
    changed : Signal
        (), when something begins to take long, and when it has ended.
    """

    changed = Signal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="proofreading")
        self._future: Future[Any] | None = None
        self._then: Callable[[Future[Any]], None] | None = None
        self.what = ""
        self._timer = QTimer(self)
        self._timer.setInterval(_INTERVAL)
        self._timer.timeout.connect(self._look)

    @property
    def busy(self) -> bool:
        """Whether something takes long."""
        return self._future is not None

    def run(
        self, function: Callable[[], Any], then: Callable[[Future[Any]], None], what: str
    ) -> None:
        """Run a function, and then hand over its future: at once, or when it is done.

        Parameters
        ----------
        function : callable
            Looks at the session and changes nothing.
        then : callable
            In the viewer's thread; what `function` raises comes out of the future's result.
        what : str
            For the person.
        """
        self.cancel()
        future = self._threads.submit(function)
        try:
            future.exception(_AT_ONCE)
        except StillRunning:
            self._future, self._then, self.what = future, then, what
            self._timer.start()
            self.changed.emit()
            return
        then(future)

    def cancel(self) -> bool:
        """Want the outcome no more; whether there was anything to wait for."""
        if self._future is None:
            return False
        self._future.cancel()
        self._forget()
        self.changed.emit()
        return True

    def close(self) -> None:
        """Run nothing more."""
        self._forget()
        self.shutdown()

    @property
    def shutdown(self) -> Callable[[], None]:
        """What ends the thread; it knows no Qt, and so outlives this object."""
        return functools.partial(self._threads.shutdown, wait=False, cancel_futures=True)

    def _forget(self) -> None:
        self._timer.stop()
        self._future = self._then = None
        self.what = ""

    def _look(self) -> None:
        future, then = self._future, self._then
        if future is None or then is None or not future.done():
            return
        self._forget()
        self.changed.emit()
        then(future)
