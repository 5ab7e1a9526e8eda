"""Going to 3D and back without reading volumes, which napari would do to show them there."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from napari.layers import Image, Labels
from qtpy.QtCore import QObject

from napari_cad.viewer.layers import role_of, show_layer
from napari_cad.viewer.turns import Turns

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


class In3D(QObject):
    """Turns a viewer to 3D with its volumes hidden, and shows them again in 2D.

    Parameters
    ----------
    viewer : ViewerModel
        What to turn.
    parent : QObject
        Its owner.
    """

    def __init__(self, viewer: ViewerModel, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._hidden: list[Layer] = []
        self._turns = Turns(self)
        viewer.dims.events.ndisplay.connect(self._on_ndisplay)

    def enter(self) -> None:
        """Go to 3D, in a few turns of the event loop; nothing where the view is there already."""
        if self._viewer.dims.ndisplay == 3:
            return
        self.hide()
        # what stays in sight is drawn by other programs there: one thing more per turn
        others = [layer for layer in self._viewer.layers if layer.visible]
        for layer in others:
            layer.visible = False
        self._turns.then(self._turn)
        self._turns.then(self._viewer.reset_view)  # wherever the section was looked at from
        for layer in others:
            self._turns.then(partial(show_layer, self._viewer, layer))

    def hide(self) -> None:
        """Hide the volumes already; nothing in 3D. `enter` has to follow."""
        if self._viewer.dims.ndisplay == 3:
            return
        for layer in self._viewer.layers:
            if isinstance(layer, (Image, Labels)) and layer.visible:
                layer.visible = False
                self._hidden.append(layer)

    def _turn(self) -> None:
        self._viewer.dims.ndisplay = 3

    def _show_surface(self, layer: Layer) -> None:
        if self._viewer.dims.ndisplay == 3:
            show_layer(self._viewer, layer)

    def _on_ndisplay(self) -> None:
        in_3d = self._viewer.dims.ndisplay == 3
        for layer in self._viewer.layers:
            if role_of(layer) == "meshes":  # in 2D nothing but single triangles would be seen
                if in_3d:  # to draw a surface for the first time takes as long as to turn
                    self._turns.then(partial(self._show_surface, layer))
                else:
                    layer.visible = False
        if not in_3d:
            hidden, self._hidden = self._hidden, []
            for layer in hidden:
                if layer in self._viewer.layers:
                    layer.visible = True
