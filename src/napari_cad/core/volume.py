"""The EM stack: an array of sections with a voxel size, read when it is asked for."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from napari_cad.core._lazy import ArrayLike, Bounds, CroppedArray
from napari_cad.core.binning import BinnedArray
from napari_cad.core.errors import VolumeError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ArrayLike", "Bounds", "EMVolume", "VolumeSource", "spread_sections"]

#: How many sections a signature looks at, and how much of each (voxels along y and x).
_SIGNATURE_SECTIONS = 5
_SIGNATURE_SIDE = 1024

#: A range on one axis: a slice with step 1, or (start, stop) where None is the end of the axis.
Range = slice | tuple[int | None, int | None]


@dataclass(frozen=True)
class VolumeSource:
    """How to open the same volume in another process.

    Parameters
    ----------
    path : str
        File or folder.
    dataset : str, optional
        What inside it, for formats that hold several (HDF5, zarr).
    bounds : tuple of three (start, stop) pairs, optional
        Half-open crop (z, y, x) in voxels of the file; None for everything.
    voxel_size : tuple of float, optional
        (z, y, x) in nm where it was given by hand, against or in place of the file's own.
    bin : int
        How many voxels along y and x become one, once it is cropped; see `napari_cad.core.binning`.
    """

    path: str
    dataset: str | None = None
    bounds: Bounds | None = None
    voxel_size: tuple[float, float, float] | None = None
    bin: int = 1

    def to_json(self) -> dict[str, Any]:
        """Make a dictionary that `json` can write."""
        return {
            "path": self.path,
            "dataset": self.dataset,
            "bounds": None if self.bounds is None else [list(pair) for pair in self.bounds],
            "voxel_size": None if self.voxel_size is None else list(self.voxel_size),
            **({} if self.bin == 1 else {"bin": self.bin}),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> VolumeSource:
        """Make a source from what `to_json` gave.

        Raises
        ------
        VolumeError
            If `values` is no such dictionary.
        """
        try:
            bounds, voxel_size = values.get("bounds"), values.get("voxel_size")
            return cls(
                path=str(values["path"]),
                dataset=values.get("dataset"),
                bounds=None
                if bounds is None
                else cast("Bounds", tuple((int(a), int(b)) for a, b in bounds)),
                voxel_size=None if voxel_size is None else _three_floats(voxel_size, "voxel size"),
                bin=int(values.get("bin", 1)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise VolumeError(
                f"a volume source has path, dataset, bounds and voxel_size, got {values!r}"
            ) from error


@dataclass(frozen=True, eq=False)
class EMVolume:
    """An EM stack, or labels of one: sections along z, with a voxel size.

    Parameters
    ----------
    data : array_like, shape (Z, Y, X), integer or floating
        Anything that `numpy.asarray` makes a slice of: numpy, zarr, dask, a file read lazily. It
        is neither copied nor read here.
    voxel_size : tuple of float, optional
        (z, y, x) in nm; None where it is not known.
    origin : tuple of float
        (z, y, x) in nm, of the first voxel.
    name : str
        For people.
    source : VolumeSource, optional
        How to open it again; None for an array that exists in memory only.
    bin : int
        How many voxels of the stack along y and x one of these is the mean of; see
        `napari_cad.core.binning`.

    Raises
    ------
    VolumeError
        If `data` does not have three axes, has an empty one, or holds neither integers nor
        floating-point numbers; if the voxel size is not three positive numbers.
    """

    data: ArrayLike
    voxel_size: tuple[float, float, float] | None = None
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    name: str = "volume"
    source: VolumeSource | None = None
    bin: int = 1

    def __post_init__(self) -> None:
        _check_array(self.data)
        if self.voxel_size is not None:
            voxel_size = _three_floats(self.voxel_size, "voxel size")
            if min(voxel_size) <= 0:
                raise VolumeError(
                    f"a voxel size is three positive numbers (z, y, x) in nm, got {voxel_size}"
                )
            object.__setattr__(self, "voxel_size", voxel_size)
        object.__setattr__(self, "origin", _three_floats(self.origin, "origin"))

    @classmethod
    def from_array(
        cls,
        array: Any,
        *,
        voxel_size: Sequence[float] | None = None,
        origin: Sequence[float] = (0.0, 0.0, 0.0),
        name: str = "volume",
        source: VolumeSource | None = None,
    ) -> EMVolume:
        """Make a volume of an array; a 2D image becomes one section.

        Parameters
        ----------
        array : array_like, shape (Z, Y, X) or (Y, X)
            Integer or floating; not copied.
        voxel_size : sequence of float, optional
            (z, y, x) in nm.
        origin : sequence of float
            (z, y, x) in nm.
        name : str
            For people.
        source : VolumeSource, optional
            How to open it again.

        Returns
        -------
        EMVolume

        Raises
        ------
        VolumeError
            As the class itself.
        """
        if not (hasattr(array, "shape") and hasattr(array, "dtype")):
            array = np.asarray(array)
        if len(array.shape) == 2:
            array = (array if hasattr(array, "reshape") else np.asarray(array))[None]
        return cls(
            array,
            None if voxel_size is None else _three_floats(voxel_size, "voxel size"),
            _three_floats(origin, "origin"),
            name,
            source,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        z, y, x = self.data.shape
        return int(z), int(y), int(x)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel, in native byte order, as `section` returns it."""
        native: np.dtype[Any] = np.dtype(self.data.dtype).newbyteorder("=")
        return native

    @property
    def n_sections(self) -> int:
        """Number of sections, Z."""
        return self.shape[0]

    def section(self, z: int) -> np.ndarray[Any, Any]:
        """Read one section.

        Parameters
        ----------
        z : int
            0 ≤ z < n_sections. Negative numbers are refused: the section before the first one is
            not the last one.

        Returns
        -------
        ndarray, shape (Y, X), the volume's dtype
            C-contiguous, in native byte order. May share memory with the volume: do not write
            into it.

        Raises
        ------
        IndexError
            If there is no such section.
        """
        if not 0 <= z < self.n_sections:
            raise IndexError(f"{self.name} has sections 0 to {self.n_sections - 1}, got {z}")
        return np.ascontiguousarray(np.asarray(self.data[int(z)]), dtype=self.dtype)

    def crop(
        self, sections: Range | None = None, y: Range | None = None, x: Range | None = None
    ) -> EMVolume:
        """Take a box of the volume, without reading it.

        Parameters
        ----------
        sections, y, x : slice or (start, stop), optional
            Half-open, in voxels; None is everything, negative numbers count from the end.

        Returns
        -------
        EMVolume
            With its origin moved and its source narrowed.

        Raises
        ------
        VolumeError
            If the box is empty or reaches out of the volume, or a slice has a step.
        """
        names = ("sections", "y", "x")
        pairs = [
            _bounds(wanted, length, name)
            for wanted, length, name in zip((sections, y, x), self.shape, names, strict=True)
        ]
        bounds: Bounds = (pairs[0], pairs[1], pairs[2])
        if all(pair == (0, n) for pair, n in zip(bounds, self.shape, strict=True)):
            return self
        starts = [start for start, _ in bounds]
        data: ArrayLike
        if isinstance(self.data, np.ndarray):
            data = self.data[tuple(slice(*pair) for pair in bounds)]
        else:
            data = CroppedArray(self.data, bounds)
        origin = self.origin
        if self.voxel_size is not None:
            moved = zip(origin, starts, self.voxel_size, strict=True)
            origin = cast("tuple[float, float, float]", tuple(o + s * v for o, s, v in moved))
        source = self.source
        if source is not None:
            source = replace(source, bounds=self._bounds_in_file(bounds))
        return replace(self, data=data, origin=origin, source=source)

    def _bounds_in_file(self, bounds: Bounds) -> Bounds:
        """Bounds in voxels of the source's file."""
        ours = None if self.source is None else self.source.bounds
        if ours is None:
            whole = self.data.stack_shape if isinstance(self.data, BinnedArray) else self.shape
            ours = ((0, whole[0]), (0, whole[1]), (0, whole[2]))
        steps = (1, self.bin, self.bin)
        # the last block of a binned axis may have been cut short
        moved = tuple(
            (first + start * step, min(first + stop * step, last))
            for (first, last), (start, stop), step in zip(ours, bounds, steps, strict=True)
        )
        return cast("Bounds", moved)

    def signature(self) -> dict[str, Any]:
        """Describe what tells this volume from another one, without reading it all.

        Returns
        -------
        dict
            path, dataset and bounds (None without a source), shape, dtype, and `sha256` over the
            middle (at most 1024×1024 voxels) of at most five sections spread over the volume, the
            first and the last among them; bin, where it is not 1. `json` can write it.
        """
        digest = hashlib.sha256()
        _, height, width = self.shape
        window = (_middle(height, _SIGNATURE_SIDE), _middle(width, _SIGNATURE_SIDE))
        little_endian = self.dtype.newbyteorder("<")
        for z in spread_sections(self.n_sections, _SIGNATURE_SECTIONS):
            values = np.asarray(self.data[(z, *window)])
            digest.update(np.ascontiguousarray(values, dtype=little_endian).tobytes())
        source = None if self.source is None else self.source.to_json()
        return {
            "path": source and source["path"],
            "dataset": source and source["dataset"],
            "bounds": source and source["bounds"],
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "sha256": digest.hexdigest(),
            # absent where it is not used, so that runs made before there was this can go on
            **({} if self.bin == 1 else {"bin": self.bin}),
        }


