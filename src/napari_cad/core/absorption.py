"""Absorbing small segments: each joins the neighbour that it would have merged with first.

The edges of the region graph are gone through from the lowest join score up, the higher mean
affinity first where two are equal (so all edges are ranked). An edge joins its two segments if

    its join score is below the threshold, or one of the two has fewer voxels than the limit.

A segment grows meanwhile: fragments too small to stay may absorb each other and stay together. One
pass is enough, since what is small when an edge is looked at joins by it: what is small in the end
has no neighbour at all.

Of all that only a forest is needed. An edge joins a small segment only if it is the first in rank
that leaves it, and such edges are those of the minimum spanning forest of the ranks. And the two
segments that an edge of it finds are the whole regions that lower ranks connect, or all parts of a
region are at least as large as the limit: inside a connected region, what is small has found its
neighbour. So whether an edge joins is known beforehand: its score, and the voxels of the smaller of
the two regions that it connects in the forest. Both numbers make any LUT, without a second pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.errors import ShapeError
from napari_cad.core.merge_tree import MergeHistory, is_below, union_by_size

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.core.region_graph import RegionGraph


@dataclass(frozen=True, eq=False)
class SpanningForest:
    """Edges enough for a segmentation at any threshold with any limit, by rank.

    Attributes
    ----------
    n_fragments : int
        Highest fragment id.
    child, anchor : ndarray, shape (n,), uint32
        Fragments: the root of the smaller of the two regions that an edge connects, and where it
        touches the larger one. No fragment is a child twice.
    score : ndarray, shape (n,), float32
        Join score of each edge, never falling; inf where waterz never joins.
    smaller : ndarray, shape (n,), int64
        Voxels of the smaller region.
    """

    n_fragments: int
    child: npt.NDArray[np.uint32]
    anchor: npt.NDArray[np.uint32]
    score: npt.NDArray[np.float32]
    smaller: npt.NDArray[np.int64]

    def lut(self, threshold: float, absorb: int) -> npt.NDArray[np.uint32]:
        """Fragment → segment at a threshold, with small segments absorbed.

        Parameters
        ----------
        threshold : float
            Everything with a join score below it is joined.
        absorb : int
            Segments of fewer voxels join a neighbour; 0 and 1 absorb nothing.

        Returns
        -------
        ndarray, shape (n_fragments + 1,), uint32
            lut[0] = 0; the id of a segment is the smallest of its fragments' ids.
        """
        joins = is_below(self.score, threshold) | (self.smaller < absorb)
        root = np.arange(self.n_fragments + 1)
        # whatever is joined below a child connects all of its region, so one pointer is enough
        root[self.child[joins]] = self.anchor[joins]
        while not np.array_equal(higher := root[root], root):  # twice as high each time
            root = higher
        name = np.empty(self.n_fragments + 1, np.uint32)
        # backwards: where several fragments write to one place, the smallest id is the last
        name[root[::-1]] = np.arange(self.n_fragments, -1, -1, dtype=np.uint32)
        lut: npt.NDArray[np.uint32] = name[root]
        return lut

    def history(self, absorb: int) -> MergeHistory:
        """Give it as a merge history, in which what is absorbed joins at −inf, before all else.

        Parameters
        ----------
        absorb : int
            As for `lut`.

        Returns
        -------
        MergeHistory
            At any threshold its segments are those of `lut`.
        """
        score = np.where(self.smaller < absorb, np.float32(-np.inf), self.score)
        order = np.argsort(score, kind="stable")
        return MergeHistory(self.child[order], self.anchor[order], score[order])

    def to_array(self) -> npt.NDArray[np.float64]:
        """Put the columns child, anchor, score, smaller into one array, shape (n, 4), exactly."""
        columns = (self.child, self.anchor, self.score, self.smaller)
        return np.stack([column.astype(np.float64) for column in columns], axis=1)

    def is_plausible(self, n_merges: int) -> bool:
        """Whether all rows are there, of an agglomeration with so many merges.

        Rows that were never written are all zero. Of the others, those with a finite score connect
        what the merges connect, so they are as many.
        """
        named = self.child.all() and self.anchor.all()
        highest = max(int(self.child.max(initial=0)), int(self.anchor.max(initial=0)))
        n_finite = int(np.isfinite(self.score).sum())
        return bool(named) and highest <= self.n_fragments and n_finite == n_merges

    @classmethod
    def from_array(cls, n_fragments: int, array: npt.NDArray[np.float64]) -> SpanningForest:
        """Make a forest from what `to_array` gave."""
        child, anchor, score, smaller = array.T
        return cls(
            n_fragments,
            child.astype(np.uint32),
            anchor.astype(np.uint32),
            score.astype(np.float32),
            smaller.astype(np.int64),
        )


def spanning_forest(
    graph: RegionGraph, join_score: npt.NDArray[np.floating[Any]], sizes: npt.NDArray[np.int64]
) -> SpanningForest:
    """Find the edges that absorbing needs; some seconds for a million fragments.

    Parameters
    ----------
    graph : RegionGraph
        Edges and their mean affinities.
    join_score : ndarray, shape (n edges,), floating
        Of each edge; inf where it never joins. Those come last, the strongest affinity first.
    sizes : ndarray, shape (n_fragments + 1,), int64
        Voxels by fragment id.

    Raises
    ------
    ShapeError
        If scores or sizes do not belong to the graph.
    """
    n = graph.n_fragments + 1
    if len(join_score) != len(graph) or len(sizes) != n:
        raise ShapeError(
            f"expected {len(graph)} join scores and {n} sizes, got {len(join_score)} and "
            f"{len(sizes)}"
        )
    # Kruskal: an edge that joins two regions, in the order of ranks, is one of the forest
    order = np.lexsort((-graph.mean, join_score))
    forest = union_by_size(graph.u, graph.v, sizes, order)
    u, v = graph.u[forest.edge], graph.v[forest.edge]
    return SpanningForest(
        graph.n_fragments,
        forest.child,
        np.where(forest.swapped, u, v).astype(np.uint32),
        np.asarray(join_score[forest.edge], np.float32),
        forest.smaller,
    )
