"""HDF5."""

from __future__ import annotations

import json
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
from napari_cad.core.formats._units import from_attributes

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".ilp")


class HDF5Array(FileArray):
    """A dataset of an HDF5 file."""

    def __init__(self, path: str, dataset: str, dtype: Any, layout: Layout) -> None:
        super().__init__(path, layout.shape, dtype)
        self._dataset = dataset
        self._layout = layout

    def _open(self) -> Any:
        import h5py

        # closed by h5py when the last object of it goes
        return h5py.File(self.path, "r")[self._dataset]

    def _read_from(self, handle: Any, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        return self._layout.read(handle, z, y, x)


def open_hdf5(path: Path, dataset: str | None) -> Opened:
    """Open a dataset of an HDF5 file; without a name, the only one of three or more axes."""
    import h5py

    name, choice = split_choice(dataset)
    with h5py.File(path, "r") as file:
        shapes = _shapes(file)
        if name is None:
            name = _only(path, shapes)
        name = "/" + name.strip("/")
        node = file.get(name)
        if not isinstance(node, h5py.Dataset):
            raise VolumeError(
                f"{path}: expected one of its datasets, got {name}: {_listing(shapes)}"
            )
        layout = choose_axes(node.shape, _axes(node), choice, f"{path}:{name}")
        data = HDF5Array(str(path), name, node.dtype, layout)
        voxel_size, origin = from_attributes(dict(node.attrs))
    return Opened(data, voxel_size, origin, join_choice(name, choice))


def list_hdf5(path: Path) -> list[str]:
    """Names of the datasets of two or more axes."""
    import h5py

    with h5py.File(path, "r") as file:
        return list(_shapes(file))


def _shapes(file: Any) -> dict[str, tuple[int, ...]]:
    """Numeric datasets that could be a volume or an image, by full name."""
    import h5py

    shapes: dict[str, tuple[int, ...]] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "biufc" and node.ndim >= 2:
            shapes["/" + name] = node.shape

    file.visititems(visit)
    return shapes


def _only(path: Path, shapes: dict[str, tuple[int, ...]]) -> str:
    volumes = [name for name, shape in shapes.items() if len(shape) >= 3]
    if len(volumes) == 1:
        return volumes[0]
    if volumes:
        raise VolumeError(
            f"{path}: expected one 3D dataset, got {len(volumes)}: say which, such as "
            f"{path.name}:{volumes[0]}. {_listing(shapes)}"
        )
    raise VolumeError(f"{path}: expected a 3D dataset, got none. {_listing(shapes)}")


def _listing(shapes: dict[str, tuple[int, ...]]) -> str:
    if not shapes:
        return "It holds no arrays"
    return "It holds " + ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _axes(node: Any) -> list[str] | None:
    """Names of the axes where ilastik or vigra wrote them."""
    try:
        keys = [str(axis["key"]) for axis in json.loads(node.attrs["axistags"])["axes"]]
    except (KeyError, TypeError, ValueError):
        return None
    return keys
