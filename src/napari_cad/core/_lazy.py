"""Arrays that read from a file only what is asked for."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: A half-open crop (start, stop) per axis, in the order z, y, x.
Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


class ArrayLike(Protocol):
    """What a volume may hold: numpy, zarr, dask, or one of ours."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""

    @property
    def dtype(self) -> Any:
        """Type of one voxel."""

    def __getitem__(self, key: Any, /) -> Any:
        """Index with integers and slices; the result is anything that `numpy.asarray` takes."""


class LazyArray(ABC):
    """A (Z, Y, X) array with basic indexing (integers, slices of any step, an ellipsis).

    A subclass gives `_read`, which gets one slice per axis with start ≥ 0 and step ≥ 1; negative
    indices, negative steps and dropped axes are done here. Reading makes a new ndarray each time.

    Parameters
    ----------
    shape : sequence of int
        (Z, Y, X).
    dtype : dtype
        Of one voxel.
    """

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        z, y, x = (int(n) for n in shape)
        self.shape = (z, y, x)
        self.dtype = np.dtype(dtype)

    @abstractmethod
    def _read(self, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        """Read a box, keeping all three axes."""

    @property
    def ndim(self) -> int:
        """Number of axes: always 3."""
        return 3

    @property
    def size(self) -> int:
        """Number of voxels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes that the whole array would take in memory."""
        return self.size * int(self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        return (self[z] for z in range(len(self)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} shape={self.shape} dtype={self.dtype}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if copy is False:
            raise ValueError("a lazy array cannot be seen as an ndarray without reading it")
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, key: Any) -> Any:
        box: list[slice] = []
        after: list[
            Any
        ] = []  # what is left to do on the box that was read: drop an axis or turn it
        for item, length in zip(_three(key), self.shape, strict=True):
            if isinstance(item, slice):
                indices = range(length)[item]
                if indices.step < 0:
                    indices = indices[::-1]
                    after.append(slice(None, None, -1))
                else:
                    after.append(slice(None))
                stop = indices[-1] + 1 if indices else indices.start
                box.append(slice(indices.start, stop, indices.step))
            else:
                index = range(length)[item]  # raises IndexError where it is outside
                box.append(slice(index, index + 1, 1))
                after.append(0)
        if any(s.start >= s.stop for s in box):
            shape = tuple(len(range(s.start, s.stop, s.step)) for s in box)
            values = np.empty(shape, self.dtype)
        else:
            values = self._read(*box)
        return values[tuple(after)]


def _three(key: Any) -> list[Any]:
    """One integer or slice per axis."""
    items = list(key) if isinstance(key, tuple) else [key]
    for i, item in enumerate(items):
        if item is Ellipsis:
            items[i : i + 1] = [slice(None)] * (3 - (len(items) - 1))
            break
    items += [slice(None)] * (3 - len(items))
    if len(items) != 3:
        raise IndexError(f"a volume has three axes (z, y, x), got an index for {len(items)}")
    for i, item in enumerate(items):
        if not isinstance(item, slice):
            if isinstance(item, (bool, np.bool_)):
                raise IndexError("a volume on disk takes integers and slices, not booleans")
            try:
                items[i] = operator.index(item)
            except TypeError as error:
                raise IndexError(
                    "a volume on disk takes integers and slices; for other indexing read it into "
                    f"memory first (numpy.asarray), got {type(item).__name__}"
                ) from error
    return items


class CroppedArray(LazyArray):
    """A box of another array, read when it is asked for.

    Parameters
    ----------
    data : array_like, shape (Z, Y, X)
        Stays as it is, and is not read.
    bounds : tuple of (start, stop) pairs
        Half-open, per axis z, y, x, inside `data`.
    """

    def __init__(self, data: ArrayLike, bounds: Bounds) -> None:
        super().__init__([stop - start for start, stop in bounds], data.dtype)
        self._data = data
        self._bounds = bounds

    def _read(self, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        box = tuple(
            slice(s.start + start, s.stop + start, s.step)
            for s, (start, _) in zip((z, y, x), self._bounds, strict=True)
        )
        return np.asarray(self._data[box])
