"""Edges that are worth a question, with what is needed to rank them.

Two kinds. An *outer* edge lies between two segments that a somewhat higher threshold would join:
it may be a split error. An *inner* edge lies inside a segment that a somewhat lower threshold
would take apart there: it may be a merge error. For both the contact between the two sides as a
whole says more than one edge of it, so its mean affinity is summed up over all edges across.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_cad.core.agglomeration import MergeHistory, MergeTree

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.proofreading.session import ProofreadingSession


class Candidates(NamedTuple):
    """Edges to ask about.

    Attributes
    ----------
    edges : ndarray, shape (n,), int64
        One per pair of sides, the one with the largest affinity × area.
    affinity : ndarray, shape (n,), float64 in [0, 1]
        Mean affinity of all contacts between the two sides.
    inner_size : ndarray, shape (n,), int64
        Of an inner edge, voxels of the smaller of the two parts that it joined; 0 of an outer one.
    """

    edges: npt.NDArray[np.int64]
    affinity: npt.NDArray[np.float64]
    inner_size: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[np.int64]) -> Candidates:
        """Choose some of them."""
        return Candidates(self.edges[rows], self.affinity[rows], self.inner_size[rows])

    @classmethod
    def none(cls) -> Candidates:
        """Make an empty list."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.float64), np.zeros(0, np.int64))

    @classmethod
    def concatenate(cls, parts: list[Candidates]) -> Candidates:
        """Make one list of several."""
        edges, affinity, inner_size = (np.concatenate(c) for c in zip(*parts, strict=True))
        return cls(edges, affinity, inner_size)


def outer_candidates(session: ProofreadingSession, band: float) -> Candidates:
    """Find the edges between segments whose join score is at most `band` above the threshold."""
    graph, t = session.graph, session.threshold
    edges = np.flatnonzero((graph.join >= t) & (graph.join <= t + band) & ~session.decisions.cut)
    a, b = session.lut[graph.u[edges]], session.lut[graph.v[edges]]
    between = (a != b) & (a != 0) & (b != 0)
    edges, a, b = edges[between], a[between], b[between]
    key = np.minimum(a, b).astype(np.uint64) << np.uint64(32) | np.maximum(a, b)
    _, pair = np.unique(key, return_inverse=True)
    strongest, affinity = _contacts(session, edges, pair)
    return Candidates(strongest, affinity, np.zeros(len(strongest), np.int64))


def inner_candidates(session: ProofreadingSession, band: float) -> Candidates:
    """Find the joins at most `band` below the threshold, as they were before any edit.

    Each edge of the merge forest is one join of two parts; the parts are those just before it.
    """
    source, t = session.source, session.threshold
    forest = source.forest_edges()
    first, last = np.searchsorted(source.join_score[forest], [t - band, t]).tolist()
    forest = forest[first:last]
    if not len(forest):
        return Candidates.none()
    part = source.base_lut(t - band)
    joins = part[source.u[forest]], part[source.v[forest]]
    sizes = np.bincount(part, weights=source.sizes)
    smaller = _smaller_parts(joins, sizes.astype(np.int64))

    # which join an edge lies across: that which joins its parts, found by its rank as a score
    edges = np.flatnonzero((source.join_score >= t - band) & (source.join_score < t))
    a, b = part[source.u[edges]], part[source.v[edges]]
    across = a != b
    edges = edges[across]
    ids, inverse = np.unique(np.concatenate([*joins, a[across], b[across]]), return_inverse=True)
    dense = inverse.astype(np.uint32) + np.uint32(1)
    n, m = len(forest), len(edges)
    history = MergeHistory(dense[:n], dense[n : 2 * n], np.arange(n, dtype=np.float32))
    tree = MergeTree.from_history(len(ids), history)
    join = tree.join_scores(dense[2 * n : 2 * n + m], dense[2 * n + m :]).astype(np.int64)
    _, affinity = _contacts(session, edges, join)
    return Candidates(forest, affinity, smaller)


def _contacts(
    session: ProofreadingSession,
    edges: npt.NDArray[np.int64],
    pair: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Find the strongest edge and the mean affinity of each pair of sides, numbered from 0."""
    graph = session.graph
    capacity = graph.capacity(edges)
    order = np.lexsort((capacity, pair))
    last = np.ones(len(order), np.bool_)
    last[:-1] = pair[order][1:] != pair[order][:-1]
    area = np.bincount(pair, weights=graph.area[edges])
    return edges[order[last]], np.bincount(pair, weights=capacity) / np.maximum(area, 1)


def _smaller_parts(
    joins: tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]], sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Voxels of the smaller of the two parts that each join unites, in the order of joining."""
    size = sizes.tolist()
    parent: dict[int, int] = {}
    smaller = []
    for a, b in zip(joins[0].tolist(), joins[1].tolist(), strict=True):
        while (above := parent.get(a)) is not None:
            a = above
        while (above := parent.get(b)) is not None:
            b = above
        if size[a] < size[b]:
            a, b = b, a
        smaller.append(size[b])
        parent[b] = a
        size[a] += size[b]
    return np.array(smaller, np.int64)
