"""The voxels behind a session: which fragment is where, now."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.overlay import PatchedFragments

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from napari_cad.proofreading.folder import MemoryFolder
    from napari_cad.proofreading.state import SessionState


class Surroundings(NamedTuple):
    """A box of the volume.

    Attributes
    ----------
    corner : tuple of int
        (z, y, x) of its first voxel.
    fragments : ndarray, shape (Z, Y, X), uint32
    affinities : ndarray, shape (3, Z, Y, X), uint8, or None
    """

    corner: tuple[int, int, int]
    fragments: npt.NDArray[np.uint32]
    affinities: npt.NDArray[np.uint8] | None


class SessionVoxels:
    """Fragments, as the patches in force make them, and affinities.

    Parameters
    ----------
    state : SessionState
    folder : MemoryFolder
        Has the voxels of patches.

    Attributes
    ----------
    fragments : PatchedFragments or None
        An array-like of shape (Z, Y, X), uint32; None if the session has only a region graph.
    """

    def __init__(self, state: SessionState, folder: MemoryFolder) -> None:
        self._state = state
        self.fragments: PatchedFragments | None = None
        if state.source.fragments is not None:
            self.fragments = PatchedFragments(
                state.source.fragments,
                lambda: state.decisions.patches,
                lambda patch: folder.load_patch(patch.number),
            )

    def fragment_at(self, voxel: tuple[int, ...]) -> int:
        """Id of the fragment at a voxel (z, y, x).

        Raises
        ------
        ProofreadingError
            If the voxel is background or outside, or there are no voxels to look at.
        """
        fragments = self._needed()
        if not all(0 <= i < n for i, n in zip(voxel, fragments.shape, strict=True)):
            raise ProofreadingError(f"voxel {voxel} lies outside of the volume")
        fragment = int(fragments[voxel])
        if not fragment:
            raise ProofreadingError(f"voxel {voxel} is background")
        return fragment

    def read(self, corner: tuple[int, ...], shape: tuple[int, ...]) -> npt.NDArray[np.uint32]:
        """Fragment ids of a box.

        Raises
        ------
        ProofreadingError
            If it reaches outside of the volume, or there are no voxels.
        """
        fragments = self._needed()
        stop = tuple(c + n for c, n in zip(corner, shape, strict=True))
        if min(corner) < 0 or any(s > n for s, n in zip(stop, fragments.shape, strict=True)):
            raise ProofreadingError(
                f"a box from {corner} to {stop} reaches outside of {fragments.shape}"
            )
        key = tuple(slice(c, s) for c, s in zip(corner, stop, strict=True))
        result: npt.NDArray[np.uint32] = fragments[key]
        return result

    def around(self, fragments: Iterable[int], box: tuple[int, ...] | None = None) -> Surroundings:
        """Read where some fragments lie, and one voxel around them.

        Parameters
        ----------
        fragments : iterable of int
            Living ones.
        box : tuple of int, optional
            To be covered too: z, y, x start, then stop.
        """
        volume = self._needed()
        boxes = [self._box(fragment) for fragment in fragments]
        boxes += [] if box is None else [box]
        bounds = np.array(boxes)
        z, y, x = np.maximum(bounds[:, :3].min(axis=0) - 1, 0).tolist()
        stop = np.minimum(bounds[:, 3:].max(axis=0) + 1, volume.shape).tolist()
        key = tuple(slice(a, b) for a, b in zip((z, y, x), stop, strict=True))
        affinities = self._state.source.affinities
        return Surroundings(
            (z, y, x),
            volume[key],
            None if affinities is None else np.asarray(affinities[(slice(None), *key)]),
        )

    def centres(self, fragments: npt.NDArray[np.int64]) -> npt.NDArray[np.float64] | None:
        """(z, y, x) of some fragments in voxels, shape (n, 3); None where it is not known."""
        source = self._state.source
        if source.centroids is None:
            return None
        centres = source.centroids[np.minimum(fragments, source.n_fragments)].astype(np.float64)
        for i in np.flatnonzero(fragments > source.n_fragments).tolist():
            box = np.array(self._state.box(int(fragments[i])))
            centres[i] = (box[:3] + box[3:] - 1) / 2
        return centres

    def boxes(self) -> npt.NDArray[np.int32]:
        """Half-open bounding box of every fragment, shape (n_fragments + 1, 6), int32.

        Columns are z, y, x start, then z, y, x stop.

        Raises
        ------
        ProofreadingError
            If the source has none.
        """
        source, n = self._state.source, self._state.graph.n_fragments
        if source.boxes is None:
            raise ProofreadingError("the source has no bounding boxes of fragments")
        added = [self._state.box(fragment) for fragment in range(source.n_fragments + 1, n + 1)]
        return np.concatenate([source.boxes, np.array(added, np.int32).reshape(-1, 6)])

    def _box(self, fragment: int) -> tuple[int, ...]:
        box = self._state.box(fragment)
        if box is not None:
            return box
        # no table of boxes: the fragments are an array in memory, look through it
        found = np.nonzero(self._needed()[...] == fragment)
        return (*(int(i.min()) for i in found), *(int(i.max()) + 1 for i in found))

    def _needed(self) -> PatchedFragments:
        if self.fragments is None:
            raise ProofreadingError("this needs voxels, and the session has only a region graph")
        return self.fragments
