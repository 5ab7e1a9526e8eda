"""What the person decided, as it stands now: the state that edits change.

Together with the region graph it determines the segmentation (`napari_cad.proofreading.partition`),
and nothing else does: the same decisions give the same LUT however they came about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_cad.core.merge_tree import is_below
from napari_cad.proofreading.growing import GrowingArray

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.proofreading.graph import EditableGraph, Ids
    from napari_cad.proofreading.patch import FragmentPatch

Answer = Literal["accept", "reject", "later"]


@dataclass(frozen=True)
class Note:
    """A remark on a place or on a segment.

    Attributes
    ----------
    number : int
        Counts from 1, never given twice.
    text : str
    position : tuple of float, optional
        (z, y, x) in voxels.
    fragment : int, optional
        A fragment of the segment it is about. A fragment, because segments come and go.
    """

    number: int
    text: str
    position: tuple[float, float, float] | None = None
    fragment: int | None = None


class Decisions:
    """Threshold, cut edges, links, locks, names, patches, notes and answers.

    Parameters
    ----------
    graph : EditableGraph
        Whose edges and fragments this is about.
    threshold : float
        Agglomeration threshold, an edge score.

    Attributes
    ----------
    links : dict
        Pairs (u, v), u < v, of fragments that belong together whatever their edges say. A dict
        for its order; the values mean nothing.
    locks : dict
        Id of each locked segment → its fragments, sorted.
    patches : list of FragmentPatch
        Divisions of fragments that are in force, in the order in which they were made.
    notes : dict
        Number → note.
    answers : dict
        Edge → what the person answered when asked about it.
    """

    def __init__(self, graph: EditableGraph, threshold: float) -> None:
        self.graph = graph
        self.threshold = threshold
        self.links: dict[tuple[int, int], None] = {}
        self.locks: dict[int, tuple[int, ...]] = {}
        self.patches: list[FragmentPatch] = []
        self.notes: dict[int, Note] = {}
        self.answers: dict[int, Answer] = {}
        n = graph.n_fragments
        self._cut = GrowingArray(np.zeros(graph.n_edges, np.bool_))
        self._lock = GrowingArray(np.zeros(n + 1, np.uint32))
        self._name = GrowingArray(np.arange(n + 1, dtype=np.uint32))
        self._rank = GrowingArray(np.zeros(n + 1, np.int32))

    @property
    def cut(self) -> npt.NDArray[np.bool_]:
        """Which edges the person cut, shape (n_edges,)."""
        return self._cut.values

    @property
    def lock(self) -> npt.NDArray[np.uint32]:
        """Locked segment that each fragment belongs to, 0 = none, shape (n_fragments + 1,)."""
        return self._lock.values

    @property
    def name(self) -> npt.NDArray[np.uint32]:
        """Name of each fragment, shape (n_fragments + 1,): a permutation of the fragment ids.

        The id of a segment is the name of its fragment of the highest rank, the smallest name
        among equals. At first every fragment is called by its own id and has rank 0, so that a
        segment's id is its smallest fragment id. Edits exchange names and raise ranks to let a
        segment keep its id where the rule alone would give it another one. Ids can never clash,
        because names are unique.
        """
        return self._name.values

    @property
    def rank(self) -> npt.NDArray[np.int32]:
        """Rank of each fragment, shape (n_fragments + 1,)."""
        return self._rank.values

    def register(self, patch: FragmentPatch) -> None:
        """Make room for the fragments and edges of a patch."""
        self.graph.register(patch)
        new = np.asarray(patch.fragments, np.uint32)
        self._cut.append(np.zeros(len(patch.u), np.bool_))
        self._lock.append(np.zeros(len(new), np.uint32))
        self._name.append(new)
        self._rank.append(np.zeros(len(new), np.int32))

    def unregister(self, patch: FragmentPatch) -> None:
        """Take back `register`, of the patch that was registered last."""
        self.graph.unregister(patch)
        self._cut.truncate(patch.first_edge)
        for column in (self._lock, self._name, self._rank):
            column.truncate(patch.first_fragment)

    def link_array(self) -> npt.NDArray[np.int64]:
        """Linked pairs of fragments, shape (n_links, 2), int64."""
        return np.array(list(self.links), np.int64).reshape(-1, 2)

    def connects(self, edges: Ids, threshold: float | None = None) -> npt.NDArray[np.bool_]:
        """Tell which edges hold their two fragments together.

        Parameters
        ----------
        edges : ndarray, shape (n,), integer
            Edges between living fragments.
        threshold : float, optional
            By default the one of the session.

        Returns
        -------
        ndarray, shape (n,), bool
            Join score below the threshold, not cut, and no end locked.
        """
        if threshold is None:
            threshold = self.threshold
        u, v = self.graph.u[edges], self.graph.v[edges]
        free = (self.lock[u] == 0) & (self.lock[v] == 0)
        result = is_below(self.graph.join[edges], threshold)
        result &= free & ~self.cut[edges]
        return result
