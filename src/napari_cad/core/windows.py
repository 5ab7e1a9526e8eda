"""Small windows spread over the sections of a stack, the same ones every time."""

from __future__ import annotations

#: Steps of the additive recurrence that spreads points evenly over a plane, 1/p and 1/p² for
#: p³ = p + 1 (Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018).
_STEPS = (0.7548776662466927, 0.5698402909980532)


def window_at(size: tuple[int, int], i: int, longest: int) -> tuple[slice, slice]:
    """Place the i-th window.

    Parameters
    ----------
    size : tuple of int
        (Y, X) of a section.
    i : int
        0 is the middle; any number of windows is spread evenly.
    longest : int
        Side of a window in voxels, less where the section is smaller.

    Returns
    -------
    rows, columns : slice
    """
    rows, columns = (
        _span(length, longest, (0.5 + i * step) % 1.0)
        for length, step in zip(size, _STEPS, strict=True)
    )
    return rows, columns


def _span(length: int, longest: int, place: float) -> slice:
    """Place a span from 0 (at the start) to 1 (at the end)."""
    side = min(length, longest)
    start = int(place * (length - side + 1))
    return slice(start, start + side)
