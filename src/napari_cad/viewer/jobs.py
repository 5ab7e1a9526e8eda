"""Jobs of the viewer: a child process, polled by a timer.

The thread of the viewer never waits for a job: starting it returns at once, its events are
collected every few hundredths of a second, and cancelling only asks.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari.utils.progress import progress
from psygnal import Signal
from qtpy.QtCore import QEvent, QObject, QTimer

from napari_cad.core.errors import JobError
from napari_cad.core.events import SectionDone, StageStarted
from napari_cad.core.jobs import JobProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qtpy.QtWidgets import QWidget

#: Milliseconds between two looks at a job.
POLL_INTERVAL = 40
#: Milliseconds between two steps of napari's bar, and until it is there.
_BAR_PAUSE = 300
#: Seconds for which events are handed over at one look; the others have to wait for the next.
_PATIENCE = 0.02
#: Milliseconds after a job in which the layers of its outcome are added and drawn.
_AFTERMATH = 5_000


class EndsWithDock(QObject):
    """What belongs to a widget, and must not go on when that is taken out of its dock."""

    def leave(self) -> None:
        """End what goes on."""
        raise NotImplementedError


class JobRunner(EndsWithDock):
    """Runs one job at a time for a widget, and ends it when the widget goes.

    Parameters
    ----------
    parent : QWidget
        Its owner.

    Attributes
    ----------
    reported : Signal
        (object), everything that the job yields, in order.
    finished, cancelled : Signal
        (), at the end.
    failed : Signal
        (JobError), at the end.

    Notes
    -----
    Signals come in the viewer's thread. After `start` or `cancel`, none comes from an earlier job.
    An event that takes listeners longer than 20 ms is the last one for this turn of Qt's event
    loop, so that two slow ones never come without Qt painting in between.
    """

    reported = Signal(object)
    finished = Signal()
    failed = Signal(JobError)
    cancelled = Signal()

    def __init__(self, parent: QWidget, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(parent)
        self._now = now
        self._waiting: deque[Any] = deque()
        self._shown: tuple[int, int] | None = None
        self._job: JobProcess | None = None
        self._run = 0
        self._description: str | None = None
        self._bar: progress | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_INTERVAL)
        self._timer.timeout.connect(self._poll)
        self._bar_timer = QTimer(self)
        self._bar_timer.setInterval(_BAR_PAUSE)
        self._bar_timer.timeout.connect(self._show_bar)
        self._aftermath = QTimer(self)
        self._aftermath.setSingleShot(True)
        self._aftermath.timeout.connect(gc.unfreeze)
        self._over = False
        # both, for either side may go first: the object of Python, or that of Qt
        self._ending = _Ending()
        weakref.finalize(self, self._ending.end).atexit = False
        self.destroyed.connect(self._ending.end)

    @property
    def running(self) -> bool:
        """Whether a job goes on."""
        return self._job is not None

    def start(self, function: str, arguments: Mapping[str, Any], description: str | None) -> int:
        """Start a job; one that still runs is cancelled first.

        Parameters
        ----------
        function, arguments
            See `JobProcess`.
        description : str, optional
            For napari's list of activities; None for a job that only answers requests.

        Returns
        -------
        int
            The number of this run.
        """
        self.cancel()
        if self._over:
            return self._run
        self._job = self._ending.job = JobProcess(function, arguments)
        self._run += 1
        self._description = description
        self._timer.start()
        if description is not None:
            self._bar_timer.start()
            # A full collection of garbage looks at all objects of napari and stops the viewer for
            # a fifth of a second; until the outcome is shown it need not look at the old ones.
            gc.freeze()
            self._aftermath.stop()
        return self._run

    def send(self, request: Any) -> None:
        """Send something picklable to the job, if there is one; see `JobProcess.send`."""
        if self._job is not None:
            self._job.send(request)

    def cancel(self) -> None:
        """End the job, if there is one, with everything that it started. Does not wait."""
        if self._job is not None:
            self._job.cancel()
            self._close()
            self.cancelled.emit()

    def leave(self) -> None:
        """End the job, and start none from now on: nobody would see it."""
        self._over = True
        self.cancel()

    def show_progress(self, done: int, total: int) -> None:
        """Show how far the job is in napari's list of activities, now and then."""
        self._shown = (done, total)

    def _poll(self) -> None:
        job, run = self._job, self._run
        if job is None:
            return
        # kept in the runner: a listener may let Qt process events, and so this be called again
        self._waiting.extend(job.poll())
        until = self._now() + _PATIENCE
        while self._waiting:
            self.reported.emit(self._waiting.popleft())
            if self._run != run or self._job is not job:
                return  # a listener has cancelled it or started another
            if self._now() > until:
                break
        if self._waiting or self._job is not job or job.state == "running":
            return
        self._close()
        if job.error is not None:
            self.failed.emit(job.error)
        else:
            self.finished.emit()

    def _show_bar(self) -> None:
        """Move napari's bar, in a turn of its own: it lets all of Qt's events be processed."""
        bar, run = self._bar, self._run
        if bar is None:
            self._bar_timer.stop()
            bar = progress(desc=self._description, total=0)
            if self._job is None or self._run != run:
                bar.close()  # that was the end of it
                return
            self._bar = self._ending.bar = bar
            self._bar_timer.start()
        elif self._shown is not None:
            (done, total), self._shown = self._shown, None
            if bar.total != total:
                bar.total = total
            bar.update(done - bar.n)

    def _close(self) -> None:
        self._timer.stop()
        self._bar_timer.stop()
        if self._description is not None:
            self._aftermath.start(_AFTERMATH)
        self._job = self._ending.job = None
        self._waiting.clear()
        self._shown = None
        if self._bar is not None:
            self._bar.close()
            self._bar = self._ending.bar = None


