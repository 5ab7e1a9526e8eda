"""Edges that are worth a question, with what is needed to rank them.

Two kinds. An *outer* edge lies between two segments that a somewhat higher threshold would join:
it may be a split error. An *inner* edge lies inside a segment that a somewhat lower threshold
would take apart there: it may be a merge error. For both the contact between the two sides as a
whole says more than one edge of it, so its mean affinity is summed up over all edges across.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_cad.core.merge_tree import is_below, union_by_size

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
    near = is_below(graph.join, t + band) & ~is_below(graph.join, t) & ~session.decisions.cut
    edges = np.flatnonzero(near)
    a, b = session.lut[graph.u[edges]], session.lut[graph.v[edges]]
    between = (a != b) & (a != 0) & (b != 0)
    edges, a, b = edges[between], a[between], b[between]
    key = np.minimum(a, b).astype(np.uint64) << np.uint64(32) | np.maximum(a, b)
    pairs, pair = np.unique(key, return_inverse=True)
    strongest, affinity = _contacts(session, edges, pair, len(pairs))
    return Candidates(strongest, affinity, np.zeros(len(strongest), np.int64))


def inner_candidates(session: ProofreadingSession, band: float) -> Candidates:
    """Find the joins at most `band` below the threshold, as they were before any edit."""
    source, t = session.source, session.threshold
    tree = source.merge_tree()
    first, last = tree.n_merges(t - band), tree.n_merges(t)
    if first == last:
        return Candidates.none()
    child, parent = tree.edges()
    near = is_below(source.join_score, t) & ~is_below(source.join_score, t - band)
    edges = np.flatnonzero(near)
    merge = tree.joining_merges(source.u[edges], source.v[edges]) - first
    # (scores that are no join scores may lie in the band although something joined them before)
    edges, merge = edges[merge >= 0], merge[merge >= 0]
    strongest, affinity = _contacts(session, edges, merge, last - first)
    smaller = _smaller_parts(child[:last], parent[:last], source.sizes)[first:]
    return Candidates(strongest, affinity, smaller).take(np.flatnonzero(strongest >= 0))


def _contacts(
    session: ProofreadingSession,
    edges: npt.NDArray[np.int64],
    pair: npt.NDArray[np.int64],
    n_pairs: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Find the strongest edge (−1 = none) and the mean affinity of each pair of sides."""
    graph = session.graph
    capacity = graph.capacity(edges)
    highest = np.zeros(n_pairs)
    np.maximum.at(highest, pair, capacity)
    is_highest = capacity == highest[pair]
    strongest = np.full(n_pairs, -1, np.int64)
    # backwards, so that of equals the first one is written last
    strongest[pair[is_highest][::-1]] = edges[is_highest][::-1]
    area = np.bincount(pair, weights=graph.area[edges], minlength=n_pairs)
    total = np.bincount(pair, weights=capacity, minlength=n_pairs)
    return strongest, total / np.maximum(area, 1)


def _smaller_parts(
    child: npt.NDArray[np.uint32], parent: npt.NDArray[np.uint32], sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Voxels of the smaller of the two parts that each merge unites, in the order of merging."""
    return union_by_size(child, parent, sizes).smaller
