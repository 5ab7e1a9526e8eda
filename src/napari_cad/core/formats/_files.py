"""What all formats share: lazy arrays over files, and which axes of a file make a volume."""

from __future__ import annotations

import os
import re
import struct
import threading
import zlib
from abc import abstractmethod
from dataclasses import dataclass
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core._lazy import LazyArray
from napari_cad.core.errors import VolumeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_cad.core.volume import ArrayLike

#: What libraries raise on files that are damaged, found by changing bytes of files at random.
READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    EOFError,
    SyntaxError,  # Pillow's, for a broken PNG
    TokenError,  # numpy's, for a broken .npy
    struct.error,
    zlib.error,
)

_DEFAULT_AXES = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}


@dataclass(frozen=True)
class Opened:
    """What a format makes of a file; `dataset` is the full name of what was opened."""

    data: ArrayLike
    voxel_size: tuple[float, float, float] | None = None
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    dataset: str | None = None


@dataclass(frozen=True)
class Layout:
    """Where z, y and x are in an array of more axes.

    `fixed` has one entry per axis of the file: the index to take, or None where the axis stays.
    Without z the array is one section.
    """

    fixed: tuple[int | None, ...]
    has_z: bool
    shape: tuple[int, int, int]

    def read(self, array: Any, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        """Read a box (Z, Y, X) of an array that has all the axes."""
        kept = iter((z, y, x) if self.has_z else (y, x))
        key = tuple(next(kept) if index is None else index for index in self.fixed)
        values = np.asarray(array[key])
        return values if self.has_z else values[np.newaxis]


def split_choice(dataset: str | None) -> tuple[str | None, dict[str, int]]:
    """Split `name@c=1,t=0` into the name (None if empty) and the chosen indices by axis."""
    found = re.fullmatch(r"(.*?)@((?:[a-zA-Z]=\d+,?)+)", dataset or "", re.DOTALL)
    if found is None:
        return dataset or None, {}
    pairs = (pair.split("=") for pair in found[2].strip(",").split(","))
    return found[1] or None, {axis.lower(): int(index) for axis, index in pairs}


def join_choice(dataset: str | None, choice: Mapping[str, int]) -> str | None:
    """Undo `split_choice`."""
    if not choice:
        return dataset
    return f"{dataset or ''}@" + ",".join(f"{axis}={i}" for axis, i in choice.items())


def choose_axes(
    shape: Sequence[int], names: Sequence[str] | None, choice: Mapping[str, int], what: str
) -> Layout:
    """Find z, y and x among the axes of an array.

    Parameters
    ----------
    shape : sequence of int
        Of the array in the file.
    names : sequence of str, optional
        One letter per axis; by default the last axes of t, c, z, y, x.
    choice : mapping
        Index to take on an axis, by its name. Other axes of length 1 are dropped.
    what : str
        Names the array in error messages.

    Returns
    -------
    Layout

    Raises
    ------
    VolumeError
        If what is left is not (z,) y, x in this order.
    """
    shape = tuple(int(n) for n in shape)
    if names is None:
        # a last axis of 3 or 4 is taken for colour only where no file says what it is
        names = "zyxs" if len(shape) == 4 and shape[-1] in (3, 4) else _DEFAULT_AXES.get(len(shape))
    if names is None or len(names) != len(shape):
        raise VolumeError(
            f"{what}: expected an array of axes z, y, x, at most t, c, z, y, x, got shape {shape}"
        )
    names = [name.lower() for name in names]
    if "s" in names and shape[names.index("s")] > 1:
        raise VolumeError(
            f"{what}: expected grey values, got colour with {shape[names.index('s')]} samples per "
            "voxel: convert it to grey first (in ImageJ: Image > Type > 8-bit)"
        )
    unknown = sorted(set(choice) - (set(names) - {"y", "x"}))
    if unknown:
        raise VolumeError(
            f"{what}: cannot choose along {', '.join(unknown)}: it has the axes "
            f"{_describe(names, shape)}"
        )
    fixed: list[int | None] = [choice.get(name) for name in names]
    for name, index, length in zip(names, fixed, shape, strict=True):
        if index is not None and index >= length:
            raise VolumeError(f"{what}: {name} goes from 0 to {length - 1}, got {name}={index}")
    several = []
    for i, (name, length) in enumerate(zip(names, shape, strict=True)):
        if fixed[i] is None and name not in ("z", "y", "x"):
            if length == 1:
                fixed[i] = 0
            else:
                several.append(name)
    kept = [name for name, index in zip(names, fixed, strict=True) if index is None]
    if "z" not in kept and len(several) == 1:
        # sections that a file calls time points, channels or just pages
        kept[kept.index(several[0])] = "z"
        several = []
    if several:
        example = ",".join(f"{name}=0" for name in several)
        raise VolumeError(
            f"{what}: expected one volume, got several along {', '.join(several)} "
            f"({_describe(names, shape)}): choose with '@' behind the dataset, such as @{example}"
        )
    if kept not in (["z", "y", "x"], ["y", "x"]):
        raise VolumeError(
            f"{what}: expected axes in the order z, y, x, got {_describe(names, shape)}: "
            "transpose the array"
        )
    lengths = [length for length, index in zip(shape, fixed, strict=True) if index is None]
    has_z = len(kept) == 3
    z, y, x = lengths if has_z else (1, *lengths)
    return Layout(tuple(fixed), has_z, (z, y, x))


def _describe(names: Sequence[str], shape: Sequence[int]) -> str:
    return ", ".join(f"{name}: {length}" for name, length in zip(names, shape, strict=True))


class FileArray(LazyArray):
    """A volume in a file that is opened when it is first read, in each process anew.

    It travels to another process as what is needed to open it again, without its handle. Voxels
    come in native byte order.

    Parameters
    ----------
    path : str
        For error messages and for `_open`.
    shape : sequence of int
        (Z, Y, X).
    dtype : dtype
        Of one voxel, any byte order.
    """

    def __init__(self, path: str, shape: Sequence[int], dtype: Any) -> None:
        super().__init__(shape, np.dtype(dtype).newbyteorder("="))
        self.path = path
        self._handle: Any = None
        self._handle_pid = 0
        self._lock = threading.Lock()

    @abstractmethod
    def _open(self) -> Any:
        """Open what `_read_from` reads; None where nothing needs to stay open."""

    @abstractmethod
    def _read_from(self, handle: Any, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        """Read a box as a new array; from several threads at once."""

    def _read(self, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        try:
            with self._lock:
                # a handle that came here by fork shares its file position with the parent
                if self._handle is None or self._handle_pid != os.getpid():
                    self._handle, self._handle_pid = self._open(), os.getpid()
                handle = self._handle
            values = self._read_from(handle, z, y, x)
        except VolumeError:
            raise
        except READ_ERRORS as error:
            last = z.stop - 1
            sections = f"section {z.start}" if z.start == last else f"sections {z.start} to {last}"
            raise VolumeError(
                f"{self.path}: {sections} cannot be read ({describe(error)}): is the file complete?"
            ) from error
        return np.asarray(values, dtype=self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.update(_handle=None, _handle_pid=0)
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


class MappedArray(FileArray):
    """Uncompressed voxels in one piece, mapped into memory.

    Parameters
    ----------
    path : str
        File.
    shape : sequence of int
        Of the array in the file.
    dtype : dtype
        With its byte order.
    offset : int
        Where it begins, in bytes.
    layout : Layout
        Which of its axes are z, y and x.
    order : {"C", "F"}
        Of the axes in the file.

    Raises
    ------
    VolumeError
        If the file is too short.
    """

    def __init__(
        self,
        path: str,
        shape: Sequence[int],
        dtype: Any,
        offset: int,
        layout: Layout,
        order: str = "C",
    ) -> None:
        super().__init__(path, layout.shape, dtype)
        self._map = {"shape": tuple(shape), "dtype": dtype, "offset": offset, "order": order}
        self._layout = layout
        n_bytes = int(np.prod([int(n) for n in shape], dtype=object)) * np.dtype(dtype).itemsize
        check_length(path, offset + n_bytes)

    def _open(self) -> Any:
        return np.memmap(self.path, mode="r", **self._map)

    def _read_from(self, handle: Any, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        # a copy: what the caller does to it must not reach the map, which others read too
        return np.array(self._layout.read(handle, z, y, x))


def check_length(path: str, n_bytes: int) -> None:
    """Raise a VolumeError if a file is shorter than what it says it holds."""
    size = os.path.getsize(path)
    if size < n_bytes:
        raise VolumeError(
            f"{path}: truncated: expected at least {n_bytes} bytes, got {size}: copy it again"
        )


def describe(error: Exception) -> str:
    """Text of an error on one line, never empty."""
    text = " ".join(
        str(error.args[0] if isinstance(error, KeyError) and error.args else error).split()
    )
    return text or type(error).__name__


def unreadable(path: str, kind: str, error: Exception) -> VolumeError:
    """Make the error for a file that is not what its name says."""
    return VolumeError(
        f"{path}: expected a readable {kind}, got an error from its reader ({describe(error)}): "
        "is the file complete, and is its suffix right?"
    )
