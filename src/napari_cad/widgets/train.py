"""The dock widget "Train": fine-tune the checkpoint on labelled sections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QLabel, QPushButton, QWidget

from napari_cad.core.errors import ConfigError, JobError, NapariCadError
from napari_cad.core.events import Event, Warned
from napari_cad.core.jobs import Requests
from napari_cad.training.events import (
    CheckpointSaved,
    StepsDone,
    TrainingFinished,
    TrainingStarted,
)
from napari_cad.training.fine_tune_config import (
    FINE_TUNE,
    Compared,
    FineTuneConfig,
    split_sections,
)
from napari_cad.viewer.checkpoints import short_title
from napari_cad.viewer.jobs import JobRunner, format_seconds
from napari_cad.viewer.places import work_folder
from napari_cad.viewer.state import state_of
from napari_cad.widgets._checkpoint import CheckpointChooser
from napari_cad.widgets._column import Column
from napari_cad.widgets._device import device_form
from napari_cad.widgets._folder import FolderChooser
from napari_cad.widgets._form import Collapsible, ConfigForm, form_layout, tooltip
from napari_cad.widgets._section_list import parse_sections
from napari_cad.widgets._status import RunStatus
from napari_cad.widgets._train_data import TruthForm
from napari_cad.widgets._train_plots import BeforeAfter, LossPlot, measured_text

if TYPE_CHECKING:
    import napari.viewer


class TrainWidget(Column):
    """Fine-tunes a checkpoint on labels in the viewer, or on a folder, in a child process.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer that it is docked in.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._arguments: dict[str, Any] | None = None
        self._trained: str | None = None
        self._stopping = False
        self.truth = TruthForm(viewer)
        self.checkpoint = CheckpointChooser(viewer)
        self.settings = ConfigForm(FineTuneConfig, ("steps",))
        self.advanced = ConfigForm(FineTuneConfig, ("learning_rate", "patch", "batch", "every"))
        self.device = device_form()
        self.output = FolderChooser(
            "Folder of the run: checkpoints, curves and everything that is needed to go on."
        )
        self.train_button = QPushButton("Train")
        self.train_button.setToolTip("Start anew. The viewer can be used meanwhile.")
        self.continue_button = QPushButton("Continue")
        self.continue_button.setToolTip(
            tooltip("Go on with the run in the folder, exactly, or with more steps than it had.")
        )
        self.stop_button = QPushButton("Stop")
        self.stop_button.setToolTip("Stop after this step, with everything saved. Twice: at once.")
        self.use_button = QPushButton("Use this checkpoint now")
        self.use_button.setToolTip(
            tooltip("Choose the fine-tuned checkpoint in all widgets, such as Segment neurons.")
        )
        self.status = RunStatus()
        self.plot = LossPlot()
        self.plot.setVisible(False)
        self.picture = BeforeAfter()
        self.measured = QLabel()
        self.measured.setWordWrap(True)
        self._lay_out()

        self.runner = JobRunner(self)
        self.runner.reported.connect(self._on_event)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._on_failed)
        self.runner.cancelled.connect(self._on_cancelled)
        self.train_button.clicked.connect(self.train)
        self.continue_button.clicked.connect(self.go_on)
        self.stop_button.clicked.connect(self.stop)
        self.use_button.clicked.connect(self.use)
        self.truth.changed.connect(self._propose_output)
        self.truth.changed.connect(self._show_kept_out)
        self.truth.sections.textChanged.connect(self._show_kept_out)
        self.checkpoint.changed.connect(self._propose_output)
        self.output.changed.connect(self._show_buttons)
        self._propose_output()
        self._show_kept_out()

    def _lay_out(self) -> None:
        checkpoint, output = QWidget(), QWidget()
        form_layout(checkpoint).addRow("Start from", self.checkpoint)
        form_layout(output).addRow("Run", self.output)
        self.fill(
            self.truth,
            checkpoint,
            self.settings,
            self.device,
            output,
            Collapsible("Advanced", self.advanced),
            self.plot,
            self.measured,
            self.picture,
            below=(
                (self.train_button, self.continue_button, self.stop_button),
                self.status,
                self.use_button,
            ),
        )

    # ------------------------------------------------------------------ form → config → job

    def train(self) -> None:
        """Start a new run with what the form says."""
        self._start(go_on=False)

    def go_on(self) -> None:
        """Take up the run in the folder."""
        self._start(go_on=True)

    def stop(self) -> None:
        """Ask the run to end after its step; the second time, end it."""
        if self._stopping:
            self.runner.cancel()
            return
        self._stopping = True
        self.runner.send("stop")
        self.status.running("Stopping after this step…")

    def use(self) -> None:
        """Choose the trained checkpoint in all widgets of the viewer."""
        if self._trained is not None:
            state_of(self._viewer).choose_checkpoint(self._trained)
            self.status.ended(f"{short_title(self._trained)} is chosen in all widgets.")

    def _start(self, *, go_on: bool) -> None:
        self.status.clear()
        try:
            arguments = self._read_form(go_on)
        except NapariCadError as error:
            self.status.failed(str(error))
            return
        try:
            self.runner.start(FINE_TUNE, arguments, f"Training on {self.truth.name()}")
        except OSError as error:
            self.status.failed(f"The job could not be started: {error}")
            return
        self._arguments, self._stopping = arguments, False
        if not go_on:
            self._trained = None
            self.picture.clear()
            self.measured.clear()
            self.plot.clear(arguments["settings"].steps)
        self._show_buttons()
        self.status.running("Starting…")
        self._report("starting…", running=True)

    def _read_form(self, go_on: bool) -> dict[str, Any]:
        return {
            "truth": self.truth.truth(),
            "checkpoint": self.checkpoint.value(),
            "run": str(self.output.value(must_be_new=not go_on)),
            "settings": FineTuneConfig(**self.settings.values(), **self.advanced.values()),
            "validation": self.truth.kept_out(),
            "device": self.device.values()["device"],
            "go_on": go_on,
            "requests": Requests(),
        }

    def _propose_output(self) -> None:
        run = self.output.path.text()
        if run and Path(self.checkpoint.value()).parent == Path(run):
            return  # of the run that is shown, and which may be gone on with
        parts = (self.truth.name(), self.checkpoint.label())
        stem = "_".join(re.sub(r"[^\w.-]+", "-", part).strip("-") for part in parts if part)
        self.output.propose(work_folder() / "training", stem or "student")

    # ------------------------------------------------------------------ events → plots

    def _on_event(self, event: Event) -> None:
        if isinstance(event, TrainingStarted):
            self.plot.go_on(event.step, event.steps)
            self.plot.setVisible(True)
            self.status.running(f"Training on {event.device}…", event.step, event.steps)
        elif isinstance(event, StepsDone):
            self.plot.add_loss(event.step, event.losses["loss"])
            left = format_seconds(event.seconds_left)
            text = f"Step {event.step} of {event.steps} · {left} left"
            if not self._stopping:
                self.status.running(text, event.step, event.steps)
            self._report(f"step {event.step} of {event.steps} · {left} left", running=True)
            self.runner.show_progress(event.step, event.steps)
        elif isinstance(event, Compared):
            self.plot.add_score(event.step, event.scores["voi"])
            self.picture.show_section(event)
            self.measured.setText(measured_text(self.picture.before or event, event))
        elif isinstance(event, CheckpointSaved) and event.step:
            best = Path(event.path).with_name("best.safetensors")
            self._trained = str(best) if best.exists() else event.path
            self._show_buttons()
        elif isinstance(event, TrainingFinished):
            self._trained = event.checkpoint if event.step else None
            self.status.ended(_summary(event))
            self._report(_counted_steps(event.step))
        elif isinstance(event, Warned):
            self.status.warn(event.message)

    def _on_finished(self) -> None:
        self._show_buttons()

    def _on_failed(self, error: JobError) -> None:
        self._show_buttons()
        self.status.failed(str(error), error.details)
        self._report("failed")

    def _on_cancelled(self) -> None:
        self._show_buttons()
        self.status.ended("Stopped. Continue goes on from the last checkpoint that was saved.")
        self._report("stopped")

    def _report(self, text: str, *, running: bool = False) -> None:
        """Tell the workbench."""
        state_of(self._viewer).report("train", text, running=running)

    def _show_kept_out(self) -> None:
        """Say which sections are kept out where the person leaves it open."""
        text = "the last fifth, of six or more"
        try:
            labelled = parse_sections(self.truth.sections.text())
            if labelled is not None and self.truth.sections.isVisibleTo(self.truth):
                kept = split_sections(labelled)[1]
                text = (
                    f"the last fifth: {kept[0]} to {kept[-1]}"
                    if kept
                    else "none: fewer than six are labelled"
                )
        except ConfigError:
            pass  # half typed
        self.truth.validation.setPlaceholderText(text)

    def _show_buttons(self) -> None:
        running = self.runner.running
        self.train_button.setEnabled(not running)
        self.continue_button.setEnabled(not running and self.output.holds_run())
        self.stop_button.setEnabled(running)
        self.use_button.setVisible(self._trained is not None)


def _summary(event: TrainingFinished) -> str:
    done = f"{_counted_steps(event.step)} in {format_seconds(event.seconds)}"
    if event.reason == "stopped":
        return f"Stopped after {done}; Continue goes on."
    return f"{done}. The weights to use: {Path(event.checkpoint).name} in the run's folder."


def _counted_steps(n: int) -> str:
    return f"{n} step{'s' * (n != 1)}"
