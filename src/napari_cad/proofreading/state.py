"""The state of a session in memory: graph, decisions, history and the LUT that follows from them.

Knows nothing of disks and viewers. Every way to another state goes through `stage`, which works
out what would come of some changes, and then either `finish` or `withdraw`: between the two the
session writes its log, so that nothing is seen that is not on the disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.proofreading.decisions import Decisions
from napari_cad.proofreading.edits import SetThreshold
from napari_cad.proofreading.graph import EditableGraph
from napari_cad.proofreading.growing import GrowingArray
from napari_cad.proofreading.history import EditHistory
from napari_cad.proofreading.names import keep_ids
from napari_cad.proofreading.partition import after, from_scratch, segment_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from napari_cad.proofreading.edits import Change
    from napari_cad.proofreading.patch import FragmentPatch
    from napari_cad.proofreading.source import ProofreadingSource


@dataclass(frozen=True, eq=False)
class Staged:
    """Changes that have been applied and whose outcome is not yet in the LUT.

    Attributes
    ----------
    changes : tuple of Change
        In order, with the change of names that lets segments keep their ids.
    fragments : ndarray, shape (n,), int64
        Those whose segment may differ.
    ids : ndarray, shape (n,), uint32
        Their segments; 0 = retired.
    before, after : tuple of int
        Ids of segments that are made something else of, and of what they become.
    patch : FragmentPatch or None
        The patch that was registered for them.
    """

    changes: tuple[Change, ...]
    fragments: npt.NDArray[np.int64]
    ids: npt.NDArray[np.uint32]
    before: tuple[int, ...]
    after: tuple[int, ...]
    patch: FragmentPatch | None = None


class SessionState:
    """Graph, decisions, history and LUT.

    Parameters
    ----------
    source : ProofreadingSource
        What is corrected.
    threshold : float
        To begin with.

    Attributes
    ----------
    revision : int
        Counts every change of the state.
    """

    def __init__(self, source: ProofreadingSource, threshold: float) -> None:
        self.source = source
        self.graph = EditableGraph(source)
        self.decisions = Decisions(self.graph, threshold)
        self.history = EditHistory()
        self.revision = 0
        self._patch_of: dict[int, FragmentPatch] = {}
        self._n_patches = 0
        self._lut = GrowingArray(np.zeros(0, np.uint32))

    @property
    def lut(self) -> npt.NDArray[np.uint32]:
        """Fragment → segment, shape (n_fragments + 1,), uint32; changed in place by edits."""
        return self._lut.values

    def replay(self, edits: Iterable[int]) -> None:
        """Apply edits of the history to the beginning, and make the LUT once at the end."""
        for edit_id in edits:
            for change in self.history.edits[edit_id].changes:
                change.apply(self.decisions)
        self._lut = GrowingArray(from_scratch(self.decisions, self.source.base_lut))

    def lut_at(self, threshold: float) -> npt.NDArray[np.uint32]:
        """Work out the LUT of another threshold, with all other decisions as they are."""
        return from_scratch(self.decisions, self.source.base_lut, threshold)

    def members(self, segment: int) -> npt.NDArray[np.int64]:
        """Sorted fragments of a segment; empty if there is none of this id."""
        result: npt.NDArray[np.int64] = np.flatnonzero(self.lut == segment)
        return result if segment else result[:0]

    def box(self, fragment: int) -> tuple[int, ...] | None:
        """Half-open bounding box of a fragment: z, y, x start, then stop; None = not known."""
        patch = self._patch_of.get(fragment)
        if patch is not None:
            return patch.boxes[fragment - patch.first_fragment]
        if self.source.boxes is None:
            return None
        return tuple(self.source.boxes[fragment].tolist())

    # ---------------------------------------------------------------- patches

    @property
    def next_patch(self) -> int:
        """Number of the patch to be made next."""
        return self._n_patches + 1

    def register(self, patch: FragmentPatch) -> None:
        """Make room for the fragments and edges of a patch."""
        self.decisions.register(patch)
        self._n_patches += 1
        self._lut.append(np.zeros(len(patch.parents), np.uint32))
        self._patch_of.update(dict.fromkeys(patch.fragments, patch))

    def _unregister(self, patch: FragmentPatch) -> None:
        self.decisions.unregister(patch)
        self._n_patches -= 1
        self._lut.truncate(patch.first_fragment)
        for fragment in patch.fragments:
            del self._patch_of[fragment]

    # ---------------------------------------------------------------- to another state and back

    def stage(self, changes: Sequence[Change]) -> Staged:
        """Apply changes that were applied before (or their inverses): undo and redo."""
        for change in changes:
            change.apply(self.decisions)
        if any(isinstance(change, SetThreshold) for change in changes):
            return self._everything(changes)
        region = after(self.decisions, self.lut, changes)
        return self._outcome(tuple(changes), region, self._ids(region), self.lut[region])

    def stage_route(self, undo: Sequence[int], redo: Sequence[int]) -> Staged:
        """Undo some edits and make others again."""
        edits = self.history.edits
        changes = [change for i in undo for change in edits[i].inverse()]
        changes += [change for i in redo for change in edits[i].changes]
        if len(undo) + len(redo) <= 1:
            return self.stage(changes)
        for change in changes:
            change.apply(self.decisions)
        return self._everything(changes)

    def stage_new(
        self, changes: Sequence[Change], keep: int | None, patch: FragmentPatch | None
    ) -> Staged:
        """Apply the changes of a new edit, and let segments keep their ids."""
        if patch is not None:
            self.register(patch)
        for change in changes:
            change.apply(self.decisions)
        if any(isinstance(change, SetThreshold) for change in changes):
            return self._everything(changes)
        region = after(self.decisions, self.lut, changes)
        old = self.lut[region]
        if patch is not None:
            old = np.where(
                np.isin(region, patch.fragments), self.lut[self._parents(region, patch)], old
            )
        rename, ids = keep_ids(
            self.decisions,
            region,
            old,
            self._ids(region),
            keep=keep,
            rank=self.history.next_id,
        )
        if rename is not None:
            rename.apply(self.decisions)
            changes = (*changes, rename)
        return self._outcome(tuple(changes), region, ids, old, patch)

    def finish(self, staged: Staged) -> npt.NDArray[np.int64]:
        """Put the outcome into the LUT.

        Returns
        -------
        ndarray, shape (n,), int64
            Fragments whose segment is another one now.
        """
        changed = self.lut[staged.fragments] != staged.ids
        self.lut[staged.fragments] = staged.ids
        self.revision += 1
        result: npt.NDArray[np.int64] = staged.fragments[changed]
        return result

    def withdraw(self, staged: Staged) -> None:
        """Make it as if nothing had been staged."""
        for change in reversed(staged.changes):
            change.inverse().apply(self.decisions)
        if staged.patch is not None:
            self._unregister(staged.patch)

    def _ids(self, region: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        alive = self.graph.alive[region]
        ids = np.zeros(len(region), np.uint32)
        ids[alive] = segment_ids(self.decisions, region[alive])
        return ids

    def _everything(self, changes: Sequence[Change]) -> Staged:
        lut = from_scratch(self.decisions, self.source.base_lut)
        return Staged(tuple(changes), np.arange(len(lut)), lut, (), ())

    @staticmethod
    def _outcome(
        changes: tuple[Change, ...],
        region: npt.NDArray[np.int64],
        ids: npt.NDArray[np.uint32],
        old: npt.NDArray[np.uint32],
        patch: FragmentPatch | None = None,
    ) -> Staged:
        before, now = _differing(old, ids)
        return Staged(changes, region, ids, before, now, patch)

    @staticmethod
    def _parents(region: npt.NDArray[np.int64], patch: FragmentPatch) -> npt.NDArray[np.int64]:
        """Put the parent in place of each fragment that the patch makes."""
        parents = region.copy()
        new = np.isin(region, patch.fragments)
        parents[new] = np.array(patch.parents, np.int64)[region[new] - patch.first_fragment]
        return parents


def _differing(
    old: npt.NDArray[np.uint32], new: npt.NDArray[np.uint32]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Segments that did not stay what they were: before, and now."""
    before, now = np.unique(np.stack([old, new]), axis=1)
    differs = (_occurrences(before) > 1) | (_occurrences(now) > 1) | (before != now)
    gone, come = np.unique(before[differs]), np.unique(now[differs])
    return tuple(gone[gone > 0].tolist()), tuple(come[come > 0].tolist())


def _occurrences(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """How often each of the values stands in the array."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    result: npt.NDArray[np.int64] = count[inverse]
    return result
