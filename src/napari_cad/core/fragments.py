"""Fragments: the over-segmentation of one section, from its in-section affinities.

The published recipe ("maxima_distance"): the boundary map is 1 − (A_y + A_x) / 2; the seeds are the
regional maxima of the distance to the nearest pixel whose boundary is not below a threshold; a
seeded watershed of the boundary map grows them until every pixel belongs to one. It is done per
section, with the affinities between sections left to the agglomeration, so that a fragment never
leaves its section and sections can be done in any order, on any number of machines.

The publication does it with mahotas. Here it is scikit-image's regional maxima, scipy's labels, and
a distance transform and a watershed of our own (`napari_cad.core._watershed`), the latter visiting
pixels in mahotas' order: the same fragments, pixel for pixel, in a fraction of the time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.morphology import local_maxima

from napari_cad.core.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.core.config import FragmentConfig

#: Two stored affinities q_y and q_x stand for (q_y + q_x + 1) / (2 · 256), so the boundary is one
#: minus this over 512, and everything below is done on the integer sum q_y + q_x.
_SUM_LEVELS = 512
_HIGHEST_SUM = 2 * 255


def section_fragments(
    affinities: npt.NDArray[np.uint8], config: FragmentConfig
) -> npt.NDArray[np.uint32]:
    """Over-segment one section.

    Parameters
    ----------
    affinities : ndarray, shape (3, Y, X), uint8
        Channels z, y, x; a value q means (q + 0.5) / 256. The z channel is not used.
    config : FragmentConfig
        The settings of the recipe.

    Returns
    -------
    ndarray, shape (Y, X), uint32
        See `distance_watershed`.

    Raises
    ------
    ShapeError
        If `affinities` are not uint8 of shape (3, Y, X) with at least one pixel.
    """
    return distance_watershed(affinities, boundary_threshold=config.boundary_threshold)


def distance_watershed(
    affinities: npt.NDArray[np.uint8], *, boundary_threshold: float = 0.5
) -> npt.NDArray[np.uint32]:
    """Over-segment one section with the published recipe.

    Parameters
    ----------
    affinities : ndarray, shape (3, Y, X), uint8
        Channels z, y, x; a value q means (q + 0.5) / 256. The z channel is not used.
    boundary_threshold : float in [0, 1]
        Pixels whose boundary 1 − (A_y + A_x) / 2 is not below it are what the distance is measured
        to. 0.5 is the published value; a higher one means fewer and larger fragments.

    Returns
    -------
    ndarray, shape (Y, X), uint32
        Ids 1…n, each a 4-connected region; there is no background. A section without any boundary
        pixel, or with nothing else, has no maxima to tell apart: it is one fragment, as in the
        published recipe.

    Raises
    ------
    ShapeError
        If `affinities` are not uint8 of shape (3, Y, X) with at least one pixel.
    ConfigError
        If `boundary_threshold` is not from 0 to 1.
    """
    if affinities.ndim != 3 or affinities.shape[0] != 3 or not affinities.size:
        raise ShapeError(
            f"affinities of one section have shape (3, height, width), got {affinities.shape}"
        )
    if affinities.dtype != np.uint8:
        raise ShapeError(
            f"affinities are stored as uint8, got {affinities.dtype}: quantise them first"
        )
    if not 0 <= boundary_threshold <= 1:
        raise ConfigError(f"boundary_threshold must be from 0 to 1, got {boundary_threshold}")

    affinity_sum = np.add(affinities[1], affinities[2], dtype=np.uint16, order="C")
    # boundary < t ⇔ sum + 1 > 512 (1 − t); the sum is an integer, so the limit may be one too
    inside = affinity_sum > math.floor(_SUM_LEVELS * (1 - boundary_threshold) - 1)
    n_inside = np.count_nonzero(inside)
    if n_inside in (0, inside.size):  # the distance is the same everywhere
        return np.ones(inside.shape, np.uint32)
    from napari_cad.core._watershed import flood  # numba, which only this needs

    return flood(_HIGHEST_SUM - affinity_sum, _seeds(inside))


def _seeds(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Label the regional maxima of the distance to the nearest pixel outside.

    At least one has to be outside. Both the maxima and their labels are 4-connected, as in the
    recipe: with 8-connected ones there are a third as many. The border of the image is no boundary.
    """
    from napari_cad.core._watershed import squared_distance

    distance = squared_distance(inside)
    maxima = local_maxima(distance, connectivity=1)  # type: ignore[no-untyped-call]
    seeds: npt.NDArray[np.int32] = ndimage.label(maxima)[0]
    return seeds
