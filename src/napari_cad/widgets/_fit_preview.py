"""The live preview of a fit: what is asked of the job, when, and where the answer is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from psygnal import Signal
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_cad.core.errors import JobError, NapariCadError
from napari_cad.core.fit_job import SERVE_PREVIEWS, PreviewFailed, PreviewMade, WantedPreview
from napari_cad.core.jobs import Requests
from napari_cad.viewer.embedding_layers import camera_of
from napari_cad.viewer.fit_layers import PreviewLayers, Shown, box_layer, centred_box, drawn_box
from napari_cad.viewer.jobs import JobRunner
from napari_cad.viewer.layers import find_layer
from napari_cad.viewer.turns import Turns
from napari_cad.viewer.volumes import sendable
from napari_cad.widgets._form import form_layout, tooltip

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.components import ViewerModel

    from napari_cad.core.config import InferenceConfig
    from napari_cad.core.events import Event
    from napari_cad.viewer.fits import ChosenFit
    from napari_cad.widgets._image import ImageChooser

#: Side of a crop in voxels as the network sees them: what a CPU does in well under a second.
SIDE = 512

#: Longest side of a box that a person draws, in the same voxels.
LONGEST_SIDE = 1024

#: Milliseconds that the view, or a box, must have come to rest before the crop follows it.
_REST = 250

_TOOLTIP = Qt.ItemDataRole.ToolTipRole

_PICTURES: dict[Shown, tuple[str, str]] = {
    "affinities": (
        "Affinities",
        "Red along z, green along y, blue along x: white inside neurites, dark at membranes.",
    ),
    "embedding": (
        "Embedding map",
        "The first three principal components of the embedding as colours: smooth inside of "
        "neurites, another colour at every membrane. Another setting has other colours.",
    ),
    "image": ("The image", "Only the outlines of the fragments over the image."),
}

_CENTRE = "Centre of the view"
_DRAWN = "A box that I draw"


class FitPreview(QWidget):
    """Shows a crop of the section on screen under the settings of a form.

    Parameters
    ----------
    viewer : ViewerModel
        Where it is shown.
    image : ImageChooser
        Of what.
    setting : callable
        () → (checkpoint, ChosenFit, InferenceConfig); may raise `NapariCadError`.

    Attributes
    ----------
    stopped : Signal
        (str, str), a failure that has ended the preview, and its details.
    """

    stopped = Signal(str, str)

    def __init__(
        self,
        viewer: ViewerModel,
        image: ImageChooser,
        setting: Callable[[], tuple[str, ChosenFit, InferenceConfig]],
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._image = image
        self._setting = setting
        self._layers: PreviewLayers | None = None
        self._inference: InferenceConfig | None = None
        self._turns = Turns(self)
        self._number = 0
        self._last: WantedPreview | None = None
        self._make_form()

        self.server = JobRunner(self)
        self.server.reported.connect(self._on_answer)
        self.server.failed.connect(self._on_failed)
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_REST)
        self._rest.timeout.connect(self.ask)
        viewer.dims.events.current_step.connect(self.ask)
        viewer.dims.events.ndisplay.connect(self.ask)
        viewer.dims.events.order.connect(self.ask)
        camera_of(viewer).events.center.connect(self._on_moved)

    def _make_form(self) -> None:
        self.live_button = QPushButton("Live preview")
        self.live_button.setCheckable(True)
        self.live_button.setToolTip(
            tooltip(
                "Show what the network makes of a crop of the section on screen, and again after "
                "every change of a setting."
            )
        )
        self.picture = QComboBox()
        for name in get_args(Shown):
            text, about = _PICTURES[name]
            self.picture.addItem(text, name)
            self.picture.setItemData(self.picture.count() - 1, tooltip(about), _TOOLTIP)
        self.picture.setToolTip("Which picture of the crop lies over the image.")
        self.outlines = QCheckBox("Outlines of fragments")
        self.outlines.setChecked(True)
        self.outlines.setToolTip(
            tooltip(
                "What the segmentation is put together from. A fragment that reaches over a "
                "membrane joins two neurites for good; many small ones are no harm."
            )
        )
        self.where = QComboBox()
        self.where.addItem(_CENTRE, False)
        self.where.addItem(_DRAWN, True)
        self.where.setToolTip(
            tooltip(
                f"Which part of the section: {SIDE} voxels around the centre of the view, or a "
                "rectangle drawn in a shapes layer, which may be moved."
            )
        )
        for combo in (self.picture, self.where):  # long names must not make the dock wider
            combo.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.line = QLabel()
        self.line.setWordWrap(True)
        form = QWidget()
        rows = form_layout(form)
        rows.addRow("Show", self.picture)
        rows.addRow("", self.outlines)
        rows.addRow("Crop", self.where)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.live_button, form, self.line):
            layout.addWidget(part)
        self.live_button.toggled.connect(self._on_live)
        self.picture.currentIndexChanged.connect(self._on_picture)
        self.outlines.toggled.connect(self._on_picture)
        self.where.currentIndexChanged.connect(self._on_where)

    # ------------------------------------------------------------------ asking

    def ask(self, _event: Any = None) -> None:
        """Ask for the crop under the settings, if that is not what was asked last."""
        if self._layers is None or not self.server.running:
            return
        try:
            checkpoint, chosen, inference = self._setting()
            z = self._image.shown()
        except NapariCadError as error:
            self.line.setText(str(error))
            return
        if inference != self._inference:
            self._start()
            return
        if z is None:
            self.line.setText("No section of the image is on screen.")
            return
        box = self._box(chosen.fit.rescale)
        if box is None:
            self.line.setText("Draw a rectangle over the image.")
            return
        wanted = WantedPreview(self._number, z, *box, checkpoint, chosen.intensity, chosen.fit)
        if wanted != self._last:
            self.line.setText("Loading the network…" if self._last is None else f"Section {z}…")
            self._number += 1
            self._last = WantedPreview(
                self._number, z, *box, checkpoint, chosen.intensity, chosen.fit
            )
            self.server.send(self._last)

    def restart(self) -> None:
        """Take over another image, where the preview is live."""
        if self.live_button.isChecked():
            if self._image.layer is None:
                self.live_button.setChecked(False)
            else:
                self._start()

    def _start(self) -> None:
        self._forget_layers()
        try:
            volume = self._image.volume()
            _, _, self._inference = self._setting()
            arguments = {
                "volume": sendable(volume),
                "inference": self._inference,
                "requests": Requests(),
            }
            self.server.start(SERVE_PREVIEWS, arguments, None)
        except (NapariCadError, OSError) as error:
            self._stop(str(error))
            return
        self._layers = PreviewLayers(
            self._viewer, self._image.placement(), volume.name, self._turns
        )
        self._last = None
        self._on_picture()
        self.ask()

    def _box(self, rescale: float) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Rows and columns of the crop; no more than the network sees in about a second."""
        image = self._image.layer
        if image is None:
            return None
        if self.where.currentData():
            layer = find_layer(self._viewer, "fit_box", None)
            box = None if layer is None else drawn_box(layer, image)
            most = max(16, int(LONGEST_SIDE / rescale))
            if box is None:
                return None
            rows, columns = ((start, min(stop, start + most)) for start, stop in box)
            return rows, columns
        side = max(16, int(SIDE / max(1.0, rescale)))
        box = centred_box(self._viewer, image, side)
        last = self._last
        if last is not None:
            before = (last.rows, last.columns)
            # a crop that is still in the middle of the view stays where it is
            near = all(
                stop - start == b - a and abs(start - a) <= side // 4
                for (start, stop), (a, b) in zip(box, before, strict=True)
            )
            if near:
                return before
        return box

    # ------------------------------------------------------------------ answers

    def _on_answer(self, event: Event) -> None:
        if isinstance(event, PreviewFailed):
            if event.wanted == self._last:
                self.line.setText(event.message)
        elif isinstance(event, PreviewMade) and event.wanted == self._last:
            if self._layers is not None:
                self._layers.show(event)
            height, width = event.fragments.shape
            n = int(event.fragments.max(initial=0))
            self.line.setText(
                f"Section {event.wanted.z}, {height} × {width} voxels: {n:,} fragments"
                + (", statistics from a few windows; those of a run follow…" if event.rough else "")
            )

    def _on_failed(self, error: JobError) -> None:
        self._stop(str(error), error.details)

    def _stop(self, message: str, details: str = "") -> None:
        self.live_button.setChecked(False)
        self.stopped.emit(message, details)

    # ------------------------------------------------------------------ the form itself

    def _on_live(self, on: bool) -> None:
        if on:
            self._start()
        else:
            self.server.cancel()
            self._forget_layers()
            self.line.setText("")

    def _forget_layers(self) -> None:
        if self._layers is not None:
            self._layers.remove()
            self._layers = None

    def _on_picture(self, _value: Any = None) -> None:
        if self._layers is not None:
            self._layers.choose(self.picture.currentData(), outlines=self.outlines.isChecked())

    def _on_where(self) -> None:
        image = self._image.layer
        if self.where.currentData() and image is not None:
            box = box_layer(self._viewer, image)
            box.events.data.connect(self._on_moved)
        self.ask()

    def _on_moved(self, _event: Any = None) -> None:
        if self.server.running:
            self._rest.start()