class _Ending:
    """Ends the job of a runner that is no more.

    It knows nothing of the runner: what is part of a cycle of garbage may have been emptied by the
    time that it is called.
    """

    def __init__(self) -> None:
        self.job: JobProcess | None = None
        self.bar: progress | None = None

    def end(self) -> None:
        if self.job is not None:
            self.job.cancel()
        if self.bar is not None:
            self.bar.close()
        self.job = self.bar = None
        gc.unfreeze()


class JobsEndWith(QObject):
    """Ends the jobs and sessions of a widget and what is in it, when it is taken out of its dock.

    napari's button for closing a dock leaves the widget to Python, which removes it some time
    later; until then nobody can see or cancel its jobs, and its keys would still be bound.

    Parameters
    ----------
    widget : QWidget
        What is docked.
    """

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """See that the widget no longer has a parent."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            widget = self.parent()
            if watched is widget and widget is not None and widget.parent() is None:
                for part in widget.findChildren(EndsWithDock):
                    part.leave()
        return super().eventFilter(watched, event)


@dataclass
class RunProgress:
    """How far a run is, how fast, and how long it still takes.

    Attributes
    ----------
    now : callable
        () -> float, a clock in seconds.
    """

    now: Callable[[], float] = time.monotonic
    _stages: dict[str, tuple[int, int]] = field(default_factory=dict)
    _since: dict[str, tuple[int, float]] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)

    def update(self, event: Any) -> bool:
        """Take note of an event; whether anything changed."""
        if not isinstance(event, (StageStarted, SectionDone)):
            return False
        before = self.stage
        self._stages[event.stage] = (event.done, event.total)
        if isinstance(event, SectionDone):
            self._last[event.stage] = self.now()
        stage = self.stage
        if stage and stage != before:
            # a stage that had to wait for another is measured from here on
            self._since[stage] = (self._stages[stage][0], self.now())
        return True

    @property
    def done(self) -> int:
        """Sections done, over all stages."""
        return sum(done for done, _ in self._stages.values())

    @property
    def total(self) -> int:
        """Sections to do, over the stages that have begun."""
        return sum(total for _, total in self._stages.values())

    @property
    def stage(self) -> str:
        """The stage that everything waits for: the first that is not done."""
        for stage, (done, total) in self._stages.items():
            if done < total:
                return stage
        return ""

    def rate(self, stage: str) -> float | None:
        """Sections per second of a stage since everything waits for it; None at first."""
        if stage not in self._last or stage not in self._since:
            return None
        done, begun = self._since[stage]
        seconds = self._last[stage] - begun
        return (self._stages[stage][0] - done) / seconds if seconds > 0 else None

    def seconds_left(self) -> float | None:
        """Of the stage that everything waits for; None where it cannot be told yet."""
        stage = self.stage
        rate = self.rate(stage) if stage else None
        if not rate:
            return None
        done, total = self._stages[stage]
        since = self.now() - self._last[stage]
        return max(0.0, (total - done) / rate - since)

    def text(self) -> str:
        """One line: stage, sections, speed, time left."""
        stage = self.stage
        if not stage:
            return ""
        done, total = self._stages[stage]
        parts = [stage.capitalize()]
        if total > 1:
            parts.append(f"{done} of {total} sections")
        rate = self.rate(stage)
        if rate:
            parts.append(f"{rate:.1f}/s" if rate >= 0.95 else f"{1 / rate:.1f} s each")
        left = self.seconds_left()
        if left is not None and total > 1:
            parts.append(f"{format_seconds(left)} left")
        return " · ".join(parts)

    def short(self) -> str:
        """Give what matters most of it: sections or the stage, and the time left."""
        stage = self.stage
        if not stage:
            return ""
        done, total = self._stages[stage]
        parts = [f"{done} of {total} sections" if total > 1 else stage]
        left = self.seconds_left()
        if left is not None and total > 1:
            parts.append(f"{format_seconds(left)} left")
        return " · ".join(parts)


def format_seconds(seconds: float) -> str:
    """Write a duration for people: 45 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s" if minutes < 10 and seconds else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
