"""Layers of a preview: a crop of one section, placed on its image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from napari.layers import Labels, Shapes

from napari_cad.viewer.embedding_layers import camera_of
from napari_cad.viewer.layers import add_or_update, find_layer, tag
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.turns import in_turn

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from napari_cad.core.fit_job import PreviewMade
    from napari_cad.viewer.layers import Role
    from napari_cad.viewer.turns import Turns

#: Which of the two pictures of a crop is to be seen, or the image itself.
Shown = Literal["affinities", "embedding", "image"]

_ROLE_OF: dict[Shown, Role] = {"embedding": "fit_rgb", "affinities": "fit_affinities"}


class PreviewLayers:
    """The preview of one image. A person may remove, rename or hide its layers at any time.

    Parameters
    ----------
    viewer : ViewerModel
        Where they are shown.
    placement : Placement
        Of the image.
    name : str
        Of the image.
    turns : Turns, optional
        In which new layers are added; without it at once.
    """

    def __init__(
        self, viewer: ViewerModel, placement: Placement, name: str, turns: Turns | None = None
    ) -> None:
        self._viewer = viewer
        self._turns = turns
        self._placement = placement
        self._name = name
        self._key = f"fit {name}"
        self._shown: Shown = "affinities"
        self._outlines = True

    def show(self, event: PreviewMade) -> None:
        """Show a crop where it lies."""
        wanted = event.wanted
        placement = self._placement.from_voxel((wanted.z, wanted.rows[0], wanted.columns[0]))
        pictures: list[tuple[Role, Any, str]] = [
            ("fit_rgb", event.rgb, "embedding map"),
            ("fit_affinities", np.moveaxis(event.affinities, 0, -1), "affinities"),
            ("fit_fragments", event.fragments, "fragments"),
        ]
        if self._turns is not None:
            self._turns.forget()  # layers of an answer that this one replaces
        for role, picture, what in pictures:
            data = picture if self._placement.ndim == 2 else picture[None]
            layer = find_layer(self._viewer, role, self._key)
            if layer is None:
                add = partial(self._add, role, data, placement, f"{self._name} fit: {what}")
                in_turn(self._turns, add)
                continue
            layer.data = data
            layer.translate = placement.settings["translate"]
            if isinstance(layer, Labels):
                layer.editable = False  # new data have set it

    def choose(self, shown: Shown, *, outlines: bool) -> None:
        """Show one of the pictures, with the outlines of fragments or without."""
        self._shown, self._outlines = shown, outlines
        for which, role in _ROLE_OF.items():
            self._set_visible(role, visible=which == shown)
        self._set_visible("fit_fragments", visible=outlines)

    def remove(self) -> None:
        """Take the layers out of the viewer, those that are still there."""
        if self._turns is not None:
            self._turns.forget()
        for role in (*_ROLE_OF.values(), "fit_fragments"):
            layer = find_layer(self._viewer, role, self._key)
            if layer is not None:
                self._viewer.layers.remove(layer)

    def _add(self, role: Role, data: Any, placement: Placement, name: str) -> None:
        visible = self._outlines if role == "fit_fragments" else role == _ROLE_OF.get(self._shown)
        settings: dict[str, Any] = {} if role == "fit_fragments" else {"rgb": True}
        active = self._viewer.layers.selection.active
        layer = add_or_update(
            self._viewer,
            role,
            data,
            run=self._key,
            placement=placement,
            name=name,
            visible=visible,
            **settings,
        )
        if isinstance(layer, Labels):
            layer.contour = 1
        if active is not None:  # a person goes on with the layer that they had chosen
            self._viewer.layers.selection.active = active

    def _set_visible(self, role: Role, *, visible: bool) -> None:
        layer = find_layer(self._viewer, role, self._key)
        if layer is not None:
            layer.visible = visible


def box_layer(viewer: ViewerModel, image: Image) -> Shapes:
    """Give the layer in which a person draws the crop to look at, made if it is not there.

    It lies on the image, and the tool for rectangles is in the person's hand.
    """
    layer = find_layer(viewer, "fit_box", None)
    if not isinstance(layer, Shapes):
        layer = viewer.add_shapes(
            name="crop to fit on",
            ndim=image.ndim,
            metadata=tag("fit_box"),
            edge_color="yellow",
            edge_width=2,
            face_color="transparent",
            **Placement.of_layer(image).for_axes(image.ndim),
        )
    viewer.layers.selection.active = layer
    layer.mode = "add_rectangle"
    return layer


def drawn_box(box: Layer, image: Image) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Give rows and columns (start, stop) of the last shape of a layer, in voxels of an image.

    None where there is no shape, or it lies beside the image.
    """
    if not isinstance(box, Shapes) or not len(box.data):
        return None
    # shapes hold as many coordinates as their layer has axes
    corners = [image.world_to_data(box.data_to_world(corner)) for corner in box.data[-1]]
    inside = np.asarray(corners)[:, -2:]
    return _spans(inside.min(0), inside.max(0) + 1, image)


def centred_box(
    viewer: ViewerModel, image: Image, side: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Give rows and columns (start, stop) around the centre of the view, within an image."""
    point = np.asarray(viewer.dims.point, float)
    shown = list(viewer.dims.displayed)
    point[shown] = camera_of(viewer).center[-len(shown) :]
    centre = np.asarray(image.world_to_data(point), float)[-2:]
    size = np.asarray(_size(image))
    sides = np.minimum(side, size)
    start = np.clip(np.rint(centre - sides / 2), 0, size - sides).astype(int)
    (top, left), (height, width) = start.tolist(), sides.tolist()
    return (top, top + height), (left, left + width)


def _spans(low: Any, high: Any, image: Image) -> tuple[tuple[int, int], tuple[int, int]] | None:
    size = _size(image)
    low, high = np.clip(np.rint(low), 0, size), np.clip(np.rint(high), 0, size)
    if (high - low).min() < 1:
        return None
    (top, left), (bottom, right) = low.astype(int).tolist(), high.astype(int).tolist()
    return (top, bottom), (left, right)


def _size(image: Image) -> tuple[int, int]:
    """(Y, X) of an image, of its finest level where it has several."""
    data = image.data[0] if image.multiscale else image.data
    height, width = data.shape[-2:]
    return int(height), int(width)
