"""Dividing one fragment between seeds, and taking fragments apart along a painted mask.

Pure functions on arrays; what they give goes to `napari_cad.proofreading.patch.divide`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.measure import label
from skimage.segmentation import watershed

from napari_cad.proofreading.errors import ProofreadingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Voxel = tuple[int, int, int]

RED, BLUE = 1, 2


def split_by_seeds(
    mask: npt.NDArray[np.bool_],
    affinities: npt.NDArray[np.uint8] | None,
    red: Sequence[Voxel],
    blue: Sequence[Voxel],
    voxel_size: tuple[float, float, float] | None = None,
) -> tuple[npt.NDArray[np.int32], list[int]]:
    """Divide a fragment by a watershed from seeds of two colours.

    Parameters
    ----------
    mask : ndarray, shape (Z, Y, X), bool
        The fragment.
    affinities : ndarray, shape (3, Z, Y, X), uint8, or None
        As stored, value at the later voxel. The watershed floods 1 − the mean affinity of a
        voxel's contacts inside the fragment. Without affinities it floods the distance to the
        fragment's border from within, so that a fragment parts where it is thin.
    red, blue : sequence of (z, y, x)
        Voxels of the fragment, at least one of each colour.
    voxel_size : tuple of float, optional
        (z, y, x), for the distance.

    Returns
    -------
    parts : ndarray, shape (Z, Y, X), int32
        1, 2, … on the connected parts, 0 outside of the fragment. A part of the fragment that no
        seed reaches is a part of its own.
    colours : list of int
        Of part 1, 2, …: `RED`, `BLUE` or 0, which is neither.

    Raises
    ------
    ProofreadingError
        If a seed of either colour is missing, outside of the fragment, or on the same voxel as
        one of the other colour.
    """
    markers = np.zeros(mask.shape, np.int32)
    for colour, seeds in ((RED, red), (BLUE, blue)):
        if not seeds:
            raise ProofreadingError("a fragment is divided between seeds of two colours, got one")
        for seed in seeds:
            if not mask[seed]:
                raise ProofreadingError(f"the seed at {seed} does not lie in the fragment")
            if markers[seed] not in (0, colour):
                raise ProofreadingError("a red and a blue seed lie on the same voxel: move one")
            markers[seed] = colour
    if affinities is not None:
        landscape = _boundary(mask, affinities)
    else:
        landscape = -ndimage.distance_transform_edt(np.pad(mask, 1), sampling=voxel_size)[
            1:-1, 1:-1, 1:-1
        ]
    flooded = watershed(landscape, markers, mask=mask, connectivity=1)  # type: ignore[no-untyped-call]
    # what is not reached becomes a third kind, so that every voxel of the fragment has a part
    kinds = np.where(mask, flooded + 1, 0)
    parts = _connected(kinds)
    n = int(parts.max())
    colours = np.zeros(n + 1, np.int64)
    colours[parts[mask]] = flooded[mask]
    return parts, colours[1:].tolist()


def split_by_mask(
    before: npt.NDArray[np.uint32], mask: npt.NDArray[np.bool_], *, erase: bool = False
) -> tuple[npt.NDArray[np.int32], list[bool]]:
    """Take the fragments under a mask apart into what lies in it and what does not.

    Parameters
    ----------
    before : ndarray, shape (Z, Y, X), uint32
        Fragment ids; the fragments under the mask lie inside as a whole.
    mask : ndarray, same shape, bool
        What is painted.
    erase : bool
        Make what lies under the mask background instead of fragments of its own.

    Returns
    -------
    parts : ndarray, same shape, int32
        1, 2, … on the connected parts, each of one fragment (or of background); −1 on what is
        erased, 0 where nothing changes.
    painted : list of bool
        Of part 1, 2, …: whether it lies under the mask.
    """
    touched = np.unique(before[mask])
    changed = mask | np.isin(before, touched[touched > 0])
    # parts have voxels of one fragment, on one side of the mask
    _, kinds = np.unique(before.astype(np.int64) * 2 + mask, return_inverse=True)
    kinds = np.where(changed, kinds.reshape(before.shape) + 1, 0)
    if erase:
        kinds[mask] = 0
    parts = _connected(kinds)
    painted = np.zeros(int(parts.max(initial=0)) + 1, np.bool_)
    painted[parts[mask]] = True
    if erase:
        parts[mask] = -1
    return parts, painted[1:].tolist()


def _connected(kinds: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Give connected parts of equal kind a number each; 0 stays 0."""
    parts = label(kinds, background=0, connectivity=1)  # type: ignore[no-untyped-call]
    return parts.astype(np.int32)  # type: ignore[no-any-return]


def _boundary(
    mask: npt.NDArray[np.bool_], affinities: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """1 − mean affinity of the contacts that each voxel has inside the mask; 1 without any."""
    total = np.zeros(mask.shape, np.float32)
    count = np.zeros(mask.shape, np.float32)
    for axis in range(3):
        later = tuple(slice(1, None) if i == axis else slice(None) for i in range(3))
        earlier = tuple(slice(None, -1) if i == axis else slice(None) for i in range(3))
        contact = mask[later] & mask[earlier]
        value = np.where(contact, (affinities[axis][later] + np.float32(0.5)) / 256, 0)
        for end in (later, earlier):
            total[end] += value
            count[end] += contact
    boundary: npt.NDArray[np.float32] = (1 - total / np.maximum(count, 1)).astype(np.float32)
    return boundary
