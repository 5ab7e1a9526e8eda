"""What napari cannot read, or not as a stack in nm: EM stacks, labels of them, and stores.

Only headers are read here; the layers read what is on screen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core._lazy import LazyArray
from napari_cad.core.binning import binned_shape
from napari_cad.core.errors import VolumeError
from napari_cad.core.volume import EMVolume, VolumeSource
from napari_cad.viewer.layer_data import ChannelsLast, PyramidLevel
from napari_cad.viewer.layers import tag
from napari_cad.viewer.live_labels import segments_of_run
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.read_ahead import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_cad.core.store import SegmentationStore

LayerData = tuple[Any, dict[str, Any], str]
Path_s = str | os.PathLike[str]
ReaderFunction = Callable[[Any], list[LayerData]]

#: Datasets of one file that are opened without asking for one of them.
_MOST_DATASETS = 8

#: Words in a name that only labels have, where the type of the voxels does not say what they are.
_LABELS_NAME = re.compile(
    r"(?:^|[\W_])(?:labels?|seg|segments?|segmentations?|truth|groundtruth|gt|fragments?|(?:neuron_?)?ids?)"
    r"(?:$|[\W_])",
    re.IGNORECASE,
)


#: Words in the name of a dataset that only images have.
_IMAGE_NAME = re.compile(r"(?:^|[\W_])(?:raw|em|images?|grey|gray)(?:$|[\W_])", re.IGNORECASE)


def get_reader(path: Path_s | Sequence[Path_s]) -> ReaderFunction | None:
    """Give a reader for a path, or None where it is not for us.

    Parameters
    ----------
    path : path or list of paths
        A napari-cad store, or what `napari_cad.core.readers.open_volume` reads: a folder of
        sections, HDF5 (`file.h5:/dataset` too), zarr, OME-Zarr, MRC, .npy, TIFF. Of a list each
        must be such a volume, all of the same height and width: they are stacked in natural order.

    Returns
    -------
    callable or None
        Takes the path or paths, returns a list of LayerData.
    """
    from napari_cad.core.readers import can_read

    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if len(paths) == 1 and _is_store(Path(paths[0])):
        return read_store
    return read_volumes if paths and all(can_read(p) for p in paths) else None


def read_volumes(path: Path_s | Sequence[Path_s]) -> list[LayerData]:
    """Read a volume, or several as one stack.

    Parameters
    ----------
    path : path or list of paths
        See `get_reader`.

    Returns
    -------
    list of LayerData
        One layer, or one per volume where a file holds several; labels for integers of 32 bits
        and more, and where the name says so. Labels of several resolutions are multiscale.

    Raises
    ------
    VolumeError
        If it cannot be read; the message says why.
    """
    if isinstance(path, (str, os.PathLike)):
        return [_layer(volume) for volume in _open_all(path)]
    paths = sorted(path, key=lambda p: _natural(os.fspath(p)))
    volumes = [volume for one in paths for volume in _open_all(one)]
    return [_layer(_stacked(volumes))]


def read_store(path: Path_s | Sequence[Path_s]) -> list[LayerData]:
    """Read a store: its volume where it still is, affinities, and segments.

    Parameters
    ----------
    path : path
        Of the store.

    Returns
    -------
    list of LayerData
        The labels show the store's segmentation, or its fragments where it has none yet.

    Raises
    ------
    StoreError
        If a newer version of the package made it.
    """
    from napari_cad.core.store import SegmentationStore

    if not isinstance(path, (str, os.PathLike)):
        (path,) = path
    store = SegmentationStore.open(Path(path))
    return store_layers(store)


def store_layers(store: SegmentationStore) -> list[LayerData]:
    """Make the layers of an open store; see `read_store`."""
    run = str(store.path)
    placed = _placement(store).for_axes(3)
    layers = [_layer(volume) for volume in _source_volume(store)]

    def add(role: Any, data: Any, kind: str, **settings: Any) -> None:
        name = f"{store.name} {role.removeprefix('embedding_').replace('rgb', 'PCA-RGB')}"
        about = {"name": name, "metadata": tag(role, run), **placed}
        layers.append((data, about | settings, kind))

    add("affinities", ChannelsLast(store.affinities), "image", rgb=True, visible=False)
    if store.embedding_rgb is not None:
        add("embedding_rgb", store.embedding_rgb, "image", rgb=True, visible=False)
    add("segments", segments_of_run(store), "labels", opacity=0.5)
    return layers


def _placement(store: SegmentationStore) -> Placement:
    placed = Placement.of_volume(store.voxel_size, store.origin)
    # without a voxel size, in voxels of the image
    return placed if store.voxel_size is not None else placed.binned(store.bin)


def _source_volume(store: SegmentationStore) -> list[EMVolume]:
    """Open the volume that a store was made from, at full resolution, if it is where it was."""
    from napari_cad.core.readers import open_source

    recorded = store.settings["volume"]
    if recorded.get("source") is None:
        return []
    try:
        source = VolumeSource.from_json(recorded["source"])
        volume = open_source(replace(source, bin=1))
    except VolumeError:
        return []
    if binned_shape(volume.shape, store.bin) != store.shape:
        return []
    size, origin, factor = store.voxel_size, store.origin, store.bin
    if size is not None:
        size = (size[0], size[1] / factor, size[2] / factor)
        dy, dx = ((factor - 1) / 2 * length for length in size[1:])
        origin = (origin[0], origin[1] - dy, origin[2] - dx)
    name = store.name if store.bin == 1 else volume.name
    return [replace(volume, name=name, voxel_size=size, origin=origin)]


def _open_all(path: Path_s) -> list[EMVolume]:
    """Open the volume of a path, or all of them where there are a few."""
    from napari_cad.core.readers import list_datasets, open_volume

    try:
        return [open_volume(path)]
    except VolumeError as error:
        names = [] if ":" in Path(path).name else list_datasets(path)
        if not 1 < len(names) <= _MOST_DATASETS:
            raise
        reason = error
    volumes = []
    for name in names:
        try:
            volume = open_volume(path, dataset=name)
        except VolumeError:
            continue  # one that is no volume, beside others that are
        volumes.append(replace(volume, name=f"{volume.name} {name.strip('/')}"))
    if not volumes:
        raise reason
    return volumes


def _is_named_labels(volume: EMVolume) -> bool:
    """Tell by the name of the dataset, or where that does not say it, of the file."""
    dataset = None if volume.source is None else volume.source.dataset
    if dataset and _IMAGE_NAME.search(dataset):
        return False
    return any(_LABELS_NAME.search(name) is not None for name in (dataset or "", volume.name))


def _layer(volume: EMVolume) -> LayerData:
    """Make a layer of a volume: labels in all resolutions that there are, images in the finest."""
    from napari_cad.core.readers import is_label_image, open_levels

    labels = volume.dtype.kind in "iu" and (
        volume.dtype.itemsize >= 4 or _is_named_labels(volume) or is_label_image(volume)
    )
    source = None if volume.source is None else volume.source.to_json()
    settings = {
        "name": volume.name,
        "metadata": tag("labels" if labels else "image", source=source),
        **Placement.of_volume(volume.voxel_size, volume.origin).for_axes(3),
    }
    levels = open_levels(volume) if labels else [volume.data]
    if len(levels) == 1:
        return ReadAhead(volume.data), settings, "labels" if labels else "image"
    pyramid = [PyramidLevel(level) for level in levels]
    return pyramid, settings | {"multiscale": True}, "labels"


class _Stacked(LazyArray):
    """Volumes of the same height and width behind one another."""

    def __init__(self, volumes: Sequence[EMVolume]) -> None:
        n_sections = sum(volume.n_sections for volume in volumes)
        super().__init__((n_sections, *volumes[0].shape[1:]), volumes[0].dtype)
        self._sections = [(volume, z) for volume in volumes for z in range(volume.n_sections)]

    def _read(self, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        return np.stack([volume.section(i)[y, x] for volume, i in self._sections[z]])


def _stacked(volumes: Sequence[EMVolume]) -> EMVolume:
    first = volumes[0]
    for volume in volumes[1:]:
        if volume.shape[1:] != first.shape[1:] or volume.dtype != first.dtype:
            raise VolumeError(
                f"expected sections of one stack, all like {first.name} with {first.shape[1:]} "
                f"voxels of {first.dtype}, got {volume.name} with {volume.shape[1:]} of "
                f"{volume.dtype}: open them one by one"
            )
    return replace(first, data=_Stacked(volumes), source=None)


def _natural(text: str) -> list[Any]:
    """Make a key that sorts section 9 before section 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def _is_store(path: Path) -> bool:
    if not (path / "zarr.json").is_file():
        return False
    from napari_cad.core.store import is_store

    return is_store(path)
