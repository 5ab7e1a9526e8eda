"""Where a segmentation is wrong, and what each error costs.

VOI is a sum over the true neurites (split) and over the segments (merge), so every neurite and
every segment has a cost of its own in bits. Inside each of them the cost is shared out over the
places where a cut was made or a join was made wrongly: a neurite is a tree of the segments it is
split into, linked by their largest contacts, a merging segment is a tree of its fragments, linked
in the order in which they were agglomerated. The link whose cut makes the parts purest is the
worst error, then both parts are cut again (`_tree_cuts`). The costs of the errors add up to the
VOI, but for what has no place: neurites that differ by a little along all of their boundary.

Nothing here looks at voxels: a table fragments × truth and the region graph are enough. A fragment
belongs to the neurite that holds most of its labelled voxels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_cad.core._tree_cuts import SIDES, Forest, Place, spanning_forest, x_log_x
from napari_cad.core.error_report import (
    LEAST_VOXELS,
    Cause,
    ErrorReport,
    ObjectCost,
    SegmentationError,
)
from napari_cad.core.errors import ShapeError
from napari_cad.core.metrics import ContingencyTable, Scores

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_cad.core.region_graph import EdgeTable

    Ints = npt.NDArray[np.integer[Any]]


def find_errors(
    table: ContingencyTable,
    graph: EdgeTable,
    lut: Ints,
    centroids: npt.NDArray[np.floating[Any]],
    *,
    join_score: npt.NDArray[np.floating[Any]] | None = None,
    least_voxels: int = LEAST_VOXELS,
) -> ErrorReport:
    """Find every error of a segmentation above a size.

    Parameters
    ----------
    table : ContingencyTable
        Of fragments and truth.
    graph : EdgeTable
        Edges between the fragments.
    lut : ndarray, shape (n_fragments + 1,), integer
        Fragment to segment. Fragment 0, and segment 0, stand for nothing: they cost, but no error
        is located in them.
    centroids : ndarray, shape (n_fragments + 1, 3)
        Centroid (z, y, x) of each fragment in voxels; row 0 is not used.
    join_score : ndarray, shape (n edges,), optional
        Join score of every edge. Without it the fragments of a segment count as joined in the
        order of the areas of their contacts, the largest first.
    least_voxels : int
        Smallest error to look for.

    Returns
    -------
    ErrorReport

    Raises
    ------
    ShapeError
        If LUT, centroids and join scores do not fit table and graph.
    VolumeError
        If the table counts no voxel.
    """
    if len(centroids) != len(lut) or (join_score is not None and len(join_score) != len(graph)):
        raise ShapeError(
            f"expected {len(lut)} centroids and {len(graph)} join scores, got {len(centroids)} and "
            f"{0 if join_score is None else len(join_score)}: they are of different runs"
        )
    if len(graph) and int(graph.v.max()) >= len(lut):
        raise ShapeError(f"expected a LUT for fragments up to {graph.v.max()}, got {len(lut) - 1}")
    pairs = table.relabelled(lut)
    scores = Scores.of(pairs)
    neurites, segments = (_costs(pairs, side, least_voxels) for side in ("truth", "segmentation"))
    search = _Search(table, graph, lut, centroids, join_score, least_voxels)
    errors = [*search.splits(pairs), *search.merges(segments), *search.impure_fragments()]
    errors.sort(key=lambda error: -error.cost)
    return ErrorReport(scores, table.n_voxels, least_voxels, tuple(errors), neurites, segments)


class _Owner(NamedTuple):
    """To which neurite each fragment belongs, and with how many voxels."""

    truth: npt.NDArray[np.uint64]
    voxels: npt.NDArray[np.int64]
    other_truth: npt.NDArray[np.uint64]  # the second largest neurite in it
    other_voxels: npt.NDArray[np.int64]

    @classmethod
    def of(cls, table: ContingencyTable, n: int) -> _Owner:
        order = np.lexsort((-table.count, table.segmentation))
        fragment = table.segmentation[order].astype(np.intp)
        first = np.flatnonzero(np.diff(fragment, prepend=-1))
        ids, counts = np.zeros((2, n), np.uint64), np.zeros((2, n), np.int64)
        owner = cls(ids[0], counts[0], ids[1], counts[1])
        second = first[first + 1 < np.append(first[1:], len(fragment))] + 1
        for rows, truth, voxels in (
            (first, owner.truth, owner.voxels),
            (second, owner.other_truth, owner.other_voxels),
        ):
            truth[fragment[rows]] = table.truth[order[rows]]
            voxels[fragment[rows]] = table.count[order[rows]]
        return owner


class _Search:
    """One search for errors."""

    def __init__(
        self,
        table: ContingencyTable,
        graph: EdgeTable,
        lut: Ints,
        centroids: npt.NDArray[np.floating[Any]],
        join_score: npt.NDArray[np.floating[Any]] | None,
        least_voxels: int,
    ) -> None:
        self.table = table
        self.graph = graph
        self.segment = lut.astype(np.uint64)
        self.centroids = centroids
        self.join_score = join_score
        self.least_voxels = least_voxels
        self.n_voxels = table.n_voxels
        self.owner = _Owner.of(table, len(lut))
        self.owner.voxels[self.segment == 0] = 0  # nothing is located in what is no segment

    def _owned(
        self, fragments: npt.NDArray[np.intp], node: npt.NDArray[np.intp], n: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
        """Voxels and largest fragment of every node; `node` is that of each fragment."""
        voxels = self.owner.voxels[fragments]
        owned = np.bincount(node, weights=voxels, minlength=n).astype(np.int64)
        largest = np.zeros(n, np.intp)
        by_size = np.argsort(voxels, kind="stable")
        largest[node[by_size]] = fragments[by_size]  # the largest is written last
        return owned, largest

    # ------------------------------------------------------------------ splits

    def splits(self, pairs: ContingencyTable) -> Iterator[SegmentationError]:
        """Wrong cuts: a neurite is a tree of its parts in segments, linked by their contacts."""
        forest = self._parts_of_neurites(pairs)
        for nodes, links in forest.trees():
            counts = pairs.count[nodes, None]
            for place in forest.cuts(
                nodes, links, counts, shared_labels=False, least_gain=self.least_voxels
            ):
                voxels = int(forest.owned[place.smaller].sum())
                if voxels >= self.least_voxels:
                    first, second = (
                        int(side[np.argmax(forest.owned[side])])
                        for side in (place.larger, place.smaller)
                    )
                    neurite = int(pairs.truth[first])
                    segments = int(pairs.segmentation[first]), int(pairs.segmentation[second])
                    fragment = int(forest.fragment[second])
                    yield self._error(
                        "split", place, voxels, (neurite, neurite), segments, fragment
                    )

    def _parts_of_neurites(self, pairs: ContingencyTable) -> Forest:
        """Nodes are the rows of the table neurites × segments."""
        truth, segment = self.owner.truth, self.segment
        u, v = self.graph.u, self.graph.v
        edge = np.flatnonzero(
            (truth[u] == truth[v])
            & (self.owner.voxels[u] > 0)
            & (self.owner.voxels[v] > 0)
            & (segment[u] != segment[v])
        )
        rows = _Rows(pairs)
        a, b = (rows.of(truth[end[edge]], segment[end[edge]]) for end in (u, v))
        low, high, area = np.minimum(a, b), np.maximum(a, b), self.graph.area[edge].astype(np.int64)
        order = np.lexsort((-area, high, low))
        edge, low, high, area = edge[order], low[order], high[order], area[order]
        # of all edges between two parts the largest stands for their contact
        first = np.flatnonzero((np.diff(low, prepend=-1) != 0) | (np.diff(high, prepend=-1) != 0))
        whole_area = np.add.reduceat(area, first) if len(first) else area
        edge, low, high, rank = edge[first], low[first], high[first], _ranks(-whole_area)
        taken = spanning_forest(len(pairs.truth), low, high, rank)
        fragments = np.flatnonzero(self.owner.voxels)
        node = rows.of(truth[fragments], segment[fragments])
        owned, largest = self._owned(fragments, node, len(pairs.truth))
        owner = np.where(owned > 0, pairs.truth, np.uint64(0))
        return Forest(owner, largest, owned, low[taken], high[taken], edge[taken], rank[taken])

    # ------------------------------------------------------------------ merges

    def merges(self, segments: tuple[ObjectCost, ...]) -> Iterator[SegmentationError]:
        """Wrong joins: a merging segment is a tree of its fragments, in the order of joining."""
        wrong = [s.id for s in segments if s.cost * self.n_voxels >= self.least_voxels and s.id]
        merging = np.isin(self.segment, np.array(wrong, np.uint64))
        forest, node_of = self._nodes_of_segments(merging)
        truth_of_node = self.owner.truth[forest.fragment]
        inside = merging[self.table.segmentation.astype(np.intp)]
        node = node_of[self.table.segmentation[inside].astype(np.intp)]
        neurite, count = self.table.truth[inside], self.table.count[inside]
        order = np.argsort(forest.owner[node], kind="stable")
        node, neurite, count = node[order], neurite[order], count[order]
        of_row = forest.owner[node]
        for nodes, links in forest.trees():
            segment = int(forest.owner[nodes[0]])
            start, stop = (np.searchsorted(of_row, np.uint64(segment), side) for side in SIDES)
            counts = _dense(nodes, node[start:stop], neurite[start:stop], count[start:stop])
            for place in forest.cuts(
                nodes, links, counts, shared_labels=True, least_gain=self.least_voxels
            ):
                first, _, _ = _main(place.larger, truth_of_node, forest.owned)
                second, voxels, part = _main(
                    place.smaller[truth_of_node[place.smaller] != first],
                    truth_of_node,
                    forest.owned,
                )
                if first and voxels >= self.least_voxels:
                    fragment = int(forest.fragment[part])
                    yield self._error(
                        "merge", place, voxels, (first, second), (segment, segment), fragment
                    )

    def _nodes_of_segments(
        self, merging: npt.NDArray[np.bool_]
    ) -> tuple[Forest, npt.NDArray[np.intp]]:
        """Make a node of all fragments of one neurite that were joined to each other directly.

        Nothing is wrong between them, and so few nodes are left. Fragments without truth are
        such a neurite too. Also returns the node of each fragment.
        """
        n, truth = len(self.segment), self.owner.truth
        u, v = self.graph.u, self.graph.v
        edge = np.flatnonzero(merging[u] & (self.segment[u] == self.segment[v]))
        area = -self.graph.area[edge].astype(np.int64)
        rank = (
            _ranks(area)
            if self.join_score is None
            else _ranks(area, -self.graph.mean[edge], self.join_score[edge])
        )
        taken = spanning_forest(n, u[edge], v[edge], rank)
        edge, rank = edge[taken], rank[taken]
        same = truth[u[edge]] == truth[v[edge]]
        united = coo_array((np.ones(same.sum(), np.int8), (u[edge[same]], v[edge[same]])), (n, n))
        n_nodes, labels = connected_components(united, directed=False)
        node_of = labels.astype(np.intp)
        edge, rank = edge[~same], rank[~same]
        fragments = np.flatnonzero(merging)
        owned, largest = self._owned(fragments, node_of[fragments], n_nodes)
        owner = np.zeros(n_nodes, np.uint64)
        owner[node_of[fragments]] = self.segment[fragments]
        low, high = node_of[u[edge]], node_of[v[edge]]
        return Forest(owner, largest, owned, low, high, edge, rank), node_of

    def impure_fragments(self) -> Iterator[SegmentationError]:
        """Fragments that reach into two neurites with a good part of each."""
        wrong = np.flatnonzero(
            np.minimum(self.owner.other_voxels, self.owner.voxels) >= self.least_voxels
        )
        inside = np.isin(self.table.segmentation, wrong.astype(np.uint64))
        fragment, count = self.table.segmentation[inside].astype(np.intp), self.table.count[inside]
        place = np.searchsorted(wrong, fragment)
        whole = np.bincount(place, weights=count, minlength=len(wrong))
        pure = np.bincount(place, weights=x_log_x(count), minlength=len(wrong))
        nothing = np.zeros(0, np.intp)
        for i, gain in zip(wrong.tolist(), (x_log_x(whole) - pure).tolist(), strict=True):
            neurites = int(self.owner.truth[i]), int(self.owner.other_truth[i])
            segments = int(self.segment[i]), int(self.segment[i])
            voxels = int(self.owner.other_voxels[i])
            nowhere = Place(gain, nothing, nothing, None)
            yield self._error("merge", nowhere, voxels, neurites, segments, i, "fragment")

    def _error(
        self,
        kind: Literal["split", "merge"],
        place: Place,
        voxels: int,
        truth: tuple[int, int],
        segments: tuple[int, int],
        fragment: int,
        cause: Cause = "apart",
    ) -> SegmentationError:
        """Make an error at an edge, or at a fragment where there is none."""
        cost = place.gain / self.n_voxels
        if place.edge is None:
            z, y, x = (float(p) for p in self.centroids[fragment])
            ids = (fragment, fragment) if cause == "fragment" else (fragment, 0)
            return SegmentationError(
                kind, cause, cost, voxels, truth, segments, (z, y, x), 0, np.nan, ids
            )
        graph, edge = self.graph, place.edge
        z, y, x = (float(p) for p in graph.position[edge])
        score = np.nan if self.join_score is None else float(self.join_score[edge])
        ids = int(graph.u[edge]), int(graph.v[edge])
        area = int(graph.area[edge])
        return SegmentationError(
            kind, "contact", cost, voxels, truth, segments, (z, y, x), area, score, ids
        )


class _Rows:
    """Finds rows of a table, which is sorted, by what stands in them."""

    def __init__(self, table: ContingencyTable) -> None:
        self._truth, self._segments = np.unique(table.truth), np.unique(table.segmentation)
        self._keys = self._key(table.truth, table.segmentation)

    def of(self, truth: Ints, segment: Ints) -> npt.NDArray[np.intp]:
        """Rows of pairs that are known to be in the table."""
        rows: npt.NDArray[np.intp] = np.searchsorted(self._keys, self._key(truth, segment))
        return rows

    def _key(self, truth: Ints, segment: Ints) -> npt.NDArray[np.int64]:
        neurite = np.searchsorted(self._truth, truth).astype(np.int64)
        return neurite * len(self._segments) + np.searchsorted(self._segments, segment)


def _dense(nodes: Ints, node: Ints, neurite: Ints, count: Ints) -> npt.NDArray[np.float64]:
    """Voxels (nodes, neurites) from rows; `nodes` is sorted."""
    neurites, column = np.unique(neurite, return_inverse=True)
    place = np.searchsorted(nodes, node) * len(neurites) + column
    size = len(nodes) * len(neurites)
    counts = np.bincount(place, weights=count.astype(np.float64), minlength=size)
    return counts.astype(np.float64).reshape(len(nodes), len(neurites))


def _main(nodes: npt.NDArray[np.intp], truth: Ints, owned: Ints) -> tuple[int, int, int]:
    """Give the neurite with most voxels in some nodes, how many, and the largest node of it."""
    nodes = nodes[truth[nodes] != 0]
    if not len(nodes):
        return 0, 0, 0
    neurites, place = np.unique(truth[nodes], return_inverse=True)
    sums = np.bincount(place, weights=owned[nodes])
    best = int(np.argmax(sums))
    mine = nodes[place == best]
    return int(neurites[best]), int(sums[best]), int(mine[np.argmax(owned[mine])])


def _costs(
    pairs: ContingencyTable, side: Literal["truth", "segmentation"], least_voxels: int
) -> tuple[ObjectCost, ...]:
    """Cost of every neurite (`side` truth) or segment, worst first; those without are left out."""
    of, other = (
        (pairs.truth, pairs.segmentation) if side == "truth" else (pairs.segmentation, pairs.truth)
    )
    ids, place = np.unique(of, return_inverse=True)
    voxels = np.bincount(place, weights=pairs.count)
    bits = x_log_x(voxels) - np.bincount(place, weights=x_log_x(pairs.count))
    order = np.lexsort((-pairs.count, place))
    bounds = np.searchsorted(place[order], np.arange(len(ids) + 1))
    costs = []
    for i in np.argsort(-bits, kind="stable"):
        if bits[i] < 0.5:  # bits times voxels: not even one voxel astray
            break
        rows = order[bounds[i] : bounds[i + 1]]
        rows = rows[pairs.count[rows] >= least_voxels]
        parts = zip(other[rows].tolist(), pairs.count[rows].tolist(), strict=True)
        costs.append(
            ObjectCost(int(ids[i]), int(voxels[i]), float(bits[i] / pairs.n_voxels), tuple(parts))
        )
    return tuple(costs)


def _ranks(*keys: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Place of each row in the order by the last key, then the one before it, and so on."""
    order = np.lexsort(keys)
    ranks = np.empty(len(order), np.intp)
    ranks[order] = np.arange(len(order))
    return ranks
