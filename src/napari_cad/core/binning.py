"""A volume at a fraction of its in-plane resolution, for a quick look.

Every section is averaged over blocks of N × N voxels when it is read. What comes of it is an
ordinary volume with larger voxels, so everything downstream works as it is, with 1/N² of the work.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core._lazy import LazyArray
from napari_cad.core.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_cad.core.volume import ArrayLike, EMVolume

#: Voxels along y and x that become one in a quick look.
QUICK = 2

#: The most that can become one.
MOST = 16

#: Rows of blocks that are averaged at once: sums take eight times the memory of what is summed.
_STRIP = 64


def binned(volume: EMVolume, factor: int) -> EMVolume:
    """Average a volume over blocks of `factor` × `factor` voxels in every section, lazily.

    Parameters
    ----------
    volume : EMVolume
        Not read here.
    factor : int
        1 to `MOST`; 1 gives the volume itself.

    Returns
    -------
    EMVolume
        Shape (Z, ⌈Y / factor⌉, ⌈X / factor⌉), the same type (means of integers are rounded, half
        up). Blocks at the end of an axis are averaged over the voxels they have. The voxel size is
        multiplied in y and x, and the origin, which is the centre of the first voxel, moves by
        (factor − 1) / 2 of the old voxels, so that both volumes lie over one another. The source
        opens the binned volume again.

    Raises
    ------
    ConfigError
        If `factor` is not one of these.
    """
    if not 1 <= factor <= MOST:
        raise ConfigError(f"expected 1 to {MOST} voxels along y and x to become one, got {factor}")
    if factor == 1:
        return volume
    voxel_size, origin, source = volume.voxel_size, volume.origin, volume.source
    if voxel_size is not None:
        (z, y, x), (dz, dy, dx) = origin, voxel_size
        origin = (z, y + (factor - 1) / 2 * dy, x + (factor - 1) / 2 * dx)
        voxel_size = (dz, factor * dy, factor * dx)
    if source is not None:
        source = replace(source, bin=factor * volume.bin)
    return replace(
        volume,
        data=BinnedArray(volume.data, factor),
        voxel_size=voxel_size,
        origin=origin,
        name=f"{volume.name} (bin {factor})",
        source=source,
        bin=factor * volume.bin,
    )


def binned_shape(shape: Sequence[int], factor: int) -> tuple[int, int, int]:
    """Shape (Z, ⌈Y / factor⌉, ⌈X / factor⌉) of a volume of `shape` once it is binned."""
    z, y, x = (int(n) for n in shape)
    return z, -(-y // factor), -(-x // factor)


class BinnedArray(LazyArray):
    """In-plane means of blocks of another array; see `binned`.

    Parameters
    ----------
    data : array_like, shape (Z, Y, X)
        Stays as it is, and is not read.
    factor : int
        Side of a block in y and x.

    Attributes
    ----------
    stack_shape : tuple of int
        (Z, Y, X) before any binning.
    """

    def __init__(self, data: ArrayLike, factor: int) -> None:
        super().__init__(binned_shape(data.shape, factor), data.dtype)
        z, y, x = (int(n) for n in data.shape)
        self.stack_shape: tuple[int, int, int] = (z, y, x)
        if isinstance(data, BinnedArray):
            self.stack_shape = data.stack_shape
        self._data = data
        self._factor = factor

    def _read(self, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        rows, columns = (
            slice(s.start * self._factor, min(s.stop * self._factor, int(length)))
            for s, length in zip((y, x), self._data.shape[1:], strict=True)
        )
        indices = range(z.start, z.stop, z.step)
        made = np.empty((len(indices), y.stop - y.start, x.stop - x.start), self.dtype)
        for section, index in zip(made, indices, strict=True):
            _average(np.asarray(self._data[index, rows, columns]), self._factor, section)
        return made[:, :: y.step, :: x.step]


def _average(section: np.ndarray[Any, Any], factor: int, out: np.ndarray[Any, Any]) -> None:
    """Write the means of the blocks of a section into `out`."""
    for first in range(0, len(out), _STRIP):
        strip = section[first * factor : (first + _STRIP) * factor]
        starts = [np.arange(0, length, factor) for length in strip.shape]
        lengths = [np.diff(at, append=n) for at, n in zip(starts, strip.shape, strict=True)]
        sums = np.add.reduceat(strip, starts[0], axis=0, dtype=np.float64)
        means = np.add.reduceat(sums, starts[1], axis=1) / np.multiply.outer(*lengths)
        integer = out.dtype.kind in "iu"
        out[first : first + _STRIP] = np.floor(means + 0.5) if integer else means


class EnlargedLabels(LazyArray):
    """Labels of a binned volume at the resolution before it was binned: every voxel is repeated.

    Parameters
    ----------
    labels : array_like, shape (Z, Y, X), integer
        Stays as it is, and is not read.
    factor : int
        What the volume was binned by.
    shape : sequence of int
        That of the volume before.

    Raises
    ------
    ShapeError
        If a volume of that shape does not become one of the labels' shape.
    """

    def __init__(self, labels: ArrayLike, factor: int, shape: Sequence[int]) -> None:
        if binned_shape(shape, factor) != tuple(labels.shape):
            raise ShapeError(
                f"expected labels of shape {binned_shape(shape, factor)} for a volume of "
                f"{tuple(shape)} that was binned by {factor}, got {tuple(labels.shape)}"
            )
        super().__init__(shape, labels.dtype)
        self._labels = labels
        self._factor = factor

    def _read(self, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        at = [np.arange(s.start, s.stop, s.step) // self._factor for s in (y, x)]
        (top, left), (bottom, right) = ([int(a[i]) for a in at] for i in (0, -1))
        part = np.asarray(self._labels[z, top : bottom + 1, left : right + 1])
        return part.take(at[0] - top, axis=1).take(at[1] - left, axis=2)
