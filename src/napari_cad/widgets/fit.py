"""The dock widget "Fit to the stack": settings, a live preview of them, and suggestions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtWidgets import QDockWidget, QPushButton, QWidget

from napari_cad.core.config import InferenceConfig
from napari_cad.core.errors import NapariCadError
from napari_cad.core.segmentation_job import own_size_rescale
from napari_cad.viewer.fits import ChosenFit
from napari_cad.viewer.state import state_of
from napari_cad.viewer.warm_up import warm_up
from napari_cad.widgets._checkpoint import CheckpointChooser
from napari_cad.widgets._column import Column
from napari_cad.widgets._device import device_form
from napari_cad.widgets._fit_form import FitForm
from napari_cad.widgets._fit_preview import FitPreview
from napari_cad.widgets._form import form_layout, tooltip
from napari_cad.widgets._image import ImageChooser
from napari_cad.widgets._status import RunStatus
from napari_cad.widgets._suggest import SuggestPanel, short_name

if TYPE_CHECKING:
    import napari.viewer

    from napari_cad.core.fit_settings import ScoredSetting


#: Voxel sizes within this ratio are taken for the same: there is nothing to rescale.
_SAME_VOXEL_SIZE = 1.05


class FitWidget(Column):
    """Fits a checkpoint to an image that it was not trained on, without labels.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer that it is docked in.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.image = ImageChooser(viewer)
        self.checkpoint = CheckpointChooser(viewer)
        self.device = device_form()
        self.form = FitForm(self._contrast_limits)
        self.preview = FitPreview(viewer, self.image, self._setting)
        self.suggestions = SuggestPanel(self.image, self._setting)
        self.use_button = QPushButton("Use for segmentation")
        self.use_button.setToolTip(
            tooltip(
                "Segment this image with this checkpoint and these settings from now on; the "
                "widget “Segment neurons” shows them."
            )
        )
        self.reset_button = QPushButton("As it is")
        self.reset_button.setToolTip("Set everything back: the checkpoint as it is.")
        self.status = RunStatus()
        source = QWidget()
        rows = form_layout(source)
        rows.addRow("Image", self.image)
        rows.addRow("Checkpoint", self.checkpoint)
        self.fill(
            source,
            self.form,
            self.device,
            self.preview,
            (self.use_button, self.reset_button),
            self.status,
            self.suggestions,
        )

        state = state_of(viewer)
        self.image.changed.connect(self._on_image)
        self.checkpoint.changed.connect(self._on_checkpoint)
        self.device.field("device").currentIndexChanged.connect(  # type: ignore[attr-defined]
            self.preview.ask
        )
        self.form.changed.connect(self._on_form)
        self.preview.stopped.connect(self.status.failed)
        self.suggestions.chosen.connect(self.show_setting)
        self.suggestions.reported.connect(self._on_reported)
        self.use_button.clicked.connect(self.use)
        self.reset_button.clicked.connect(self.reset)
        state.fit_wanted.connect(self._on_wanted)
        self._show_chosen()
        warm_up(viewer, self)

    # ------------------------------------------------------------------ what the person does

    def use(self) -> None:
        """Hand the settings to whoever segments in this viewer."""
        layer = self.image.layer
        try:
            checkpoint, chosen, _ = self._setting()
            self.image.volume()
        except NapariCadError as error:
            self.status.failed(str(error))
            return
        if layer is None:
            return
        text = f"{short_name(checkpoint)}, {chosen}"
        state = state_of(self._viewer)
        state.choose_image(layer)
        state.choose_checkpoint(checkpoint)
        state.choose_fit(layer, checkpoint, None if chosen == ChosenFit() else chosen)
        state.report("fit", text)
        self.preview.live_button.setChecked(False)
        self.status.ended(f"“Segment neurons” uses {text}.")

    def reset(self) -> None:
        """Set everything back to the checkpoint as it is."""
        self.form.set_value(ChosenFit())

    def show_setting(self, result: ScoredSetting) -> None:
        """Take over a setting that was tried, and show it in the preview.

        Parameters
        ----------
        result : ScoredSetting
            From the table.
        """
        setting = result.setting
        try:
            mine = self.form.value().intensity
        except NapariCadError:
            mine = None
        # the limits in words, as long as only those were tried
        asked = mine is not None and mine.invert
        intensity = mine if setting.intensity.invert == asked else setting.intensity
        self.checkpoint.choose(setting.checkpoint)
        self.form.set_value(ChosenFit(setting.fit, intensity))
        if not self.preview.live_button.isChecked():
            self.preview.live_button.setChecked(True)

    # ------------------------------------------------------------------ what follows from it

    def _setting(self) -> tuple[str, ChosenFit, InferenceConfig]:
        inference = InferenceConfig(**self.device.values())
        return self.checkpoint.value(), self.form.value(), inference

    def _on_image(self) -> None:
        self.suggestions.forget()
        self._show_chosen()
        self.preview.restart()

    def _on_checkpoint(self) -> None:
        self._show_chosen()
        self.preview.ask()

    def _on_form(self) -> None:
        self.status.clear()
        self.preview.ask()

    def _show_chosen(self) -> None:
        """Show what was chosen before for this image and checkpoint, and what there is to say."""
        factor = None
        metadata = self.checkpoint.metadata()
        try:
            volume = self.image.volume()
        except NapariCadError:
            pass  # it says so when it is to be used
        else:
            if metadata is not None:
                factor = own_size_rescale(volume, metadata)
        same = factor is None or max(factor, 1 / factor) < _SAME_VOXEL_SIZE
        self.form.suggest_rescale(None if same else factor)
        chosen = state_of(self._viewer).fit_for(self.image.layer, self.checkpoint.value())
        if chosen is not None:
            self.form.set_value(chosen)

    def _on_reported(self, text: str, running: bool) -> None:
        state_of(self._viewer).report("fit", text, running=running)

    def _on_wanted(self, shown: list[Any]) -> None:
        """Come up, wherever this widget is."""
        if not isalive(self):  # type: ignore[no-untyped-call]
            return
        shown.append(self)
        parent = self.parentWidget()
        while parent is not None:
            if isinstance(parent, QDockWidget):
                parent.show()
                parent.raise_()
            parent = parent.parentWidget()

    def _contrast_limits(self) -> tuple[float, float] | None:
        layer = self.image.layer
        return None if layer is None else tuple(layer.contrast_limits)
