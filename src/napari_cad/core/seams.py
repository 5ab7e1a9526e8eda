"""How much the borders of windows or tiles show in an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SeamScore:
    """How much the borders of windows show in an embedding.

    Parameters
    ----------
    across, away : tuple of float
        Per axis: mean change of the embedding from one voxel to the next across the borders, and
        away from them; NaN where there is none.
    profile : tuple of ndarray, shape (size of the axis,), float64
        Per axis: mean change from voxel p − 1 to voxel p, over all other axes; NaN at p = 0.
    borders : tuple of tuple of int
        Per axis: the borders, as given.
    """

    across: tuple[float, ...]
    away: tuple[float, ...]
    profile: tuple[npt.NDArray[np.float64], ...]
    borders: tuple[tuple[int, ...], ...]

    @property
    def ratio(self) -> tuple[float, ...]:
        """Per axis: across / away; 1 where borders cannot be seen, NaN without borders."""
        return tuple(
            across / away if away > 0 else float("nan")
            for across, away in zip(self.across, self.away, strict=True)
        )

    def around_borders(self, axis: int, reach: int) -> npt.NDArray[np.float64]:
        """Mean profile around the borders of an axis.

        Parameters
        ----------
        axis : int
            Of the embedding's spatial axes.
        reach : int
            How many voxels to either side.

        Returns
        -------
        ndarray, shape (2 reach + 1,), float64
            Element `reach` is the change across the border; NaN where no border has such a
            neighbour.
        """
        profile = self.profile[axis]
        places = np.asarray(self.borders[axis], int)[:, None] + np.arange(-reach, reach + 1)
        valid = (places > 0) & (places < len(profile))
        values = np.where(valid, profile[np.clip(places, 1, len(profile) - 1)], 0.0)
        count = valid.sum(0)
        with np.errstate(invalid="ignore"):
            mean: npt.NDArray[np.float64] = values.sum(0) / count
        return mean


def seam_score(
    embedding: npt.NDArray[np.floating],
    borders: Sequence[Sequence[int]],
    *,
    clearance: int = 4,
) -> SeamScore:
    """Measure the seams that windows or tiles leave in an embedding.

    Parameters
    ----------
    embedding : ndarray, shape (E, Y, X) or (E, Z, Y, X), float
        Scaled to length 1 here.
    borders : sequence of sequence of int
        Per spatial axis: p says that a border lies between voxels p − 1 and p; see
        `WindowGrid.borders`. Give a student's whole section the borders of the teacher's windows
        to compare both at the same places.
    clearance : int
        A change counts as away from borders from this many voxels on.

    Returns
    -------
    SeamScore
        Changes are Euclidean distances of unit vectors: 0 (equal) to 2 (opposite).

    Raises
    ------
    ShapeError
        If the numbers of axes differ, or a border lies outside.
    """
    shape = embedding.shape[1:]
    if len(borders) != len(shape):
        raise ShapeError(
            f"borders of {len(shape)} axes were expected for an embedding of shape "
            f"{embedding.shape}, got {len(borders)}"
        )
    unit = unit_length(np.asarray(embedding, np.float32))
    across, away, profiles = [], [], []
    for axis, (size, places) in enumerate(zip(shape, borders, strict=True)):
        if any(not 0 < place < size for place in places):
            raise ShapeError(f"borders along axis {axis} must lie in 1:{size}, got {list(places)}")
        profile = np.full(size, np.nan)
        along = np.moveaxis(unit, axis + 1, 0)
        for p in range(1, size):  # plane by plane: no copy of the embedding
            change = along[p] - along[p - 1]
            profile[p] = np.sqrt((change**2).sum(0)).mean(dtype=np.float64)
        near = np.zeros(size, bool)
        near[0] = True
        for place in places:
            near[max(0, place - clearance + 1) : place + clearance] = True
        across.append(_mean(profile[list(places)]))
        away.append(_mean(profile[~near]))
        profiles.append(profile)
    return SeamScore(
        tuple(across),
        tuple(away),
        tuple(profiles),
        tuple(tuple(int(place) for place in places) for places in borders),
    )


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")


def unit_length(embedding: F32) -> F32:
    """Scale embeddings (E, ...) to length 1 along axis 0; zero stays zero."""
    length = np.sqrt((embedding**2).sum(0, dtype=np.float32))
    result: F32 = embedding / np.maximum(length, np.float32(1e-12))
    return result
