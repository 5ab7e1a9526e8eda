"""Groups of layers beside each other, in napari's grid: one camera, one section."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image, Labels

from napari_cad.viewer.embedding_layers import grid_of
from napari_cad.viewer.layers import METADATA_KEY, role_of
from napari_cad.viewer.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.components import ViewerModel
    from napari.layers import Layer


class SideBySide:
    """Shows groups of layers in cells of their own, and puts everything back afterwards.

    Parameters
    ----------
    viewer : ViewerModel
        Whose layers they are.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._ours: list[Layer] = []
        self._before: dict[Layer, bool] = {}
        self._stride = 1
        self.active = False

    def show(self, groups: Sequence[Sequence[Layer]], *, over_image: bool = True) -> None:
        """Show these groups, and nothing else.

        Parameters
        ----------
        groups : sequence of sequence of Layer
            From left to right, each from bottom to top.
        over_image : bool
            Whether the lowest visible grey image of the viewer is put below each of them.
        """
        if self.active:
            self._remove_ours()
        else:
            self._before = {layer: layer.visible for layer in self._viewer.layers}
            self._stride = grid_of(self._viewer).stride
        image = self._image() if over_image else None
        below: list[list[Layer]] = [[] for _ in groups]
        if image is not None:
            below = [[image], *([self._copy(image)] for _ in groups[1:])]
        cells = [[*under, *group] for under, group in zip(below, groups, strict=True)]
        longest = max(map(len, cells))
        for cell in cells:
            # the grid gives every cell the same number of layers
            cell += [self._filler(cell[0]) for _ in range(longest - len(cell))]
        layers = self._viewer.layers
        for place, layer in enumerate(layer for cell in cells for layer in cell):
            layers.move(layers.index(layer), place)
        for layer in list(layers)[longest * len(cells) :]:
            layer.visible = False
        in_2d = self._viewer.dims.ndisplay == 2
        for layer in (layer for group in (*below, *groups) for layer in group):
            # in 3D volumes would hide surfaces, and all of them would be read; of surfaces nothing
            # but single triangles is seen in 2D
            volume, surface = isinstance(layer, (Image, Labels)), role_of(layer) == "meshes"
            layer.visible = (in_2d or not volume) and not (in_2d and surface)
        grid = grid_of(self._viewer)
        grid.stride = longest
        grid.shape = (1, len(cells))
        grid.enabled = True
        self.active = True

    def end(self) -> None:
        """Put everything back as it was, but for what the person has changed."""
        if not self.active:
            return
        self.active = False
        grid = grid_of(self._viewer)
        grid.enabled = False
        grid.stride = self._stride
        grid.shape = (-1, -1)
        self._remove_ours()
        for layer, visible in self._before.items():
            if layer in self._viewer.layers:
                layer.visible = visible

    def _image(self) -> Image | None:
        for layer in self._viewer.layers:
            if isinstance(layer, Image) and not layer.rgb and self._before.get(layer, False):
                return layer
        return None

    def _copy(self, image: Image) -> Layer:
        """Add a layer of the same data, which are not copied."""
        copy = self._viewer.add_image(
            image.data,
            name=f"{image.name} (beside)",
            contrast_limits=image.contrast_limits,
            colormap=image.colormap,
            multiscale=image.multiscale,
            visible=image.visible,
            metadata={METADATA_KEY: {"role": "beside", "run": None}},
            **Placement.of_layer(image).for_axes(image.ndim),
        )
        self._ours.append(copy)
        return copy

    def _filler(self, like: Layer) -> Layer:
        layer = self._viewer.add_points(
            ndim=like.ndim,
            name="·",
            visible=False,
            **Placement.of_layer(like).for_axes(like.ndim),
        )
        self._ours.append(layer)
        return layer

    def _remove_ours(self) -> None:
        for layer in self._ours:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._ours = []
