"""The dock widget "Segment neurons": form → job → layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QCheckBox, QMessageBox, QPushButton, QWidget

from napari_cad.core.agglomerations import AGGLOMERATIONS
from napari_cad.core.binning import QUICK, binned
from napari_cad.core.config import AgglomerationConfig, FitConfig, InferenceConfig
from napari_cad.core.errors import NapariCadError
from napari_cad.core.events import Event, Finished, OutOfDomain, Warned
from napari_cad.core.segmentation_job import SegmentationOptions
from napari_cad.core.volume import EMVolume
from napari_cad.viewer.checkpoints import needs_download
from napari_cad.viewer.jobs import format_seconds
from napari_cad.viewer.preferences import preferences
from napari_cad.viewer.run_layers import RunLayers
from napari_cad.viewer.state import state_of
from napari_cad.viewer.tasks import DOWNLOAD, SEGMENT
from napari_cad.viewer.turns import Turns
from napari_cad.viewer.volumes import sendable
from napari_cad.viewer.warm_up import warm_up
from napari_cad.widgets._checkpoint import CheckpointChooser
from napari_cad.widgets._column import Column
from napari_cad.widgets._device import device_form
from napari_cad.widgets._fit_row import FitRow
from napari_cad.widgets._form import Collapsible, ConfigForm, form_layout, tooltip
from napari_cad.widgets._intensity import IntensityForm
from napari_cad.widgets._job import WidgetJob
from napari_cad.widgets._output import OutputChooser, default_store_path
from napari_cad.widgets._status import RunStatus
from napari_cad.widgets._volume import VolumeForm

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image

    from napari_cad.core.published import PublishedCheckpoint
    from napari_cad.viewer.placement import Placement


@dataclass(frozen=True)
class _Request:
    """What the form held when Run was pressed."""

    name: str
    label: str
    placement: Placement
    arguments: dict[str, Any]

    @property
    def checkpoint(self) -> str:
        return str(self.arguments["checkpoint"])

    @property
    def run(self) -> str:
        return str(self.arguments["store_path"])


class SegmentWidget(Column):
    """Segments an image layer with a checkpoint, in a child process.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer that it is docked in.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._request: _Request | None = None
        self._layers: RunLayers | None = None
        self._turns = Turns(self)

        self.volume = VolumeForm(viewer)
        self.quick = QCheckBox("Quick look (half)")
        self.quick.setToolTip(
            tooltip(
                "At half the resolution in y and x, in less than half the time: coarse labels, "
                "in a store of their own. Where the voxels are half as large as those that the "
                "checkpoint was trained on, they may be the better ones."
            )
        )
        self.checkpoint = CheckpointChooser(viewer)
        self.fit = FitRow(viewer, self._image_and_checkpoint)
        self.agglomeration = ConfigForm(
            AgglomerationConfig,
            ("merge_function", "threshold"),
            {"merge_function": AGGLOMERATIONS},
        )
        self.device = device_form()
        self.inference = ConfigForm(InferenceConfig, ("precision", "batch", "tile", "halo"))
        self.inference.set_values(precision=preferences().precision)
        self.intensity = IntensityForm(self._contrast_limits)
        self.output = OutputChooser()
        self.run_button = QPushButton("Run")
        self.run_button.setToolTip("Segment the image. The viewer can be used meanwhile.")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop; Run goes on from there.")
        self.status = RunStatus()
        self.fit_button = QPushButton("Fit the checkpoint to this image…")
        self.fit_button.setToolTip(
            tooltip("Find settings under which the checkpoint works on this image, without labels.")
        )
        self.fit_button.setVisible(False)
        self._lay_out()

        self.runner = WidgetJob(self, self.status, self.run_button, self.cancel_button)
        self.runner.reported.connect(self._on_event)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._on_failed)
        self.runner.cancelled.connect(self._on_cancelled)
        self.volume.changed.connect(self._on_image)
        self.checkpoint.changed.connect(self._on_checkpoint)
        self.fit.changed.connect(self._on_fit)
        self.quick.toggled.connect(self._propose_output)
        self.fit_button.clicked.connect(self.fit.open)
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.cancel)
        self._on_checkpoint()
        warm_up(viewer, self)

    def _lay_out(self) -> None:
        checkpoint = QWidget()
        rows = form_layout(checkpoint)
        rows.addRow("Resolution", self.quick)
        rows.addRow("Checkpoint", self.checkpoint)
        rows.addRow("Fit", self.fit)
        output = QWidget()
        form_layout(output).addRow("Store", self.output)
        self.fill(
            self.volume,
            checkpoint,
            self.agglomeration,
            self.device,
            output,
            Collapsible("Intensity", self.intensity),
            Collapsible("Advanced", self.inference),
            below=((self.run_button, self.cancel_button), self.status, self.fit_button),
        )

    # ------------------------------------------------------------------ form → config → job

    def run(self) -> None:
        """Start what the form says, or go on with it."""
        self.status.clear()
        self.fit_button.setVisible(False)
        try:
            self._request = self._read_form()
        except NapariCadError as error:
            self.status.failed(str(error))
            return
        published = needs_download(self._request.checkpoint)
        if published is None:
            self._segment()
        elif self._may_download(published):
            self._start(DOWNLOAD, {"name": published.name}, f"Downloading {published.name}")

    def cancel(self) -> None:
        """Stop; what is done is kept."""
        self.runner.cancel()

    def _read_form(self) -> _Request:
        volume, chosen = self.volume.volume(), self.fit.value()
        options = SegmentationOptions(
            intensity=self.intensity.value(),
            fit=FitConfig() if chosen is None else chosen.fit,
            inference=InferenceConfig(**self.device.values(), **self.inference.values()),
            workers=preferences().workers,
            bin=self._bin,
            **self.agglomeration.values(),
        )
        arguments = {
            "volume": sendable(volume),
            "checkpoint": self.checkpoint.value(),
            "store_path": str(self.output.value()),
            "options": options,
            "overwrite": self.output.overwrite.isChecked(),
        }
        placement = self.volume.placement().binned(options.bin)
        name = binned(volume, options.bin).name
        return _Request(name, self.checkpoint.label(), placement, arguments)

    @property
    def _bin(self) -> int:
        return QUICK if self.quick.isChecked() else 1

    def _segment(self) -> None:
        request = self._request
        if request is None:
            return
        state_of(self._viewer).forget(request.run)
        state_of(self._viewer).run_begun.emit(request.run)
        self._turns.forget()  # layers of an earlier run
        self._layers = RunLayers(
            self._viewer, request.run, request.placement, request.name, self._turns
        )
        self._start(SEGMENT, request.arguments, f"Segmenting {request.name}")

    def _start(self, function: str, arguments: dict[str, Any], description: str) -> None:
        if self.runner.begin(function, arguments, description):
            self._report("starting…", running=True)
            self.output.overwrite.setChecked(False)  # one run only: the next one goes on

    # ------------------------------------------------------------------ events → layers

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.status.warn(event.message)
            if isinstance(event, OutOfDomain):
                self.fit_button.setVisible(True)
        elif isinstance(event, Finished):
            fragments = _counted(event.n_fragments, "fragment")
            self.status.ended(
                f"{_counted(event.n_segments, 'segment')} of {fragments}, "
                f"in {format_seconds(event.seconds)}."
            )
            # what was said of the segments of an earlier run
            state_of(self._viewer).report("agglomerate", "")
            self._report(fragments)
        elif self.runner.follow(event):
            self._report(self.runner.progress.short(), running=True)
        if self._layers is not None:
            self._layers.show(event)

    def _on_finished(self) -> None:
        if self._layers is None:  # that was the download
            self._segment()
            return
        self._layers = None
        if self._request is not None:
            # when its last layers are there
            self._turns.then(partial(state_of(self._viewer).run_finished.emit, self._request.run))

    def _on_failed(self) -> None:
        self._layers = None
        self._report("failed")

    def _on_cancelled(self) -> None:
        self._layers = None
        done = [part for part in self.runner.progress.text().split(" · ")[:2] if part]
        self.status.ended(" · ".join(["Stopped", *done]) + ". Run goes on from there.")
        self._report(" · ".join(["stopped", *done[1:]]))

    def _report(self, text: str, *, running: bool = False) -> None:
        """Tell the workbench."""
        if self._request is not None:
            text = " · ".join(part for part in (self._request.label, text) if part)
            state = state_of(self._viewer)
            state.report("segment", text, running=running, run=self._request.run)

    # ------------------------------------------------------------------ the form itself

    def _may_download(self, published: PublishedCheckpoint) -> bool:
        text = (
            f"{published.name} is not on this computer. Download it (3.6 MB) from\n"
            f"{published.url}?\n\nLicence: {published.licence}."
        )
        answer = QMessageBox.question(self, "Download a published checkpoint", text)
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _on_image(self) -> None:
        if not self.runner.running:  # what is said was of another image
            self.status.clear()
            self.fit_button.setVisible(False)
        self.fit.refresh()
        self._propose_output()

    def _on_fit(self) -> None:
        """Take over contrast and polarity of a fit, which were looked at together with it."""
        chosen = self.fit.value()
        self.intensity.set_value(None if chosen is None else chosen.intensity)
        self._propose_output()

    def _on_checkpoint(self) -> None:
        self.fit.refresh()
        metadata, preferred = self.checkpoint.metadata(), preferences()
        if metadata is not None:
            self.agglomeration.set_values(
                merge_function=preferred.merge_function or metadata.merge_function,
                threshold=preferred.threshold or metadata.threshold,
            )
        self._propose_output()

    def _propose_output(self) -> None:
        layer = self.volume.layer
        if layer is None:
            return
        try:
            volume = self.volume.image.volume()
        except NapariCadError:  # it cannot be run; a path that names another would mislead
            volume = EMVolume.from_array(np.zeros((1, 1, 1), np.uint8), name=layer.name)
        chosen = self.fit.value()
        label = self.checkpoint.label() if chosen is None else f"{self.checkpoint.label()} {chosen}"
        if self.quick.isChecked():
            label += f" bin{QUICK}"
        self.output.propose(default_store_path(volume, label))

    def _image_and_checkpoint(self) -> tuple[Image | None, str]:
        return self.volume.layer, self.checkpoint.value()

    def _contrast_limits(self) -> tuple[float, float] | None:
        layer = self.volume.layer
        return None if layer is None else tuple(layer.contrast_limits)


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'s' * (n != 1)}"
