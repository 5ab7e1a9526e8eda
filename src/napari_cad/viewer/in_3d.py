"""Going to 3D and back to the same section, without reading volumes to show them there."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels
from qtpy.QtCore import QObject

from napari_cad.viewer.embedding_layers import camera_of
from napari_cad.viewer.layers import role_of, show_layer
from napari_cad.viewer.turns import Turns

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

#: Along z, y and x: which way one looks at first. Half from above, so that what lies deep is
#: seen beside what lies above it, and sections are still told from the sides of the stack.
_OBLIQUE = (1.0, -0.8, -0.45)


class In3D(QObject):
    """Turns a viewer to 3D with its volumes hidden, and shows them again in 2D.

    Back in 2D there is the same section as before, at the same place in it unless the person went
    to another one meanwhile.

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
        self._before: _View | None = None  # from when we turn the viewer until it is in 2D again
        self._centre_in_3d: tuple[float, ...] = ()  # once the stack is in view
        self._turns = Turns(self)
        viewer.dims.events.ndisplay.connect(self._on_ndisplay)
        viewer.dims.events.point.connect(self._on_point)

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
        self._turns.then(self._look)
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
        if self._viewer.dims.ndisplay == 3:
            return
        self._before = _View(self._viewer)
        self._centre_in_3d = ()
        self._viewer.dims.ndisplay = 3

    def _look(self) -> None:
        """Show the whole stack, wherever the section was looked at from."""
        if self._viewer.dims.ndisplay == 2:
            return  # the person was faster
        camera = camera_of(self._viewer)
        along_z = camera.view_direction[0]
        if abs(along_z) > 1 - 1e-6:  # as napari begins, and nobody has turned it yet
            camera.set_view_direction((np.sign(along_z) * _OBLIQUE[0], *_OBLIQUE[1:]))
        self._viewer.reset_view(reset_camera_angle=False)
        self._centre_in_3d = tuple(camera.center)

    def _on_point(self) -> None:
        if self._before is not None and self._viewer.dims.ndisplay == 3:
            self._before.point = self._viewer.dims.point  # the person went to a place

    def _back(self) -> None:
        """Show the section again; napari has gone to the one that the middle in 3D lies in."""
        before, self._before = self._before, None
        if before is None:
            return
        axis = self._viewer.dims.order[-3]
        self._viewer.dims.set_point(axis, before.point[axis])
        camera = camera_of(self._viewer)
        moved = self._centre_in_3d and not np.allclose(camera.center[-2:], self._centre_in_3d[-2:])
        if not moved:
            camera.center, camera.zoom = before.center, before.zoom

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
            self._back()  # while volumes are hidden: they read one section then, and no other
            hidden, self._hidden = self._hidden, []
            for layer in hidden:
                if layer in self._viewer.layers:
                    layer.visible = True


class _View:
    """What a viewer shows in 2D."""

    def __init__(self, viewer: ViewerModel) -> None:
        camera = camera_of(viewer)
        self.point: tuple[float, ...] = viewer.dims.point
        self.center: tuple[float, ...] = tuple(camera.center)
        self.zoom = float(camera.zoom)
