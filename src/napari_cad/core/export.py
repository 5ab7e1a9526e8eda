"""Write labels for other tools: OME-Zarr, TIFF or HDF5, one section in memory at a time."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from napari_cad.core.errors import ConfigError, ShapeError, StoreError, VolumeError
from napari_cad.core.formats._zarr import is_store
from napari_cad.core.volume import EMVolume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Format = Literal["ome-zarr", "tiff", "hdf5"]

_FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".zarr": "ome-zarr",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".h5": "hdf5",
    ".hdf": "hdf5",
    ".hdf5": "hdf5",
}

#: Side of a chunk within a section in HDF5; a chunk holds one section.
_CHUNK = 1024

#: The same in OME-Zarr, and the side of a shard: a file that holds so many chunks of a section.
_ZARR_CHUNK, _ZARR_SHARD = 512, 4096

#: Name of the dataset in HDF5, as other EM tools write and expect it.
HDF5_DATASET = "main"


def export_labels(
    labels_source: Callable[[int], np.ndarray[Any, Any]],
    shape: Sequence[int],
    path: str | os.PathLike[str],
    *,
    voxel_size: Sequence[float] | None,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    format: Format | None = None,  # noqa: A002 - the word that a person looks for
    overwrite: bool = False,
    max_label: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    source: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a label volume section by section.

    What is written is complete or not there: it grows under another name beside `path` and gets
    its own at the end. It has the smallest unsigned type that holds all labels.

    Parameters
    ----------
    labels_source : callable
        `labels_source(z)` gives section z: ndarray, shape (Y, X), integer ≥ 0.
    shape : sequence of int
        (Z, Y, X).
    path : path-like
        Its folder exists. The suffix decides the format: `.zarr` (OME-Zarr 0.5 label image, with
        the coarser levels of `napari_cad.core.label_pyramid`), `.tif` (BigTIFF with OME metadata,
        deflate), `.h5` or `.hdf` (HDF5, dataset `main`).
    voxel_size : sequence of float or None
        (z, y, x) in nm; None is written as not known.
    origin : sequence of float
        (z, y, x) in nm, of the first voxel; TIFF has no place for it.
    format : {"ome-zarr", "tiff", "hdf5"}, optional
        Where the suffix does not say it.
    overwrite : bool
        Replace what is there: a file, or a folder that is an OME-Zarr label image. No other folder
        is ever replaced.
    max_label : int, optional
        Upper limit of the labels. Without it all sections are asked for twice, first to find the
        type.
    progress : callable, optional
        `progress(done, n)` after each section written. What it raises ends the export.
    source : path-like or URL, optional
        Where the labels come from, if they are read while this goes on.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    ConfigError
        If the format is not one of these, or the suffix does not say it.
    StoreError
        If something is there and `overwrite` is off, the folder is missing, or `path` is a store
        or anything else that may not be replaced, or lies in a store or in the source.
    ShapeError
        If a section does not have the shape (Y, X).
    VolumeError
        If labels are negative, no integers, or larger than `max_label`.
    """
    target = Path(os.path.abspath(os.path.expanduser(path)))
    chosen = _choose_format(target, format)
    # a volume of no bytes checks shape, voxel size and origin with the words of the readers
    z, y, x = EMVolume.from_array(
        np.broadcast_to(np.uint8(0), tuple(int(n) for n in shape)),
        voxel_size=voxel_size,
        origin=origin,
    ).shape
    if not target.parent.is_dir():
        raise StoreError(f"{target}: expected the folder {target.parent} to exist: make it first")
    if os.path.lexists(target) and not overwrite:
        raise StoreError(f"{target}: expected nothing there, got a file or folder: say overwrite")
    _check_target(target, source)

    def section(index: int) -> np.ndarray[Any, Any]:
        return _checked(labels_source(index), (y, x), index)

    if max_label is None:
        max_label = max(int(section(index).max()) for index in range(z))
    dtype = smallest_dtype(max_label)

    def sections() -> Iterator[np.ndarray[Any, Any]]:
        for index in range(z):
            # asked for, so the writer is done with the one before
            if progress is not None and index > 0:
                progress(index, z)
            labels = section(index)
            if int(labels.max()) > max_label:
                raise VolumeError(
                    f"section {index}: expected labels up to {max_label}, got {labels.max()}"
                )
            yield np.ascontiguousarray(labels, dtype=dtype)

    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    size = None if voxel_size is None else [float(v) for v in voxel_size]
    try:
        write = {"ome-zarr": _write_zarr, "tiff": _write_tiff, "hdf5": _write_hdf5}[chosen]
        write(part, sections(), (z, y, x), dtype, size, [float(v) for v in origin], target.stem)
        if progress is not None:
            progress(z, z)
        if overwrite:  # again, since an export takes a while
            _check_target(target, source)
        _move(part, target, overwrite=overwrite)
    finally:
        _remove(part)
    return target


