"""What layers show: arrays that are read where and when they are asked for.

Nothing here reads more than what is on screen, and nothing writes voxels: the labels layer of a
run shows `lut[fragments]`, so that a new segmentation is a new LUT.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_cad.core._lazy import CroppedArray, LazyArray
from napari_cad.core.errors import ShapeError
from napari_cad.viewer.read_ahead import Sections

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    import numpy.typing as npt

    from napari_cad.core.volume import ArrayLike

T = TypeVar("T")


class LutLabels(LazyArray):
    """The labels `lut[fragments]`, looked up when and where they are asked for. Read-only.

    Parameters
    ----------
    fragments : array_like, shape (Z, Y, X), unsigned integer
        A zarr array or any other array that is read by slices.
    lut : ndarray, shape (n_fragments + 1,), unsigned integer, optional
        Fragment → segment with lut[0] = 0; without it the fragments themselves are shown.

    Notes
    -----
    The type is uint16 where the LUT's values fit into it, which napari shows almost three times as
    fast, and uint32 otherwise. There is deliberately no `__setitem__`.

    Of a zarr array that has a LUT the last sections are kept and their neighbours read ahead: while
    the LUT changes, reading and decompressing one would be half of the time until the picture. Such
    an array is that of a finished run, which nobody writes any more.
    """

    def __init__(self, fragments: ArrayLike, lut: npt.NDArray[Any] | None = None) -> None:
        small = lut is not None and int(lut.max(initial=0)) < 2**16
        super().__init__(fragments.shape, np.uint16 if small else np.uint32)
        self._fragments = fragments
        import zarr  # takes half a second, which a widget that opens has not

        self._is_stored = isinstance(fragments, zarr.Array)
        self._indices = self._sections(_index)
        self._lut: npt.NDArray[Any] | None = None
        if lut is not None:
            self.set_lut(lut)

    def __deepcopy__(self, _memo: dict[int, Any]) -> LutLabels:
        """Show the same from now on, for napari's "Duplicate Layer": nothing is read or copied."""
        return LutLabels(self._fragments, self.lut)

    @property
    def lut(self) -> npt.NDArray[Any] | None:
        """The LUT that is shown, of this array's type; do not write into it."""
        return self._lut

    def set_lut(self, lut: npt.NDArray[Any]) -> None:
        """Show another LUT from now on; refresh the layer to see it.

        Parameters
        ----------
        lut : ndarray, shape (n_fragments + 1,), unsigned integer
            With lut[0] = 0.

        Raises
        ------
        ShapeError
            If it has another shape, or its values do not fit into the type of this array.
        """
        if lut.ndim != 1 or not len(lut) or lut[0] != 0:
            raise ShapeError("a LUT has one axis and begins with 0 for the background")
        highest = int(lut.max())
        if highest > np.iinfo(self.dtype).max:
            raise ShapeError(f"segment {highest} does not fit into {self.dtype} labels")
        # one assignment: a slicing thread sees the old LUT or the new one
        self._lut = lut.astype(self.dtype)

    def ahead(self, z: int) -> Future[Any] | None:
        """Have a section read; None where they are not kept."""
        has_lut = self._lut is not None
        return self._indices.ahead(z) if self._is_stored and has_lut else None

    def _read(self, z: slice, y: slice, x: slice) -> npt.NDArray[Any]:
        lut = self._lut
        if lut is None:
            return np.asarray(self._fragments[z, y, x]).astype(self.dtype, copy=False)
        if self._keeps(z, self._indices):
            return lut.take(self._indices.get(z.start)[None, y, x])
        return lut.take(np.asarray(self._fragments[z, y, x]))

    def _keeps(self, z: slice, sections: Sections[Any]) -> bool:
        return self._is_stored and sections.kept and z.stop == z.start + 1

    def _sections(self, make: Callable[[ArrayLike, int], T]) -> Sections[T]:
        n_bytes = self.shape[1] * self.shape[2] * np.dtype(np.intp).itemsize
        return Sections(partial(make, self._fragments), self.shape[0], n_bytes)


def _index(fragments: ArrayLike, z: int) -> npt.NDArray[np.intp]:
    """Read a section as numpy looks values up fastest."""
    return np.asarray(fragments[z]).astype(np.intp)


class PyramidLevel(LazyArray):
    """One resolution of a multiscale layer: a box cut out of it reads nothing yet. Read-only.

    napari cuts the tile that is on screen out of all sections before it takes one of them. Any
    other index than one plain slice per axis reads what it asks for.

    Parameters
    ----------
    data : array_like, shape (Z, Y, X)
        Read by slices.
    """

    def __init__(self, data: ArrayLike) -> None:
        super().__init__(data.shape, data.dtype)
        self._data = data

    def __getitem__(self, key: Any) -> Any:
        items = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(item, slice) and item.step in (None, 1) for item in items):
            return super().__getitem__(key)
        spans = [range(n)[item] for n, item in zip(self.shape, items, strict=False)]
        spans += [range(n) for n in self.shape[len(spans) :]]
        z, y, x = ((span.start, span.stop) for span in spans)
        return PyramidLevel(CroppedArray(self._data, (z, y, x)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a lazy array cannot be seen as an ndarray without reading it")
        return np.asarray(super().__getitem__(...), dtype=dtype)

    def _read(self, z: slice, y: slice, x: slice) -> npt.NDArray[Any]:
        return np.asarray(self._data[z, y, x])


class ChannelsLast:
    """Affinities (3, Z, Y, X) as a colour image (Z, Y, X, 3): red z, green y, blue x. Read-only.

    Parameters
    ----------
    affinities : array_like, shape (3, Z, Y, X), uint8
    """

    def __init__(self, affinities: ArrayLike) -> None:
        n, *rest = affinities.shape
        self._affinities = affinities
        self.shape = (*rest, n)
        self.dtype = np.dtype(affinities.dtype)
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        items = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in items:
            i = items.index(Ellipsis)
            items[i : i + 1] = [slice(None)] * (self.ndim - len(items) + 1)
        items += [slice(None)] * (self.ndim - len(items))
        *voxels, channel = items
        part = np.asarray(self._affinities[(slice(None), *voxels)])
        return np.ascontiguousarray(np.moveaxis(part, 0, -1))[..., channel]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a lazy array cannot be seen as an ndarray without reading it")
        return np.asarray(self[...], dtype=dtype)
