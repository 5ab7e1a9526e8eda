"""Zarr arrays (versions 2 and 3) and OME-Zarr images (0.4 and 0.5)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from napari_cad.core.errors import VolumeError
from napari_cad.core.formats._files import (
    FileArray,
    Layout,
    Opened,
    choose_axes,
    join_choice,
    split_choice,
)
from napari_cad.core.formats._units import from_attributes, nm_per, voxel_size_in_nm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

ZARR_SUFFIXES = (".zarr",)

#: Key in the attributes of a group that is one of our own stores.
STORE_KEY = "napari_cad"

_MARKERS = ("zarr.json", ".zarray", ".zgroup")


class ZarrArray(FileArray):
    """A zarr array on disk."""

    def __init__(self, path: str, dtype: Any, layout: Layout) -> None:
        super().__init__(path, layout.shape, dtype)
        self._layout = layout

    def _open(self) -> Any:
        import zarr

        return zarr.open_array(self.path, mode="r")

    def _read_from(self, handle: Any, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        return self._layout.read(handle, z, y, x)


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is a zarr array or group."""
    return any((path / marker).is_file() for marker in _MARKERS)


def is_store(path: Path) -> bool:
    """Tell whether a folder is one of our own stores."""
    for name in ("zarr.json", ".zattrs"):
        try:
            values = json.loads((path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        attributes = values.get("attributes", {}) if name == "zarr.json" else values
        if STORE_KEY in attributes:
            return True
    return False


def open_zarr(path: Path, dataset: str | None) -> Opened:
    """Open an array, an OME-Zarr image at full resolution, or the only volume in a group."""
    import zarr

    name, choice = split_choice(dataset)
    name = (name or "").strip("/")
    place = path / name if name else path
    if not is_zarr(place):
        if not name:
            raise VolumeError(
                f"{path}: expected a zarr array or group, got a folder without its metadata "
                f"({', '.join(_MARKERS)}): is it complete?"
            )
        raise VolumeError(f"{path}: expected one of its datasets, got {name}: {_listing(path)}")
    if is_store(place):
        raise VolumeError(
            f"{place}: expected a volume, got a napari-cad store, which holds the results of a "
            "run: open it as a store, or say which of its arrays, such as "
            f"{place.name}:fragments"
        )
    node = zarr.open(str(place), mode="r")
    if isinstance(node, zarr.Group) and _multiscales(node.attrs) is None:
        volumes = _volumes(path, place)
        if len(volumes) != 1:
            raise VolumeError(
                f"{place}: expected one volume, got {len(volumes)}: "
                f"say which as the dataset. {_listing(path)}"
            )
        (name,) = volumes
        place = path / name if name else path
        node = zarr.open(str(place), mode="r")
    if isinstance(node, zarr.Group):
        opened = _open_image(place, node, choice)
    else:
        opened = _open_array(place, node, choice)
    return Opened(opened.data, opened.voxel_size, opened.origin, join_choice(name or None, choice))


def open_levels(path: Path, dataset: str | None) -> list[ZarrArray]:
    """Open all resolutions of an OME-Zarr image, the finest first; none of what is no image."""
    import zarr

    name, choice = split_choice(dataset)
    place = path / (name or "").strip("/")
    node = zarr.open(str(place), mode="r")
    multiscales = _multiscales(node.attrs)
    if not isinstance(node, zarr.Group) or multiscales is None:
        return []
    levels: list[ZarrArray] = []
    for entry in multiscales["datasets"]:
        at = place / str(entry["path"])
        if is_zarr(at):
            array = zarr.open_array(str(at), mode="r")
            opened = _with_ome(at, array, multiscales, dict(entry), choice).data
            assert isinstance(opened, ZarrArray)
            levels.append(opened)
    return sorted(levels, key=lambda level: level.size, reverse=True)


def is_label_image(path: Path, dataset: str | None) -> bool:
    """Tell whether the metadata of an OME-Zarr image say that it holds labels."""
    import zarr

    node = zarr.open(str(path / (split_choice(dataset)[0] or "").strip("/")), mode="r")
    ome: Any = node.attrs.get("ome", node.attrs)
    return hasattr(ome, "get") and "image-label" in ome


def list_zarr(path: Path) -> list[str]:
    """Names of images and arrays; the empty name is the image or array at `path` itself."""
    return list(_volumes(path, path, labels=True, least_axes=2))


def _volumes(
    root: Path, place: Path, *, labels: bool = False, least_axes: int = 3
) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays and images under `place`, by their name from `root`.

    An image of several resolutions counts once, and its label images only with `labels`.
    """
    import zarr

    found: dict[str, tuple[int, ...]] = {}

    def visit(at: Path) -> None:
        node = zarr.open(str(at), mode="r")
        name = at.relative_to(root).as_posix() if at != root else ""
        if isinstance(node, zarr.Array):
            if node.ndim >= least_axes:
                found[name] = node.shape
            return
        multiscales = _multiscales(node.attrs)
        if multiscales is not None:
            found[name] = zarr.open_array(str(_full_resolution(at, multiscales)[0]), mode="r").shape
            if labels and is_zarr(at / "labels"):
                visit(at / "labels")
            return
        for child in sorted(at.iterdir()):
            if child.is_dir() and is_zarr(child):
                visit(child)

    visit(place)
    return found


def _listing(path: Path) -> str:
    volumes = _volumes(path, path, labels=True, least_axes=2) if is_zarr(path) else {}
    if not volumes:
        return "It holds no arrays"
    return "It holds " + ", ".join(f"{name or '/'} {shape}" for name, shape in volumes.items())


def _multiscales(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Find the first image of OME metadata, in 0.5 under `ome`, before at the top."""
    ome = attributes.get("ome", attributes)
    multiscales = ome.get("multiscales") if hasattr(ome, "get") else None
    if not multiscales:
        return None
    first = multiscales[0]
    return dict(first) if first.get("datasets") else None


def _full_resolution(place: Path, multiscales: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Array with the most voxels, and its entry; the first by the specification."""
    import zarr

    entries = [dict(entry) for entry in multiscales["datasets"]]
    arrays = [(place / str(entry["path"]), entry) for entry in entries]
    there = [pair for pair in arrays if is_zarr(pair[0])]
    if not there:
        raise VolumeError(
            f"{place}: expected the array {arrays[0][0].name} that its OME metadata name, got "
            "none: is it complete?"
        )
    return max(there, key=lambda pair: math.prod(zarr.open_array(str(pair[0]), mode="r").shape))


def _open_image(place: Path, node: Any, choice: dict[str, int]) -> Opened:
    import zarr

    multiscales = _multiscales(node.attrs)
    if multiscales is None:
        raise VolumeError(f"{place}: expected OME metadata of an image")
    at, entry = _full_resolution(place, multiscales)
    return _with_ome(at, zarr.open_array(str(at), mode="r"), multiscales, entry, choice)


def _open_array(place: Path, array: Any, choice: dict[str, int]) -> Opened:
    import zarr

    parent = place.parent
    if is_zarr(parent):  # one resolution of an image: the image knows its axes and scale
        multiscales = _multiscales(zarr.open_group(str(parent), mode="r").attrs)
        for entry in (multiscales or {}).get("datasets", ()):
            if multiscales is not None and str(entry["path"]) == place.name:
                return _with_ome(place, array, multiscales, dict(entry), choice)
    names = getattr(array.metadata, "dimension_names", None)
    if names is not None and not all(isinstance(n, str) and len(n) == 1 for n in names):
        names = None
    layout = choose_axes(array.shape, names, choice, str(place))
    voxel_size, origin = from_attributes(dict(array.attrs))
    return Opened(ZarrArray(str(place), array.dtype, layout), voxel_size, origin)


def _with_ome(
    place: Path,
    array: Any,
    multiscales: dict[str, Any],
    entry: dict[str, Any],
    choice: dict[str, int],
) -> Opened:
    axes = multiscales.get("axes")
    names: list[str] | None = None
    units: dict[str, Any] = {}
    if axes is not None:  # names alone up to version 0.3
        axes = [{"name": axis} if isinstance(axis, str) else dict(axis) for axis in axes]
        names = [str(axis.get("name")) for axis in axes]
        units = {str(axis.get("name")).lower(): axis.get("unit") for axis in axes}
    layout = choose_axes(array.shape, names, choice, str(place))
    data = ZarrArray(str(place), array.dtype, layout)
    spatial = ("z", "y", "x")
    if names is None or any(axis not in units for axis in spatial):
        return Opened(data)
    order = [name.lower() for name in names]
    scale, translation = _transformation(multiscales, entry, len(order))
    at = [order.index(axis) for axis in spatial]
    wanted = [units[axis] for axis in spatial]
    voxel_size = voxel_size_in_nm([scale[i] for i in at], wanted)
    if voxel_size is None:
        return Opened(data)
    z, y, x = (translation[i] * (nm_per(unit) or 1.0) for i, unit in zip(at, wanted, strict=True))
    return Opened(data, voxel_size, (z, y, x))


def _transformation(
    multiscales: Mapping[str, Any], entry: Mapping[str, Any], n_axes: int
) -> tuple[list[float], list[float]]:
    """Scale and translation: first that of the array, then that of the image, each in order."""
    scale, translation = [1.0] * n_axes, [0.0] * n_axes
    for holder in (entry, multiscales):
        for step in holder.get("coordinateTransformations") or ():
            if "scale" in step:
                factors = _numbers(step["scale"], n_axes)
                scale = [s * f for s, f in zip(scale, factors, strict=True)]
                translation = [t * f for t, f in zip(translation, factors, strict=True)]
            elif "translation" in step:
                moves = _numbers(step["translation"], n_axes)
                translation = [t + m for t, m in zip(translation, moves, strict=True)]
    return scale, translation


def _numbers(values: Sequence[Any], n_axes: int) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != n_axes:
        raise ValueError(f"expected {n_axes} numbers in an OME transformation, got {numbers}")
    return numbers