def smallest_dtype(max_label: int) -> np.dtype[Any]:
    """Find the smallest unsigned type that holds the labels 0 to `max_label`.

    Parameters
    ----------
    max_label : int
        From 0 to 2⁶⁴ − 1.

    Returns
    -------
    dtype
        uint8, uint16, uint32 or uint64.

    Raises
    ------
    VolumeError
        If no type holds it.
    """
    for name in ("uint8", "uint16", "uint32", "uint64"):
        if 0 <= max_label <= np.iinfo(name).max:
            return np.dtype(name)
    raise VolumeError(f"expected labels from 0 to 2^64 - 1, got {max_label}")


def _check_target(target: Path, source: str | os.PathLike[str] | None) -> None:
    """Refuse a place where something would be lost or mixed up."""
    # links aside, so that one place has one name
    real = Path(os.path.realpath(target))
    for place in (real, *real.parents):
        if is_store(place):
            raise StoreError(
                f"{target}: expected a place for labels, but {place} is a napari-cad store, which "
                "an export never writes into: choose another place"
            )
    if source is not None and "://" not in os.fspath(source):
        origin = Path(os.path.realpath(source))
        if real.is_relative_to(origin) or origin.is_relative_to(real):
            raise StoreError(
                f"{target}: expected a place apart from what is exported, which is {origin}: "
                "choose another place"
            )
    if target.is_dir() and not _is_label_image(target):
        raise StoreError(
            f"{target}: expected a label image as exports write them, which would be replaced, "
            "got another folder: remove it by hand, or choose another place"
        )


def _is_label_image(folder: Path) -> bool:
    """Whether a folder is an OME-Zarr label image and holds nothing else."""
    try:
        ome = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))["attributes"]["ome"]
        levels = {entry["path"] for image in ome["multiscales"] for entry in image["datasets"]}
        names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return "image-label" in ome and names <= {"zarr.json", *levels}


def _choose_format(target: Path, wanted: str | None) -> Format:
    if wanted is None:
        found = _FORMAT_OF_SUFFIX.get(target.suffix.lower())
        if found is None:
            raise ConfigError(
                f"{target.name}: expected one of the suffixes {', '.join(_FORMAT_OF_SUFFIX)}, got "
                f"{target.suffix or 'none'}: rename it or say the format"
            )
        return found
    for known in get_args(Format):
        if wanted == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError(f"format: expected one of {', '.join(get_args(Format))}, got {wanted!r}")


