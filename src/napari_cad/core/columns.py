"""Long columns of numbers in a zarr group, written piece by piece and read where they are needed.

A column that is *mapped* lies in one file without compression, so that on a local disk it is an
array in memory of which only the pages that are touched are read. It stays an ordinary zarr array:
elsewhere it is read as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore

from napari_cad.core.errors import ShapeError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    import zarr

#: Rows of a chunk of what is not mapped.
CHUNK_ROWS = 1 << 20

_CODEC = BloscCodec(typesize=8, cname="zstd", clevel=3, shuffle="shuffle")


def table_chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks of about a million rows; zarr wants at least one row, also of an empty table."""
    return (max(1, min(shape[0], CHUNK_ROWS)), *shape[1:])


class ColumnWriter:
    """Writes a column from its first row to its last, in pieces of any length.

    Parameters
    ----------
    group : zarr.Group
        Where it goes; a column of the same name is replaced.
    name : str
    shape : tuple of int
        Rows first.
    dtype : dtype
    mapped : bool
        Whether it is to be mapped into memory later.
    """

    def __init__(
        self, group: zarr.Group, name: str, shape: tuple[int, ...], dtype: Any, *, mapped: bool
    ) -> None:
        dtype = np.dtype(dtype).newbyteorder("<")
        folder = _folder(group) if mapped and shape[0] else None
        whole = folder is not None
        self._array = group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=shape if whole else table_chunks(shape),
            compressors=None if whole else _CODEC,
            overwrite=True,
        )
        self._dtype = dtype
        self._shape = shape
        self._rows = 0
        self._waiting: list[npt.NDArray[Any]] = []
        self._n_waiting = 0
        self._file = None
        self._path = None
        if folder is not None:
            self._path = _chunk_path(folder / name, len(shape))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.with_suffix(".partial").open("wb")

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write the rows that come next."""
        rows = np.ascontiguousarray(rows, self._dtype)
        self._rows += len(rows)
        if self._file is not None:
            self._file.write(rows.data)
            return
        self._waiting.append(rows)
        self._n_waiting += len(rows)
        if self._n_waiting >= CHUNK_ROWS:
            self._write(CHUNK_ROWS)

    def _write(self, multiple: int) -> None:
        """Write whole chunks of what waits: of a part of one, zarr would read the rest back."""
        rows = np.concatenate([np.zeros((0, *self._shape[1:]), self._dtype), *self._waiting])
        begin = self._rows - len(rows)
        n = len(rows) // multiple * multiple
        if n:
            self._array[begin : begin + n] = rows[:n]
        self._waiting, self._n_waiting = [rows[n:]], len(rows) - n

    def close(self) -> None:
        """Finish it.

        Raises
        ------
        ShapeError
            If fewer or more rows came than were announced.
        """
        if self._file is not None:
            self._file.close()
        if self._rows != self._shape[0]:
            raise ShapeError(f"expected {self._shape[0]} rows of a column, got {self._rows}")
        if self._path is not None:
            # in one step, so that whoever has the old one mapped keeps it
            self._path.with_suffix(".partial").replace(self._path)
        else:
            self._write(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        elif self._file is not None:
            self._file.close()


def write_column(group: zarr.Group, name: str, values: npt.NDArray[Any], *, mapped: bool) -> None:
    """Write a column that is in memory."""
    with ColumnWriter(group, name, values.shape, values.dtype, mapped=mapped) as writer:
        writer.append(values)


def read_column(group: zarr.Group, name: str) -> npt.NDArray[Any]:
    """Read a column, or map it into memory, read-only, where it can be.

    Returns
    -------
    ndarray
        Where it is mapped, what of it is on the disk may not be written while it is in use; a
        column that is *replaced* stays as it was for those who have it.
    """
    array = cast("zarr.Array[Any]", group[name])
    folder = _folder(group)
    if folder is not None and array.chunks == array.shape and not array.compressors:
        path = _chunk_path(folder / name, array.ndim)
        if path.is_file() and path.stat().st_size == array.dtype.itemsize * array.size:
            return np.memmap(path, array.dtype, "r", shape=array.shape)
    return cast("npt.NDArray[Any]", array[:])


def _folder(group: zarr.Group) -> Path | None:
    """Where a group lies, if that is a local disk."""
    store = group.store_path.store
    return store.root / group.store_path.path if isinstance(store, LocalStore) else None


def _chunk_path(array: Path, ndim: int) -> Path:
    return array.joinpath("c", *("0" * ndim))
