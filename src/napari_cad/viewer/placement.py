"""Where a layer lies in the world, and how large its voxels are there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.transforms import Affine

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from napari.components import ViewerModel
    from napari.layers import Layer


@dataclass(frozen=True)
class Placement:
    """Where a layer lies in the world; outlives the layer that it was taken from.

    Attributes
    ----------
    ndim : int
        Number of axes of that layer.
    settings : dict
        Arguments of a layer: scale, translate, rotate, shear, affine, units, axis_labels.
    """

    ndim: int
    settings: dict[str, Any]

    @classmethod
    def of_layer(cls, layer: Layer) -> Placement:
        """Take it from a layer."""
        names = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
        return cls(layer.ndim, {name: getattr(layer, name) for name in names})

    @classmethod
    def of_volume(
        cls,
        voxel_size: tuple[float, float, float] | None,
        origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Placement:
        """Make it from a voxel size and an origin in nm; in pixels where there is no voxel size."""
        settings: dict[str, Any] = {"axis_labels": ("z", "y", "x")}
        if voxel_size is not None:
            settings |= {"scale": voxel_size, "translate": origin, "units": ("nm",) * 3}
        return cls(3, settings)

    def from_section(self, z: int) -> Placement:
        """Place a layer that begins at section `z` of this one."""
        if z == 0:
            return self
        step = np.zeros(self.ndim)
        step[0] = z * self.settings["scale"][0]
        rotation = np.asarray(self.settings.get("rotate", np.eye(self.ndim)))
        moved = np.asarray(self.settings["translate"]) + rotation @ step
        return Placement(self.ndim, self.settings | {"translate": moved})

    def binned(self, factor: int) -> Placement:
        """Place a layer of which a voxel lies over `factor` × `factor` of this one, in y and x."""
        if factor == 1:
            return self
        settings = {"scale": np.ones(self.ndim), **self.settings}
        middle = (factor - 1) / 2  # of the first block, in voxels of this one
        placed = Placement(self.ndim, settings).from_voxel((0, middle, middle))
        larger = np.asarray(settings["scale"]) * np.array([1, factor, factor])[-self.ndim :]
        return replace(placed, settings=placed.settings | {"scale": larger})

    def from_voxel(self, start: tuple[float, float, float]) -> Placement:
        """Place a layer that begins at voxel `start` (z, y, x) of this one."""
        names = ("scale", "translate", "rotate", "shear")
        known = {name: self.settings[name] for name in names if name in self.settings}
        moved = Affine(**known)(np.asarray(start[-self.ndim :], float))
        return Placement(self.ndim, self.settings | {"translate": moved})

    def to_world(self, position: Sequence[float]) -> npt.NDArray[np.float64]:
        """Give the place in the world of a position in the layer's own coordinates."""
        names = ("scale", "translate", "rotate", "shear")
        world = Affine(**{name: self.settings[name] for name in names if name in self.settings})
        affine = self.settings.get("affine")
        placed = np.asarray(world(np.asarray(position, float)))
        return placed if affine is None else np.asarray(affine(placed))

    def for_axes(self, ndim: int) -> dict[str, Any]:
        """Arguments for a layer with more axes in front (a section of its own, channels)."""
        more = ndim - self.ndim
        if more <= 0:
            return dict(self.settings)
        settings: dict[str, Any] = {}
        names = [n for n in ("scale", "translate", "rotate", "shear") if n in self.settings]
        if names:
            placed = Affine(**{name: self.settings[name] for name in names})
            placed = placed.expand_dims(list(range(more)))
            settings = {name: getattr(placed, name) for name in names}
        if self.settings.get("affine") is not None:
            settings["affine"] = self.settings["affine"].expand_dims(list(range(more)))
        if "units" in self.settings:
            settings["units"] = ("pixel",) * more + tuple(self.settings["units"])
        labels = tuple(self.settings.get("axis_labels", ()))
        new = tuple(name for name in ("c", "z") if name not in labels)[-more:]
        if labels and len(new) == more:
            settings["axis_labels"] = new + labels
        return settings


def voxel_size_of(layer: Layer) -> tuple[float, float, float] | None:
    """Voxel size of a layer with three axes.

    Returns
    -------
    tuple of float or None
        (z, y, x) in nm; None where a unit of the layer is not a length.
    """
    if layer.ndim != 3:
        return None
    return in_nm(layer, layer.scale)


def in_nm(layer: Layer, lengths: Any) -> tuple[float, float, float] | None:
    """Give lengths along the axes of a layer in nm; None where its units are none of length."""
    units = layer.units
    if not all(unit.is_compatible_with("nm") for unit in units):
        return None
    z, y, x = (
        float((float(n) * unit).to("nm").magnitude) for n, unit in zip(lengths, units, strict=True)
    )
    return z, y, x


def set_voxel_size(
    viewer: ViewerModel, layer: Layer, voxel_size: tuple[float, float, float]
) -> None:
    """Give a layer another voxel size, and with it the layers that lie on its voxels.

    The view shows the same section as before, and the whole of it.

    Parameters
    ----------
    viewer : ViewerModel
        Layers of the same scale and units as `layer`, which would no longer lie over it, go with
        it: truth, segments, points.
    layer : Layer
        Of three axes.
    voxel_size : tuple of float
        (z, y, x) in nm.
    """
    scale, units = np.array(layer.scale), tuple(layer.units)
    shown = layer.world_to_data(viewer.dims.point[-layer.ndim :])
    for other in list(viewer.layers):
        if (
            other.ndim == layer.ndim
            and tuple(other.units) == units
            and np.allclose(other.scale, scale)
        ):
            moved = np.asarray(other.translate) / scale * voxel_size
            other.scale, other.translate, other.units = voxel_size, moved, ("nm",) * 3
    for axis, place in enumerate(layer.data_to_world(shown), start=viewer.dims.ndim - layer.ndim):
        viewer.dims.set_point(axis, place)
    viewer.reset_view()
