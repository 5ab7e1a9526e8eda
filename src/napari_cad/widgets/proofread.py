"""The dock widget "Proofread": correct a segmentation by merging, cutting and verifying."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QLabel,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QLabeledDoubleSlider

from napari_cad.core.errors import NapariCadError
from napari_cad.viewer.mesh_layers import in_3d_text
from napari_cad.viewer.proofreading_actions import CUT, EDIT, HISTORY, LOOK, QUESTIONS, VOXELS
from napari_cad.viewer.proofreading_keys import chosen_keys, keep_keys
from napari_cad.viewer.proofreading_paint import TARGETS
from napari_cad.viewer.proofreading_start import SessionStarter
from napari_cad.viewer.proofreading_walk import KINDS
from napari_cad.viewer.warm_up import warm_up
from napari_cad.widgets._column import Column
from napari_cad.widgets._form import Collapsible, form_layout, tooltip
from napari_cad.widgets._image import ImageChooser
from napari_cad.widgets._labels import LabelsChooser
from napari_cad.widgets._proofread_actions import ActionButtons, KeyTable
from napari_cad.widgets._proofread_export import ExportPanel
from napari_cad.widgets._proofread_history import HistoryPanel
from napari_cad.widgets._status import RunStatus

if TYPE_CHECKING:
    import napari.viewer

    from napari_cad.core.errors import JobError
    from napari_cad.viewer.proofreading import Proofreader

#: Milliseconds within which a moving slider is followed once, by its last value.
_THROTTLE = 15
#: Milliseconds after which a slider that nobody holds has come to rest.
_AT_REST = 600


class ProofreadWidget(Column):
    """Corrects a segmentation on its region graph; every edit is on the disk before it is shown.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer that it is docked in.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.proofreader: Proofreader | None = None

        self.segmentation = LabelsChooser(
            viewer, prefer=("segments",), avoid=("truth", "proofread", "proofread_marks")
        )
        self.segmentation.setToolTip(
            tooltip("The segments of a run, or any other labels: those get a region graph first.")
        )
        self.image = ImageChooser(viewer)
        self.image.setToolTip(
            tooltip(
                "For labels that come without a run: where the image is dark, boundaries are "
                "taken to be. A run has its affinities for that."
            )
        )
        self.start_button = QPushButton("Start")
        self.start_button.setToolTip(
            tooltip("Begin to proofread, or go on where the last session on it ended.")
        )
        self.take_over_button = QPushButton("Edit all the same")
        self.take_over_button.setToolTip(
            tooltip("Take the session over from a process that is no more, on another computer.")
        )
        self.end_button = QPushButton("End")
        self.end_button.setToolTip(
            tooltip("End the session. Nothing has to be saved: every edit is on the disk.")
        )
        self.status = RunStatus()
        self.state = QLabel()
        self.state.setWordWrap(True)
        self.state.setTextFormat(Qt.TextFormat.PlainText)
        self.editing = ActionButtons(EDIT, CUT, LOOK)
        self.asking = ActionButtons(QUESTIONS)
        self.changing = ActionButtons(HISTORY)
        self.painting = ActionButtons(VOXELS)
        self.kind = QComboBox()
        for name, title in KINDS.items():
            self.kind.addItem(title, name)
        self.kind.setToolTip(tooltip("Which places to go through, the most rewarding ones first."))
        self.question = QLabel()
        self.question.setWordWrap(True)
        self.left = QProgressBar()
        self.left.setToolTip(tooltip("Questions answered, of all there are."))
        self.threshold = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.threshold.setRange(0, 1)
        self.threshold.setDecimals(3)
        self.threshold.setToolTip(
            tooltip(
                "Agglomeration threshold. Drag to try, release to set: that is an edit, too. What "
                "was merged, cut or verified by hand stays so."
            )
        )
        self.target = QComboBox()
        for name, title in TARGETS.items():
            self.target.addItem(title[:1].upper() + title[1:], name)
        self.target.setToolTip(tooltip("Where the painted voxels belong."))
        self.reach = QSpinBox()
        self.reach.setRange(0, 20)
        self.reach.setToolTip(tooltip("Sections before and after this one to paint in as well."))
        self.history = HistoryPanel()
        self.export = ExportPanel()
        self.keys = KeyTable()
        self._lay_out()
        self._connect()
        self._show_session()
        self._show_keys(chosen_keys())
        warm_up(viewer, self)

    def _lay_out(self) -> None:
        form = QWidget()
        rows = form_layout(form)
        rows.addRow("Segmentation", self.segmentation)
        rows.addRow("Image", self.image)
        threshold = QWidget()
        form_layout(threshold).addRow("Threshold", self.threshold)
        kind, target = QWidget(), QWidget()
        form_layout(kind).addRow("Go through", self.kind)
        rows = form_layout(target)
        rows.addRow("Belongs to", self.target)
        rows.addRow("Sections ±", self.reach)
        asking = _below(kind, self.left, self.question, self.asking)
        self.uncertain = Collapsible("Uncertain places", asking)
        self.voxels = Collapsible("Paint voxels", _below(target, self.painting))
        self.past = Collapsible("History and notes", self.history)
        self.exports = Collapsible("Export", self.export)
        self.cheat_sheet = Collapsible("Keys", self.keys)
        self.fill(
            form,
            (self.start_button, self.take_over_button, self.end_button),
            self.status,
            self.state,
            self.editing,
            self.changing,
            threshold,
            self.uncertain,
            self.voxels,
            self.past,
            self.exports,
            self.cheat_sheet,
        )

    def _connect(self) -> None:
        self.starter = SessionStarter(self._viewer, self)
        self.starter.progress.connect(self.status.running)
        self.starter.started.connect(self._on_started)
        self.starter.failed.connect(self._on_failed)
        self.start_button.clicked.connect(lambda: self.start())
        self.take_over_button.clicked.connect(self.take_over)
        self.end_button.clicked.connect(self.end)
        for buttons in (self.editing, self.asking, self.changing, self.painting):
            buttons.pressed.connect(self.run)
        self.kind.currentIndexChanged.connect(self._on_kind)
        for combo in (self.kind, self.target):
            combo.activated.connect(self._leave_keys_to_viewer)
        self._throttle, self._commit = QTimer(self), QTimer(self)
        for timer, interval in ((self._throttle, _THROTTLE), (self._commit, _AT_REST)):
            timer.setSingleShot(True)
            timer.setInterval(interval)
        self._throttle.timeout.connect(self._try_threshold)
        self._commit.timeout.connect(self._set_threshold)
        self.threshold.valueChanged.connect(self._on_moved)
        self.threshold.sliderReleased.connect(self._set_threshold)
        self.target.currentIndexChanged.connect(self._on_paint)
        self.reach.valueChanged.connect(self._on_paint)
        self.history.chosen.connect(self._on_history)
        self.history.note_chosen.connect(self._on_note)
        self.export.progress.connect(self.status.running)
        self.export.ended.connect(self.status.ended)
        self.export.failed.connect(self.status.failed)
        self.image.changed.connect(self._on_image)
        self.keys.changed.connect(self._on_keys)
        self.keys.refused.connect(self.status.failed)

    # ------------------------------------------------------------------ what the person does

    def start(self, *, take_over: bool = False) -> None:
        """Begin a session on the labels that are chosen, or go on with it."""
        layer = self.segmentation.layer
        self.status.clear()
        if layer is None:
            self.status.failed("Open a segmentation first: there is no labels layer.")
            return
        try:
            image = self.image.layer
            if image is not None and tuple(image.data.shape) != tuple(layer.data.shape):
                image = None
            self.starter.start(layer, image, take_over=take_over)
        except (NapariCadError, OSError) as error:
            self.status.failed(str(error))
            return
        self.start_button.setEnabled(False)

    def take_over(self) -> None:
        """Edit a session that another process seems to hold."""
        self.end()
        self.start(take_over=True)

    def end(self) -> None:
        """End the session, and leave the segments in the viewer as they are."""
        if self.proofreader is not None:
            self.proofreader.end(keep=True)

    def run(self, name: str) -> None:
        """Do an action by its name."""
        if self.proofreader is not None:
            self.proofreader.run(name)

    # ------------------------------------------------------------------ what comes back

    def _on_started(self, proofreader: Proofreader) -> None:
        self.proofreader = proofreader
        proofreader.said.connect(self._on_said)
        proofreader.changed.connect(self._on_changed)
        proofreader.ended.connect(self._on_ended)
        proofreader.meshes.shown.connect(self._on_meshes)
        proofreader.meshes.failed.connect(self._on_mesh_failed)
        proofreader.keys.rebind(chosen_keys())
        proofreader.walk.kind = self.kind.currentData()
        self._on_paint()
        self.export.proofreader = proofreader
        self._on_image()
        self.history.show_session(proofreader.session)
        self.status.ended(f"{proofreader.line()}. {self._folder()}")
        for message in proofreader.session.messages:
            self.status.warn(message)
        self._show_session()
        self._on_changed()
        self._leave_keys_to_viewer()

    def _leave_keys_to_viewer(self) -> None:
        """Let no part of this dock take letters, which are keys of the session."""
        focused = QApplication.focusWidget()
        if focused is not None and self.isAncestorOf(focused):
            focused.clearFocus()

    def _on_failed(self, text: str, details: str) -> None:
        self.status.failed(text, details)
        self._show_session()

    def _on_said(self, text: str, level: str) -> None:
        if level == "info":
            self.status.ended(text)
        else:
            self.status.failed(text)

    def _on_changed(self) -> None:
        proofreader = self.proofreader
        if proofreader is None:
            return
        patience, walk = proofreader.patience, proofreader.walk
        if patience.busy:
            self.status.running(f"{patience.what} …")
        chosen = ", ".join(map(str, proofreader.selection[:6])) or "nothing"
        more = len(proofreader.selection) - 6
        self.state.setText(
            f"{proofreader.line()}\nSelected: {chosen}" + (f" and {more} more" if more > 0 else "")
        )
        self.question.setText(walk.line())
        if walk.progress is not None:
            left, total = walk.progress
            self.left.setRange(0, max(total, 1))
            self.left.setValue(total - left)
            self.left.setFormat(f"{left:,} of {total:,} left")
        if not (self.threshold.isSliderDown() or self._commit.isActive()):
            self._put_threshold(proofreader.session.threshold)
        self.history.follow(proofreader.selection)
        self._show_enabled()

    def _on_ended(self, reason: str) -> None:
        self.proofreader = self.export.proofreader = None
        self.history.show_session(None)
        self.state.clear()
        self.question.clear()
        self.left.reset()
        if reason:
            self.status.failed(reason)
        else:
            self.status.ended("The session has ended; every edit is kept.")
        self._show_session()

    def _on_kind(self) -> None:
        if self.proofreader is not None:
            self.proofreader.walk.choose(self.kind.currentData())

    def _on_paint(self) -> None:
        if self.proofreader is not None:
            self.proofreader.scribbles.target = self.target.currentData()
            self.proofreader.scribbles.reach = self.reach.value()

    def _on_history(self, edit_id: int) -> None:
        if self.proofreader is None or self.proofreader.requests.refuse_while_busy():
            return
        with self.proofreader.requests.reporting("undo"):
            self.proofreader.session.go_to(edit_id)

    def _on_note(self, number: int) -> None:
        if self.proofreader is not None:
            self.proofreader.notes.go_to(number)

    def _on_image(self) -> None:
        self.export.image = self.image.layer

    def _on_keys(self, keys: dict[str, str]) -> None:
        try:
            keep_keys(keys)
        except OSError as error:
            self.status.failed(f"The keys could not be kept: {error}")
        if self.proofreader is not None:
            self.proofreader.keys.rebind(keys)
        self._show_keys(keys)

    def _on_meshes(self, n: int) -> None:
        self.status.ended(f"{in_3d_text(n)}.")
        if n and self.proofreader is not None:
            self.proofreader.show_in_3d()

    def _on_mesh_failed(self, error: JobError) -> None:
        self.status.failed(str(error), error.details)

    # ------------------------------------------------------------------ the threshold

    def _on_moved(self) -> None:
        if not self._throttle.isActive():
            self._throttle.start()
        self._commit.start()  # by the keys or the wheel, which say nothing at the end

    def _try_threshold(self) -> None:
        """Show the threshold that the slider stands at, without setting it."""
        if self.proofreader is not None:
            self.proofreader.try_threshold(self.threshold.value())

    def _set_threshold(self) -> None:
        self._throttle.stop()
        if self.threshold.isSliderDown():
            return
        self._commit.stop()
        if self.proofreader is not None:
            self.proofreader.set_threshold(self.threshold.value())
            self._put_threshold(self.proofreader.session.threshold)  # it may have been refused

    def _put_threshold(self, value: float) -> None:
        self.threshold.blockSignals(True)
        self.threshold.setValue(value)
        self.threshold.blockSignals(False)

    # ------------------------------------------------------------------ what is enabled

    def _folder(self) -> str:
        return f"Kept in {self.proofreader.layers.key}." if self.proofreader is not None else ""

    def _show_keys(self, keys: dict[str, str]) -> None:
        self.keys.show_keys(keys)
        for buttons in (self.editing, self.asking, self.changing, self.painting):
            buttons.show_keys(keys)

    def _show_session(self) -> None:
        """Show whether there is a session."""
        there = self.proofreader is not None
        self.segmentation.setEnabled(not there)
        self.start_button.setVisible(not there)
        self.start_button.setEnabled(not there)
        self.end_button.setVisible(there)
        self._show_enabled()

    def _show_enabled(self) -> None:
        proofreader = self.proofreader
        there = proofreader is not None
        editing = proofreader is not None and not proofreader.session.read_only
        self.take_over_button.setVisible(there and not editing)
        for buttons in (self.editing, self.asking, self.changing, self.painting):
            buttons.allow(editing, there)
        for widget in (self.threshold, self.target, self.reach):
            widget.setEnabled(editing)
        self.kind.setEnabled(there)
        self.history.setEnabled(there)
        self.export.setEnabled(there)


def _below(*parts: QWidget) -> QWidget:
    """Put widgets below each other."""
    widget = QWidget()
    layout = QVBoxLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        layout.addWidget(part)
    return widget
