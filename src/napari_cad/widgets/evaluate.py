"""The dock widget "Evaluate": a segmentation against the truth, and the way to its errors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

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
from napari_cad.viewer.error_layers import (
    ErrorLayers,
    aligned_truth,
    go_to,
    segmentation_key,
    shown_lut,
)
from napari_cad.viewer.errors_on_top import ErrorsOnTop
from napari_cad.viewer.jobs import JobsEndWith
from napari_cad.viewer.layers import run_of, select_label
from napari_cad.viewer.lut_watcher import LutWatcher
from napari_cad.viewer.mesh_layers import in_3d_text
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.state import state_of
from napari_cad.viewer.turns import Turns
from napari_cad.viewer.volumes import sendable, volume_from_layer
from napari_cad.viewer.warm_up import warm_up
from napari_cad.widgets._arrow_choice import ArrowChoice
from napari_cad.widgets._error_tables import ErrorTables
from napari_cad.widgets._error_views import ErrorViews
from napari_cad.widgets._evaluation import Evaluation, belongs, scores_text, write_report
from napari_cad.widgets._form import form_layout, tooltip
from napari_cad.widgets._job import WidgetJob
from napari_cad.widgets._labels import segmentation_chooser, truth_chooser
from napari_cad.widgets._status import RunStatus

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Points

    from napari_cad.core.events import Event

_MOST_VOXELS = 10_000_000


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
        self._running: Evaluation | None = None
        self._evaluations: dict[str, Evaluation] = {}
        self.views = ErrorViews(viewer, self)
        self._turns, self._going = Turns(self), Turns(self)
        self._on_top = ErrorsOnTop(viewer, self._turns)

        self.segmentation = segmentation_chooser(viewer)
        self.truth = truth_chooser(viewer)
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
        self.arrows = ArrowChoice()
        self.save_button = QPushButton("Save…")
        self.mesh_button = QPushButton("Show in 3D")
        self.beside_button = QPushButton("Side by side")
        self.beside_button.setCheckable(True)
        self._lay_out()
        JobsEndWith(self)

        self.views.progress.connect(self.status.running)
        self.views.shown.connect(self._on_meshes)
        self.views.failed.connect(self._on_meshes_failed)
        self.runner = WidgetJob(self, self.status, self.evaluate_button, self.cancel_button)
        self.runner.reported.connect(self._on_event)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._report)
        self.runner.cancelled.connect(self._report)
        self._watcher = LutWatcher(self)
        self._watcher.changed.connect(self._evaluate_again)
        self.evaluate_button.clicked.connect(self.evaluate)
        self.cancel_button.clicked.connect(self.cancel)
        self.save_button.clicked.connect(self._on_save)
        self.mesh_button.clicked.connect(self.show_meshes)
        self.beside_button.toggled.connect(self.show_side_by_side)
        self.segmentation.changed.connect(self._on_segmentation)
        self.tables.error_chosen.connect(self.go_to_error)
        self.tables.object_chosen.connect(self._on_object)
        self.arrows.changed.connect(self._show_arrows)
        viewer.layers.events.removed.connect(self._on_layer_removed)
        self._on_segmentation()
        warm_up(viewer, self)

    def _lay_out(self) -> None:
        self.segmentation.setToolTip(tooltip("The labels that are evaluated."))
        self.truth.setToolTip(
            tooltip("Labels that are right. Where they are 0, nothing is counted.")
        )
        self.evaluate_button.setToolTip("Score the segmentation, and find its errors.")
        self.cancel_button.setToolTip("Stop; what was shown before stays.")
        self.save_button.setToolTip(
            tooltip("Save the table of errors (CSV), or everything (JSON).")
        )
        self.least_voxels.setToolTip(
            tooltip("Smaller errors are counted in the scores, but not listed.")
        )
        self.follow.setToolTip(
            tooltip("Evaluate again when the threshold changes or an edit is made.")
        )
        self.mesh_button.setToolTip(
            tooltip(
                "Surfaces of the segments of the errors that have arrows; the worst come first."
            )
        )
        self.beside_button.setToolTip(
            tooltip("All segmentations that have been evaluated, with their arrows.")
        )
        form = QWidget()
        rows = form_layout(form)
        rows.addRow("Segmentation", self.segmentation)
        rows.addRow("Truth", self.truth)
        rows.addRow("Errors from", self.least_voxels)
        rows.addRow(self.follow)
        buttons = QHBoxLayout()
        buttons.addWidget(self.evaluate_button)
        buttons.addWidget(self.cancel_button)
        views = QHBoxLayout()
        for button in (self.mesh_button, self.beside_button, self.save_button):
            views.addWidget(button)
        layout = QVBoxLayout(self)
        layout.addWidget(form)
        layout.addLayout(buttons)
        layout.addWidget(self.status)
        layout.addWidget(self.scores)
        layout.addWidget(self.tables, 1)
        layout.addWidget(self.arrows)
        layout.addLayout(views)

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
        self.runner.begin(function, arguments, f"Evaluating {evaluation.layer.name}")

    def cancel(self) -> None:
        """Stop; what was shown before stays."""
        self.runner.cancel()

    def _read_form(self) -> tuple[Evaluation, str, dict[str, Any]]:
        layer, truth = self.segmentation.layer, self.truth.layer
        if layer is None or truth is None or layer is truth:
            raise VolumeError(
                "Two labels layers of three axes (z, y, x) are needed: the segmentation, and the "
                "truth to compare it with."
            )
        key, lut = segmentation_key(layer), shown_lut(layer)
        placement = Placement.of_layer(layer)
        shape = layer.data.shape
        layers = ErrorLayers(self._viewer, key, placement, shape, layer.name, self._turns)
        layers.made.connect(self._on_places_made)
        evaluation = Evaluation(layer, truth, layers, placement, lut)
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
        elif self.runner.follow(event):
            text = self.runner.progress.short()
            state_of(self._viewer).report("evaluate", text, running=True)

    def _on_finished(self) -> None:
        self.status.ended("")
        self._report()

    def _report(self) -> None:
        """Tell the workbench."""
        shown = self.shown
        scores = None if shown is None or shown.report is None else shown.report.scores
        text = "" if scores is None else f"VOI {scores.voi:.2f} · ARAND {scores.arand:.2f}"
        run = None if shown is None else run_of(shown.layer)
        state_of(self._viewer).report("evaluate", text, run=run)

    @property
    def shown(self) -> Evaluation | None:
        """The evaluation of the segmentation that is chosen, if there is one."""
        layer = self.segmentation.layer
        found = None if layer is None else self._evaluations.get(segmentation_key(layer))
        return found if found is not None and found.report is not None else None

    def _show(self) -> None:
        evaluation = self.shown
        report = None if evaluation is None else evaluation.report
        self.tables.show_report(report)
        for button in (self.save_button, self.mesh_button, self.beside_button):
            button.setEnabled(report is not None)
        self.scores.setText("" if report is None else scores_text(report))
        if evaluation is not None:
            self._show_arrows()

    def _show_arrows(self) -> None:
        evaluation = self.shown
        if evaluation is None or evaluation.report is None:
            return
        evaluation.shown = self.arrows.of(evaluation.report)
        errors = [evaluation.report.errors[number - 1] for number in evaluation.shown]
        evaluation.layers.show(errors, evaluation.shown)

    def _on_places_made(self, places: Points) -> None:
        places.mouse_drag_callbacks.append(self._on_place)

    # ------------------------------------------------------------------ in 3D, and side by side

    def show_meshes(self) -> None:
        """Show the segments of the worst errors as surfaces, in 3D."""
        evaluations = self._present() if self.views.beside else [self.shown]
        try:
            self.views.show_meshes([e for e in evaluations if e is not None])
        except NapariCadError as error:
            self.status.failed(str(error))

    def show_side_by_side(self, wanted: bool) -> None:
        """Show all segmentations that have been evaluated in cells of their own, or end that."""
        done = self.views.show_side_by_side(self._present() if wanted else [])
        self.beside_button.setChecked(done)
        if wanted and not done:
            self.status.failed("Evaluate two segmentations first, one after the other.")

    def _present(self) -> list[Evaluation]:
        """All evaluations of layers that are still there."""
        there = self._viewer.layers
        return [
            evaluation for evaluation in self._evaluations.values() if evaluation.layer in there
        ]

    def _on_meshes(self, n: int) -> None:
        self.status.ended(f"{in_3d_text(n)}.")

    def _on_meshes_failed(self, error: JobError) -> None:
        self.status.failed(str(error), error.details)

    # ------------------------------------------------------------------ going there

    def go_to_error(self, row: int) -> None:
        """Show the place of an error, by its row in the report, and its segments."""
        evaluation = self.shown
        if evaluation is None or evaluation.report is None:
            return
        error = evaluation.report.errors[row]
        self._going.forget()
        go_to(self._viewer, evaluation.placement, error.position, self._going)
        pairs = ((evaluation.layer, error.segments[1]), (evaluation.truth, error.truth[1]))
        for layer, label in pairs:  # napari reads a section of each, to see of which type it is
            self._going.then(partial(select_label, self._viewer, layer, label))

    def _on_object(self, kind: str, identity: int) -> None:
        """Show the worst error of a neurite or a segment."""
        evaluation = self.shown
        if evaluation is None or evaluation.report is None:
            return
        for row, error in enumerate(evaluation.report.errors):
            if belongs(error, kind, identity):
                self.tables.errors.choose(row)
                self.go_to_error(row)
                return
        self.status.ended("It has no error of that size: it differs along its boundary.")

    def _on_place(self, places: Points, event: Any) -> None:
        """Mark the row of the point that was clicked on."""
        evaluation = self.shown
        place = places.get_value(
            event.position,
            view_direction=event.view_direction,
            dims_displayed=event.dims_displayed,
            world=True,
        )
        if evaluation is not None and places is evaluation.layers.places and place is not None:
            self.tables.errors.choose(evaluation.shown[place] - 1)

    # ------------------------------------------------------------------ following the segmentation

    def _on_segmentation(self) -> None:
        self._watcher.watch(self.segmentation.layer)
        self._show()
        if self._evaluations and not self.runner.running:  # what stands there is about another one
            layer = self.segmentation.layer
            if layer is None or self.shown is not None:
                self.status.ended("")
            else:
                self.status.ended(f"{layer.name} has not been evaluated.")
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
        if not self.runner.running:
            self._report()

    # ------------------------------------------------------------------ the rest

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
        try:
            write_report(path, evaluation.report)
        except (OSError, StoreError) as error:
            self.status.failed(str(error))
            return
        self.status.ended(f"Saved {path}")
