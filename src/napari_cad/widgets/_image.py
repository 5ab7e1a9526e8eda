"""Choosing an image as it is: which of the viewer's grey ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image

from napari_cad.core.errors import VolumeError
from napari_cad.viewer.layers import role_of, shown_section
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.state import state_of
from napari_cad.viewer.volumes import volume_from_layer
from napari_cad.widgets._layer_chooser import LayerChooser

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_cad.core.volume import EMVolume


class ImageChooser(LayerChooser[Image]):
    """A list of the viewer's grey images; all lists of one viewer show the same choice.

    Parameters
    ----------
    viewer : ViewerModel
        Whose layers are offered.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.combo.native.setToolTip("A grey image of one section, or of several (z, y, x).")
        state = state_of(viewer)
        state.image_chosen.connect(self._on_chosen)
        self._on_chosen(state.image)
        self._on_layers()

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

    def _offered(self) -> list[Image]:
        return grey_images(self._viewer)

    def _on_activated(self) -> None:
        if self.layer is not None:
            state_of(self._viewer).choose_image(self.layer)

    def _on_chosen(self, layer: Image | None) -> None:
        """Follow a choice that was made in another widget."""
        if layer is not None and layer in self.combo.choices:
            self.combo.value = layer


def grey_images(viewer: ViewerModel) -> list[Image]:
    """List the grey images of a viewer, but for those that this package has made."""
    return [
        layer
        for layer in viewer.layers
        if isinstance(layer, Image) and not layer.rgb and role_of(layer) in (None, "image")
    ]
