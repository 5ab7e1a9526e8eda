"""Suggestions how to fit: which checkpoints to try, the job, and a table of what came out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_cad.core.errors import NapariCadError
from napari_cad.core.fit_job import SUGGEST
from napari_cad.core.fit_settings import FitGrid, FitSuggested, SettingScored
from napari_cad.core.published import PUBLISHED
from napari_cad.viewer.checkpoints import DEFAULT, checkpoints_in, needs_download
from napari_cad.viewer.jobs import format_seconds
from napari_cad.viewer.preferences import preferences
from napari_cad.viewer.volumes import sendable
from napari_cad.widgets._checkpoint import FILTER
from napari_cad.widgets._form import Collapsible, form_layout, tooltip
from napari_cad.widgets._job import WidgetJob
from napari_cad.widgets._status import RunStatus
from napari_cad.widgets._table import ColumnsTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_cad.core.config import InferenceConfig
    from napari_cad.core.events import Event
    from napari_cad.core.fit_settings import ScoredSetting
    from napari_cad.viewer.fits import ChosenFit
    from napari_cad.widgets._image import ImageChooser

_COLUMNS = {
    "score": (
        "How well the student agrees with itself on the stack turned upside down: 0 to 1, higher "
        "is better. It needs no labels."
    ),
    "adapt": "Strength of the adaptation.",
    "smooth": "Gaussian, in voxels.",
    "rescale": "In-plane factor.",
    "polarity": "Whether black and white are exchanged.",
    "checkpoint": "The student.",
}

#: Lines of the list of checkpoints, and of the table, that are shown without scrolling.
_LISTED, _RANKED = 4, 8


class SuggestPanel(QWidget):
    """Tries settings in a job, and shows them by their score.

    Parameters
    ----------
    image : ImageChooser
        Of what stack.
    setting : callable
        () → (checkpoint, ChosenFit, InferenceConfig), what is set in the form; may raise
        `NapariCadError`.

    Attributes
    ----------
    chosen : Signal
        (ScoredSetting), the row that a person has clicked on.
    reported : Signal
        (str, bool), how far it is, and whether it goes on.
    """

    chosen = Signal(object)
    reported = Signal(str, bool)

    def __init__(
        self,
        image: ImageChooser,
        setting: Callable[[], tuple[str, ChosenFit, InferenceConfig]],
    ) -> None:
        super().__init__()
        self._image = image
        self._setting = setting
        self.results: list[ScoredSetting] = []
        self._started = 0.0
        self._make_form()
        self.runner = WidgetJob(self, self.status, self.suggest_button, self.cancel_button)
        self.runner.reported.connect(self._on_event)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._on_failed)
        self.runner.cancelled.connect(self._on_cancelled)

    def _make_form(self) -> None:
        self.suggest_button = QPushButton("Suggest")
        self.suggest_button.setToolTip(
            tooltip(
                "Try adaptation, smoothing and rescaling on small crops of the stack, with this "
                "checkpoint and those ticked below, and rank them without labels."
            )
        )
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop; what was tried stays in the table.")
        self.checkpoints = QListWidget()
        self.checkpoints.setToolTip("Checkpoints to try as well.")
        self.checkpoints.setMaximumHeight(_height(self.checkpoints, _LISTED))
        names = [DEFAULT, *(name for name in PUBLISHED if needs_download(name) is None)]
        for name in [*names, *map(str, checkpoints_in(preferences().checkpoint_folder))]:
            self.add_checkpoint(name, ticked=False)
        self.add_button = QPushButton("Add files…")
        self.add_button.setToolTip("Try checkpoints of your own as well.")
        self.crops = QSpinBox()
        self.crops.setRange(1, 16)
        self.crops.setValue(4)
        self.crops.setToolTip("Crops to judge by; more take longer and are more certain.")
        self.polarity = QCheckBox("Both polarities")
        self.polarity.setToolTip("Try every setting with black and white exchanged, too.")
        more = QWidget()
        rows = form_layout(more)
        rows.addRow("Also try", self.checkpoints)
        rows.addRow("", self.add_button)
        rows.addRow("Crops", self.crops)
        rows.addRow("", self.polarity)
        collapsible = Collapsible("What to try", more)
        collapsible.button.setToolTip("Which checkpoints, on how many crops.")
        self.status = RunStatus()
        self.table = ColumnsTable(
            _COLUMNS, {"score": _three, "polarity": lambda value: "inverted" if value else ""}
        )
        self.table.setToolTip("Click a row to see it in the preview.")
        self.table.setMinimumHeight(_height(self.table.view, _RANKED))
        buttons = QWidget()
        row = QHBoxLayout(buttons)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.suggest_button)
        row.addWidget(self.cancel_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (collapsible, buttons, self.status, self.table):
            layout.addWidget(part)
        self.table.setVisible(False)
        self.table.chosen.connect(self._on_row)
        self.suggest_button.clicked.connect(self.suggest)
        self.cancel_button.clicked.connect(self.cancel)
        self.add_button.clicked.connect(self._on_add)

    # ------------------------------------------------------------------ the job

    def suggest(self) -> None:
        """Try the settings."""
        self.status.clear()
        try:
            volume = self._image.volume()
            checkpoint, chosen, inference = self._setting()
            arguments = {
                "volume": sendable(volume),
                "checkpoints": [checkpoint, *self._ticked(checkpoint)],
                "intensity": chosen.intensity,
                "grid": FitGrid(both_polarities=self.polarity.isChecked()),
                "inference": inference,
                "n_crops": self.crops.value(),
            }
        except NapariCadError as error:
            self.status.failed(str(error))
            return
        if not self.runner.begin(SUGGEST, arguments, f"Fitting to {volume.name}"):
            return
        self.results = []
        self._show_results()
        self._started = time.monotonic()
        self._say("Reading a few crops…")

    def cancel(self) -> None:
        """Stop; what was tried stays in the table."""
        self.runner.cancel()

    def forget(self) -> None:
        """Stop, and forget what was tried: the image is another one."""
        self.runner.cancel()
        self.results = []
        self._show_results()
        self.status.clear()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, SettingScored):
            self.results.append(event.result)
            self._show_results()
            spent = time.monotonic() - self._started
            left = format_seconds(spent / event.done * (event.total - event.done))
            self._say(
                f"{event.done} of {event.total} settings · {left} left", event.done, event.total
            )
            self.runner.show_progress(event.done, event.total)
        elif isinstance(event, FitSuggested):
            self.results = list(event.ranking)
            self._show_results()

    def _on_finished(self) -> None:
        if self.results:
            seconds = format_seconds(time.monotonic() - self._started)
            text = f"{len(self.results)} settings in {seconds}; the best is in the preview."
            self.status.ended(text)
            self.reported.emit(f"{len(self.results)} settings tried", False)
            self.table.choose(0)
            self.chosen.emit(self.results[0])

    def _on_failed(self) -> None:
        self.reported.emit("", False)

    def _on_cancelled(self) -> None:
        self.status.ended(f"Stopped after {len(self.results)} settings.")
        self.reported.emit("", False)

    # ------------------------------------------------------------------ the form itself

    def add_checkpoint(self, name_or_path: str, *, ticked: bool = True) -> None:
        """List a checkpoint, or tick the one that is listed."""
        for i in range(self.checkpoints.count()):
            item = self.checkpoints.item(i)
            if item is not None and item.data(Qt.ItemDataRole.UserRole) == name_or_path:
                break
        else:
            item = QListWidgetItem(short_name(name_or_path))
            item.setData(Qt.ItemDataRole.UserRole, name_or_path)
            item.setToolTip(name_or_path)
            self.checkpoints.addItem(item)
        if item is not None:
            item.setCheckState(Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked)

    def _ticked(self, chosen: str) -> list[str]:
        items = [self.checkpoints.item(i) for i in range(self.checkpoints.count())]
        return [
            name
            for item in items
            if item is not None and item.checkState() == Qt.CheckState.Checked
            if (name := str(item.data(Qt.ItemDataRole.UserRole))) != chosen
        ]

    def _on_add(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Checkpoints to try", "", FILTER)
        for path in paths:
            self.add_checkpoint(path)

    def _on_row(self, row: int) -> None:
        self.chosen.emit(self.results[row])

    def _show_results(self) -> None:
        self.table.setVisible(bool(self.results))
        settings = [result.setting for result in self.results]
        self.table.set_columns(
            [
                np.array([result.agreement for result in self.results], float),
                np.array([s.fit.adapt for s in settings], float),
                np.array([s.fit.smooth for s in settings], float),
                np.array([s.fit.rescale for s in settings], float),
                np.array([s.intensity.invert for s in settings], bool),
                np.array([short_name(s.checkpoint) for s in settings], object),
            ]
        )
        # there is little room, so what is the same in all lines is not shown
        for name, values in (
            ("rescale", {s.fit.rescale for s in settings}),
            ("polarity", {s.intensity.invert for s in settings}),
        ):
            self.table.view.setColumnHidden(list(_COLUMNS).index(name), len(values) < 2)

    def _say(self, text: str, done: int = 0, total: int = 0) -> None:
        self.status.running(text, done, total)
        self.reported.emit(text, True)


def short_name(checkpoint: str) -> str:
    """Write a checkpoint for people: its name, or that of its file."""
    return Path(checkpoint).stem


def _three(value: float) -> str:
    return f"{value:.3f}"


def _height(widget: QWidget, lines: int) -> int:
    return lines * (widget.fontMetrics().height() + 7) + 10
