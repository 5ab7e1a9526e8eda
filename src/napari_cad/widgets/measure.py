"""The dock widget "Segments and contacts": how large segments are, and whom they touch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from napari_cad.core.errors import JobError, NapariCadError, VolumeError
from napari_cad.core.events import Warned
from napari_cad.core.jobs import Requests
from napari_cad.core.measure_job import (
    MEASURE_LABELS,
    MEASURE_RUN,
    ContactsFound,
    FileWritten,
    SegmentsMeasured,
    WantedContacts,
    WantedFile,
    WantedSegments,
)
from napari_cad.viewer.error_layers import go_to, shown_lut
from napari_cad.viewer.in_3d import In3D
from napari_cad.viewer.jobs import JobsEndWith
from napari_cad.viewer.layers import run_of, select_label
from napari_cad.viewer.lut_watcher import LutWatcher
from napari_cad.viewer.mesh_layers import SegmentMeshes, in_3d_text
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.turns import Turns
from napari_cad.viewer.volumes import sendable, volume_from_layer
from napari_cad.viewer.warm_up import warm_up
from napari_cad.widgets._form import form_layout, tooltip
from napari_cad.widgets._job import WidgetJob
from napari_cad.widgets._labels import segmentation_chooser
from napari_cad.widgets._status import RunStatus
from napari_cad.widgets._table import ColumnsTable

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Labels

    from napari_cad.core.events import Event
    from napari_cad.core.segment_table import ContactTable, SegmentTable

#: Segments whose meshes are made at once, at most.
_MOST_MESHES = 50

#: Bits of a row or a column in a packed place.
_BITS = 21

_SEGMENT_HEADINGS = {
    "Segment": "Its id: the label in the layer.",
    "µm³": "Volume. Empty where the voxel size is not known.",
    "Sections": "Number of sections in which it is.",
    "Contacts": "Number of segments that it touches.",
    "µm²": (
        "Surface: voxel faces to everything else, without those at the border of the stack. A "
        "smooth surface is smaller, that of a ball by a third."
    ),
    "Voxels": "Number of voxels.",
    "Fragments": "Number of fragments it is made of.",
    "From": "First section, row and column.",
    "To": "Last section, row and column.",
}

_CONTACT_HEADINGS = {
    "Touches": "Id of the other segment.",
    "µm²": "Area of the contact. Empty where the voxel size is not known.",
    "Faces": "Voxel faces of the contact.",
    "Where": "Section, row and column of its largest part.",
}


class MeasureWidget(QWidget):
    """Measures the segments of a labels layer in a child process that stays.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer that it is docked in.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._layer: Labels | None = None
        self._placement: Placement | None = None
        self._segments: SegmentTable | None = None
        self._contacts: ContactTable | None = None
        self._in_3d = In3D(viewer, self)
        self._going = Turns(self)

        self.segmentation = segmentation_chooser(viewer)
        self.measure_button = QPushButton("Measure")
        self.cancel_button = QPushButton("Cancel")
        self.status = RunStatus()
        self.segments = ColumnsTable(
            _SEGMENT_HEADINGS, {"Segment": str, "From": _place_text, "To": _place_text}
        )
        self.contacts = ColumnsTable(_CONTACT_HEADINGS, {"Touches": str, "Where": _place_text})
        self.contacts_title = QLabel("Contacts of a segment: click on its row.")
        self.mesh_button = QPushButton("Show in 3D")
        self.save_button = QPushButton("Save segments…")
        self.save_contacts_button = QPushButton("Save contacts…")
        self._lay_out()
        JobsEndWith(self)

        self.meshes = SegmentMeshes(viewer, self)
        self.meshes.progress.connect(self.status.running)
        self.meshes.coming.connect(self._in_3d.hide)
        self.meshes.shown.connect(self._on_meshes)
        self.meshes.failed.connect(self._on_mesh_failed)
        self.runner = WidgetJob(self, self.status, self.measure_button, self.cancel_button)
        self.runner.reported.connect(self._on_event)
        self.runner.failed.connect(self._enable)
        self.runner.cancelled.connect(self._enable)
        self._watcher = LutWatcher(self)
        self._watcher.changed.connect(self._measure_again)
        self.measure_button.clicked.connect(self.measure)
        self.cancel_button.clicked.connect(self.cancel)
        self.segments.chosen.connect(self.go_to_segment)
        self.contacts.chosen.connect(self.go_to_contact)
        self.mesh_button.clicked.connect(self.show_meshes)
        self.save_button.clicked.connect(self._on_save)
        self.save_contacts_button.clicked.connect(self._on_save_contacts)
        viewer.layers.events.removed.connect(self._on_layer_removed)
        self._enable()
        warm_up(viewer, self)

    def _lay_out(self) -> None:
        self.segmentation.setToolTip(tooltip("The labels that are measured."))
        self.measure_button.setToolTip(
            tooltip("List all segments. The tables follow the threshold and edits from then on.")
        )
        self.cancel_button.setToolTip(tooltip("Stop, and no longer follow; the tables stay."))
        self.save_button.setToolTip(tooltip("Save the table of segments as CSV."))
        self.mesh_button.setToolTip(tooltip("Show the selected segments as surfaces."))
        self.save_contacts_button.setToolTip(
            tooltip("GraphML for graph programs, or an edge list as CSV: the ending decides.")
        )
        form = QWidget()
        form_layout(form).addRow("Segmentation", self.segmentation)
        buttons = QHBoxLayout()
        buttons.addWidget(self.measure_button)
        buttons.addWidget(self.cancel_button)
        lower = QWidget()
        column = QVBoxLayout(lower)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.contacts_title)
        column.addWidget(self.contacts)
        tables = QSplitter(Qt.Orientation.Vertical)
        tables.addWidget(self.segments)
        tables.addWidget(lower)
        tables.setStretchFactor(0, 2)
        tables.setStretchFactor(1, 1)
        ends = QHBoxLayout()
        for button in (self.mesh_button, self.save_button, self.save_contacts_button):
            ends.addWidget(button)
        layout = QVBoxLayout(self)
        layout.addWidget(form)
        layout.addLayout(buttons)
        layout.addWidget(self.status)
        layout.addWidget(tables, 1)
        layout.addLayout(ends)

    # ------------------------------------------------------------------ form → job

    def measure(self) -> None:
        """Measure the layer that is chosen."""
        self.status.clear()
        try:
            layer = self.segmentation.required()
            lut = shown_lut(layer)
            arguments: dict[str, Any] = {"requests": Requests()}
            if lut is None:
                arguments["labels"] = sendable(volume_from_layer(layer))
            else:
                arguments["run"] = run_of(layer)
        except NapariCadError as error:
            self.status.failed(str(error))
            return
        self._watch(layer)
        if self.runner.begin(MEASURE_LABELS if lut is None else MEASURE_RUN, arguments, None):
            self.runner.send(WantedSegments(lut))

    def cancel(self) -> None:
        """Stop measuring, and following the segmentation; the tables stay."""
        self.meshes.cancel()
        self.runner.cancel()

    # ------------------------------------------------------------------ events → tables

    def _on_event(self, event: Event) -> None:
        if isinstance(event, SegmentsMeasured):
            self._segments = event.segments
            self.segments.set_columns(_segment_columns(event.segments))
            self._show_contacts(None)
            self.runner.show_running(False)
            self.status.ended(f"{len(event.segments):,} segments")
            self._enable()
        elif isinstance(event, ContactsFound):
            self._show_contacts(event)
        elif isinstance(event, Warned):
            self.status.warn(event.message)
        elif isinstance(event, FileWritten):
            self.status.ended(f"Saved {event.path}")
        else:
            self.runner.follow(event)

    def _show_contacts(self, event: ContactsFound | None) -> None:
        self._contacts = None if event is None else event.contacts
        self.contacts.set_columns(_contact_columns(self._contacts))
        self.contacts_title.setText(
            "Contacts of a segment: click on its row."
            if event is None
            else f"Contacts of segment {event.segment}"
        )

    # ------------------------------------------------------------------ going there

    def go_to_segment(self, row: int) -> None:
        """Show a segment by its row in the table: where it is nearest to its centroid."""
        if self._segments is None or self._placement is None:
            return
        segment = int(self._segments.id[row])
        self._going.forget()
        place = self._segments.centroid[row].round().tolist()
        go_to(self._viewer, self._placement, place, self._going)
        self._going.then(partial(select_label, self._viewer, self._layer, segment))
        self.runner.send(WantedContacts(segment))

    def go_to_contact(self, row: int) -> None:
        """Show a contact by its row in the table."""
        if self._contacts is not None and self._placement is not None:
            self._going.forget()
            place = self._contacts.position[row].tolist()
            go_to(self._viewer, self._placement, place, self._going)

    def show_meshes(self) -> None:
        """Show the selected segments as surfaces, in 3D."""
        rows = self.segments.selected()
        try:
            if self._layer is None or self._segments is None or not rows:
                raise VolumeError("Select segments in the table first, several with Ctrl or Shift.")
            ids = self._segments.id[rows[:_MOST_MESHES]].tolist()
            self.meshes.show(self._layer, ids)
        except NapariCadError as error:
            self.status.failed(str(error))

    def _on_meshes(self, n: int) -> None:
        self.status.ended(f"{in_3d_text(n)}.")
        self._in_3d.enter()

    def _on_mesh_failed(self, error: JobError) -> None:
        self.status.failed(str(error), error.details)

    # ------------------------------------------------------------------ following the segmentation

    def _watch(self, layer: Labels | None) -> None:
        self._layer = layer
        self._placement = None if layer is None else Placement.of_layer(layer)
        self._watcher.watch(layer)

    def _measure_again(self) -> None:
        if self._layer is None or not self.runner.running:
            return
        self.runner.send(WantedSegments(shown_lut(self._layer)))
        self.status.running("Measuring…")

    def _on_layer_removed(self, event: Any) -> None:
        if event.value is self._layer:
            self._watch(None)
            self.runner.cancel()
            self._segments = None
            self.segments.set_columns([np.zeros(0)] * len(_SEGMENT_HEADINGS))
            self._show_contacts(None)
            self.status.clear()
            self._enable()

    # ------------------------------------------------------------------ the rest

    def _enable(self) -> None:
        there = self._segments is not None
        self.mesh_button.setEnabled(there)
        for button in (self.save_button, self.save_contacts_button):
            button.setEnabled(there and self.runner.running)

    def save(self, path: str, *, contacts: bool = False) -> None:
        """Write the segments as CSV, or the contacts as GraphML or CSV."""
        self.runner.send(WantedFile(path, contacts))

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the segments", "segments.csv", "Table (*.csv)"
        )
        if path:
            self.save(path)

    def _on_save_contacts(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the contacts", "contacts.graphml", "Graph (*.graphml);;Edge list (*.csv)"
        )
        if path:
            self.save(path, contacts=True)


def _segment_columns(table: SegmentTable) -> list[np.ndarray[Any, Any]]:
    return [
        table.id,
        table.volume,
        table.sections,
        table.contacts,
        table.surface,
        table.voxels,
        table.fragments,
        _places(table.box[:, :3]),
        _places(table.box[:, 3:] - 1),
    ]


def _contact_columns(table: ContactTable | None) -> list[np.ndarray[Any, Any]]:
    if table is None:
        return [np.zeros(0)] * len(_CONTACT_HEADINGS)
    return [table.v, table.area, table.faces, _places(table.position.round().astype(np.int64))]


def _places(places: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Section, row and column in one number, which sorts as they do."""
    z, y, x = places.T
    packed: np.ndarray[Any, Any] = (z << 2 * _BITS) | (y << _BITS) | x
    return packed


def _place_text(packed: int) -> str:
    mask = (1 << _BITS) - 1
    return f"{packed >> 2 * _BITS} {packed >> _BITS & mask} {packed & mask}"
