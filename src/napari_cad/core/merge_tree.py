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
    import numpy.typing as npt

    from napari_cad.core.region_graph import RegionGraph

    IdArray = npt.NDArray[np.integer[Any]]
    IndexArray = npt.NDArray[np.intp]


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


class MergeTree:
    """A merge history as a forest over the fragments: a union-find that remembers when.

    In every merge the root of the smaller region (by number of fragments) goes below the root of
    the larger one, and paths are not shortened. So no fragment is deeper than log₂ of their number,
    and the way up from it is the order in which its region was merged into others.

    Parameters
    ----------
    child, parent : ndarray, shape (n merges,), integer
        Per merge, the root that goes below the other one, and the other one.
    name : ndarray, shape (n merges,), integer
        Smallest fragment of the region that the merge makes.
    running_score : ndarray, shape (n merges,), float32
        Highest score up to and including each merge; never falls.
    n_fragments : int
        Highest fragment id.
    """

    def __init__(
        self,
        child: IdArray,
        parent: IdArray,
        name: IdArray,
        running_score: npt.NDArray[np.float32],
        n_fragments: int,
    ) -> None:
        self.n_fragments = n_fragments
        self.running_score = running_score
        self._child = child.astype(np.intp)
        self._parent = parent.astype(np.intp)
        self._name = name.astype(np.uint32)
        # by fragment: what it goes below, and in which merge; a root never does, and goes nowhere
        self._above = np.arange(n_fragments + 1)
        self._above[self._child] = self._parent
        self._merge_of = np.full(n_fragments + 1, len(self))
        self._merge_of[self._child] = np.arange(len(self))
        # merges in the order of their parent, then of time
        self._by_parent = np.argsort(self._parent, kind="stable")
        self._parent_and_time = self._parent_key(self._parent[self._by_parent], self._by_parent)

    @classmethod
    def from_history(cls, n_fragments: int, history: MergeHistory) -> Self:
        """Build the forest; one to two seconds for a million merges.

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
        made = union_by_size(history.a, history.b, np.ones(n_fragments + 1, np.int64))
        running = history.running_score()[made.edge]
        return cls(made.child, made.parent, made.name, running, n_fragments)

    def __len__(self) -> int:
        """Count all merges."""
        return len(self.running_score)

    def n_merges(self, threshold: float) -> int:
        """Count the merges that are done at a threshold."""
        return int(np.count_nonzero(is_below(self.running_score, threshold)))

    def edges(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        """Give one pair of fragments per merge, whose join scores are `running_score`.

        Returns
        -------
        u, v : ndarray, shape (n merges,), uint32
            They connect what the edges of the region graph connect, at every threshold, and there
            are far fewer of them: what `segment_lut` should be given.
        """
        return self._child.astype(np.uint32), self._parent.astype(np.uint32)

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
        n = self.n_merges(threshold)
        root = np.arange(self.n_fragments + 1)
        root[self._child[:n]] = self._parent[:n]
        while not np.array_equal(higher := root[root], root):  # twice as high each time
            root = higher
        name = np.arange(self.n_fragments + 1, dtype=np.uint32)
        name[self._parent[:n]] = self._name[:n]  # merges rise in time: the last one has its say
        return name[root]

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
        """
        n = self.n_merges(threshold)
        root = np.array(fragments, dtype=np.intp)
        climbing = np.flatnonzero(self._merge_of[root] < n)
        while len(climbing):
            root[climbing] = self._above[root[climbing]]
            climbing = climbing[self._merge_of[root[climbing]] < n]
        segments = root.astype(np.uint32)
        if n:
            # the last merge before the threshold that went into this root named the region
            last = np.searchsorted(self._parent_and_time, self._parent_key(root, n)) - 1
            merge = self._by_parent[np.maximum(last, 0)]
            grown = (last >= 0) & (self._parent[merge] == root)
            segments[grown] = self._name[merge[grown]]
        return segments

    def _parent_key(self, parent: IndexArray, time: IndexArray | int) -> IndexArray:
        return parent * (len(self) + 1) + time

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
        # the later of two fragments' next merges contains the earlier one; so climb with the
        # earlier one until both stand at one place: the last merge climbed brought them together
        here, there = u.astype(np.intp), v.astype(np.intp)
        last = np.full(len(here), -1)
        apart = np.flatnonzero(here != there)
        while len(apart):
            a, b = here[apart], there[apart]
            swap = self._merge_of[a] > self._merge_of[b]
            a, b = np.where(swap, b, a), np.where(swap, a, b)
            last[apart] = self._merge_of[a]
            here[apart], there[apart] = self._above[a], b
            # two roots have nowhere to climb
            apart = apart[(self._above[a] != b) & (self._above[a] != a)]
        never_and_always = np.array([np.inf, 0], np.float32)  # at len(self) and at −1
        scores: npt.NDArray[np.float32]
        scores = np.concatenate([self.running_score, never_and_always])[last]
        return scores


class Unions(NamedTuple):
    """Of every edge that joins two regions, columns of one length.

    `child` goes below `parent`, both roots; `name` is the smallest fragment of what they make,
    `edge` the place of the edge, `smaller` the size of the child's region, and `swapped` tells
    where that is the region of b, and so where the parent's is the region of a.
    """

    child: IndexArray
    parent: IndexArray
    name: IndexArray
    edge: IndexArray
    smaller: npt.NDArray[np.int64]
    swapped: npt.NDArray[np.bool_]


def union_by_size(a: IdArray, b: IdArray, sizes: npt.NDArray[np.integer[Any]]) -> Unions:
    """Join regions edge by edge, the smaller one always below the root of the larger one.

    Parameters
    ----------
    a, b : ndarray, shape (n,), integer
        Fragments of each edge, in the order in which they join.
    sizes : ndarray, shape (n_fragments + 1,), integer
        By fragment id.

    Returns
    -------
    Unions
        Without the edges inside one region.
    """
    # one after the other and in plain Python: every union needs the sizes that those before made
    size = sizes.tolist()
    root = list(range(len(size)))
    smallest = list(range(len(size)))
    child, parent, name, edge, smaller, swapped = [], [], [], [], [], []
    for place, (i, j) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        while (up := root[i]) != i:  # these paths may be shortened, only the forest's may not
            root[i] = i = root[up]
        while (up := root[j]) != j:
            root[j] = j = root[up]
        if i == j:
            continue
        swap = size[i] >= size[j]
        if not swap:
            i, j = j, i
        root[j] = i
        smaller.append(size[j])
        size[i] += size[j]
        if smallest[j] < smallest[i]:
            smallest[i] = smallest[j]
        child.append(j)
        parent.append(i)
        name.append(smallest[i])
        edge.append(place)
        swapped.append(swap)
    return Unions(
        np.array(child, np.intp),
        np.array(parent, np.intp),
        np.array(name, np.intp),
        np.array(edge, np.intp),
        np.array(smaller, np.int64),
        np.array(swapped, np.bool_),
    )


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
