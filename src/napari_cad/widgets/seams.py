"""The dock widget "2D against sliding-window 3D": two maps side by side, and their seams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QToolButton,
    QWidget,
)

from napari_cad.core.config import InferenceConfig
from napari_cad.core.errors import ConfigError, NapariCadError
from napari_cad.core.seam_job import (
    COMPARE,
    ComparedMap,
    SeamsMeasured,
    WindowConfig,
    WindowsDone,
)
from napari_cad.core.segmentation_job import SegmentationOptions
from napari_cad.viewer.compared_layers import ComparedLayers
from napari_cad.viewer.embedding_layers import camera_of
from napari_cad.viewer.volumes import sendable
from napari_cad.widgets._checkpoint import CheckpointChooser
from napari_cad.widgets._column import Column
from napari_cad.widgets._device import device_form
from napari_cad.widgets._form import ConfigForm, form_layout, tooltip
from napari_cad.widgets._image import ImageChooser
from napari_cad.widgets._job import WidgetJob
from napari_cad.widgets._seam_plot import STUDENT, TEACHER, SeamPlot
from napari_cad.widgets._status import RunStatus

if TYPE_CHECKING:
    import napari.viewer

    from napari_cad.core.events import Event

_FILTER = "3D networks (*.safetensors);;All files (*)"
_BLENDED = {"none": "without blending", "gaussian": "with gaussian blending"}


class SeamsWidget(Column):
    """Compares the student's map of a section with that of a 3D network in sliding windows.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer that it is docked in.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._layers: ComparedLayers | None = None
        self._measured: dict[str, SeamsMeasured] = {}
        self._make_form()
        self._lay_out()
        self.runner = WidgetJob(self, self.status, self.compare_button, self.cancel_button)
        self.runner.reported.connect(self._on_event)
        self.runner.finished.connect(self._on_finished)
        self._show_scores()

    def _make_form(self) -> None:
        self.image = ImageChooser(self._viewer)
        self.checkpoint = CheckpointChooser(self._viewer)
        self.teacher = QLineEdit()
        self.teacher.setPlaceholderText("file of a 3D network")
        self.teacher.setToolTip(
            tooltip("A .safetensors file that a training with a teacher has written.")
        )
        self.browse = QToolButton()
        self.browse.setText("…")
        self.browse.setToolTip("Choose a file")
        self.device = device_form()
        self.windows = ConfigForm(WindowConfig, ("depth", "size", "stride", "blending", "region"))
        self.compare_button = QPushButton("Compare")
        self.compare_button.setToolTip("Map the section on screen with both networks.")
        self.cancel_button = QPushButton("Cancel")
        self.status = RunStatus()
        self.grid = QCheckBox("Side by side")
        self.grid.setToolTip(tooltip("Show both maps in a grid with one camera, and nothing else."))
        self.axis = QComboBox()
        self.axis.addItem("along y", 0)
        self.axis.addItem("along x", 1)
        self.axis.setCurrentIndex(1)
        self.shown = QComboBox()
        self.axis.setToolTip("Along which axis the windows follow each other in the plot.")
        self.shown.setToolTip("The way in which the windows were put together.")
        self.cancel_button.setToolTip("Stop; the maps that are there stay.")
        self.plot = SeamPlot()
        self.scores = QLabel()
        self.scores.setWordWrap(True)
        self.scores.setToolTip(
            tooltip(
                "Seam score: mean change of the embedding from one voxel to the next across the "
                "borders of the windows, over the same away from them. 1 means that borders "
                "cannot be seen."
            )
        )
        self.browse.clicked.connect(self._on_browse)
        self.compare_button.clicked.connect(self.compare)
        self.cancel_button.clicked.connect(self.cancel)
        self.grid.toggled.connect(self._on_grid)
        self.axis.currentIndexChanged.connect(self._show_scores)
        self.shown.currentIndexChanged.connect(self._show_scores)

    def _lay_out(self) -> None:
        source, file = QWidget(), QWidget()
        row = QHBoxLayout(file)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.teacher)
        row.addWidget(self.browse)
        form = form_layout(source)
        form.addRow("Image", self.image)
        form.addRow("2D student", self.checkpoint)
        form.addRow("3D network", file)
        self.fill(
            source,
            self.device,
            self.windows,
            (self.compare_button, self.cancel_button),
            self.status,
            self.grid,
            (self.shown, self.axis),
            self.plot,
            self.scores,
        )

    # ------------------------------------------------------------------ form → config → job

    def compare(self) -> None:
        """Map the section on screen with both networks."""
        self.status.clear()
        try:
            volume = self.image.volume()
            arguments = self._arguments() | {"volume": sendable(volume)}
        except NapariCadError as error:
            self.status.failed(str(error))
            return
        self.grid.setChecked(False)
        if self._layers is not None:
            self._layers.forget()
        self._measured.clear()
        self._show_measured()
        self._layers = ComparedLayers(self._viewer, self.image.placement(), volume.name)
        if self.runner.begin(COMPARE, arguments, "2D against 3D"):
            self.status.running("2D student…")

    def cancel(self) -> None:
        """Stop; the maps that are there stay."""
        self.runner.cancel()

    def _arguments(self) -> dict[str, Any]:
        teacher = self.teacher.text().strip()
        if not teacher:
            raise ConfigError("Choose the file of a 3D network first.")
        z = self.image.shown()
        if z is None:
            raise ConfigError("No section of the image is on screen: show one, in 2D.")
        return {
            "checkpoint": self.checkpoint.value(),
            "teacher": str(Path(teacher).expanduser()),
            "options": SegmentationOptions(inference=InferenceConfig(**self.device.values())),
            "windows": WindowConfig(**self.windows.values()),
            "z": z,
            "centre": self._centre(),
        }

    def _centre(self) -> tuple[float, float] | None:
        """Voxel (y, x) in the middle of the view."""
        layer, dims = self.image.layer, self._viewer.dims
        if layer is None:
            return None
        position = np.asarray(dims.point, float)
        position[list(dims.displayed)] = camera_of(self._viewer).center[-2:]
        y, x = (float(n) for n in layer.world_to_data(position)[-2:])
        return y, x

    # ------------------------------------------------------------------ events → layers

    def _on_event(self, event: Event) -> None:
        if isinstance(event, WindowsDone):
            blended = _BLENDED[event.blending]
            self.status.running(
                f"3D network {blended} · {event.done} of {event.total} windows",
                event.done,
                event.total,
            )
            self.runner.show_progress(event.done, event.total)
        elif isinstance(event, ComparedMap) and self._layers is not None:
            self._layers.show(event)
        elif isinstance(event, SeamsMeasured):
            self._measured[event.blending] = event
            self._show_measured()

    def _on_finished(self) -> None:
        self.status.ended("Done.")
        self.grid.setChecked(True)

    def _on_grid(self, on: bool) -> None:
        if self._layers is not None:
            self._layers.side_by_side(on)

    def _show_measured(self) -> None:
        """List the ways of blending that were measured; show the last one."""
        self.shown.clear()
        for blending in self._measured:
            self.shown.addItem(_BLENDED[blending], blending)
        self.shown.setCurrentIndex(self.shown.count() - 1)
        self._show_scores()

    def _show_scores(self) -> None:
        event, axis = self._measured.get(self.shown.currentData()), self.axis.currentData()
        for widget in (self.grid, self.shown, self.axis, self.plot, self.scores):
            widget.setVisible(event is not None)
        if event is None:
            self.plot.show_scores(None, axis)
            return
        self.plot.show_scores((event.student, event.teacher), axis)
        if not event.student.borders[axis]:
            self.scores.setText("No windows meet inside the region: make it larger.")
            return
        lines = (
            f'<span style="color: {colour}">━</span> {name}: seam score '
            f"<b>{score.ratio[axis]:.2f}</b> ({score.across[axis]:.3g} across, "
            f"{score.away[axis]:.3g} away)"
            for name, colour, score in (
                ("2D student", STUDENT, event.student),
                ("3D network", TEACHER, event.teacher),
            )
        )
        self.scores.setText("<br>".join(lines))

    def _on_browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Choose a 3D network", "", _FILTER)
        if path:
            self.teacher.setText(path)
