"""The dock widget "Embedding map": what the network sees, live and section by section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from qtpy.QtWidgets import QComboBox, QLabel, QPushButton, QWidget

from napari_cad.core.config import InferenceConfig
from napari_cad.core.embedding_job import (
    COLOURS,
    SERVE,
    STORE_MAP,
    BasisReady,
    PickedVoxel,
    SectionMap,
    Similarities,
    WantedMaps,
)
from napari_cad.core.errors import JobError, NapariCadError
from napari_cad.core.events import Event, SectionDone, StageStarted
from napari_cad.core.jobs import Requests
from napari_cad.core.segmentation_job import SegmentationOptions
from napari_cad.viewer.embedding_layers import EmbeddingLayers
from napari_cad.viewer.jobs import JobRunner
from napari_cad.viewer.state import state_of
from napari_cad.viewer.turns import Turns
from napari_cad.viewer.volumes import sendable
from napari_cad.viewer.warm_up import warm_up
from napari_cad.widgets._checkpoint import CheckpointChooser
from napari_cad.widgets._column import Column
from napari_cad.widgets._device import device_form
from napari_cad.widgets._embedding_kind import EmbeddingKind
from napari_cad.widgets._form import Collapsible, form_layout, tooltip
from napari_cad.widgets._image import ImageChooser
from napari_cad.widgets._intensity import IntensityForm
from napari_cad.widgets._job import WidgetJob
from napari_cad.widgets._picker import PlacePicker
from napari_cad.widgets._run import RunChooser
from napari_cad.widgets._status import RunStatus

if TYPE_CHECKING:
    import napari.viewer

    from napari_cad.core.projection import EmbeddingBasis, Which


class EmbeddingWidget(Column):
    """Shows the student's embeddings of the section on screen as colours.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer that it is docked in.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._layers: EmbeddingLayers | None = None
        self._bases: dict[tuple[Which, bool], EmbeddingBasis] = {}
        self._last_z = 0
        self._choosing = ""
        self._turns = Turns(self)
        self._make_form()
        self._lay_out()

        self.server = JobRunner(self)
        self.server.reported.connect(self._on_answer)
        self.server.failed.connect(self._on_server_failed)
        self.writer = WidgetJob(self, self.status)
        self.writer.reported.connect(self.writer.follow)
        self.writer.finished.connect(self._on_writer_finished)
        self.writer.failed.connect(self._show_state)
        self.writer.cancelled.connect(self._on_writer_cancelled)
        viewer.dims.events.current_step.connect(self._ask)
        viewer.dims.events.order.connect(self._ask)
        viewer.dims.events.ndisplay.connect(self._ask)
        viewer.layers.events.inserted.connect(self._offer_runs)
        viewer.layers.events.removed.connect(self._offer_runs)
        state_of(viewer).run_finished.connect(self._offer_runs)
        self._offer_runs()
        self._show_state()
        warm_up(viewer, self)

    def _make_form(self) -> None:
        self.image = ImageChooser(self._viewer)
        self.checkpoint = CheckpointChooser(self._viewer)
        self.run = RunChooser(self._viewer)
        self.device = device_form()
        self.intensity = IntensityForm(self._contrast_limits)
        self.kind = EmbeddingKind()
        self.live_button = QPushButton("Show the section on screen")
        self.live_button.setCheckable(True)
        self.live_button.setToolTip(
            "Colour the embeddings of the section on screen, while you scroll too."
        )
        self.pick_button = PlacePicker("Pick a pixel", self._viewer)
        self.pick_button.setToolTip(
            tooltip(
                "While this is on, a click into the image shows how similar every pixel of this "
                "section, and of the other section of its pair, is to the one that you clicked on."
            )
        )
        self.line = QLabel()
        self.line.setWordWrap(True)
        self.write_button = QPushButton("Write all sections")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop writing; the same button goes on from there.")
        self.status = RunStatus()
        self.image.changed.connect(self._on_image)
        self.checkpoint.changed.connect(self._on_checkpoint)
        self.run.changed.connect(self._on_run)
        cast("QComboBox", self.device.field("device")).currentIndexChanged.connect(self._restart)
        self.kind.changed.connect(self._on_kind)
        self.live_button.toggled.connect(self._on_live)
        self.pick_button.picked.connect(self.pick)
        self.write_button.clicked.connect(self.write)
        self.cancel_button.clicked.connect(self.writer_cancel)

    def _lay_out(self) -> None:
        source = QWidget()
        form = form_layout(source)
        form.addRow("Image", self.image)
        form.addRow("Checkpoint", self.checkpoint)
        form.addRow("Run", self.run)
        self.fill(
            source,
            self.device,
            Collapsible("Intensity", self.intensity),
            self.kind,
            below=(
                (self.live_button, self.pick_button),
                self.line,
                (self.write_button, self.cancel_button),
                self.status,
            ),
        )

    # ------------------------------------------------------------------ the live map

    def _on_live(self, on: bool) -> None:
        if on:
            self._start()
        else:
            self.server.cancel()
            self.pick_button.setChecked(False)
            self.line.setText("")
            if not self.writer.running:
                self.status.clear()
        self._show_state()

    def _start(self) -> None:
        """Start the server with what the form says, and ask for the section on screen."""
        self.status.clear()
        try:
            volume = self.image.volume()
            arguments = self._arguments() | {"run": self.run.value(), "requests": Requests()}
        except NapariCadError as error:
            self._stop(str(error))
            return
        key = self.run.value() or f"live {volume.name}"
        self._layers = EmbeddingLayers(
            self._viewer, key, volume.shape, self.image.placement(), volume.name, self._turns
        )
        self._choosing = ""
        self._bases.clear()
        try:
            self.server.start(SERVE, arguments, None)
        except OSError as error:
            self._stop(f"The job could not be started: {error}")
            return
        self._on_kind()
        if not self.writer.running:
            self.status.running("Starting…")  # until it answers: the network is loaded first

    def _restart(self) -> None:
        """Take over a change of the form, where the map is live."""
        if self.live_button.isChecked():
            self._start()

    def _stop(self, message: str, details: str = "") -> None:
        self.live_button.setChecked(False)
        self.line.setText("")
        self.status.failed(message, details)

    def _on_kind(self) -> None:
        """Show the other embedding, or the same one scaled otherwise."""
        self.kind.show_explained(self._bases.get(self.kind.value()))
        if self._layers is None or not self.server.running:
            return
        which, normalised = self.kind.value()
        run = self.run.value()
        stored = None
        if run is not None:
            store = state_of(self._viewer).store(run)
            stored = store.embedding_map(which, normalised=normalised)
        self._layers.open_map(which, normalised, stored)
        self._ask()

    def _ask(self) -> None:
        """Ask for the section on screen and its neighbours, as far as they are not there."""
        if self._layers is None or not self.server.running:
            return
        try:
            z = self.image.shown()
        except NapariCadError:
            return  # the image has gone: that ends it
        if z is None:
            self.line.setText("No section of the image is on screen.")
            return
        step = -1 if z < self._last_z else 1
        self._last_z = z
        kind = self.kind.value()
        missing = self._layers.missing((z, z + step, z - step, z + 2 * step), *kind)
        if z not in missing:
            self._layers.show(*kind)
        if missing:
            self.server.send(WantedMaps(missing, *kind))
        self._show_line(z)

    def _on_answer(self, event: Event) -> None:
        layers = self._layers
        if not self.writer.running and not self.status.bar.isHidden():
            self.status.clear()
        if isinstance(event, (StageStarted, SectionDone)) and event.stage == COLOURS:
            self._choosing = f"choosing the stack's colours, {event.done} of {event.total}"
            self._show_line(self._last_z)
        elif isinstance(event, BasisReady):
            self._bases[event.basis.which, event.basis.normalised] = event.basis
            if layers is not None:
                layers.colours_are_fixed(event.basis.which, event.basis.normalised)
            self.kind.show_explained(self._bases.get(self.kind.value()))
        elif isinstance(event, SectionMap) and layers is not None:
            if (event.which, event.normalised) == self.kind.value():
                layers.show_map(event)
                if event.z == self._last_z:
                    self._show_line(event.z)
        elif isinstance(event, Similarities) and layers is not None:
            layers.show_similarities(event)
            self._show_picked(event)

    def _on_server_failed(self, error: JobError) -> None:
        self._stop(str(error), error.details)

    def _show_line(self, z: int) -> None:
        if self._layers is None:
            return
        kind = self.kind.value()
        if self._layers.is_provisional(z, *kind):
            parts = [f"Section {z} in provisional colours", self._choosing]
            self.line.setText(" · ".join(part for part in parts if part))
        else:
            self.line.setText(f"Section {z}{'…' * bool(self._layers.missing((z,), *kind))}")

    # ------------------------------------------------------------------ picking a pixel

    def pick(self, position: Any) -> None:
        """Ask for the similarities to the voxel at a place of the world.

        Parameters
        ----------
        position : sequence of float
            In world coordinates, as a mouse event has it.
        """
        layer, z = self.image.layer, self.image.shown()
        if layer is None or z is None or not self.server.running:
            return
        y, x = (round(float(n)) for n in layer.world_to_data(position)[-2:])
        height, width = layer.extent.data[1, -2:] + 0.5
        if 0 <= y < height and 0 <= x < width:
            self.server.send(PickedVoxel(z, y, x, self.kind.value()[0]))

    def _show_picked(self, event: Similarities) -> None:
        picked = event.picked
        others = sorted(set(event.maps) - {picked.z})
        beside = f" and section {others[0]}" if others else ""
        self.line.setText(
            f"Similarity to voxel ({picked.y}, {picked.x}) of section {picked.z}, in it{beside}"
        )

    # ------------------------------------------------------------------ all sections

    def write(self) -> None:
        """Write the maps of all sections into the run, or go on with it."""
        run = self.run.value()
        which, normalised = self.kind.value()
        self.status.clear()
        try:
            arguments = self._arguments() | {"run": run, "which": which, "normalised": normalised}
        except NapariCadError as error:
            self.status.failed(str(error))
            return
        self.writer.begin(STORE_MAP, arguments, "Embedding maps")
        self._show_state()

    def writer_cancel(self) -> None:
        """Stop writing; what is done is kept."""
        self.writer.cancel()

    def _on_writer_finished(self) -> None:
        self.status.ended("All sections are in the run.")
        self._show_state()
        self._show_stored()

    def _on_writer_cancelled(self) -> None:
        self.status.ended("Stopped. The same button goes on from there.")
        self._show_state()

    def _show_stored(self) -> None:
        """Show what is in the run, without a job."""
        run = self.run.value()
        if run is None or self.server.running:
            return
        volume, (which, normalised) = self.image.volume(), self.kind.value()
        store = state_of(self._viewer).store(run)
        layers = EmbeddingLayers(
            self._viewer, run, volume.shape, self.image.placement(), volume.name
        )
        stored = store.embedding_map(which, normalised=normalised)
        layers.open_map(which, normalised, stored)
        layers.show(which, normalised)
        if stored.basis is not None:
            self._bases[which, normalised] = stored.basis
            self.kind.show_explained(self._bases.get(self.kind.value()))

    # ------------------------------------------------------------------ the form itself

    def _arguments(self) -> dict[str, Any]:
        """Give what both jobs need; raises `NapariCadError` where the form is not right."""
        return {
            "volume": sendable(self.image.volume()),
            "checkpoint": self.checkpoint.value(),
            "options": SegmentationOptions(
                intensity=self.intensity.value(),
                inference=InferenceConfig(**self.device.values()),
            ),
        }

    def _on_image(self) -> None:
        self._offer_runs()
        if self.image.layer is None and self.live_button.isChecked():
            self.live_button.setChecked(False)
        else:
            self._restart()

    def _on_checkpoint(self) -> None:
        self._offer_runs()
        self._restart()

    def _on_run(self) -> None:
        self._restart()
        self._show_state()

    def _offer_runs(self) -> None:
        try:
            shape = self.image.volume().shape
        except NapariCadError:
            shape = None
        metadata = self.checkpoint.metadata()
        self.run.offer(shape, None if metadata is None else metadata.name)
        self._show_state()

    def _show_state(self) -> None:
        has_run, writing = self.run.value() is not None, self.writer.running
        self.intensity.setEnabled(not has_run)
        self.pick_button.setEnabled(self.live_button.isChecked())
        self.write_button.setEnabled(has_run and not writing)
        self.write_button.setToolTip(
            "Colour all sections, with the same colours, and keep them in the run's store."
            if has_run
            else "Segment the image first, or open a run of it: the maps are kept in its store."
        )
        self.cancel_button.setEnabled(writing)

    def _contrast_limits(self) -> tuple[float, float] | None:
        layer = self.image.layer
        return None if layer is None else tuple(layer.contrast_limits)