def spread_sections(n_sections: int, n: int) -> list[int]:
    """At most `n` different section indices spread evenly, the first and the last among them."""
    if n_sections <= n:
        return list(range(n_sections))
    if n == 1:
        return [n_sections // 2]
    return [round(i * (n_sections - 1) / (n - 1)) for i in range(n)]


def _check_array(data: ArrayLike) -> None:
    shape = tuple(int(n) for n in data.shape)
    if len(shape) == 4 and shape[-1] in (3, 4):
        raise VolumeError(
            f"a volume has three axes (z, y, x), got {shape}, which looks like colour (RGB): "
            "convert it to grey first, for example with data[..., 0] where all channels are equal"
        )
    if len(shape) == 2:
        raise VolumeError(
            f"a volume has three axes (z, y, x), got an image of shape {shape}: "
            "EMVolume.from_array makes one section of it"
        )
    if len(shape) != 3:
        raise VolumeError(
            f"a volume has three axes (z, y, x), got {len(shape)} of shape {shape}: choose one "
            "channel and one time point first"
        )
    if 0 in shape:
        raise VolumeError(f"a volume has at least one voxel along each axis, got shape {shape}")
    dtype = np.dtype(data.dtype)
    if dtype.kind in "iuf":
        return
    advice = {
        "b": "convert it with .astype('uint8')",
        "c": "take its magnitude with numpy.abs",
        "V": "choose one of its fields (is it colour?)",
    }.get(dtype.kind, "convert it to numbers")
    raise VolumeError(f"a volume holds integers or floating-point numbers, got {dtype}: {advice}")


def _three_floats(values: Sequence[float], what: str) -> tuple[float, float, float]:
    try:
        z, y, x = (float(v) for v in values)
    except (TypeError, ValueError) as error:
        raise VolumeError(
            f"{what}: expected three numbers (z, y, x) in nm, got {values!r}"
        ) from error
    if not (math.isfinite(z) and math.isfinite(y) and math.isfinite(x)):
        raise VolumeError(f"{what}: expected three finite numbers (z, y, x) in nm, got {values!r}")
    return z, y, x


def _bounds(wanted: Range | None, length: int, name: str) -> tuple[int, int]:
    """(start, stop) with 0 ≤ start < stop ≤ length."""
    if wanted is None:
        return 0, length
    if isinstance(wanted, slice):
        if wanted.step not in (None, 1):
            raise VolumeError(f"{name}: a crop takes every voxel, got a step of {wanted.step}")
        wanted = (wanted.start, wanted.stop)
    first, last = wanted
    start = 0 if first is None else int(first)
    stop = length if last is None else int(last)
    start, stop = (i + length if i < 0 else i for i in (start, stop))
    if not 0 <= start < stop <= length:
        raise VolumeError(
            f"{name}: the range must lie in 0:{length} and hold at least one, got "
            f"{'' if first is None else first}:{'' if last is None else last}"
        )
    return start, stop


def _middle(length: int, most: int) -> slice:
    start = max(0, (length - most) // 2)
    return slice(start, min(length, start + most))
