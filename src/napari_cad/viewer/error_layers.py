"""Arrows at the errors of a segmentation, and the way to them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Points, Vectors
from psygnal import Signal

from napari_cad.core.errors import ShapeError
from napari_cad.viewer.embedding_layers import camera_of
from napari_cad.viewer.layer_data import LutLabels
from napari_cad.viewer.layers import (
    Role,
    find_layer,
    role_of,
    run_of,
    selection_kept,
    show_layer,
    tag,
)
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.read_ahead import read_ahead
from napari_cad.viewer.turns import in_turn
from napari_cad.viewer.volumes import volume_from_layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from napari.components import ViewerModel
    from napari.layers import Labels, Layer

    from napari_cad.core.error_report import SegmentationError
    from napari_cad.core.volume import EMVolume
    from napari_cad.viewer.turns import Turns

#: Colours that people who do not tell red from green tell apart.
COLOURS = {"split": "#38b6ff", "merge": "#ff9d2e"}

#: Length of an arrow over the diagonal of a section.
_LENGTH = 0.06
#: From the tail of an arrow to its tip, (y, x).
_DIRECTION = np.array([1.0, -1.0]) / np.sqrt(2.0)
#: Pixels on screen per voxel of a section, at least, when going to a place.
_CLOSE = 2.0


class ErrorLayers:
    """The arrows of one segmentation. A person may remove, rename or move them at any time.

    Parameters
    ----------
    viewer : ViewerModel
        Where they are shown.
    key : str
        By which they are found again: the run's path, or the name of the labels layer.
    placement : Placement
        Of the segmentation.
    shape : tuple of int
        (Z, Y, X) of the segmentation.
    name : str
        Of the segmentation.
    turns : Turns, optional
        In which the layers are made and drawn; without it, all at once.

    Attributes
    ----------
    made : Signal
        (Points), the layer of points, when it has been made.
    """

    made = Signal(object)

    def __init__(
        self,
        viewer: ViewerModel,
        key: str,
        placement: Placement,
        shape: tuple[int, int, int],
        name: str,
        turns: Turns | None = None,
    ) -> None:
        self._viewer = viewer
        self._key = key
        self._placement, self._to_cubes = in_cubes(placement)
        self._shape = shape
        self._length = _LENGTH * float(np.hypot(*shape[1:])) * self._to_cubes[-1]
        self._name = name
        self._turns = turns
        self._shown: _Shown | None = None

    @property
    def arrows(self) -> Vectors | None:
        """The layer of arrows, if it is there."""
        return find_layer(self._viewer, "error_arrows", self._key)

    @property
    def places(self) -> Points | None:
        """The layer of points at their tips, if it is there."""
        return find_layer(self._viewer, "error_places", self._key)

    def show(self, errors: Sequence[SegmentationError], ranks: Sequence[int]) -> None:
        """Show an arrow at each error.

        Parameters
        ----------
        errors : sequence of SegmentationError
            Those to show.
        ranks : sequence of int
            Their numbers, which stand beside them.
        """
        shown = self._shown = _Shown(errors, ranks, self._to_cubes, self._length, self._shape)
        for layer, show in ((self.arrows, self._show_arrows), (self.places, self._show_places)):
            # what is there is changed at once; to make a layer takes a turn, to draw it another
            if layer is not None:
                show(shown)
            else:
                in_turn(self._turns, partial(show, shown))

    def _show_arrows(self, shown: _Shown) -> None:
        if shown is not self._shown:
            return  # others have been asked for since
        arrows, data = self.arrows, np.stack([shown.tails, shown.reach], axis=1)
        if arrows is None:
            arrows = Vectors(
                data,
                features=shown.features,
                edge_color=shown.colours or "white",
                vector_style="arrow",
                edge_width=self._length / 7,
                **self._settings("error_arrows", "errors"),
            )
            self._add(arrows)
        else:
            arrows.data = data
            arrows.features = shown.features
            if shown.colours:
                arrows.edge_color = shown.colours
        arrows.editable = False  # new data have set it

    def _show_places(self, shown: _Shown) -> None:
        if shown is not self._shown:
            return
        places = self.places
        if places is None:
            places = Points(
                shown.tips,
                features=shown.features,
                border_color=shown.colours or "white",
                size=self._length / 3,
                face_color="transparent",
                border_width=0.12,
                text={
                    "string": "{number}",
                    "color": "white",
                    "blending": "translucent_no_depth",
                    "size": 10,
                    "anchor": "upper_left",
                    "translation": [0, self._length / 5, self._length / 5],
                },
                **self._settings("error_places", "error numbers"),
            )
            self._add(places)
            self.made.emit(places)
        else:
            places.data = shown.tips
            places.features = shown.features
            if shown.colours:
                places.border_color = shown.colours
        places.editable = False  # new data have set it

    def remove(self) -> None:
        """Take both layers away."""
        for layer in (self.arrows, self.places):
            if layer is not None:
                self._viewer.layers.remove(layer)

    def _settings(self, role: Role, what: str) -> dict[str, Any]:
        """Arguments that both layers have; what is to be shown in a turn of its own is hidden."""
        return {
            "ndim": 3,
            "name": f"{self._name} {what}",
            "metadata": tag(role, self._key),
            "blending": "translucent_no_depth",
            "visible": self._turns is None,
            **self._placement.for_axes(3),
        }

    def _add(self, layer: Vectors | Points) -> None:
        with selection_kept(self._viewer):
            self._viewer.add_layer(layer)
        if self._turns is not None:
            self._turns.next(partial(show_layer, self._viewer, layer))


class _Shown:
    """Errors as layers want them, in cubes."""

    def __init__(
        self,
        errors: Sequence[SegmentationError],
        ranks: Sequence[int],
        to_cubes: npt.NDArray[np.float64],
        length: float,
        shape: tuple[int, int, int],
    ) -> None:
        tips = np.array([error.position for error in errors], np.float64).reshape(-1, 3)
        self.tips = tips * to_cubes
        self.features = error_features(errors, ranks)
        # from above on the right, unless that is outside: what reaches out of the stack has napari
        # read all other layers again
        tails = tips[:, 1:] * to_cubes[1:] - 1.25 * _DIRECTION * length
        last = (np.array(shape[1:]) - 1) * to_cubes[1:]
        direction = np.where((tails < 0) | (tails > last), -_DIRECTION, _DIRECTION)
        self.reach = np.zeros_like(tips)
        # the tip stays off the place itself, which is what there is to see
        self.reach[:, 1:] = direction * length
        self.tails = self.tips - 1.25 * self.reach
        self.colours = [COLOURS[error.kind] for error in errors]


def in_cubes(placement: Placement) -> tuple[Placement, npt.NDArray[np.float64]]:
    """Give a placement in which a voxel is a cube, and the factors to get into it.

    napari gives an arrow one width along all axes of its layer, and lights a surface as if they
    were alike: in sections that are five times as thick as their pixels an arrow would look like
    a wall, and a surface dark. The edge of the cubes is the thickness of a section, so that the
    viewer still steps from section to section.
    """
    scale = np.asarray(placement.settings.get("scale", (1.0,) * 3), np.float64)
    cube = np.full(3, abs(scale[0]))
    return Placement(3, placement.settings | {"scale": cube}), scale / cube


def error_features(errors: Sequence[SegmentationError], ranks: Sequence[int]) -> dict[str, Any]:
    """Columns of the features table: one row per error."""
    return {
        "number": np.array(ranks, np.int64),
        "error": np.array([error.kind for error in errors], object),
        "cause": np.array([error.cause for error in errors], object),
        "voi_bits": np.array([round(error.cost, 5) for error in errors], np.float64),
        "voxels": np.array([error.voxels for error in errors], np.int64),
        "truth": np.array([ids_text(error.truth) for error in errors], object),
        "segments": np.array([ids_text(error.segments) for error in errors], object),
    }


def ids_text(ids: tuple[int, int]) -> str:
    """Write two ids, or one where they are the same."""
    return str(ids[0]) if ids[0] == ids[1] else f"{ids[0]} | {ids[1]}"


def go_to(
    viewer: ViewerModel,
    placement: Placement,
    position: Sequence[float],
    turns: Turns | None = None,
) -> None:
    """Show a place: its section, in the middle, near enough.

    Parameters
    ----------
    viewer : ViewerModel
        What is to show it, in 2D or 3D.
    placement : Placement
        Of the layer that the position belongs to.
    position : sequence of float
        (z, y, x) in voxels of that layer.
    turns : Turns, optional
        Where given, the section is read in a thread before it is shown.
    """
    world = placement.to_world(position).tolist()
    if turns is None:
        go_to_world(viewer, world, placement)
        return
    point = [*viewer.dims.point[: viewer.dims.ndim - len(world)], *world]
    reading = read_ahead(viewer, point)
    turns.when(
        lambda: all(section.done() for section in reading),
        partial(go_to_world, viewer, world, placement),
    )


def go_to_world(viewer: ViewerModel, world: Sequence[float], placement: Placement) -> None:
    """Show a place in the world, (z, y, x), as near as voxels of that placement want it."""
    n_dims = viewer.dims.ndim
    axes = range(n_dims - len(world), n_dims)
    # in whole steps: the sliders would round it, and every layer be read a second time
    ranges = [viewer.dims.range[axis] for axis in axes]
    steps = [round((w - r.start) / r.step) for w, r in zip(world, ranges, strict=True)]
    viewer.dims.set_current_step(list(axes), steps)
    centre = np.array(viewer.dims.point, np.float64)
    centre[list(axes)] = world
    shown = [float(centre[axis]) for axis in viewer.dims.displayed]
    scale = float(np.min(np.abs(placement.settings.get("scale", (1.0,))[-2:])))
    camera = camera_of(viewer)
    camera.center = (0.0, *shown)[-3:]
    camera.zoom = max(camera.zoom, _CLOSE / scale)


def aligned_truth(segmentation: Labels, truth: Labels) -> EMVolume:
    """Give the part of a truth layer that lies where a segmentation lies.

    Parameters
    ----------
    segmentation, truth : Labels
        Of three axes. Of one shape, or placed in the same world with voxels of the same size; the
        truth of a run that was binned may have the full resolution.

    Returns
    -------
    EMVolume
        The truth, of the segmentation's shape or, where that was binned, of the shape before.

    Raises
    ------
    ShapeError
        If the truth does not cover the segmentation.
    VolumeError
        If a layer is no stack.
    """
    volume, shape = volume_from_layer(truth), volume_from_layer(segmentation).shape
    if volume.shape == shape:
        return volume
    step = _voxels_of(truth, segmentation)
    box = None if step is None else _box_in(truth, segmentation, step)
    if box is None:
        raise ShapeError(
            f"{truth.name} {volume.shape} does not cover {segmentation.name} {shape}: choose truth "
            "of the same shape, or give both layers the scale and translate they have in the stack"
        )
    z, y, x = box
    return replace(volume.crop(z, y, x), name=truth.name)


def _box_in(
    truth: Labels, segmentation: Labels, step: npt.NDArray[np.int_]
) -> list[tuple[int, int]] | None:
    """Where the segmentation lies in the truth, half-open per axis, if it lies in it."""
    length = np.asarray(truth.data.shape)
    offset = np.asarray(segmentation.translate) - np.asarray(truth.translate)
    start = np.rint(offset / truth.scale - (step - 1) / 2).astype(int)
    stop = start + step * segmentation.data.shape
    # the last block of a binned axis may have been cut short
    if (start < 0).any() or (stop - length >= step).any():
        return None
    return [(int(a), int(b)) for a, b in zip(start, np.minimum(stop, length), strict=True)]


def _voxels_of(truth: Labels, segmentation: Labels) -> npt.NDArray[np.int_] | None:
    """How many voxels of the truth are one of the segmentation, (z, y, x); None if no such number.

    More than one only of a run, and of squares in a section: that is what binning makes.
    """
    if segmentation.ndim != truth.ndim:
        return None
    step = np.rint(np.asarray(segmentation.scale) / truth.scale).astype(int)
    binned = shown_lut(segmentation) is not None and step[0] == 1 and step[1] == step[2]
    fits = np.allclose(segmentation.scale, step * truth.scale)
    return step if fits and (binned or (step == 1).all()) else None


def segmentation_key(layer: Layer) -> str:
    """By what the layers about a segmentation are found: its run, or its own name."""
    return run_of(layer) or layer.name


def shown_lut(layer: Layer) -> npt.NDArray[Any] | None:
    """Give the LUT of a run's segments as they are shown; None for any other labels."""
    if role_of(layer) == "segments" and run_of(layer) and isinstance(layer.data, LutLabels):
        return layer.data.lut
    return None
