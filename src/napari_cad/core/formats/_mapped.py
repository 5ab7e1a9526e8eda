"""MRC and .npy: one uncompressed array behind a header."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_cad.core.errors import VolumeError
from napari_cad.core.formats._files import (
    MappedArray,
    Opened,
    choose_axes,
    join_choice,
    split_choice,
)
from napari_cad.core.formats._units import voxel_size_in_nm

if TYPE_CHECKING:
    from pathlib import Path

MRC_SUFFIXES = (".mrc", ".mrcs", ".rec", ".st", ".ali", ".map")
NPY_SUFFIXES = (".npy",)

_MRC_HEADER_BYTES = 1024
_IMOD_STAMP = 1146047817

ByteOrder = Literal["<", ">"]


def open_npy(path: Path, dataset: str | None) -> Opened:
    """Open a .npy file."""
    choice = _choice(path, dataset)
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    layout = choose_axes(mapped.shape, None, choice, str(path))
    order = "C" if mapped.flags.c_contiguous else "F"
    data = MappedArray(str(path), mapped.shape, mapped.dtype, mapped.offset, layout, order)
    return Opened(data, dataset=join_choice(None, choice))


def open_mrc(path: Path, dataset: str | None) -> Opened:
    """Open an MRC file; format: https://www.ccpem.ac.uk/mrc_format/mrc2014.php."""
    from mrcfile.dtypes import HEADER_DTYPE
    from mrcfile.utils import dtype_from_mode

    choice = _choice(path, dataset)
    with path.open("rb") as file:
        raw = file.read(_MRC_HEADER_BYTES)
    if len(raw) < _MRC_HEADER_BYTES:
        raise VolumeError(
            f"{path}: truncated: expected an MRC header of {_MRC_HEADER_BYTES} bytes, "
            f"got {len(raw)}: copy the file again"
        )
    header, byte_order = _mrc_header(raw, HEADER_DTYPE, path)
    mode = int(header["mode"])
    try:
        dtype = np.dtype(dtype_from_mode(mode)).newbyteorder(byte_order)
    except ValueError as error:
        raise VolumeError(
            f"{path}: expected an MRC file of integers or floating-point numbers, got mode {mode}: "
            "convert it (in IMOD: newstack -mode 1)"
        ) from error
    if mode == 0 and _bytes_are_unsigned(raw, byte_order):
        dtype = np.dtype(np.uint8)
    shape = tuple(int(header[name]) for name in ("nz", "ny", "nx"))
    layout = choose_axes(shape, "zyx", choice, str(path))
    data = MappedArray(str(path), shape, dtype, _MRC_HEADER_BYTES + int(header["nsymbt"]), layout)
    voxel_size = None
    order = tuple(int(header[name]) for name in ("mapc", "mapr", "maps"))
    sampling = [int(header[name]) for name in ("mz", "my", "mx")]
    if order in ((1, 2, 3), (0, 0, 0)) and min(sampling) > 0:
        cell = [float(header["cella"][name]) for name in ("z", "y", "x")]
        sizes = [float(f"{c / n:.6g}") for c, n in zip(cell, sampling, strict=True)]
        voxel_size = voxel_size_in_nm(sizes, "angstrom")
    return Opened(data, voxel_size, dataset=join_choice(None, choice))


def _mrc_header(raw: bytes, dtype: Any, path: Path) -> tuple[Any, ByteOrder]:
    """Read the header in the byte order that makes sense: old files have no machine stamp."""
    byte_order: ByteOrder
    for byte_order in ("<", ">"):
        header = np.frombuffer(raw, dtype.newbyteorder(byte_order))[0]
        sizes = [int(header[name]) for name in ("nx", "ny", "nz")]
        plausible = 0 <= int(header["mode"]) <= 101 and all(0 < n < 2**24 for n in sizes)
        if plausible and 0 <= int(header["nsymbt"]) < os.path.getsize(path):
            return header, byte_order
    raise VolumeError(
        f"{path}: expected an MRC file, got a header whose sizes and type make no sense: "
        "is its suffix right?"
    )


def _bytes_are_unsigned(raw: bytes, byte_order: ByteOrder) -> bool:
    """Tell whether IMOD wrote unsigned bytes, which the format itself does not have."""
    stamp, flags = np.frombuffer(raw, np.dtype("i4").newbyteorder(byte_order), 2, offset=152)
    return int(stamp) == _IMOD_STAMP and not int(flags) & 1


def _choice(path: Path, dataset: str | None) -> dict[str, int]:
    name, choice = split_choice(dataset)
    if name is not None:
        raise VolumeError(f"{path}: expected no dataset, it holds one array, got {name!r}")
    return choice
