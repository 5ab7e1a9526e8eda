"""The dock widget "Export labels": the segmentation as it is shown, in a file for other tools."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QToolButton,
    QWidget,
)

from napari_cad.core.errors import ConfigError, JobError, NapariCadError
from napari_cad.core.export_job import EXPORT_RUN, EXPORT_VOLUME, Exported
from napari_cad.core.jobs import Requests
from napari_cad.viewer.error_layers import shown_lut
from napari_cad.viewer.jobs import JobRunner, RunProgress
from napari_cad.viewer.layers import role_of, run_of
from napari_cad.viewer.places import work_folder
from napari_cad.viewer.state import state_of
from napari_cad.viewer.volumes import sendable, volume_from_layer
from napari_cad.widgets._column import Column
from napari_cad.widgets._form import form_layout, tooltip
from napari_cad.widgets._labels import segmentation_chooser
from napari_cad.widgets._status import RunStatus

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Labels

    from napari_cad.core.events import Event

#: Ending → name and what it is for.
_FORMATS = {
    ".zarr": ("OME-Zarr", "A folder, chunked and compressed, for OME-Zarr viewers and Python."),
    ".tif": ("TIFF", "One BigTIFF file, for Fiji and most other programs."),
    ".h5": ("HDF5", "One file with the dataset “main”, as other EM tools expect it."),
}

#: Milliseconds that an export may take to clean up after it was asked to stop.
_GRACE = 700


class ExportWidget(Column):
    """Writes a labels layer in a child process.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer that it is docked in.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._state = state_of(viewer)
        self._typed = False
        self._written = ""
        self._progress = RunProgress()
        self.labels = segmentation_chooser(viewer)
        self.format = QComboBox()
        for suffix, (name, about) in _FORMATS.items():
            self.format.addItem(name, suffix)
            self.format.setItemData(
                self.format.count() - 1, tooltip(about), Qt.ItemDataRole.ToolTipRole
            )
        self.path = QLineEdit()
        self.path.setToolTip("Where the labels are written.")
        self.browse = QToolButton()
        self.browse.setText("…")
        self.overwrite = QCheckBox("Overwrite what is there")
        self.export_button = QPushButton("Export")
        self.cancel_button = QPushButton("Cancel")
        self.status = RunStatus()
        self._lay_out()

        self.runner = JobRunner(self)
        self.runner.reported.connect(self._on_event)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._on_failed)
        self.runner.cancelled.connect(self._on_cancelled)
        self._grace = QTimer(self)
        self._grace.setSingleShot(True)
        self._grace.setInterval(_GRACE)
        self._grace.timeout.connect(self.runner.cancel)
        self.labels.changed.connect(self._propose)
        self.format.currentIndexChanged.connect(self._on_format)
        self.path.textEdited.connect(self._on_edited)
        self.browse.clicked.connect(self._on_browse)
        self.export_button.clicked.connect(self.export)
        self.cancel_button.clicked.connect(self.cancel)
        self._show_running(False)
        self._propose()

    def _lay_out(self) -> None:
        self.labels.setToolTip("What is written, as it is shown: at its threshold, with its edits.")
        self.format.setToolTip(tooltip("What kind of file. The ending of the file says it too."))
        self.browse.setToolTip("Choose another place")
        self.overwrite.setToolTip(tooltip("Replace a file or folder of that name."))
        self.export_button.setToolTip(
            tooltip("Write the labels. The viewer can be used meanwhile.")
        )
        self.cancel_button.setToolTip("Stop; nothing is left behind.")
        place = QWidget()
        row = QHBoxLayout(place)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.path)
        row.addWidget(self.browse)
        form = QWidget()
        rows = form_layout(form)
        rows.addRow("Labels", self.labels)
        rows.addRow("Format", self.format)
        rows.addRow("File", place)
        rows.addRow("", self.overwrite)
        self.fill(form, (self.export_button, self.cancel_button), self.status)

    # ------------------------------------------------------------------ form → job

    def export(self) -> None:
        """Write what is chosen to where the form says."""
        self.status.clear()
        try:
            layer = self.labels.required()
            function, arguments = self._arguments(layer)
            self._progress = RunProgress()
            self._written = ""
            self.runner.start(function, arguments, f"Exporting {layer.name}")
        except NapariCadError as error:
            self.status.failed(str(error))
            return
        except OSError as error:
            self.status.failed(f"The job could not be started: {error}")
            return
        self.overwrite.setChecked(False)  # for one export only
        self._show_running(True)
        self._show_progress("Starting…")

    def cancel(self) -> None:
        """Stop; what was begun is removed."""
        if self.runner.running:
            self.cancel_button.setEnabled(False)
            self.runner.send("stop")
            self._grace.start()

    def _arguments(self, layer: Labels) -> tuple[str, dict[str, Any]]:
        text = self.path.text().strip()
        if not text:
            raise ConfigError("Choose a file to write the labels to.")
        arguments: dict[str, Any] = {
            "path": str(Path(text).expanduser().absolute()),
            "overwrite": self.overwrite.isChecked(),
            "requests": Requests(),
        }
        lut = shown_lut(layer)
        if lut is None:
            return EXPORT_VOLUME, arguments | {"labels": sendable(volume_from_layer(layer))}
        return EXPORT_RUN, arguments | {"run": run_of(layer), "lut": lut}

    # ------------------------------------------------------------------ events

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Exported):
            self._written = event.path
        elif self._progress.update(event):
            self._show_progress(self._progress.text())

    def _show_progress(self, text: str) -> None:
        done, total = self._progress.done, self._progress.total
        self.status.running(text, done, total)
        self.runner.show_progress(done, total)
        self._state.report("export", text, running=True)

    def _on_finished(self) -> None:
        if self._written:
            self._end(f"Written: {self._written}", f"{Path(self._written).name} written")
        else:
            self._on_cancelled()

    def _on_failed(self, error: JobError) -> None:
        self._end("", "")
        self.status.failed(str(error), error.details)

    def _on_cancelled(self) -> None:
        self._end("Stopped. Nothing was written.", "")

    def _end(self, text: str, report: str) -> None:
        self._grace.stop()
        self._show_running(False)
        self.status.ended(text)
        self._state.report("export", report)

    # ------------------------------------------------------------------ the form itself

    def _show_running(self, running: bool) -> None:
        self.export_button.setEnabled(not running)
        self.cancel_button.setEnabled(running)

    def _propose(self) -> None:
        layer = self.labels.layer
        if layer is None or self._typed:
            return
        run = run_of(layer)
        name, what = layer.name if run is None else Path(run).stem, "labels"
        if run is not None and role_of(layer) == "proofread":
            run = str(Path(run).parent)  # RUN.proofreading/SESSION: beside the run, by its name
            name, what = Path(run).stem, "proofread"
        stem = re.sub(r"[^\w.-]+", "_", name).strip("_")
        self._show(_folder(run) / f"{stem or 'labels'}_{what}{self.format.currentData()}")

    def _on_format(self) -> None:
        if self.path.text().strip():
            self._show(Path(self.path.text()).with_suffix(self.format.currentData()))

    def _on_edited(self, text: str) -> None:
        self._typed = bool(text.strip())
        self.path.setToolTip(text)
        known = self.format.findData(Path(text).suffix.lower())
        if known >= 0:
            self.format.blockSignals(True)
            self.format.setCurrentIndex(known)
            self.format.blockSignals(False)

    def _on_browse(self) -> None:
        filters = ";;".join(f"{name} (*{suffix})" for suffix, (name, _) in _FORMATS.items())
        chosen = f"{self.format.currentText()} (*{self.format.currentData()})"
        path, _ = QFileDialog.getSaveFileName(
            self, "Write the labels to", self.path.text(), filters, chosen
        )
        if path:
            self._on_edited(path)
            self._show(Path(path))

    def _show(self, path: Path) -> None:
        self.path.setText(str(path))
        self.path.setToolTip(tooltip(f"Where the labels are written: {path}"))
        self.path.setCursorPosition(len(str(path)))  # its end says more than its beginning


def _folder(run: str | None) -> Path:
    """Where a person will look: beside the run, unless that is in a folder of ours."""
    if run is not None:
        folder = Path(run).parent
        if not folder.is_relative_to(work_folder()) and os.access(folder, os.W_OK):
            return folder
    return Path.home()
