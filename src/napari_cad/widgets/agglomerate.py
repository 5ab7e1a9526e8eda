"""The dock widget "Agglomerate": move the threshold and see the segments follow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton, QSizePolicy, QSpinBox, QWidget
from superqt import QLabeledDoubleSlider

from napari_cad.core.agglomerations import AGGLOMERATIONS
from napari_cad.core.errors import NapariCadError
from napari_cad.core.events import Warned
from napari_cad.core.live_segmentation import Curve, LiveSegmentation, SegmentSizes
from napari_cad.core.store import SegmentationStore
from napari_cad.viewer.error_layers import aligned_truth
from napari_cad.viewer.jobs import JobRunner
from napari_cad.viewer.layers import find_layer, redraw, role_of, run_of
from napari_cad.viewer.live_labels import LiveLabels
from napari_cad.viewer.state import state_of
from napari_cad.viewer.volumes import sendable
from napari_cad.widgets._agglomerate_watch import RunWatch
from napari_cad.widgets._column import Column
from napari_cad.widgets._form import form_layout, tooltip
from napari_cad.widgets._labels import truth_chooser
from napari_cad.widgets._plots import CurvePlot, SizeHistogram
from napari_cad.widgets._status import RunStatus

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Labels

    from napari_cad.core.errors import JobError
    from napari_cad.core.events import Event

_LOAD = "napari_cad.core.live_segmentation:load"
_COUNT = "napari_cad.core.live_segmentation:count"
_CURVE = "napari_cad.core.live_segmentation:curve"

#: Fragments up to which sizes are counted in the viewer's process: some milliseconds.
_COUNTED_HERE = 2_000_000

#: Milliseconds of rest after which sizes are counted and drawn: the picture goes first.
_REST = 60


class AgglomerateWidget(Column):
    """Moves the threshold of a run, exactly and without touching a voxel.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer that it is docked in.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._live: LiveSegmentation | None = None
        self._pending = False

        self.runs = QComboBox()
        self.runs.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.runs.setToolTip("A run whose segments are shown in the viewer.")
        self.merge_function = QComboBox()
        self.merge_function.setToolTip(
            tooltip("Statistic of the affinities between two regions; median is published.")
        )
        for name, text in AGGLOMERATIONS.items():
            self.merge_function.addItem(name)
            self.merge_function.setItemData(
                self.merge_function.count() - 1, text, Qt.ItemDataRole.ToolTipRole
            )
        self.threshold = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.threshold.setRange(0, 1)
        self.threshold.setSingleStep(0.01)  # type: ignore[arg-type]
        self.threshold.setDecimals(3)
        self.threshold.setToolTip(
            tooltip("Regions merge while 1 minus the affinity between them is below this.")
        )
        self.smallest = QSpinBox()
        self.smallest.setRange(0, 10_000_000)
        self.smallest.setSingleStep(100)
        self.smallest.setSuffix(" voxels")
        self.smallest.setToolTip("Segments below this size are hidden, here only.")
        self.absorb = QSpinBox()
        self.absorb.setRange(0, 10_000_000)
        self.absorb.setSingleStep(100)
        self.absorb.setSuffix(" voxels")
        self.absorb.setToolTip(
            tooltip(
                "Segments below this size join the neighbour that they would merge with first; "
                "0 leaves all as they are."
            )
        )
        self.counts = QLabel()
        self.counts.setWordWrap(True)
        self.histogram = SizeHistogram()
        self.truth = truth_chooser(viewer)
        self.truth.setToolTip(tooltip("Labels that are right, to score thresholds by."))
        self.curve_button = QPushButton("Score over the threshold")
        self.curve_button.setToolTip(
            tooltip("Draw VOI over the threshold, from one pass over fragments and truth.")
        )
        self.curve = CurvePlot()
        self.keep_button = QPushButton("Keep for this run")
        self.keep_button.setToolTip(
            tooltip(
                "Remember merge function, threshold and what is absorbed in the store: export, "
                "evaluation and proofreading use them."
            )
        )
        self.status = RunStatus()
        form = QWidget()
        rows = form_layout(form)
        rows.addRow("Run", self.runs)
        rows.addRow("Merge function", self.merge_function)
        rows.addRow("Threshold", self.threshold)
        rows.addRow("Absorb below", self.absorb)
        rows.addRow("Hide below", self.smallest)
        truth = QWidget()
        form_layout(truth).addRow("Truth", self.truth)
        self.fill(
            form, self.counts, self.histogram, self.keep_button, truth, self.curve_button,
            self.curve, self.status,
        )  # fmt: skip

        self._watch = RunWatch(viewer, self)
        self._watch.reason.connect(self._on_reason)
        self._watch.whole.connect(self._on_run)
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_REST)
        self._rest.timeout.connect(self.show_sizes)
        self.loader = JobRunner(self)
        self.scorer = JobRunner(self)
        self.counter = JobRunner(self)
        for runner in (self.loader, self.scorer, self.counter):
            runner.reported.connect(self._on_event)
            runner.finished.connect(self._on_finished)
            runner.failed.connect(self._on_failed)
        self.loader.failed.connect(self._on_load_failed)
        self.runs.currentIndexChanged.connect(self._on_run)
        self.merge_function.currentIndexChanged.connect(self.load)
        self.threshold.valueChanged.connect(self._on_moved)
        self.smallest.valueChanged.connect(self._on_moved)
        self.absorb.valueChanged.connect(self._on_absorb)
        self.curve_button.clicked.connect(self.score)
        self.keep_button.clicked.connect(self.keep)
        events = viewer.layers.events
        for event in (events.inserted, events.removed):
            event.connect(self._list_runs)
        state_of(viewer).run_begun.connect(self._on_run_begun)
        state_of(viewer).run_finished.connect(self._on_run_finished)
        state_of(viewer).step_reported.connect(self._on_step_reported)
        self._list_runs()

    @property
    def run(self) -> str | None:
        """Path of the store of the chosen run."""
        run: str | None = self.runs.currentData()
        return run

    @property
    def _layer(self) -> Labels | None:
        """The layer of that run's segments, if it is there."""
        return None if self.run is None else find_layer(self._viewer, "segments", self.run)

    # ------------------------------------------------------------------ what the person does

    def load(self) -> None:
        """Load the chosen run by the chosen merge function, agglomerating it if need be."""
        self._let_go()
        if self.run is None:
            return
        if self._watch.is_being_made(self.run):
            self._watch.wait(self.run)
            return
        arguments = {
            "store_path": self.run,
            "merge_function": self.merge_function.currentText(),
            "absorbing": self.absorb.value() > 0,
        }
        self.status.running(f"Agglomerating by {arguments['merge_function']} …")
        self.loader.start(_LOAD, arguments, "Agglomerating")

    def _let_go(self) -> None:
        """Forget what was loaded, and what is being worked out of it."""
        self._live = None
        self._watch.stop()
        self.curve.show_curve(None)
        for runner in (self.loader, self.scorer, self.counter):
            runner.cancel()
        self._enable()

    def show_threshold(self) -> None:
        """Show the segments where the slider stands."""
        live, layer = self._live, self._layer
        if live is None or layer is None or (self.absorb.value() and live.forest is None):
            return
        fragments = state_of(self._viewer).store(str(self.run)).fragments
        shown = live.at(self.threshold.value(), self.smallest.value())
        if not isinstance(layer.data, LiveLabels):
            layer.data = LiveLabels(fragments, shown)
            layer.editable = False
        if self.absorb.value():
            values = (self.threshold.value(), self.smallest.value(), self.absorb.value())
            layer.data.set_lut(live.lut(*values))
        else:
            layer.data.show(shown)
        redraw(layer)
        self._rest.start()

    def show_sizes(self) -> None:
        """Count and draw the sizes of the segments that are shown."""
        live, layer = self._live, self._layer
        if live is None or layer is None or not isinstance(layer.data, LiveLabels):
            return
        self.curve.show_threshold(self.threshold.value())
        if self.absorb.value():
            lut = layer.data.lut
            if lut is not None:
                self._show_counted(SegmentSizes.of(live.sizes(lut)))
        elif live.tree.n_fragments <= _COUNTED_HERE:
            self._show_counted(live.at(self.threshold.value(), self.smallest.value()).sizes())
        else:
            n = live.tree.n_segments(self.threshold.value())
            self.counts.setText(f"{n:,} segments of all sizes; counting …")
            arguments = {
                "store_path": self.run,
                "merge_function": live.merge_function,
                "threshold": self.threshold.value(),
                "smallest": self.smallest.value(),
            }
            self.counter.start(_COUNT, arguments, "Counting segments")

    def _show_counted(self, sizes: SegmentSizes) -> None:
        self.counts.setText(
            f"{sizes.n_segments:,} segments, the largest of {sizes.largest:,} voxels"
        )
        line = f"{sizes.n_segments:,} segments at {self.threshold.value():.2f}"
        state_of(self._viewer).report("agglomerate", line, run=self.run)
        self.histogram.show_counts(sizes.histogram)

    def score(self) -> None:
        """Draw the curve against the truth that is chosen."""
        truth, segments = self.truth.layer, self._layer
        if truth is None or segments is None or truth is segments:
            self.status.failed("A labels layer with the truth is needed beside the segments.")
            return
        try:
            volume = sendable(aligned_truth(segments, truth))
        except NapariCadError as error:
            self.status.failed(str(error))
            return
        self.status.running("Counting fragments and truth …")
        arguments = {
            "store_path": self.run,
            "merge_function": self.merge_function.currentText(),
            "truth": volume,
            "absorb": self.absorb.value(),
        }
        self.scorer.start(_CURVE, arguments, "Scoring")

    def keep(self) -> None:
        """Write merge function, threshold and limit of absorbing into the store."""
        if self.run is None:
            return
        threshold = round(self.threshold.value(), 4)
        try:
            store = SegmentationStore.open(self.run, mode="a")
            store.choose_agglomeration(
                self.merge_function.currentText(), threshold, self.absorb.value()
            )
        except (NapariCadError, OSError) as error:
            self.status.failed(f"The threshold could not be written: {error}")
            return
        state_of(self._viewer).forget(self.run)
        absorbed = f", absorbing below {store.absorb:,} voxels" if store.absorb else ""
        self.status.ended(f"{Path(self.run).name} now has the threshold {threshold:g}{absorbed}.")

    # ------------------------------------------------------------------ what comes back

    def _on_event(self, event: Event) -> None:
        if isinstance(event, SegmentSizes):
            self._show_counted(event)
        elif isinstance(event, LiveSegmentation):
            self._live = event
            self._enable()
            self._on_absorb()
        elif isinstance(event, Warned):
            self.status.warn(event.message)
        elif isinstance(event, Curve):
            self.curve.show_curve(event)
            best = event.scores[event.best]
            self.status.warn(
                f"VOI is lowest at {event.best:g} ({best.voi:.3f}, ARAND {best.arand:.3f}). A "
                "threshold chosen by the truth has no test score."
            )

    def _on_finished(self) -> None:
        if not (self.loader.running or self.scorer.running):
            self.status.ended("")

    def _on_failed(self, error: JobError) -> None:
        self.status.failed(str(error), error.details)

    def _on_moved(self) -> None:
        if not self._pending:
            self._pending = True
            # all moves that wait already become one; and Qt paints after what is queued like
            # this, so that slider and picture are painted together
            QTimer.singleShot(0, self._follow)

    def _follow(self) -> None:
        self._pending = False
        self.show_threshold()

    def _on_absorb(self) -> None:
        if self.absorb.value() and self._live is not None and self._live.forest is None:
            self.load()  # once more, with what absorbing needs
        else:
            self._on_moved()

    def _on_load_failed(self) -> None:
        if self.run is not None and not self._watch.is_whole(self.run):
            self._watch.wait(self.run)  # another time it may work

    def _on_run(self) -> None:
        self.status.clear()
        if self.run is not None:
            state_of(self._viewer).forget(self.run)  # it may have been made since
            self._set_from_store(self.run)
        self.load()

    def _on_run_begun(self, run: str) -> None:
        if run == self.run:  # its fragments are made anew: the merge tree is not theirs
            self._let_go()
            self.status.clear()
            self._watch.begun(run)

    def _on_reason(self, text: str) -> None:
        self.counts.setText(text)

    def _on_step_reported(self, step: str) -> None:
        """Let go of a run that is loaded although a job is at it: it was slow to say so."""
        run = self.run
        loaded = self._live is not None or self.loader.running
        if step == "segment" and run is not None and loaded and self._watch.is_being_made(run):
            self._let_go()
            self.status.clear()
            self._watch.wait(run)

    def _on_run_finished(self, run: str) -> None:
        if run == self.run:
            self._on_run()
        else:
            self._list_runs()

    def _set_from_store(self, run: str) -> None:
        try:
            store = state_of(self._viewer).store(run)
        except (NapariCadError, OSError) as error:
            self.status.failed(str(error))
            return
        widgets = (self.threshold, self.merge_function, self.absorb)
        for widget in widgets:
            widget.blockSignals(True)
        self.threshold.setValue(store.threshold)
        self.merge_function.setCurrentText(store.merge_function)
        self.absorb.setValue(store.absorb)
        for widget in widgets:
            widget.blockSignals(False)

    def _list_runs(self) -> None:
        """Offer the runs whose segments are in the viewer."""
        layers = [layer for layer in self._viewer.layers if role_of(layer) == "segments"]
        runs = list(dict.fromkeys(run for layer in layers if (run := run_of(layer))))
        if runs == [self.runs.itemData(i) for i in range(self.runs.count())]:
            return
        chosen = self.run
        self.runs.blockSignals(True)
        self.runs.clear()
        for run in runs:
            self.runs.addItem(Path(run).name, run)
        self.runs.setCurrentIndex(max(0, self.runs.findData(chosen)) if runs else -1)
        self.runs.blockSignals(False)
        if self.run != chosen:
            self._on_run()
        self._enable()

    def _enable(self) -> None:
        ready = self._live is not None
        for widget in (self.threshold, self.smallest, self.keep_button, self.curve_button):
            widget.setEnabled(ready)
        # while it loads too: whoever clicks its arrow again and again would lose the focus
        self.absorb.setEnabled(self.run is not None)
        if not ready:
            self.counts.setText("" if self.run else "Segment an image, or open a run, first.")
