"""Choosing the volume: which image layer, its voxel size, which of its sections."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from psygnal import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QLineEdit, QSpinBox, QWidget

from napari_cad.core.errors import VolumeError
from napari_cad.viewer.placement import set_voxel_size
from napari_cad.viewer.volumes import volume_from_layer
from napari_cad.widgets._form import form_layout, tooltip
from napari_cad.widgets._image import ImageChooser

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_cad.core.volume import EMVolume
    from napari_cad.viewer.placement import Placement


class VolumeForm(QWidget):
    """A list of the viewer's grey images, and what there is to say about the chosen one.

    Parameters
    ----------
    viewer : ViewerModel
        Whose layers are offered.

    Attributes
    ----------
    changed : Signal
        (), when another layer is chosen.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self._shown: Image | None = None
        #: What has been typed for single sections, whose layers have no place for it.
        self._typed: WeakKeyDictionary[Image, str] = WeakKeyDictionary()
        self._known = ""  # as the layer has it
        self.image = ImageChooser(viewer)
        self.voxel_size = QLineEdit()
        self.voxel_size.setPlaceholderText("not known")
        self.voxel_size.setToolTip(
            tooltip(
                "z, y and x in nm, from the layer's scale and units. What is typed here becomes "
                "the layer's, and that of the layers that lie over it; it is recorded with the "
                "result."
            )
        )
        self.sections = (QSpinBox(), QSpinBox())
        for box, which in zip(self.sections, ("First", "Last"), strict=True):
            box.setStyleSheet("min-width: 40px")  # napari's style asks for more than there is
            box.setButtonSymbols(QSpinBox.ButtonSymbols.NoButtons)
            box.setToolTip(f"{which} section to segment; a few are enough for a first look.")
        layout = form_layout(self)
        layout.addRow("Image", self.image)
        layout.addRow("Voxel size", _row(self.voxel_size, QLabel("nm")))
        layout.addRow("Sections", _row(self.sections[0], QLabel("to"), self.sections[1]))
        self.image.changed.connect(self._on_layer)
        self.voxel_size.editingFinished.connect(self._on_typed)
        self._on_layer()

    @property
    def layer(self) -> Image | None:
        """The layer that is chosen."""
        return self.image.layer

    def volume(self) -> EMVolume:
        """Make the volume that is chosen; its layer gets the voxel size that was typed.

        Raises
        ------
        VolumeError
            If there is none, or it is no stack, or what was typed is no voxel size; the message
            says what to do.
        """
        self._set_voxel_size()
        volume = self.image.volume()
        if volume.voxel_size is None:
            volume = replace(volume, voxel_size=_parse_voxel_size(self.voxel_size.text()))
        first, last = (box.value() for box in self.sections)
        if last < first:
            raise VolumeError(f"The last section, {last}, lies before the first, {first}.")
        return volume.crop((first, last + 1))

    def placement(self) -> Placement:
        """Give the place of that volume in the viewer."""
        return self.image.placement().from_section(self.sections[0].value())

    def _on_layer(self) -> None:
        layer = self.layer
        if layer is self._shown:
            return
        for old, connect in ((self._shown, False), (layer, True)):
            if old is not None:
                for event in (old.events.scale, old.events.units, old.events.data):
                    (event.connect if connect else event.disconnect)(self._show_layer)
        self._shown = layer
        self._known = ""
        self.voxel_size.setText("" if layer is None else self._typed.get(layer, ""))
        self._show_layer()
        self.sections[0].setValue(0)
        self.sections[1].setValue(self.sections[1].maximum())
        self.changed.emit()

    def _show_layer(self) -> None:
        """Show voxel size and number of sections of the layer; let the size be typed if unknown."""
        known, n_sections = None, 1
        if self.layer is not None:
            try:
                volume = volume_from_layer(self.layer)
            except VolumeError:
                pass  # it says so when it is to be run
            else:
                known, n_sections = volume.voxel_size, volume.n_sections
        text = " × ".join(f"{length:g}" for length in known or ())
        if text != self._known or known is not None:  # else it is what the person has typed
            self.voxel_size.setText(text)
        self._known = text
        self.voxel_size.setEnabled(self.layer is not None)
        for section in self.sections:
            section.setRange(0, n_sections - 1)
            section.setEnabled(n_sections > 1)

    def _on_typed(self) -> None:
        with suppress(VolumeError):  # perhaps half typed; it says so when it is to be run
            self._set_voxel_size()

    def _set_voxel_size(self) -> None:
        """Give the layer the voxel size that has been typed, if one has.

        Raises
        ------
        VolumeError
            If it is none.
        """
        text = self.voxel_size.text()
        if self.layer is None or text == self._known:
            return
        size = _parse_voxel_size(text)
        if self.layer.ndim == 3 and size is not None:
            set_voxel_size(self._viewer, self.layer, size)
        elif self.layer.ndim == 3:
            self._show_layer()  # emptied: what is known stays
        else:
            self._typed[self.layer] = text


def _parse_voxel_size(text: str) -> tuple[float, float, float] | None:
    """Read three lengths in nm, whatever stands between them; None where there are none."""
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]
    if not numbers:
        return None
    if len(numbers) != 3 or min(numbers) <= 0:
        raise VolumeError(f"A voxel size is three lengths in nm (z, y, x), got “{text}”.")
    z, y, x = numbers
    return z, y, x


def _row(*widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget, 0 if isinstance(widget, QLabel) else 1)
    return row
