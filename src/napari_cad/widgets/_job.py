"""The job of a widget, with its buttons, its status line and its progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_cad.viewer.jobs import JobRunner, RunProgress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qtpy.QtWidgets import QPushButton, QWidget

    from napari_cad.core.errors import JobError
    from napari_cad.core.events import Event
    from napari_cad.widgets._status import RunStatus


class WidgetJob(JobRunner):
    """Runs one job at a time, and says in the widget how it is doing.

    Parameters
    ----------
    parent : QWidget
        Its owner.
    status : RunStatus
        Where that is said.
    start, cancel : QPushButton, optional
        Buttons that can be pressed while it does not run, and while it does.

    Attributes
    ----------
    progress : RunProgress
        Of the job that runs, or ran last.
    """

    def __init__(
        self,
        parent: QWidget,
        status: RunStatus,
        start: QPushButton | None = None,
        cancel: QPushButton | None = None,
    ) -> None:
        super().__init__(parent)
        self._status = status
        self._buttons = (start, cancel)
        self.progress = RunProgress()
        # before whoever listens to the same: what they say about the end stands
        self.finished.connect(self._on_finished)
        self.failed.connect(self._on_failed)
        self.cancelled.connect(self._on_cancelled)
        self.show_running(False)

    def begin(self, function: str, arguments: Mapping[str, Any], description: str | None) -> bool:
        """Start a job as `start` does, or say why it cannot be started; whether it was."""
        self.progress = RunProgress()
        try:
            self.start(function, arguments, description)
        except OSError as error:
            self._status.failed(f"The job could not be started: {error}")
            return False
        self.show_running(True)
        self._status.running("Starting…")
        return True

    def follow(self, event: Event) -> bool:
        """Show how far it is, if an event tells; whether it does."""
        if not self.progress.update(event):
            return False
        done, total = self.progress.done, self.progress.total
        self._status.running(self.progress.text(), done, total)
        self.show_progress(done, total)
        return True

    def show_running(self, running: bool) -> None:
        """Let the buttons be pressed that make sense."""
        for button, usable in zip(self._buttons, (not running, running), strict=True):
            if button is not None:
                button.setEnabled(usable)

    def _on_finished(self) -> None:
        self.show_running(False)

    def _on_failed(self, error: JobError) -> None:
        self.show_running(False)
        self._status.failed(str(error), error.details)

    def _on_cancelled(self) -> None:
        self.show_running(False)
        self._status.ended("Stopped.")
