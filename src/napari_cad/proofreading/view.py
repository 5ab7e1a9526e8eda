"""A session as it is now: which segments there are, what is in them, and how they came about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_cad.proofreading.errors import ProofreadingError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import numpy.typing as npt

    from napari_cad.proofreading.decisions import Decisions
    from napari_cad.proofreading.edits import Change, Edit
    from napari_cad.proofreading.folder import MemoryFolder
    from napari_cad.proofreading.graph import EditableGraph
    from napari_cad.proofreading.history import EditHistory
    from napari_cad.proofreading.overlay import PatchedFragments
    from napari_cad.proofreading.source import ProofreadingSource
    from napari_cad.proofreading.state import SessionState
    from napari_cad.proofreading.voxels import SessionVoxels


class SessionView:
    """What can be seen of a session; nothing here changes it.

    Attributes
    ----------
    source : ProofreadingSource
        What is corrected.
    voxels : SessionVoxels
        Which fragment is where.
    """

    source: ProofreadingSource
    voxels: SessionVoxels
    _state: SessionState
    _folder: MemoryFolder

    @property
    def lut(self) -> npt.NDArray[np.uint32]:
        """Fragment → segment, shape (n_fragments + 1,), uint32; 0 for 0 and retired fragments.

        A view that edits change in place; dividing a fragment makes it longer, so ask again.
        """
        return self._state.lut

    @property
    def fragments(self) -> PatchedFragments | None:
        """Fragment ids, an array-like of shape (Z, Y, X), uint32; None without voxels."""
        return self.voxels.fragments

    @property
    def read_only(self) -> bool:
        """Whether edits are refused; `messages` says why."""
        return self._folder.read_only

    @property
    def next_patch(self) -> int:
        """Number of the patch to be made next."""
        return self._state.next_patch

    @property
    def threshold(self) -> float:
        """Agglomeration threshold, an edge score."""
        return self._state.decisions.threshold

    @property
    def history(self) -> EditHistory:
        """All edits, of all branches."""
        return self._state.history

    @property
    def graph(self) -> EditableGraph:
        """The region graph with what divided fragments add to it."""
        return self._state.graph

    @property
    def decisions(self) -> Decisions:
        """What has been decided; change it by edits only."""
        return self._state.decisions

    @property
    def revision(self) -> int:
        """A number that is another one after every change."""
        return self._state.revision

    def segment_of(self, fragment: int) -> int:
        """Segment of a fragment.

        Raises
        ------
        ProofreadingError
            If there is no such fragment now.
        """
        segment = int(self.lut[fragment]) if 0 <= fragment < len(self.lut) else 0
        if not segment:
            raise ProofreadingError(f"there is no fragment {fragment}")
        return segment

    def fragments_of(self, segment: int) -> npt.NDArray[np.int64]:
        """Sorted fragments of a segment, int64.

        Raises
        ------
        ProofreadingError
            If there is no such segment now.
        """
        members = self._state.members(segment)
        if not len(members):
            raise ProofreadingError(f"there is no segment {segment}")
        return members

    def living(self, segments: Collection[int]) -> list[int]:
        """Give those of some segments that there are now, in their order."""
        lut = self.lut
        if len(segments) > 8:
            there = np.zeros(len(lut) + 1, np.bool_)
            there[lut] = True
            return [s for s in segments if s < len(there) and there[s]]
        return [segment for segment in segments if (lut == segment).any()]

    def segment_sizes(self) -> npt.NDArray[np.int64]:
        """Voxels of each segment by id, shape (n_fragments + 1,), int64."""
        size = np.where(self.graph.alive, self.graph.size, 0)
        result = np.bincount(self.lut, weights=size, minlength=len(self.lut))
        return result.astype(np.int64)

    def size_of(self, segment: int) -> int:
        """Voxels of a segment."""
        return int(self.graph.size[self.fragments_of(segment)].sum())

    def is_locked(self, segment: int) -> bool:
        """Whether a segment is locked."""
        return segment in self.decisions.locks

    def weakest_join(self, segment: int) -> float | None:
        """Join score of the weakest edge that holds a segment together; None if there is none."""
        edges = self.graph.edges_within(self.fragments_of(segment))
        scores = self.graph.join[edges[self.decisions.connects(edges)]]
        return float(scores.max()) if len(scores) else None

    def contacts_of(self, segment: int) -> npt.NDArray[np.int64]:
        """Edges between a segment and its neighbours, cut ones included, sorted, int64.

        Their places are `graph.position`. Looks at all edges: tens of milliseconds for millions.
        """
        edges = self.graph.edges_around(self.fragments_of(segment))
        outside = self.lut[self.graph.u[edges]] != self.lut[self.graph.v[edges]]
        contacts: npt.NDArray[np.int64] = edges[outside]
        return contacts

    def find_edits(self, matches: Callable[[Change], bool]) -> tuple[int, ...]:
        """Edits of the current branch with a change that matches, the latest first."""
        edits = (self.history.edits[i] for i in reversed(self.history.path()))
        return tuple(edit.id for edit in edits if any(matches(c) for c in edit.changes))

    def lineage(self, segment: int) -> list[Edit]:
        """Edits that made a segment what it is, in order."""
        return self.history.lineage(segment)

    def preview_threshold(self, threshold: float) -> npt.NDArray[np.uint32]:
        """Work out the LUT of another threshold, for a slider that is being dragged.

        Returns
        -------
        ndarray, shape (n_fragments + 1,), uint32
        """
        return self._state.lut_at(edge_score(threshold))


def edge_score(threshold: float) -> float:
    """Check that a threshold is a number.

    Raises
    ------
    ProofreadingError
        If it is not.
    """
    if not np.isfinite(threshold):
        raise ProofreadingError(f"a threshold is an edge score, got {threshold}")
    return float(threshold)
