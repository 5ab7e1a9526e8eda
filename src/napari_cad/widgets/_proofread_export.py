"""What comes out of a proofreading session: labels, the log of edits, and training data."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtWidgets import QFileDialog, QGridLayout, QLineEdit, QPushButton, QWidget

from napari_cad.core.errors import ConfigError, NapariCadError
from napari_cad.core.export_job import EXPORT_VOLUME, Exported
from napari_cad.core.jobs import Requests, Served
from napari_cad.proofreading.training_data import truth_table
from napari_cad.viewer.jobs import JobRunner, RunProgress
from napari_cad.viewer.proofreading_labels import FrozenSegments
from napari_cad.viewer.proofreading_tasks import TRAINING_DATA
from napari_cad.viewer.volumes import sendable, volume_from_layer
from napari_cad.widgets._form import tooltip
from napari_cad.widgets._section_list import parse_sections

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from napari.layers import Image

    from napari_cad.core.errors import JobError
    from napari_cad.core.events import Event
    from napari_cad.core.volume import EMVolume
    from napari_cad.viewer.proofreading import Proofreader

_FORMATS = "OME-Zarr (*.zarr);;TIFF (*.tif);;HDF5 (*.h5)"


class ExportPanel(QWidget):
    """Writes what a session has made, in a child process.

    Attributes
    ----------
    progress : Signal
        (str, int, int), a line, and how much of how much is done.
    ended : Signal
        (str), what was written.
    failed : Signal
        (str, str), what went wrong in a line, and details.
    """

    progress = Signal(str, int, int)
    ended = Signal(str)
    failed = Signal(str, str)

    def __init__(self) -> None:
        super().__init__()
        self.proofreader: Proofreader | None = None
        self.image: Image | None = None
        self._what = ""
        self._progress = RunProgress()
        self.labels_button = QPushButton("Labels…")
        self.labels_button.setToolTip(
            tooltip("Write the corrected segments as OME-Zarr, TIFF or HDF5.")
        )
        self.log_button = QPushButton("Edits…")
        self.log_button.setToolTip(
            tooltip("Write the log of all edits: a JSON object per line, with times and users.")
        )
        self.sections = QLineEdit()
        self.sections.setPlaceholderText("verified segments only")
        self.sections.setToolTip(
            tooltip(
                "Sections that are right as a whole, such as 0-3, 7. Left empty, what is verified "
                "is truth and nothing is learned elsewhere."
            )
        )
        self.training_button = QPushButton("Training data…")
        self.training_button.setToolTip(
            tooltip("Write image and corrected truth into a folder that the widget Train reads.")
        )
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop writing.")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.labels_button, 0, 0)
        grid.addWidget(self.log_button, 0, 1)
        grid.addWidget(self.sections, 1, 0)
        grid.addWidget(self.training_button, 1, 1)
        grid.addWidget(self.cancel_button, 2, 0, 1, 2)
        self.runner = JobRunner(self)
        self.runner.reported.connect(self._on_event)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._on_failed)
        self.runner.cancelled.connect(lambda: self._end("Stopped."))
        self.labels_button.clicked.connect(self._on_labels)
        self.log_button.clicked.connect(self._on_log)
        self.training_button.clicked.connect(self._on_training)
        self.cancel_button.clicked.connect(self.runner.cancel)
        self.cancel_button.setVisible(False)

    # ------------------------------------------------------------------ what is written

    def write_labels(self, path: str) -> None:
        """Write the corrected segments; the ending of the file says how."""
        if self.proofreader is not None:
            labels = self._labels(self.proofreader.session.lut)
            arguments = {
                "labels": labels, "path": path, "overwrite": True, "requests": Requests()
            }  # fmt: skip
            self._start(EXPORT_VOLUME, arguments, path)

    def write_log(self, path: str) -> None:
        """Write all edits, as they are in the log."""
        if self.proofreader is None:
            return
        try:
            shutil.copyfile(Path(self.proofreader.layers.key) / "edits.jsonl", path)
        except OSError as error:
            self.failed.emit(f"The edits could not be written: {error}", "")
            return
        self.ended.emit(f"{len(self.proofreader.session.history.edits):,} edits are in {path}.")

    def write_training_data(self, folder: str) -> None:
        """Write image and truth into a folder."""
        if self.proofreader is None:
            return
        if self.image is None:
            self.failed.emit("Choose the image that was segmented: training data need it.", "")
            return
        session = self.proofreader.session
        try:
            sections = parse_sections(self.sections.text())
            image = sendable(volume_from_layer(self.image))
        except NapariCadError as error:
            self.failed.emit(str(error), "")
            return
        every = sections is not None
        table = truth_table(session.lut, session.decisions.lock, all_segments=every)
        arguments = {
            "folder": folder,
            "image": image,
            "labels": self._labels(table),
            "sections": None if sections is None else list(sections),
        }
        self._start(TRAINING_DATA, arguments, folder)

    def _labels(self, table: npt.NDArray[np.uint32]) -> EMVolume:
        proofreader = self.proofreader
        layer = None if proofreader is None else proofreader.layers.layer
        if proofreader is None or layer is None or proofreader.session.fragments is None:
            raise ConfigError("there is no session to write")
        frozen = FrozenSegments(proofreader.session.fragments, table)
        return replace(volume_from_layer(layer), data=Served(frozen), source=None)

    def _start(self, function: str, arguments: dict[str, object], what: str) -> None:
        self._what, self._progress = what, RunProgress()
        try:
            self.runner.start(function, arguments, f"Writing {Path(what).name}")
        except OSError as error:
            self.failed.emit(f"The job could not be started: {error}", "")
            return
        self._show_running(True)
        self.progress.emit(f"Writing {Path(what).name} …", 0, 0)

    def _show_running(self, running: bool) -> None:
        """Offer to stop what is written, and nothing that would stop it unasked."""
        self.cancel_button.setVisible(running)
        for button in (self.labels_button, self.training_button):
            button.setEnabled(not running)

    # ------------------------------------------------------------------ events

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Exported):
            self._what = event.path
        elif self._progress.update(event):
            done, total = self._progress.done, self._progress.total
            self.progress.emit(f"Writing {Path(self._what).name} …", done, total)
            self.runner.show_progress(done, total)

    def _on_finished(self) -> None:
        self._end(f"Written: {self._what}.")

    def _on_failed(self, error: JobError) -> None:
        self._show_running(False)
        self.failed.emit(str(error), error.details)

    def _end(self, text: str) -> None:
        self._show_running(False)
        self.ended.emit(text)

    def _on_labels(self) -> None:
        path, chosen = QFileDialog.getSaveFileName(self, "Write labels", "", _FORMATS)
        if path:
            ending = chosen.partition("*")[2].rstrip(")")
            self.write_labels(path if Path(path).suffix else path + ending)

    def _on_log(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Write edits", "", "JSON lines (*.jsonl)")
        if path:
            self.write_log(path if Path(path).suffix else f"{path}.jsonl")

    def _on_training(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Write training data into a folder")
        if folder:
            self.write_training_data(folder)
