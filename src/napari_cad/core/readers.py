"""Open EM stacks and label volumes, whatever they are stored in, without reading their voxels."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from napari_cad.core.binning import binned
from napari_cad.core.errors import VolumeError
from napari_cad.core.formats import _hdf5, _mapped, _sections, _tiff, _zarr
from napari_cad.core.formats._files import READ_ERRORS, Opened, unreadable
from napari_cad.core.locations import as_path, location, remote_errors
from napari_cad.core.volume import EMVolume, VolumeSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_cad.core.volume import ArrayLike

__all__ = [
    "SUFFIXES",
    "can_read",
    "is_label_image",
    "list_datasets",
    "open_levels",
    "open_source",
    "open_volume",
    "split_path",
]


class _Format(NamedTuple):
    """A type of file: its name, what opens it, and what lists its datasets."""

    kind: str
    open: Callable[[Path, str | None], Opened]
    list_datasets: Callable[[Path], list[str]] | None = None


_TIFF = _Format("TIFF file", _tiff.open_tiff, _tiff.list_tiff)
_HDF5 = _Format("HDF5 file", _hdf5.open_hdf5, _hdf5.list_hdf5)
_ZARR = _Format("zarr", _zarr.open_zarr, _zarr.list_zarr)
_FOLDER = _Format("folder of sections", _sections.open_sections)

_BY_SUFFIX = {
    **dict.fromkeys(_sections.TIFF_SUFFIXES, _TIFF),
    **dict.fromkeys(_hdf5.HDF5_SUFFIXES, _HDF5),
    **dict.fromkeys(_mapped.MRC_SUFFIXES, _Format("MRC file", _mapped.open_mrc)),
    **dict.fromkeys(_mapped.NPY_SUFFIXES, _Format(".npy file", _mapped.open_npy)),
    **dict.fromkeys(_sections.IMAGE_SUFFIXES, _Format("image", _sections.open_image)),
}

#: Suffixes of what `open_volume` reads, in lower case; folders of sections come on top.
SUFFIXES = (*_BY_SUFFIX, *_zarr.ZARR_SUFFIXES)


def open_volume(
    path: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    voxel_size: Sequence[float] | None = None,
) -> EMVolume:
    """Open a volume lazily.

    Reads multi-page TIFF, a folder with one image per section (PNG, TIFF, JPEG, BMP; in natural
    order), HDF5, zarr (versions 2 and 3), OME-Zarr (at full resolution), MRC, .npy, and a single
    image as one section. Labels of any integer type are opened in the same way.

    Parameters
    ----------
    path : path-like
        A file or folder; `file.h5:/dataset` is the same as giving `dataset`. zarr and OME-Zarr are
        also read by URL (s3://bucket/stack.zarr).
    dataset : str, optional
        What inside it: a path in HDF5 or zarr, the index of a series in TIFF, a pattern such as
        `*.png` for a folder. Behind it, or alone, `@c=1,t=0` takes one channel and time point.
    voxel_size : sequence of float, optional
        (z, y, x) in nm, in place of the file's own.

    Returns
    -------
    EMVolume
        Its voxel size is None where the file does not give all three lengths with their unit. Its
        data can be sent to another process, and so can its source (see `open_source`).

    Raises
    ------
    VolumeError
        If there is nothing at `path`, its type is not read, it holds no volume or several, its
        voxels are coloured, or it is damaged.
    """
    text, dataset = split_path(path, dataset)
    place, form = _choose(text)
    try:
        opened = form.open(place, dataset)
        volume = EMVolume(
            opened.data,
            opened.voxel_size,
            opened.origin,
            name=place.stem if place.is_file() else place.name.removesuffix(".zarr"),
            source=VolumeSource(str(place), opened.dataset),
        )
    except VolumeError as error:
        if str(place) in str(error):
            raise
        raise VolumeError(f"{place}: {error}") from error
    except _read_errors() as error:
        raise unreadable(str(place), form.kind, error) from error
    return volume if voxel_size is None else _with_voxel_size(volume, voxel_size)


def open_source(source: VolumeSource) -> EMVolume:
    """Open a volume again from its source, in this process or another one.

    Parameters
    ----------
    source : VolumeSource
        As a volume from `open_volume` carries it.

    Returns
    -------
    EMVolume
        With the crop, the voxel size and the binning of the source.

    Raises
    ------
    VolumeError
        As `open_volume`; also if the crop lies outside of what is there now.
    """
    volume = open_volume(source.path, dataset=source.dataset, voxel_size=source.voxel_size)
    if source.bounds is not None:
        z, y, x = source.bounds
        volume = replace(volume.crop(z, y, x), source=replace(source, bin=1))
    return binned(volume, source.bin)


def open_levels(volume: EMVolume) -> list[ArrayLike]:
    """Open all resolutions of a volume from `open_volume`, lazily.

    Parameters
    ----------
    volume : EMVolume
        Whole, as it was opened.

    Returns
    -------
    list of array_like, shape (Z, Y, X) each
        The finest, which is the volume's own, first; it alone where the file has no other.

    Raises
    ------
    VolumeError
        If a level is damaged.
    """
    source = volume.source
    if source is None or source.bounds is not None or not _zarr.is_zarr(Path(source.path)):
        return [volume.data]
    try:
        coarser = _zarr.open_levels(Path(source.path), source.dataset)[1:]
    except READ_ERRORS as error:
        raise unreadable(source.path, _ZARR.kind, error) from error
    return [volume.data, *coarser]


def is_label_image(volume: EMVolume) -> bool:
    """Tell whether a volume from `open_volume` is an OME-Zarr label image."""
    source = volume.source
    if source is None or not _zarr.is_zarr(Path(source.path)):
        return False
    return _zarr.is_label_image(Path(source.path), source.dataset)


def can_read(path: str | os.PathLike[str]) -> bool:
    """Tell whether `open_volume` is likely to open something, by its name and little more.

    Parameters
    ----------
    path : path-like
        As for `open_volume`.

    Returns
    -------
    bool
        False for what is not there, and for a napari-cad store. True is no promise: the file may
        be damaged or hold several volumes.
    """
    try:
        place = Path(split_path(path)[0])
        if place.is_dir():
            if _zarr.is_zarr(place):
                return not _zarr.is_store(place)
            images = _sections.TIFF_SUFFIXES + _sections.IMAGE_SUFFIXES
            with os.scandir(place) as entries:
                return any(entry.name.lower().endswith(images) for entry in entries)
        return place.is_file() and place.suffix.lower() in SUFFIXES
    except (OSError, VolumeError):
        return False


def list_datasets(path: str | os.PathLike[str]) -> list[str]:
    """Names that `open_volume` takes as `dataset` for this file.

    Parameters
    ----------
    path : path-like
        A file or folder.

    Returns
    -------
    list of str
        Datasets of HDF5 and arrays and images of zarr with at least two axes (the empty name is
        the file itself), indices of the series of a TIFF file; empty for formats that hold one
        array only.

    Raises
    ------
    VolumeError
        If there is nothing at `path`, its type is not read, or it is damaged.
    """
    place, form = _choose(split_path(path)[0])
    try:
        return [] if form.list_datasets is None else form.list_datasets(place)
    except VolumeError:
        raise
    except READ_ERRORS as error:
        raise unreadable(str(place), form.kind, error) from error


def split_path(path: str | os.PathLike[str], dataset: str | None = None) -> tuple[str, str | None]:
    """Split `file.h5:/dataset` into the file and the dataset.

    Parameters
    ----------
    path : path-like
        What exists is taken as it is, colons and all; else the longest part before a colon that
        exists is the file. The colon of a Windows drive is never taken for the separator. For
        HDF5, `file.h5/dataset` is understood too.
    dataset : str, optional
        A dataset that was given on its own.

    Returns
    -------
    path : str
        Of the file or folder; need not exist.
    dataset : str or None

    Raises
    ------
    VolumeError
        If the dataset is given twice.
    """
    text = os.fspath(path)
    if os.path.exists(text):
        return text, dataset
    colons = [i for i, c in enumerate(text) if c == ":" and i > 1]
    for i in reversed(colons):
        # what does not exist is still split, so that the error names the file that is missing
        if os.path.exists(text[:i]) or Path(text[:i]).suffix.lower() in SUFFIXES:
            if dataset is not None:
                raise VolumeError(f"expected one dataset, got {text[i + 1 :]!r} and {dataset!r}")
            return text[:i], text[i + 1 :]
    for parent in Path(text).parents:
        if parent.suffix.lower() in _hdf5.HDF5_SUFFIXES and parent.is_file():
            inside = Path(text).relative_to(parent).as_posix()
            if dataset is not None:
                raise VolumeError(f"expected one dataset, got {inside!r} and {dataset!r}")
            return str(parent), inside
    return text, dataset


def _read_errors() -> tuple[type[Exception], ...]:
    return (*READ_ERRORS, *remote_errors())


def _with_voxel_size(volume: EMVolume, voxel_size: Sequence[float]) -> EMVolume:
    """Put a voxel size in place of the file's own, and into the source, so that it travels."""
    volume = EMVolume.from_array(
        volume.data,
        voxel_size=voxel_size,
        origin=volume.origin,
        name=volume.name,
        source=volume.source,
    )
    if volume.source is None:
        return volume
    return replace(volume, source=replace(volume.source, voxel_size=volume.voxel_size))


def _choose_remote(url: str) -> tuple[Path, _Format]:
    """Of the formats, zarr is the one that is made for reading over a network."""
    place = as_path(url)
    try:
        found = _zarr.is_zarr(place)
    except remote_errors() as error:
        raise VolumeError(f"{url}: cannot be looked at ({error})") from error
    if not found:
        raise VolumeError(
            f"{url}: expected a zarr array or image, got none: check the address, and convert "
            "other formats to zarr first"
        )
    return place, _ZARR


def _choose(text: str) -> tuple[Path, _Format]:
    """Absolute path and type of file."""
    where = location(text)
    if isinstance(where, str):
        return _choose_remote(where)
    place = Path(os.path.abspath(where.expanduser()))
    if not place.exists():
        raise VolumeError(f"{place}: expected a file or folder, got nothing there: check the path")
    suffix = place.suffix.lower()
    if place.is_dir():
        if _zarr.is_zarr(place) or suffix in _zarr.ZARR_SUFFIXES:
            return place, _ZARR
        return place, _FOLDER
    if suffix in _BY_SUFFIX:
        return place, _BY_SUFFIX[suffix]
    raise VolumeError(
        f"{place}: expected a folder of sections or a file of type {', '.join(SUFFIXES)}, got "
        f"{suffix or 'no suffix'}: convert it, or rename it if its suffix is wrong"
    )
