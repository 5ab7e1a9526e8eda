"""Waiting for a run that is being made, or was stopped, to be whole again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtCore import QElapsedTimer, QObject, QTimer

from napari_cad.core.errors import NapariCadError
from napari_cad.viewer.state import state_of

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_cad.viewer.state import StepReport

#: Milliseconds between two looks at the store.
_PAUSE = 2_000
#: Milliseconds in which a job that was asked for says something, be it that it failed.
_STARTING = 20_000

#: The step whose reports tell of runs.
_STEP = "segment"

_BEING_MADE = "is being made: it can be agglomerated when it is finished."
_STOPPED = "is not finished: Run in “Segment neurons” goes on with it."


class RunWatch(QObject):
    """Looks now and then whether a run has an agglomeration and nobody is making it.

    Parameters
    ----------
    viewer : ViewerModel
        Whose widgets make runs.
    parent : QObject
        Its owner.

    Attributes
    ----------
    whole : Signal
        (), when the run that is waited for can be loaded; it is no longer waited for then.
    reason : Signal
        (str), why it cannot be, in one line.
    """

    whole = Signal()
    reason = Signal(str)

    def __init__(self, viewer: ViewerModel, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._run: str | None = None
        self._known: StepReport | None = None
        self._since = QElapsedTimer()
        self._timer = QTimer(self)
        self._timer.setInterval(_PAUSE)
        self._timer.timeout.connect(self._look)

    def is_being_made(self, run: str) -> bool:
        """Whether a job of this viewer is said to be at a run."""
        report = state_of(self._viewer).report_of(_STEP)
        return report is not None and report.running and report.run == run

    def begun(self, run: str) -> None:
        """Wait for a run for which a job has just been asked, which has not said anything yet."""
        self._known = state_of(self._viewer).report_of(_STEP)
        self._since.start()
        self._run = run
        self._timer.start()
        self._say(_BEING_MADE)

    def wait(self, run: str) -> None:
        """Wait for a run, whatever its state is."""
        self._since.invalidate()
        self._run = run
        self._timer.start()
        self._look()

    def stop(self) -> None:
        """Wait no longer."""
        self._run = None
        self._timer.stop()

    def is_whole(self, run: str) -> bool:
        """Whether a run was made to its end; reads a few small files."""
        # zarr takes half a second to import, which a widget that opens has not
        from napari_cad.core.store import SegmentationStore

        try:
            store = SegmentationStore.open(run)
            return store.has_agglomeration(store.merge_function)
        except (NapariCadError, OSError):
            return False

    def _look(self) -> None:
        run = self._run
        if run is None or self._is_starting():
            return
        if self.is_being_made(run):
            self._say(_BEING_MADE)
        elif self.is_whole(run):
            self.stop()
            self.whole.emit()
        else:
            self._say(_STOPPED)

    def _is_starting(self) -> bool:
        """Whether the job that was asked for may not have said anything yet."""
        if not self._since.isValid() or self._since.hasExpired(_STARTING):
            return False
        return state_of(self._viewer).report_of(_STEP) is self._known

    def _say(self, text: str) -> None:
        if self._run is not None:
            self.reason.emit(f"{Path(self._run).name} {text}")
