"""From a merge history to segments at any threshold.

waterz merges the cheapest edge first and stops at the first one whose score is *not below* the
threshold, a float32. So the segmentation at threshold t is a prefix of the merge history: every
merge whose *running score*, the highest score up to and including it, is < float32(t). `is_below`
is the one place that says so.

The *join score* of an edge is the running score of the merge that first brings its two fragments
into one region. So the segments at t are the connected components of the edges whose join score is
below t, which stays true when a person cuts or adds edges (scores ∞ and −∞).

The id of a segment is the smallest id among its fragments, as in waterz.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_cad.core.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from napari_cad.core.region_graph import RegionGraph

    IdArray = npt.NDArray[np.integer[Any]]
    IndexArray = npt.NDArray[np.intp]


def _compiled() -> Any:
    """Give the compiled loops: importing numba takes half a second, which not every job has."""
    from napari_cad.core import _forest

    return _forest


def is_below(score: npt.NDArray[np.floating[Any]], threshold: float) -> npt.NDArray[np.bool_]:
    """Tell what is joined at a threshold.

    Parameters
    ----------
    score : ndarray, any shape, float32
        Join scores or running scores.
    threshold : float
        Score at which merging stops; rounded to float32, as waterz does.

    Returns
    -------
    ndarray, same shape, bool
        score < float32(threshold).
    """
    below: npt.NDArray[np.bool_] = np.less(score, np.float32(threshold))
    return below


@dataclass(frozen=True, eq=False)
class MergeHistory:
    """The merges of an agglomeration in the order in which they were done.

    Attributes
    ----------
    a, b : ndarray, shape (n,), uint32
        A fragment of either of the two regions merged. waterz takes the smallest of each, a < b.
    score : ndarray, shape (n,), float32
        Edge score at which it happened, 1 − the statistic of the affinities; need not rise.
    """

    a: npt.NDArray[np.uint32]
    b: npt.NDArray[np.uint32]
    score: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.a)

    def running_score(self) -> npt.NDArray[np.float32]:
        """Highest score up to and including each merge, shape (n,), float32."""
        running: npt.NDArray[np.float32] = np.maximum.accumulate(self.score)
        return running

    def lut(self, n_fragments: int, threshold: float) -> npt.NDArray[np.uint32]:
        """Fragment → segment at a threshold, for once; for several ones make a `MergeTree`.

        Parameters
        ----------
        n_fragments : int
            Highest fragment id.
        threshold : float
            Everything with a running score below it is joined.

        Returns
        -------
        ndarray, shape (n_fragments + 1,), uint32
            See `MergeTree.lut`.
        """
        return segment_lut(n_fragments, self.a, self.b, self.running_score(), threshold)


class TreeColumns(NamedTuple):
    """A merge tree as flat arrays, which is how it lies in a store.

    A fragment goes *below* another one in one merge at most, and what goes below a fragment stands
    together: entries `first[f]` to `first[f + 1]` of `merge`, `name` and `voxels` are those of the
    merges into fragment f, in time.

    Attributes
    ----------
    above : ndarray, shape (n_fragments + 1,), uint32
        By fragment, the one that it goes below; itself for a root.
    merge_of : ndarray, shape (n_fragments + 1,), uint32
        In which merge; the number of merges for a root.
    first : ndarray, shape (n_fragments + 2,), uint32
    merge : ndarray, shape (n merges,), uint32
        Numbers of merges.
    name : ndarray, shape (n merges,), uint32
        Smallest fragment of the region that each of these merges makes.
    running_score : ndarray, shape (n merges,), float32
        By merge: the highest score so far; never falls.
    voxels : ndarray, shape (n merges,), int64, or None
        Size of the region that each of `merge` makes; None where sizes are not known.
    """

    above: npt.NDArray[np.uint32]
    merge_of: npt.NDArray[np.uint32]
    first: npt.NDArray[np.uint32]
    merge: npt.NDArray[np.uint32]
    name: npt.NDArray[np.uint32]
    running_score: npt.NDArray[np.float32]
    voxels: npt.NDArray[np.int64] | None = None


class MergeTree:
    """A merge history as a forest over the fragments: a union-find that remembers when.

    In every merge the root of the smaller region (by number of fragments) goes below the root of
    the larger one, and paths are not shortened. So no fragment is deeper than log₂ of their number,
    and the way up from it is the order in which its region was merged into others.

    Parameters
    ----------
    columns : TreeColumns
        In memory or mapped from a file: `segments_of` reads only where it climbs.
    reopen : tuple of callable and arguments, optional
        How another process gets the same tree, where that is better than sending the columns.
    """

    def __init__(
        self,
        columns: TreeColumns,
        reopen: tuple[Callable[..., MergeTree], tuple[Any, ...]] | None = None,
    ) -> None:
        self.columns = columns
        self._reopen = reopen

    @property
    def origin(self) -> Any:
        """First argument of `reopen`: the store that the tree lies in; None = it is in memory."""
        return self._reopen[1][0] if self._reopen else None

    def __reduce__(self) -> Any:
        return self._reopen or (MergeTree, (self.columns,))

    @classmethod
    def from_history(cls, n_fragments: int, history: MergeHistory) -> Self:
        """Build the forest; a fraction of a second for a million merges.

        Parameters
        ----------
        n_fragments : int
            Highest fragment id.
        history : MergeHistory
            In its own order. A merge of two fragments that are together already is passed over.

        Raises
        ------
        ShapeError
            If the history names fragments beyond `n_fragments`.
        """
        highest = int(max(history.a.max(initial=0), history.b.max(initial=0)))
        if highest > n_fragments:
            raise ShapeError(
                f"a merge history of fragments up to {highest} does not belong to {n_fragments} "
                "fragments"
            )
        made = union_by_size(history.a, history.b, np.ones(n_fragments + 1, np.uint32))
        running = history.running_score()[made.edge]
        above, merge_of, first, merge, name = _compiled().by_parent(
            made.child, made.parent, made.name, n_fragments + 1
        )
        return cls(TreeColumns(above, merge_of, first, merge, name, running))

    def with_sizes(self, sizes: npt.NDArray[np.integer[Any]]) -> MergeTree:
        """Give the same tree with the sizes of its regions.

        Parameters
        ----------
        sizes : ndarray, shape (n_fragments + 1,), integer
            Voxels by fragment id.
        """
        c = self.columns
        voxels = _compiled().grown(c.above, c.merge_of, c.first, c.merge, sizes)
        return MergeTree(c._replace(voxels=voxels), self._reopen)

    @property
    def n_fragments(self) -> int:
        """Highest fragment id."""
        return len(self.columns.above) - 1

    @property
    def running_score(self) -> npt.NDArray[np.float32]:
        """Highest score up to and including each merge, shape (n merges,); never falls."""
        return self.columns.running_score

    def __len__(self) -> int:
        """Count all merges."""
        return len(self.columns.merge)

    def n_merges(self, threshold: float) -> int:
        """Count the merges that are done at a threshold."""
        return int(np.searchsorted(self.columns.running_score, np.float32(threshold)))

    def n_segments(self, threshold: float) -> int:
        """Count the segments at a threshold, background left out; takes no time."""
        return self.n_fragments - self.n_merges(threshold)

    def edges(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        """Give one pair of fragments per merge, whose join scores are `running_score`.

        Returns
        -------
        u, v : ndarray, shape (n merges,), uint32
            They connect what the edges of the region graph connect, at every threshold, and there
            are far fewer of them: what `segment_lut` should be given. The first of each pair is
            the root that goes below the other one.
        """
        c = self.columns
        below = np.flatnonzero(np.less(c.merge_of, len(self)))
        child = np.empty(len(self), np.uint32)
        child[c.merge_of[below]] = below
        return child, np.asarray(c.above)[child]

    def lut(self, threshold: float) -> npt.NDArray[np.uint32]:
        """Fragment → segment at a threshold.

        Parameters
        ----------
        threshold : float
            Everything with a join score below it is joined.

        Returns
        -------
        ndarray, shape (n_fragments + 1,), uint32
            lut[0] = 0; the id of a segment is the smallest of its fragments' ids.
        """
        c = self.columns
        lut: npt.NDArray[np.uint32] = _compiled().lut(self.n_merges(threshold), c.above, c.merge_of)
        return lut

    def segments_of(self, fragments: IdArray, threshold: float) -> npt.NDArray[np.uint32]:
        """Segments of some fragments only, such as those of the section on screen.

        Parameters
        ----------
        fragments : ndarray, shape (n,), integer
            Ids from 0 to `n_fragments`.
        threshold : float
            As for `lut`.

        Returns
        -------
        ndarray, shape (n,), uint32
            What `lut(threshold)[fragments]` is, but in a time that hardly grows with the volume.

        Raises
        ------
        IndexError
            If there is no such fragment.
        """
        roots, places = self._climb(fragments, threshold)
        return self._names(roots, places)

    def sized_segments_of(
        self, fragments: IdArray, threshold: float, sizes: npt.NDArray[np.integer[Any]]
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """Give the segments of some fragments and how large these segments are.

        Parameters
        ----------
        fragments, threshold
            As for `segments_of`.
        sizes : ndarray, shape (n_fragments + 1,), integer
            Voxels by fragment id, those that the tree was given.

        Raises
        ------
        ShapeError
            If the tree has no sizes.
        """
        voxels = self._voxels()
        roots, places = self._climb(fragments, threshold)
        size = np.asarray(sizes[roots], np.int64)
        grown = places >= 0
        size[grown] = voxels[places[grown]]
        return self._names(roots, places), size

    def segment_sizes(
        self, threshold: float, sizes: npt.NDArray[np.integer[Any]]
    ) -> npt.NDArray[np.int64]:
        """Voxels of every segment at a threshold, in no order, shape (n_segments,), int64.

        Raises
        ------
        ShapeError
            If the tree has no sizes.
        """
        c = self.columns
        result: npt.NDArray[np.int64] = _compiled().region_sizes(
            self.n_merges(threshold), c.merge_of, c.first, c.merge, self._voxels(), sizes
        )
        return result

    def _voxels(self) -> npt.NDArray[np.int64]:
        if self.columns.voxels is None:
            raise ShapeError("expected a merge tree with sizes: make it by `with_sizes`")
        return self.columns.voxels

    def _climb(self, fragments: IdArray, threshold: float) -> tuple[IndexArray, IndexArray]:
        c, n = self.columns, self.n_merges(threshold)
        fragments = np.asarray(fragments)
        highest = int(fragments.max(initial=0))
        if highest > self.n_fragments:  # compiled code does not look where it reads
            raise IndexError(f"there is no fragment {highest}, the highest is {self.n_fragments}")
        roots, places = _compiled().last_merges(fragments, n, c.above, c.merge_of, c.first, c.merge)
        return roots, places

    def _names(self, roots: IndexArray, places: IndexArray) -> npt.NDArray[np.uint32]:
        names = roots.astype(np.uint32)
        grown = places >= 0
        names[grown] = self.columns.name[places[grown]]
        return names

    def joining_merges(self, u: IdArray, v: IdArray) -> npt.NDArray[np.int64]:
        """Tell in which merge pairs of fragments first come together.

        Returns
        -------
        ndarray, shape (n,), int64
            Counted from 0; the number of all merges where they never do, −1 where u = v.
        """
        c = self.columns
        merges: npt.NDArray[np.int64] = _compiled().joining_merges(
            u, v, c.above, c.merge_of, len(self)
        )
        return merges

    def join_scores(self, u: IdArray, v: IdArray) -> npt.NDArray[np.float32]:
        """Score at which pairs of fragments first come together.

        Parameters
        ----------
        u, v : ndarray, shape (n,), integer
            Fragment ids.

        Returns
        -------
        ndarray, shape (n,), float32
            inf where they never do; 0 where u = v.
        """
        merges = self.joining_merges(u, v)
        scores = np.full(len(merges), np.float32(np.inf))
        ever = merges < len(self)
        scores[ever] = self.columns.running_score[merges[ever]] if len(self) else 0
        scores[merges < 0] = 0
        return scores


class Unions(NamedTuple):
    """Of every edge that joins two regions, columns of one length.

    `child` goes below `parent`, both roots; `name` is the smallest fragment of what they make,
    `edge` the place of the edge, `smaller` the size of the child's region, and `swapped` tells
    where that is the region of b, and so where the parent's is the region of a.
    """

    child: npt.NDArray[np.uint32]
    parent: npt.NDArray[np.uint32]
    name: npt.NDArray[np.uint32]
    edge: npt.NDArray[np.int64]
    smaller: npt.NDArray[np.int64]
    swapped: npt.NDArray[np.bool_]


def union_by_size(
    a: IdArray,
    b: IdArray,
    sizes: npt.NDArray[np.integer[Any]],
    order: npt.NDArray[np.int64] | None = None,
) -> Unions:
    """Join regions edge by edge, the smaller one always below the root of the larger one.

    Parameters
    ----------
    a, b : ndarray, shape (n,), integer
        Fragments of each edge.
    sizes : ndarray, shape (n_fragments + 1,), integer
        By fragment id.
    order : ndarray, shape (m,), int64, optional
        Which edges join, one after the other; by default all, as they stand.

    Returns
    -------
    Unions
        Without the edges inside one region: the minimum spanning forest, if `order` is that of
        their weights.
    """
    n_edges = len(a)
    if order is None:
        order = np.zeros(0, np.int64)
    else:
        n_edges = len(order)
    return Unions(*_compiled().unite(a, b, order, n_edges, sizes.copy()))


def join_scores(graph: RegionGraph, history: MergeHistory) -> npt.NDArray[np.float32]:
    """Join score of every edge of a region graph, in its order; see `MergeTree.join_scores`."""
    return MergeTree.from_history(graph.n_fragments, history).join_scores(graph.u, graph.v)


def segment_lut(
    n_fragments: int,
    u: IdArray,
    v: IdArray,
    join_score: npt.NDArray[np.floating[Any]],
    threshold: float,
) -> npt.NDArray[np.uint32]:
    """Fragment → segment: connected components of the edges with a join score below a threshold.

    Parameters
    ----------
    n_fragments : int
        Highest fragment id.
    u, v : ndarray, shape (n,), integer
        Edges between fragments 1 to `n_fragments`: those of a region graph or, in a fraction of
        the time, those of its merge tree.
    join_score : ndarray, shape (n,), floating
        One per edge; inf for one that is cut and −inf for one that holds at every threshold.
    threshold : float
        In score units: higher joins more.

    Returns
    -------
    ndarray, shape (n_fragments + 1,), uint32
        lut[0] = 0; the id of a segment is the smallest of its fragments' ids.

    Raises
    ------
    ShapeError
        If the columns differ in length or an id is 0 or beyond `n_fragments`.
    """
    if not len(u) == len(v) == len(join_score):
        raise ShapeError(
            f"expected as many u and v as join scores, got {len(u)}, {len(v)}, {len(join_score)}"
        )
    joined = is_below(join_score, threshold)
    u, v = u[joined], v[joined]
    if len(u) and not (0 < min(u.min(), v.min()) <= max(u.max(), v.max()) <= n_fragments):
        raise ShapeError(
            f"expected edges between the fragments 1 to {n_fragments}, got ids from "
            f"{min(u.min(), v.min())} to {max(u.max(), v.max())}"
        )
    n = n_fragments + 1
    # float64 and int32 are what scipy's components are computed on: anything else is copied
    edges = (u.astype(np.int32), v.astype(np.int32)) if n < 2**31 else (u, v)
    adjacency = coo_array((np.ones(len(u)), edges), shape=(n, n))
    n_components, component = connected_components(adjacency, directed=False)
    smallest = np.empty(n_components, np.uint32)
    # backwards: where several fragments write to one place, the smallest id is the last
    smallest[component[::-1]] = np.arange(n - 1, -1, -1, dtype=np.uint32)
    lut: npt.NDArray[np.uint32] = smallest[component]
    return lut
