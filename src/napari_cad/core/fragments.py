"""Fragments: the over-segmentation of one section, from its in-section affinities.

The published recipe ("maxima_distance"): the boundary map is 1 − (A_y + A_x) / 2; the seeds are the
regional maxima of the distance to the nearest pixel whose boundary is not below a threshold; a
seeded watershed of the boundary map grows them until every pixel belongs to one. It is done per
section, with the affinities between sections left to the agglomeration, so that a fragment never
leaves its section and sections can be done in any order, on any number of machines.

The publication does it with mahotas. Here it is edt's distance transform (the same numbers),
scikit-image's regional maxima (the same pixels, so the same number of fragments) and bioimage-cpp's
watershed, in a third of the time. Where the recipe's result depends on the order in which pixels of
equal height are visited, and with affinities in 256 steps that is often, the result here is
another, equally good one: see `_height`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import edt
import numpy as np
from scipy import ndimage
from skimage.morphology import local_maxima
from skimage.segmentation import watershed as _skimage_watershed

from napari_cad.core.errors import ConfigError, ShapeError

try:  # a young library: where its wheel is missing or does not load, scikit-image does the work
    from bioimage_cpp.segmentation import watershed as _bioimage_watershed
except ImportError:
    _bioimage_watershed = None

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.core.config import FragmentConfig

#: Two stored affinities q_y and q_x stand for (q_y + q_x + 1) / (2 · 256), so the boundary is one
#: minus this over 512, and everything below is done on the integer sum q_y + q_x.
_SUM_LEVELS = 512
_HIGHEST_SUM = 2 * 255

#: Steps between two heights for the distance from a seed. 511 · 128 heights are still told apart by
#: bioimage-cpp, which has 65,536.
_TIE_LEVELS = 128


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

    affinity_sum = np.add(affinities[1], affinities[2], dtype=np.uint16)
    # boundary < t ⇔ sum + 1 > 512 (1 − t); the sum is an integer, so the limit may be one too
    inside = affinity_sum > math.floor(_SUM_LEVELS * (1 - boundary_threshold) - 1)
    seeds, n_seeds = _seeds(inside)
    if n_seeds <= 1:
        return np.ones(inside.shape, np.uint32)
    return _grow(_height(affinity_sum, seeds), seeds)


def _seeds(inside: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int32], int]:
    """Label the regional maxima of the distance to the nearest pixel outside.

    Both the maxima and their labels are 4-connected, as in the recipe: with 8-connected ones there
    are a third as many. The border of the image is no boundary.
    """
    # one thread: sections run in parallel, and this must not ask for all cores in each of them
    distance = edt.edtsq(inside, black_border=False, parallel=1)
    # flat (all inside: infinite everywhere; all outside: zero), which has no maxima here
    maxima = local_maxima(distance, connectivity=1)  # type: ignore[no-untyped-call]
    seeds, n_seeds = ndimage.label(maxima)
    return seeds, int(n_seeds)


def _height(
    affinity_sum: npt.NDArray[np.uint16], seeds: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Boundary, and where it is equal the number of steps from the nearest seed.

    Many pixels have one height, all inside of a well predicted neurite for instance, and several
    seeds reach them. mahotas then takes them in the order of their discovery, so that seeds grow at
    one speed. bioimage-cpp takes the last one first, and one seed takes all: measured on a real
    stack, fragments that mix neurites, H(truth | fragments) 0.125 bits instead of 0.107. With the
    steps as second criterion the speed is one again (0.107).
    """
    steps = ndimage.distance_transform_cdt(seeds == 0, metric="taxicab")
    height = (_HIGHEST_SUM - affinity_sum).astype(np.int32)
    height *= _TIE_LEVELS
    height += np.minimum(steps, _TIE_LEVELS - 1)
    return height.astype(np.float32)


def _grow(height: npt.NDArray[np.float32], seeds: npt.NDArray[np.int32]) -> npt.NDArray[np.uint32]:
    """Flood from the seeds, lowest pixels first, through 4-neighbours, until all are taken."""
    if _bioimage_watershed is None:
        grown = _skimage_watershed(height, seeds)  # type: ignore[no-untyped-call]
    else:
        grown = _bioimage_watershed(height, seeds)
    labels: npt.NDArray[np.uint32] = grown.astype(np.uint32)
    return labels