def _checked(values: Any, shape: tuple[int, int], z: int) -> np.ndarray[Any, Any]:
    labels: np.ndarray[Any, Any] = np.asarray(values)
    if labels.shape != shape:
        raise ShapeError(f"section {z}: expected labels of shape {shape}, got {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise VolumeError(f"section {z}: expected labels of an integer type, got {labels.dtype}")
    if labels.dtype.kind == "i" and int(labels.min()) < 0:
        raise VolumeError(f"section {z}: expected labels from 0, got {labels.min()}")
    return labels


def _write_zarr(
    path: Path,
    sections: Iterator[np.ndarray[Any, Any]],
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    voxel_size: list[float] | None,
    origin: list[float],
    name: str,
) -> None:
    """OME-Zarr 0.5: https://ngff.openmicroscopy.org/0.5/."""
    import zarr
    from zarr.codecs import BloscCodec

    from napari_cad.core.label_pyramid import PyramidBuilder, pyramid_levels

    levels = pyramid_levels(shape, voxel_size)
    size, first = voxel_size or [1.0] * 3, [0.0] * 3 if voxel_size is None else origin
    datasets: list[dict[str, Any]] = []
    for number, level in enumerate(levels):
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": level.scale(size)}]
        translation = level.translation(size, first)
        if any(translation):
            transformations.append({"type": "translation", "translation": translation})
        datasets.append({"path": str(number), "coordinateTransformations": transformations})
    unit = {} if voxel_size is None else {"unit": "nanometer"}
    metadata = {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": [{"name": axis, "type": "space", **unit} for axis in "zyx"],
                "datasets": datasets,
            }
        ],
        "image-label": {},
    }
    group = zarr.create_group(str(path), zarr_format=3, attributes={"ome": metadata})
    arrays = []
    for number, level in enumerate(levels):
        chunks, shards = _zarr_chunks(level.shape)
        array = group.create_array(
            str(number),
            shape=level.shape,
            chunks=chunks,
            shards=shards,
            dtype=dtype,
            compressors=BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"),
            dimension_names=["z", "y", "x"],
            fill_value=0,
        )
        arrays.append(array)

    def write(level: int, z: int, labels: np.ndarray[Any, Any]) -> None:
        arrays[level][z] = labels

    builder = PyramidBuilder(levels, write)
    for labels in sections:
        builder.add(labels)


def _zarr_chunks(
    shape: tuple[int, int, int],
) -> tuple[tuple[int, int, int], tuple[int, int, int] | None]:
    """Chunks, and shards where there are several: of one section, so that each is written once."""
    chunks = tuple(min(length, _ZARR_CHUNK) for length in shape[1:])
    shards = tuple(
        min(-(-length // chunk) * chunk, _ZARR_SHARD)
        for length, chunk in zip(shape[1:], chunks, strict=True)
    )
    return (1, *chunks), None if shards == chunks else (1, *shards)  # type: ignore[return-value]


def _write_hdf5(
    path: Path,
    sections: Iterator[np.ndarray[Any, Any]],
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    voxel_size: list[float] | None,
    origin: list[float],
    name: str,
) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            HDF5_DATASET,
            shape,
            dtype,
            chunks=_chunks(shape),
            compression="gzip",
            compression_opts=4,
            shuffle=True,
        )
        if voxel_size is not None:
            dataset.attrs["resolution"] = voxel_size
            dataset.attrs["units"] = "nm"
            if any(origin):
                dataset.attrs["offset"] = origin
        for z, labels in enumerate(sections):
            dataset[z] = labels


def _write_tiff(
    path: Path,
    sections: Iterator[np.ndarray[Any, Any]],
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    voxel_size: list[float] | None,
    origin: list[float],
    name: str,
) -> None:
    import tifffile

    # OME has no 64-bit integers; tifffile's own description takes any type
    ome = dtype.itemsize <= 4
    metadata: dict[str, Any] = {"axes": "ZYX"}
    resolution: dict[str, Any] = {}
    if ome:
        metadata["Name"] = name
    if voxel_size is not None and ome:
        for axis, size in zip("ZYX", voxel_size, strict=True):
            metadata[f"PhysicalSize{axis}"] = size
            metadata[f"PhysicalSize{axis}Unit"] = "nm"
    elif voxel_size is not None:
        metadata.update(spacing=voxel_size[0], unit="nm")
        resolution["resolution"] = (1 / voxel_size[2], 1 / voxel_size[1])
    with tifffile.TiffWriter(path, bigtiff=True, ome=ome) as writer:
        writer.write(
            sections,
            shape=shape,
            dtype=dtype,
            photometric="minisblack",
            compression="zlib",
            metadata=metadata,
            **resolution,
        )


def _chunks(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return 1, min(shape[1], _CHUNK), min(shape[2], _CHUNK)


def _move(part: Path, target: Path, *, overwrite: bool) -> None:
    """Give the finished file or folder its name."""
    if not os.path.lexists(target):
        part.rename(target)
        return
    if not overwrite:
        raise StoreError(f"{target}: expected nothing there, got something since the export began")
    # a folder cannot be replaced in one step: the old one steps aside, and goes last
    old = target.with_name(part.name.removesuffix(".part") + ".old")
    target.rename(old)
    try:
        part.rename(target)
    except OSError:
        old.rename(target)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
