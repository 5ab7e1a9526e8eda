"""Distance to boundaries and seeded watershed of one section, compiled.

Nothing here knows of affinities: `napari_cad.core.fragments` puts the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

from napari_cad.core.errors import ShapeError

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    Distances = npt.NDArray[np.signedinteger[Any]]

_HIGHEST = np.iinfo(np.uint32).max


def squared_distance(inside: npt.NDArray[np.bool_]) -> Distances:
    """Squared Euclidean distance to the nearest pixel that is not inside, exactly.

    Parameters
    ----------
    inside : ndarray, shape (Y, X), bool
        At least one pixel is not inside. The border of the image is no boundary.

    Returns
    -------
    ndarray, shape (Y, X), int32, or int64 where the section is too long for that
        In pixels; 0 outside. Columns first, then in every row the lower envelope of their
        parabolas: Meijster, Roerdink and Hesselink, "A general algorithm for computing distance
        transforms in linear time", 2000.
    """
    n_rows, n_columns = inside.shape
    longest = n_rows**2 + n_columns**2
    distance: Distances = np.empty(
        inside.shape, np.int32 if longest <= np.iinfo(np.int32).max else np.int64
    )
    _squared_distance(inside, distance)
    return distance


@numba.njit(cache=True, nogil=True)
def _squared_distance(inside: npt.NDArray[np.bool_], distance: Distances) -> None:
    n_rows, n_columns = inside.shape
    far = n_rows + n_columns  # farther than any pixel can be
    column = np.empty((n_rows, n_columns), np.int32)  # distance within the column
    for x in range(n_columns):
        column[0, x] = far if inside[0, x] else 0
    for y in range(1, n_rows):
        for x in range(n_columns):
            column[y, x] = column[y - 1, x] + 1 if inside[y, x] else 0
    for y in range(n_rows - 2, -1, -1):
        for x in range(n_columns):
            column[y, x] = min(column[y, x], column[y + 1, x] + 1)

    # Parabolas of the envelope, from left to right: where their lowest point is, and where they
    # begin to be lowest.
    middle = np.empty(n_columns, np.int64)
    begin = np.empty(n_columns, np.int64)
    squared = np.empty(n_columns, np.int64)
    for y in range(n_rows):
        for x in range(n_columns):
            squared[x] = np.int64(column[y, x]) * column[y, x]
        n = 0
        for x in range(n_columns):
            while n > 0:
                m, b = middle[n - 1], begin[n - 1]
                if (b - m) ** 2 + squared[m] <= (b - x) ** 2 + squared[x]:
                    break
                n -= 1  # where it begins, the new one is lower already
            start = 0
            if n > 0:
                m = middle[n - 1]
                start = (x * x - m * m + squared[x] - squared[m]) // (2 * (x - m)) + 1
            if start < n_columns:
                middle[n] = x
                begin[n] = start
                n += 1
        for x in range(n_columns - 1, -1, -1):
            m = middle[n - 1]
            distance[y, x] = (x - m) ** 2 + squared[m]
            if x == begin[n - 1]:
                n -= 1


def flood(
    heights: npt.NDArray[np.uint16], seeds: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.uint32]:
    """Grow seeds through 4-neighbours, lowest pixels first, until every pixel belongs to one.

    Of equally high pixels, and of 511 heights each has very many, the first to be reached comes
    first, so that seeds grow over flat ground at one speed. The result depends on that.

    Parameters
    ----------
    heights : ndarray, shape (Y, X), uint16
        What is flooded.
    seeds : ndarray, shape (Y, X), integer from 0 to 2³¹ − 1
        0 where there is no seed; at least one pixel is something else.

    Returns
    -------
    ndarray, shape (Y, X), uint32
        The seed that each pixel belongs to: `mahotas.cwatershed(heights, seeds)`, pixel for pixel.

    Raises
    ------
    ShapeError
        If there are so many pixels that they cannot be numbered in 32 bits.
    """
    n_levels = int(heights.max()) + 1
    framed = heights.shape[0] + 2, heights.shape[1] + 2
    if framed[0] * framed[1] > _HIGHEST:
        raise ShapeError(
            f"a section has at most 2³² pixels, got {heights.shape}: segment the volume in parts"
        )
    # around the section a frame of pixels that are taken already: no neighbour has to be asked for
    taken = np.full(framed, _HIGHEST, np.uint32)
    _flood(heights, seeds, n_levels, taken)
    return taken[1:-1, 1:-1] - np.uint32(n_levels)


@numba.njit(cache=True, nogil=True)
def _flood(
    heights: npt.NDArray[np.uint16],
    seeds: npt.NDArray[np.integer[Any]],
    n_levels: int,
    taken: npt.NDArray[np.uint32],
) -> None:
    """Fill `taken`: it holds `n_levels` + the seed of a pixel, or its height until it has one.

    One array to look into instead of two. Numbers are unsigned wherever they are an index: numba
    then need not ask whether they count from the end.
    """
    n_rows, n_columns = heights.shape
    width = n_columns + 2
    # A first-in-first-out line for each height. A pixel stands in line once, at its own height: so
    # it is known how long each line will get, and they lie in one array one behind the other.
    lines = np.empty(n_rows * n_columns, np.uint32)
    front = np.zeros(n_levels + 1, np.uint32)
    for y in range(n_rows):
        for x in range(n_columns):
            level, seed = heights[y, x], seeds[y, x]
            front[level + 1] += 1
            taken[y + 1, x + 1] = seed + n_levels if seed else level
    for level in range(n_levels):
        front[level + 1] += front[level]
    back = front.copy()
    for y in range(n_rows):
        for x in range(n_columns):
            if seeds[y, x]:
                level = heights[y, x]
                lines[back[level]] = (y + 1) * width + x + 1
                back[level] += 1

    flat = taken.reshape(-1)
    lowest = 0
    while lowest < n_levels:
        if front[lowest] == back[lowest]:
            lowest += 1
            continue
        pixel = lines[front[lowest]]
        front[lowest] += 1
        for step in (-width, -1, 1, width):
            neighbour = np.uint32(pixel + step)
            level = flat[neighbour]
            if level < n_levels:
                flat[neighbour] = flat[pixel]
                lines[back[level]] = neighbour
                back[level] += 1
                # lower ground behind a ridge comes before what is left of the ridge
                lowest = min(lowest, level)
