"""Labels at several resolutions, made section by section.

A voxel of a coarser level has the label that most of the voxels under it have: labels are names,
their mean means nothing. (tinybrain and other libraries take the same mode, but of equally frequent
labels whichever lies first or last, and so lose thin neurites to the background.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Coarser levels are made until neither y nor x is longer than this.
SMALLEST = 512

#: Voxels are about isotropic while a section is not thicker than this times its pixels.
_ABOUT_ISOTROPIC = math.sqrt(2)


@dataclass(frozen=True)
class Level:
    """One resolution of a pyramid.

    Attributes
    ----------
    shape : tuple of int
        (Z, Y, X).
    factor : tuple of int
        (z, y, x): voxels of the finest level along each axis that are one of this.
    sections : int
        Sections of the level before that become one of this: 1 or 2.
    """

    shape: tuple[int, int, int]
    factor: tuple[int, int, int] = (1, 1, 1)
    sections: int = 1

    def scale(self, voxel_size: Sequence[float]) -> list[float]:
        """Voxel size (z, y, x) of this level from that of the finest."""
        return [f * v for f, v in zip(self.factor, voxel_size, strict=True)]

    def translation(self, voxel_size: Sequence[float], origin: Sequence[float]) -> list[float]:
        """Where the centre of the first voxel lies, from that of the finest level."""
        steps = zip(origin, self.factor, voxel_size, strict=True)
        return [o + (f - 1) / 2 * v for o, f, v in steps]


def pyramid_levels(shape: Sequence[int], voxel_size: Sequence[float] | None) -> list[Level]:
    """Plan the levels of a pyramid, the finest first.

    Parameters
    ----------
    shape : sequence of int
        (Z, Y, X) of the finest level.
    voxel_size : sequence of float, optional
        (z, y, x), in any unit. Without it sections are never joined.

    Returns
    -------
    list of Level
        Each has half the height and width of the one before (rounded up), down to `SMALLEST`. Two
        sections become one as soon as voxels are about isotropic.
    """
    z, y, x = (int(n) for n in shape)
    levels = [Level((z, y, x))]
    while max(levels[-1].shape[1:]) > SMALLEST:
        before = levels[-1]
        sections = 1
        if voxel_size is not None and before.shape[0] > 1:
            thickness, *pixel = before.scale(voxel_size)
            sections = 2 if thickness < _ABOUT_ISOTROPIC * min(pixel) else 1
        (z, y, x), (fz, fy, fx) = before.shape, before.factor
        shape = (-(-z // sections), -(-y // 2), -(-x // 2))
        levels.append(Level(shape, (sections * fz, 2 * fy, 2 * fx), sections))
    return levels


def mode_of_blocks(sections: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Make one section of half the height and width of one or two.

    Parameters
    ----------
    sections : ndarray, shape (n, Y, X), unsigned integer
        n consecutive sections, 1 or 2.

    Returns
    -------
    ndarray, shape (⌈Y / 2⌉, ⌈X / 2⌉), the same type
        The most frequent label of every block of n × 2 × 2 voxels; of equally frequent ones a
        label before the background (0), and of labels the smallest. Blocks at the end of an axis
        have the voxels that are left.
    """
    _, height, width = sections.shape
    out = np.empty((-(-height // 2), -(-width // 2)), sections.dtype)
    _modes(np.ascontiguousarray(sections), out)
    return out


@numba.njit(cache=True, nogil=True)
def _modes(sections: Any, out: Any) -> None:
    n_sections, height, width = sections.shape
    block = np.empty(4 * n_sections, sections.dtype)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            n = 0
            alike = True
            for z in range(n_sections):
                for y in range(2 * i, min(2 * i + 2, height)):
                    for x in range(2 * j, min(2 * j + 2, width)):
                        block[n] = sections[z, y, x]
                        alike &= block[n] == block[0]
                        n += 1
            best = block[0]
            most = 0
            for a in range(0 if alike else n):
                count = 0
                for b in range(n):
                    count += block[b] == block[a]
                preferred = block[a] != 0 and (best == 0 or block[a] < best)
                if count > most or (count == most and preferred):
                    best = block[a]
                    most = count
            out[i, j] = best


class PyramidBuilder:
    """Makes all levels of a pyramid from the sections of the finest, one after the other.

    At most one section of each level waits for the one that it is joined with.

    Parameters
    ----------
    levels : sequence of Level
        From `pyramid_levels`.
    write : callable
        `write(level, z, labels)` is given every section of every level once; `level` counts from 0
        for the finest, labels have the shape (Y, X) of that level.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        write: Callable[[int, int, np.ndarray[Any, Any]], None],
    ) -> None:
        self._levels = levels
        self._write = write
        self._done = [0] * len(levels)
        self._waiting: list[list[np.ndarray[Any, Any]]] = [[] for _ in levels]

    def add(self, labels: np.ndarray[Any, Any]) -> None:
        """Take the next section of the finest level, shape (Y, X), unsigned integer."""
        self._add(0, labels)

    def _add(self, level: int, labels: np.ndarray[Any, Any]) -> None:
        self._write(level, self._done[level], labels)
        self._done[level] += 1
        if level + 1 == len(self._levels):
            return
        waiting = self._waiting[level]
        waiting.append(labels)
        last = self._done[level] == self._levels[level].shape[0]
        if last or len(waiting) == self._levels[level + 1].sections:
            joined = waiting[0][None] if len(waiting) == 1 else np.stack(waiting)
            waiting.clear()
            self._add(level + 1, mode_of_blocks(joined))
