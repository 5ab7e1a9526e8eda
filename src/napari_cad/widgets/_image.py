"""Choosing an image as it is: which of the viewer's grey ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicgui.widgets import ComboBox
from napari.layers import Image
from psygnal import Signal
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_cad.core.errors import VolumeError
from napari_cad.viewer.layers import Placement, role_of, shown_section, volume_from_layer
from napari_cad.viewer.state import state_of

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_cad.core.volume import EMVolume


class ImageChooser(QWidget):
    """A list of the viewer's grey images; all lists of one viewer show the same choice.

    Parameters
    ----------
    viewer : ViewerModel
        Whose layers are offered.

    Attributes
    ----------
    changed : Signal
        (), when another layer is chosen, or the one that was chosen has gone.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self._shown: Image | None = None
        self.combo = ComboBox(name="image", choices=self._choices)
        self.combo.native.setToolTip("A grey image of one section, or of several (z, y, x).")
        # a long name must not make the dock wider
        self.combo.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.combo.native)
        self.setFocusProxy(self.combo.native)
        for event in (
            viewer.layers.events.inserted,
            viewer.layers.events.removed,
            viewer.layers.events.reordered,
        ):
            event.connect(self._on_layers)
        self.combo.changed.connect(self._on_layer)
        self.combo.native.activated.connect(self._on_activated)
        state = state_of(viewer)
        state.image_chosen.connect(self._on_chosen)
        self._on_chosen(state.image)
        self._on_layers()

    @property
    def layer(self) -> Image | None:
        """The layer that is chosen."""
        layer: Image | None = self.combo.value
        return layer

    def volume(self) -> EMVolume:
        """Make a volume of the whole layer.

        Raises
        ------
        VolumeError
            If there is none, or it is no stack; the message says what to do.
        """
        return volume_from_layer(self._required())

    def placement(self) -> Placement:
        """Give its place in the viewer."""
        return Placement.of_layer(self._required())

    def shown(self) -> int | None:
        """Which section is on screen; None where the view is 3D, cut another way, or beyond."""
        layer = self._required()
        if layer.ndim == 2:
            return 0
        dims = self._viewer.dims
        if dims.ndisplay == 3 or dims.ndim - layer.ndim in dims.displayed:
            return None
        return shown_section(self._viewer, layer)

    def _required(self) -> Image:
        if self.layer is not None:
            return self.layer
        for layer in self._viewer.layers:
            if isinstance(layer, Image) and role_of(layer) is None:  # so it is in colour
                volume_from_layer(layer)  # says what to do
        raise VolumeError("Open an image first: there is no grey image layer in the viewer.")

    def _choices(self, _widget: object) -> list[tuple[str, Image]]:
        return [(layer.name, layer) for layer in grey_images(self._viewer)]

    def _on_activated(self) -> None:
        if self.layer is not None:
            state_of(self._viewer).choose_image(self.layer)

    def _on_chosen(self, layer: Image | None) -> None:
        """Follow a choice that was made in another widget."""
        if layer is not None and layer in self.combo.choices:
            self.combo.value = layer

    def _on_layers(self) -> None:
        self.combo.reset_choices()
        self._on_layer()

    def _on_layer(self) -> None:
        if self.layer is not self._shown:
            self._shown = self.layer
            self.changed.emit()


def grey_images(viewer: ViewerModel) -> list[Image]:
    """List the grey images of a viewer, but for those that this package has made."""
    return [
        layer
        for layer in viewer.layers
        if isinstance(layer, Image) and not layer.rgb and role_of(layer) in (None, "image")
    ]
