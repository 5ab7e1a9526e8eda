"""The dock widget "Meshes": segments as surfaces, in the viewer and as files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_cad.core.errors import JobError, NapariCadError, VolumeError
from napari_cad.core.mesh_files import FORMATS
from napari_cad.core.mesh_job import EXPORT_LABELS, EXPORT_RUN, MeshWritten
from napari_cad.core.meshes import DETAILS
from napari_cad.viewer.in_3d import In3D
from napari_cad.viewer.jobs import JobRunner, JobsEndWith, RunProgress
from napari_cad.viewer.mesh_layers import SegmentMeshes, in_3d_text
from napari_cad.viewer.warm_up import warm_up
from napari_cad.widgets._form import form_layout, tooltip
from napari_cad.widgets._labels import segmentation_chooser
from napari_cad.widgets._status import RunStatus

if TYPE_CHECKING:
    import napari.viewer

    from napari_cad.core.events import Event

#: Short enough for the list, and in full.
_DETAIL_HELP = {
    "full": ("every voxel", "Every voxel."),
    "normal": ("cubic samples", "Samples are as long within a section as it is thick."),
    "coarse": ("larger samples", "Samples are twice as long, and of every second section."),
}


class MeshWidget(QWidget):
    """Makes meshes of segments in a child process.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer that it is docked in.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._written = 0
        self._progress = RunProgress()
        self._in_3d = In3D(viewer, self)
        self.segmentation = segmentation_chooser(viewer)
        self.ids = QLineEdit()
        self.ids.setPlaceholderText("12, 40, 7")
        self.ids.setToolTip(tooltip("Ids of segments, whatever stands between them."))
        self.add_button = QPushButton("Add selected")
        self.add_button.setToolTip(
            tooltip("Add the label that is selected in the layer; pick one with the key L.")
        )
        self.detail = QComboBox()
        for i, name in enumerate(DETAILS):
            short, long = _DETAIL_HELP[name]
            self.detail.addItem(f"{name.capitalize()}: {short}", name)
            self.detail.setItemData(i, tooltip(long), Qt.ItemDataRole.ToolTipRole)
        self.detail.setCurrentIndex(list(DETAILS).index("normal"))
        self.detail.setMinimumContentsLength(16)
        self.show_button = QPushButton("Show in 3D")
        self.clear_button = QPushButton("Clear")
        self.export_button = QPushButton("Export…")
        self.cancel_button = QPushButton("Cancel")
        self.format = QComboBox()
        for suffix in FORMATS:
            self.format.addItem(suffix.removeprefix(".").upper(), suffix.removeprefix("."))
        self.status = RunStatus()
        self._lay_out()
        JobsEndWith(self)

        self.meshes = SegmentMeshes(viewer, self)
        self.meshes.progress.connect(self._on_progress)
        self.meshes.coming.connect(self._in_3d.hide)
        self.meshes.shown.connect(self._on_shown)
        self.meshes.failed.connect(self._on_failed)
        self.meshes.runner.cancelled.connect(self._on_cancelled)
        self.exporter = JobRunner(self)
        self.exporter.reported.connect(self._on_event)
        self.exporter.finished.connect(self._on_exported)
        self.exporter.failed.connect(self._on_failed)
        self.exporter.cancelled.connect(self._on_cancelled)
        self.add_button.clicked.connect(self.add_selected)
        self.show_button.clicked.connect(self.show_meshes)
        self.clear_button.clicked.connect(self.clear)
        self.export_button.clicked.connect(self._on_export)
        self.cancel_button.clicked.connect(self.cancel)
        self._show_running(False)
        warm_up(viewer, self)

    def _lay_out(self) -> None:
        self.segmentation.setToolTip(tooltip("The labels whose segments become surfaces."))
        self.detail.setToolTip(
            tooltip(
                "How fine the surfaces are: of every voxel, of samples that are as long within a "
                "section as it is thick, or of samples twice as large."
            )
        )
        self.format.setToolTip(tooltip("Kind of the files that Export writes."))
        self.show_button.setToolTip(tooltip("Show these segments as surfaces, and no others."))
        self.cancel_button.setToolTip("Stop; what is shown, and files that are there, stay.")
        self.clear_button.setToolTip("Take the surfaces away.")
        self.export_button.setToolTip("Write one file per segment into a folder.")
        form = QWidget()
        rows = form_layout(form)
        rows.addRow("Segmentation", self.segmentation)
        rows.addRow("Segments", _row(self.ids, self.add_button))
        rows.addRow("Detail", self.detail)
        rows.addRow("File format", self.format)
        layout = QVBoxLayout(self)
        layout.addWidget(form)
        layout.addWidget(_row(self.show_button, self.cancel_button))
        layout.addWidget(_row(self.clear_button, self.export_button))
        layout.addWidget(self.status)
        layout.addStretch()

    # ------------------------------------------------------------------ what the buttons do

    def show_meshes(self) -> None:
        """Show the segments that are named, and no others."""
        self._start(lambda layer, ids: self.meshes.show(layer, ids, self.detail.currentData()))

    def add_selected(self) -> None:
        """Name the label that is selected in the layer, too."""
        layer = self.segmentation.layer
        if layer is not None and layer.selected_label not in (0, *_ids(self.ids.text())):
            ids = [*_ids(self.ids.text()), int(layer.selected_label)]
            self.ids.setText(", ".join(map(str, ids)))

    def clear(self) -> None:
        """Take the surfaces away."""
        self.meshes.clear()
        self.ids.clear()
        self.status.clear()

    def cancel(self) -> None:
        """Stop; what is shown, and files that are there, stay."""
        self.meshes.cancel()
        self.exporter.cancel()

    def export(self, folder: str) -> None:
        """Write the segments that are named into a folder, one file each."""
        self._written = 0
        self._progress = RunProgress()

        def start(layer: Any, ids: list[int]) -> None:
            if not ids:
                raise VolumeError("Name the segments to write: there are none.")
            is_run, arguments = self.meshes.arguments(layer)
            arguments |= {
                "segments": ids,
                "folder": folder,
                "file_format": self.format.currentData(),
                "detail": self.detail.currentData(),
            }
            self.exporter.start(
                EXPORT_RUN if is_run else EXPORT_LABELS, arguments, f"Meshes of {layer.name}"
            )

        self._start(start)

    def _start(self, start: Any) -> None:
        self.status.clear()
        try:
            start(self.segmentation.required(), _ids(self.ids.text()))
        except NapariCadError as error:
            self.status.failed(str(error))
            return
        except OSError as error:
            self.status.failed(f"The job could not be started: {error}")
            return
        self._show_running(True)
        self.status.running("Starting…")

    def _on_export(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Write meshes into a folder")
        if folder:
            self.export(folder)

    # ------------------------------------------------------------------ events

    def _on_progress(self, text: str, done: int, total: int) -> None:
        self._show_running(True)
        self.status.running(text, done, total)

    def _on_shown(self, n: int) -> None:
        self._show_running(False)
        missing = len(self.meshes.ids) - n
        are = "is" if missing == 1 else "are"
        lacking = f", {missing} {are} not there or too small for this detail" if missing else ""
        self.status.ended(f"{in_3d_text(n)}{lacking}.")
        if n:
            self._in_3d.enter()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, MeshWritten):
            self._written += bool(event.path)
        elif self._progress.update(event):
            self.status.running("Writing", self._progress.done, self._progress.total)
            self.exporter.show_progress(self._progress.done, self._progress.total)

    def _on_exported(self) -> None:
        self._show_running(False)
        files = "1 file" if self._written == 1 else f"{self._written} files"
        self.status.ended(f"{files} written.")

    def _on_failed(self, error: JobError) -> None:
        self._show_running(False)
        self.status.failed(str(error), error.details)

    def _on_cancelled(self) -> None:
        self._show_running(False)
        self.status.ended("Stopped.")

    def _show_running(self, running: bool) -> None:
        self.show_button.setEnabled(not running)
        self.export_button.setEnabled(not running)
        self.cancel_button.setEnabled(running)


def _ids(text: str) -> list[int]:
    return list(dict.fromkeys(int(number) for number in re.findall(r"\d+", text)))


def _row(*widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return row
