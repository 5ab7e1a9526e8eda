"""Cutting a section into tiles: integer geometry only, no arrays.

The network pools four times by two, so a tile computes exactly what the whole section would only
if it starts at a multiple of 16; and a voxel's embedding depends on the 137 voxels around it at
most (`RECEPTIVE_RADIUS`), so a halo of at least that makes every kept voxel see the same image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from napari_cad.core.errors import ConfigError

#: Tiles start and end at multiples of this (the network's four poolings).
ALIGNMENT = 16

#: How far an embedding can look, in voxels: convolutions 2·(1+2+4+8+16) down and 2·(8+4+2+1) up,
#: bilinear up-sampling 16+8+4+2, and up to 15 for the position within a pooled cell.
RECEPTIVE_RADIUS = 137


def smallest_tile(halo: int) -> int:
    """Side of the smallest tile of which something is left inside a halo, in voxels."""
    return 2 * halo + ALIGNMENT


def largest_tile(voxels: float, halo: int) -> int:
    """Side of the largest square tile of at most so many voxels, but of a tile in any case."""
    return max(smallest_tile(halo), int(voxels**0.5) // ALIGNMENT * ALIGNMENT)


@dataclass(frozen=True)
class Padding:
    """How many rows or columns to add on either side of an axis."""

    before: int
    after: int

    @classmethod
    def to_multiple(cls, size: int, multiple: int = ALIGNMENT) -> Padding:
        """Pad `size` to the next multiple, shared between both sides (1250 → 7 + 1250 + 7)."""
        missing = -size % multiple
        return cls(missing // 2, missing - missing // 2)


@dataclass(frozen=True)
class Span:
    """One axis of a tile, half-open, in voxels of the padded section.

    ::

        0 ... read_start ....... keep_start ======= keep_stop ....... read_stop ... size
                     └── halo ──┘                            └─ halo ─┘
    """

    read_start: int
    read_stop: int
    keep_start: int
    keep_stop: int

    @property
    def read(self) -> slice:
        """What the network sees."""
        return slice(self.read_start, self.read_stop)

    @property
    def keep(self) -> slice:
        """What is kept, in voxels of the padded section."""
        return slice(self.keep_start, self.keep_stop)

    @property
    def keep_in_read(self) -> slice:
        """What is kept, in voxels of the tile."""
        return slice(self.keep_start - self.read_start, self.keep_stop - self.read_start)


def tile_spans(size: int, tile: int | None, halo: int) -> list[Span]:
    """Cut one axis into spans whose kept parts partition it.

    Parameters
    ----------
    size : int
        Length of the padded axis, a multiple of 16.
    tile : int or None
        Longest span to read, halo included; None for the whole axis in one go.
    halo : int
        Discarded margin on each side that is not the section's border; a multiple of 16.

    Returns
    -------
    list of Span
        In order, all of one length; each starts and ends at multiples of 16.

    Raises
    ------
    ConfigError
        If `size` or `halo` is no multiple of 16, or `tile` leaves nothing inside its halo.
    """
    if size % ALIGNMENT or halo % ALIGNMENT or halo < 0:
        raise ConfigError(
            f"axis length and halo must be multiples of {ALIGNMENT}, got {size} and {halo}"
        )
    if tile is None or tile >= size:
        return [Span(0, size, 0, size)]
    tile = tile // ALIGNMENT * ALIGNMENT
    inside = tile - 2 * halo
    if inside <= 0:
        raise ConfigError(
            f"a tile of {tile} voxels leaves nothing inside a halo of {halo} on each side: "
            f"use a tile of at least {smallest_tile(halo)}"
        )
    # the outer two need a halo on one side only
    count = max(2, math.ceil((size - 2 * halo) / inside))
    # as few as possible, and then as small as possible
    length = math.ceil((size + 2 * halo * (count - 1)) / count / ALIGNMENT) * ALIGNMENT
    starts = [min(i * (length - 2 * halo), size - length) for i in range(count)]
    edges = [0, *(start + halo for start in starts[1:]), size]
    return [
        Span(start, start + length, *kept)
        for start, kept in zip(starts, pairwise(edges), strict=True)
    ]
