"""The dock widget "Evaluate": a segmentation against the truth, and the way to its errors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_cad.core.error_report import LEAST_VOXELS
from napari_cad.core.errors import JobError, NapariCadError, StoreError, VolumeError
from napari_cad.core.evaluation_job import EVALUATE_LABELS, EVALUATE_RUN, Counted, Evaluated
from napari_cad.core.segment_export import write_csv
from napari_cad.viewer.error_layers import (
    ErrorLayers,
    aligned_truth,
    error_features,
    go_to,
    segmentation_key,
    shown_lut,
)
from napari_cad.viewer.jobs import JobRunner, RunProgress
from napari_cad.viewer.layers import Placement, run_of, sendable, volume_from_layer
from napari_cad.viewer.lut_watcher import LutWatcher
from napari_cad.widgets._error_tables import ErrorTables
from napari_cad.widgets._form import form_layout, tooltip
from napari_cad.widgets._labels import LabelsChooser
from napari_cad.widgets._status import RunStatus

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Labels

    from napari_cad.core.error_report import ErrorReport, SegmentationError
    from napari_cad.core.events import Event
    from napari_cad.core.metrics import ContingencyTable

_MOST_VOXELS = 10_000_000


@dataclass
class _Evaluation:
    """What is known of one segmentation; it outlives its layers."""

    layer: Labels
    truth: Labels
    layers: ErrorLayers
    placement: Placement
    lut: Any
    table: ContingencyTable | None = None
    report: ErrorReport | None = None
    shown: list[int] = field(default_factory=list)


class EvaluateWidget(QWidget):
    """Compares a labels layer with a truth layer, in a child process.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer that it is docked in.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._running: _Evaluation | None = None
        self._evaluations: dict[str, _Evaluation] = {}
        self._progress = RunProgress()

        self.segmentation = LabelsChooser(viewer, prefer=("segments",), avoid=("truth",))
        self.truth = LabelsChooser(viewer, prefer=("truth",), avoid=("segments",))
        self.least_voxels = QSpinBox()
        self.least_voxels.setRange(1, _MOST_VOXELS)
        self.least_voxels.setValue(LEAST_VOXELS)
        self.least_voxels.setSuffix(" voxels")
        self.follow = QCheckBox("Follow the segmentation")
        self.follow.setChecked(True)
        self.evaluate_button = QPushButton("Evaluate")
        self.cancel_button = QPushButton("Cancel")
        self.status = RunStatus()
        self.scores = QLabel()
        self.scores.setWordWrap(True)
        self.tables = ErrorTables()
        self.arrows = QSpinBox()
        self.arrows.setRange(0, 1000)
        self.arrows.setValue(50)
        self.kinds = {kind: QCheckBox(f"{kind}s") for kind in ("split", "merge")}
        self.save_button = QPushButton("Save…")
        self._lay_out()

        self.runner = JobRunner(self)
        self.runner.reported.connect(self._on_event)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._on_failed)
        self.runner.cancelled.connect(self._on_cancelled)
        self._watcher = LutWatcher(self)
        self._watcher.changed.connect(self._evaluate_again)
        self.evaluate_button.clicked.connect(self.evaluate)
        self.cancel_button.clicked.connect(self.cancel)
        self.save_button.clicked.connect(self._on_save)
        self.segmentation.changed.connect(self._on_segmentation)
        self.tables.error_chosen.connect(self.go_to_error)
        self.tables.object_chosen.connect(self._on_object)
        self.arrows.valueChanged.connect(self._show_arrows)
        for box in self.kinds.values():
            box.setChecked(True)
            box.toggled.connect(self._show_arrows)
        viewer.layers.events.removed.connect(self._on_layer_removed)
        self._show_running(False)
        self._on_segmentation()

    def _lay_out(self) -> None:
        self.least_voxels.setToolTip(
            tooltip("Smaller errors are counted in the scores, but not listed.")
        )
        self.follow.setToolTip(
            tooltip("Evaluate again when the threshold changes or an edit is made.")
        )
        self.arrows.setToolTip(tooltip("So many of the errors that cost most have an arrow."))
        form = QWidget()
        rows = form_layout(form)
        rows.addRow("Segmentation", self.segmentation)
        rows.addRow("Truth", self.truth)
        rows.addRow("Errors from", self.least_voxels)
        rows.addRow(self.follow)
        buttons = QHBoxLayout()
        buttons.addWidget(self.evaluate_button)
        buttons.addWidget(self.cancel_button)
        shown = QHBoxLayout()
        shown.addWidget(QLabel("Arrows at the worst"))
        shown.addWidget(self.arrows)
        for box in self.kinds.values():
            shown.addWidget(box)
        shown.addStretch()
        shown.addWidget(self.save_button)
        layout = QVBoxLayout(self)
        layout.addWidget(form)
        layout.addLayout(buttons)
        layout.addWidget(self.status)
        layout.addWidget(self.scores)
        layout.addWidget(self.tables, 1)
        layout.addLayout(shown)

    # ------------------------------------------------------------------ form → job

    def evaluate(self) -> None:
        """Compare what is chosen."""
        self.status.clear()
        try:
            evaluation, function, arguments = self._read_form()
        except NapariCadError as error:
            self.status.failed(str(error))
            return
        self._running = evaluation
        self._progress = RunProgress()
        try:
            self.runner.start(function, arguments, f"Evaluating {evaluation.layer.name}")
        except OSError as error:
            self.status.failed(f"The job could not be started: {error}")
            return
        self._show_running(True)
        self.status.running("Starting…")

    def cancel(self) -> None:
        """Stop; what was shown before stays."""
        self.runner.cancel()

    def _read_form(self) -> tuple[_Evaluation, str, dict[str, Any]]:
        layer, truth = self.segmentation.layer, self.truth.layer
        if layer is None or truth is None or layer is truth:
            raise VolumeError(
                "Two labels layers are needed: the segmentation, and the truth to compare it with."
            )
        key, lut = segmentation_key(layer), shown_lut(layer)
        placement = Placement.of_layer(layer)
        shape = layer.data.shape
        layers = ErrorLayers(self._viewer, key, placement, shape, layer.name)
        evaluation = _Evaluation(layer, truth, layers, placement, lut)
        arguments: dict[str, Any] = {
            "truth": sendable(aligned_truth(layer, truth)),
            "least_voxels": self.least_voxels.value(),
        }
        if lut is None:
            arguments["labels"] = sendable(volume_from_layer(layer))
            return evaluation, EVALUATE_LABELS, arguments
        before = self._evaluations.get(key)
        if before is not None and before.truth is truth:
            evaluation.table = before.table
        arguments |= {"run": run_of(layer), "lut": lut, "table": evaluation.table}
        return evaluation, EVALUATE_RUN, arguments

    # ------------------------------------------------------------------ events → tables and arrows

    def _on_event(self, event: Event) -> None:
        evaluation = self._running
        if evaluation is None:
            return
        if isinstance(event, Counted):
            evaluation.table = event.table
        elif isinstance(event, Evaluated):
            evaluation.report = event.report
            self._evaluations[segmentation_key(evaluation.layer)] = evaluation
            if self.segmentation.layer is evaluation.layer:
                self._show()
        elif self._progress.update(event):
            done, total = self._progress.done, self._progress.total
            self.status.running(self._progress.text(), done, total)
            self.runner.show_progress(done, total)

    def _on_finished(self) -> None:
        self._show_running(False)
        self.status.ended("")

    def _on_failed(self, error: JobError) -> None:
        self._show_running(False)
        self.status.failed(str(error), error.details)

    def _on_cancelled(self) -> None:
        self._show_running(False)
        self.status.ended("Stopped.")

    @property
    def shown(self) -> _Evaluation | None:
        """The evaluation of the segmentation that is chosen, if there is one."""
        layer = self.segmentation.layer
        found = None if layer is None else self._evaluations.get(segmentation_key(layer))
        return found if found is not None and found.report is not None else None

    def _show(self) -> None:
        evaluation = self.shown
        report = None if evaluation is None else evaluation.report
        self.tables.show_report(report)
        self.save_button.setEnabled(report is not None)
        self.scores.setText("" if report is None else _scores_text(report))
        if evaluation is not None:
            self._show_arrows()

    def _show_arrows(self) -> None:
        evaluation = self.shown
        if evaluation is None or evaluation.report is None:
            return
        kinds = [kind for kind, box in self.kinds.items() if box.isChecked()]
        numbered = [
            (number, error)
            for number, error in enumerate(evaluation.report.errors, 1)
            if error.kind in kinds
        ][: self.arrows.value()]
        evaluation.shown = [number for number, _ in numbered]
        evaluation.layers.show([error for _, error in numbered], evaluation.shown)
        places = evaluation.layers.places
        if places is not None:
            places.selected_data.events.items_changed.connect(self._on_place)

    # ------------------------------------------------------------------ going there

    def go_to_error(self, row: int) -> None:
        """Show the place of an error, by its row in the report, and its segments."""
        evaluation = self.shown
        if evaluation is None or evaluation.report is None:
            return
        error = evaluation.report.errors[row]
        go_to(self._viewer, evaluation.placement, error.position)
        if evaluation.layer in self._viewer.layers:
            evaluation.layer.selected_label = error.segments[1]
        if evaluation.truth in self._viewer.layers:
            evaluation.truth.selected_label = error.truth[1]

    def _on_object(self, kind: str, identity: int) -> None:
        """Show the worst error of a neurite or a segment."""
        evaluation = self.shown
        if evaluation is None or evaluation.report is None:
            return
        for row, error in enumerate(evaluation.report.errors):
            if _belongs(error, kind, identity):
                self.tables.errors.choose(row)
                self.go_to_error(row)
                return
        self.status.ended("It has no error of that size: it differs along its boundary.")

    def _on_place(self) -> None:
        """Mark the row of the point that was clicked on."""
        evaluation = self.shown
        places = None if evaluation is None else evaluation.layers.places
        if evaluation is None or places is None or len(places.selected_data) != 1:
            return
        self.tables.errors.choose(evaluation.shown[next(iter(places.selected_data))] - 1)

    # ------------------------------------------------------------------ following the segmentation

    def _on_segmentation(self) -> None:
        self._watcher.watch(self.segmentation.layer)
        self._show()
        self._evaluate_again()  # it may have changed while another one was chosen

    def _evaluate_again(self) -> None:
        evaluation = self.shown
        if evaluation is None or evaluation.lut is None or not self.follow.isChecked():
            return
        changed = shown_lut(evaluation.layer) is not evaluation.lut
        if changed and evaluation.truth is self.truth.layer:
            self.evaluate()

    def _on_layer_removed(self, event: Any) -> None:
        for key, evaluation in list(self._evaluations.items()):
            if evaluation.layer is event.value:
                del self._evaluations[key]

    # ------------------------------------------------------------------ the rest

    def _show_running(self, running: bool) -> None:
        self.evaluate_button.setEnabled(not running)
        self.cancel_button.setEnabled(running)

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the errors", "errors.csv", "Table (*.csv);;Everything (*.json)"
        )
        if path:
            self.save(path)

    def save(self, path: str) -> None:
        """Write the errors as CSV, or the whole report where the path ends in .json."""
        evaluation = self.shown
        if evaluation is None or evaluation.report is None:
            return
        report = evaluation.report
        try:
            if path.lower().endswith(".json"):
                Path(path).write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
            else:
                columns = error_features(report.errors, range(1, len(report.errors) + 1))
                places = np.array([error.position for error in report.errors]).reshape(-1, 3)
                write_csv(path, columns | dict(zip("zyx", places.T, strict=True)))
        except (OSError, StoreError) as error:
            self.status.failed(str(error))
            return
        self.status.ended(f"Saved {path}")


def _belongs(error: SegmentationError, kind: str, identity: int) -> bool:
    if kind == "neurite":
        return error.kind == "split" and identity in error.truth
    return error.kind == "merge" and identity in error.segments


def _scores_text(report: ErrorReport) -> str:
    scores = report.scores
    located = {kind: report.located(kind) for kind in ("split", "merge")}
    rest = scores.voi - sum(located.values())
    return (
        f"<b>VOI {scores.voi:.3f}</b> = split {scores.voi_split:.3f} + merge "
        f"{scores.voi_merge:.3f} bits &nbsp; <b>ARAND {scores.arand:.3f}</b><br>"
        f"{len(report.errors)} errors cost {located['split']:.3f} (splits) and "
        f"{located['merge']:.3f} (merges), {rest:.3f} lies along boundaries and in smaller ones."
    )
