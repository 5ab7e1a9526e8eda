"""The maps of one section by two networks, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_cad.viewer.embedding_layers import camera_of
from napari_cad.viewer.layers import Role, add_or_update, find_layer
from napari_cad.viewer.side_by_side import SideBySide

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

    from napari_cad.core.seam_job import ComparedMap, Source
    from napari_cad.viewer.placement import Placement

_COMPARED: dict[Source, tuple[Role, str]] = {
    "student": ("student_rgb", "2D student"),
    "none": ("teacher_unblended_rgb", "3D, windows"),
    "gaussian": ("teacher_rgb", "3D, gaussian"),
}


class ComparedLayers:
    """The maps of one section by the student and by a 3D network, side by side when wanted.

    Parameters
    ----------
    viewer : ViewerModel
        Where they are shown.
    placement : Placement
        Of the image.
    name : str
        Of the image.
    """

    def __init__(self, viewer: ViewerModel, placement: Placement, name: str) -> None:
        self._viewer = viewer
        self._placement = placement
        self._name = name
        self._beside = SideBySide(viewer)

    @property
    def layers(self) -> list[Layer]:
        """Those that are there: the student first."""
        found = [find_layer(self._viewer, role, self._key) for role, _ in _COMPARED.values()]
        return [layer for layer in found if layer is not None]

    @property
    def _key(self) -> str:
        return f"compared {self._name}"

    def show(self, event: ComparedMap) -> None:
        """Show a map where its region lies; the layers share opacity and interpolation."""
        role, called = _COMPARED[event.source]
        flat = self._placement.ndim == 2
        placement = self._placement.from_voxel((event.z, *event.corner))
        layer = add_or_update(
            self._viewer,
            role,
            event.rgb if flat else event.rgb[None],
            run=self._key,
            placement=placement,
            name=f"{self._name} {called}",
            rgb=True,
        )
        layer.translate = placement.settings["translate"]
        self._viewer.layers.unlink_layers(self.layers)
        self._viewer.layers.link_layers(self.layers, ("opacity", "blending"))

    def forget(self) -> None:
        """Remove the maps of an earlier comparison."""
        for layer in self.layers:
            self._viewer.layers.remove(layer)

    def side_by_side(self, on: bool) -> None:
        """Show nothing but the maps, in a grid with one camera; or all again as it was."""
        layers = self.layers
        if not on or not layers:
            self._beside.end()
            return
        self._beside.show([[layer] for layer in layers], over_image=False)
        for layer in layers:
            layer.visible = True
        self._look_at(layers[0])

    def _look_at(self, layer: Layer) -> None:
        """Fill the view with one of the maps, which all lie at the same place."""
        viewer = self._viewer
        viewer.reset_view()  # to everything, hidden or not
        camera = camera_of(viewer)
        shown = list(viewer.dims.displayed[-2:])
        low, high = layer.extent.world[:, -2:]
        whole = np.ptp(viewer.layers.extent.world[:, shown], axis=0)
        camera.zoom *= float(np.min(whole / (high - low)))
        camera.center = (*camera.center[:-2], *((low + high) / 2))
