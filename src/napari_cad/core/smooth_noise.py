"""Smooth random fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    import numpy.typing as npt

    F32 = npt.NDArray[np.float32]
    F64 = npt.NDArray[np.float64]


class SmoothNoise:
    """A smooth random field: a cubic B-spline with random coefficients; mean 0, deviation 1.

    Parameters
    ----------
    rng : numpy.random.Generator
    z_extent : float
        Highest z that will be asked for, nm.
    y, x : ndarray, shape (Y,) and (X,), float
        Positions of the rows and of the columns, nm.
    spacing, z_spacing : float
        Distance of the knots in the plane and along z, nm.
    channels : int
        Independent fields.
    """

    # sum of squared cubic B-spline weights, averaged over the position, on three axes
    _SCALE = 0.479**-1.5

    def __init__(
        self,
        rng: np.random.Generator,
        z_extent: float,
        y: F64,
        x: F64,
        spacing: float,
        z_spacing: float,
        channels: int = 1,
    ) -> None:
        self._z_spacing = z_spacing
        self._rows = _spline_weights((y - y[0]) / spacing)
        self._columns = _spline_weights((x - x[0]) / spacing)
        planes = int(z_extent // z_spacing) + 4
        shape = (channels, planes, self._columns.shape[1], self._rows.shape[1])
        self._coefficients = rng.standard_normal(shape, dtype=np.float32) * np.float32(self._SCALE)

    def at(self, z: float) -> F32:
        """Return the fields at height `z`: shape (channels, Y, X), float32."""
        position = z / self._z_spacing
        first = int(position)
        weights = _cubic(np.asarray(position - first)).astype(np.float32)
        planes = self._coefficients[:, first : first + 4] * weights[:, None, None]
        # sparse products: four weights a pixel, and in the same order on every machine
        fields = [self._rows @ np.ascontiguousarray((self._columns @ p).T) for p in planes.sum(1)]
        return np.stack(fields)


def _cubic(t: F64) -> F64:
    """Weights of the four cubic B-splines that reach the place `t` in [0, 1) between two knots."""
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    return np.stack(weights, axis=-1) / 6


def _spline_weights(positions: F64) -> csr_array:
    """Matrix (positions, coefficients) that evaluates a cubic B-spline with unit knot distance."""
    first = np.floor(positions).astype(np.intp)
    columns = first[:, None] + np.arange(4)
    starts = np.arange(len(positions) + 1) * 4
    weights = _cubic(positions - first).astype(np.float32).ravel()
    return csr_array((weights, columns.ravel(), starts), shape=(len(positions), first[-1] + 4))
