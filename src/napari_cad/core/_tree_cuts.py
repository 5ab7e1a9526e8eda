"""Where to cut a tree of parts so that the entropy of what hangs together falls most.

Both errors of a segmentation are the same problem. A segment that merges several neurites is a
tree of fragments, each with a count of voxels per neurite: the wrong join is the link whose cut
separates the neurites best. A neurite that is split is a tree of segments: the wrong cut is the
link whose loss costs most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, depth_first_order, minimum_spanning_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Ints = npt.NDArray[np.integer[Any]]
    Floats = npt.NDArray[np.float64]

#: Gains that differ by less, relatively, are equal.
_TOLERANCE = 1e-9

#: Of `numpy.searchsorted`: begin and end of a value in a sorted array.
SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


class Cut(NamedTuple):
    """A link that is cut, and what it held together.

    Attributes
    ----------
    link : int
        Index of the link.
    gain : float
        By how much the entropy times the number of voxels falls, in bits.
    larger, smaller : ndarray of int
        Nodes of both sides.
    """

    link: int
    gain: float
    larger: npt.NDArray[np.intp]
    smaller: npt.NDArray[np.intp]


def x_log_x(x: npt.NDArray[Any]) -> Floats:
    """Give x log2(x), 0 for 0."""
    x = x.astype(np.float64)
    result: Floats = x * np.log2(np.where(x > 0, x, 1.0))
    return result


def spanning_forest(n_nodes: int, u: Ints, v: Ints, rank: Ints) -> npt.NDArray[np.intp]:
    """Choose the links of the minimum spanning forest.

    Parameters
    ----------
    n_nodes : int
        Nodes are 0 to n_nodes − 1.
    u, v : ndarray, shape (n,), integer
        Ends of the links; no pair of nodes twice.
    rank : ndarray, shape (n,), integer from 0
        A permutation: links of low rank are taken first.

    Returns
    -------
    ndarray of int
        Indices of the links that are taken.
    """
    weights = coo_array((rank + 1.0, (u, v)), shape=(n_nodes, n_nodes)).tocsr()
    taken = minimum_spanning_tree(weights).data.astype(np.intp) - 1
    link_of_rank = np.empty(len(rank), np.intp)
    link_of_rank[rank] = np.arange(len(rank))
    links: npt.NDArray[np.intp] = link_of_rank[taken]
    return links


def worst_cuts(
    counts: npt.NDArray[Any],
    u: Ints,
    v: Ints,
    weakness: Ints,
    *,
    shared_labels: bool,
    least_gain: float,
) -> Iterator[Cut]:
    """Cut a tree where it gains most, then both parts again, and so on.

    Parameters
    ----------
    counts : ndarray, shape (n nodes, n labels)
        Voxels of each label in each node. With `shared_labels` false every node has a label of
        its own and there is one column.
    u, v : ndarray, shape (n nodes − 1,), integer
        Links of the tree.
    weakness : ndarray, shape (n nodes − 1,), integer
        Of links that gain the same, the one with the highest weakness is cut.
    shared_labels : bool
        Whether labels occur in several nodes.
    least_gain : float
        A part is left as it is when no cut in it gains that much, in bits times voxels.

    Yields
    ------
    Cut
        The gains of all cuts and the entropies of what is left add up to the entropy of the tree,
        each times its number of voxels.
    """
    n = len(counts)
    ends = coo_array((np.ones(n - 1), (u, v)), shape=(n, n)).tocsr()
    order, parent = depth_first_order(ends, 0, directed=False)
    part = _Part.of_tree(counts, order.astype(np.intp), parent, u, v)
    parts = [part]
    while parts:
        part = parts.pop()
        gains = part.gains(shared_labels)
        if not len(gains) or gains.max() < least_gain:
            continue
        best = np.flatnonzero(gains >= gains.max() * (1 - _TOLERANCE))
        i = int(best[np.argmax(weakness[part.link[best + 1]])]) + 1
        below, above = part.cut(i)
        sides = sorted((above, below), key=lambda side: float(side.counts.sum()), reverse=True)
        yield Cut(int(part.link[i]), float(gains[i - 1]), sides[0].node, sides[1].node)
        parts += (above, below)


class _Part(NamedTuple):
    """A tree in preorder: node i and all below it are the rows i to i + size[i] − 1."""

    node: npt.NDArray[np.intp]
    counts: Floats
    size: npt.NDArray[np.intp]
    link: npt.NDArray[np.intp]  # to the parent

    @classmethod
    def of_tree(
        cls, counts: npt.NDArray[Any], order: npt.NDArray[np.intp], parent: Ints, u: Ints, v: Ints
    ) -> _Part:
        n = len(order)
        place = np.empty(n, np.intp)
        place[order] = np.arange(n)
        child = np.where(parent[u] == v, u, v)
        link = np.full(n, -1, np.intp)
        link[place[child]] = np.arange(len(u))
        size = [1] * n
        above = place[parent[order[1:]]].tolist()
        for i in range(n - 1, 0, -1):
            size[above[i - 1]] += size[i]
        return cls(order, counts[order].astype(np.float64), np.array(size, np.intp), link)

    def gains(self, shared_labels: bool) -> Floats:
        """Gain of cutting off each node but the first."""
        sums = np.concatenate([np.zeros((1, self.counts.shape[1])), np.cumsum(self.counts, axis=0)])
        first = np.arange(1, len(self.node))
        below = sums[first + self.size[1:]] - sums[first]
        gain = _loss(sums[-1].sum(), below.sum(axis=1))
        return gain - _loss(sums[-1], below).sum(axis=1) if shared_labels else gain

    def cut(self, i: int) -> tuple[_Part, _Part]:
        """Node i with all below it, and the rest."""
        stop = i + self.size[i]
        size = self.size.copy()
        size[:i][np.arange(i) + size[:i] > i] -= size[i]
        below = self.rows(slice(i, stop))
        return below, self._replace(size=size).rows(np.r_[0:i, stop : len(self.node)])

    def rows(self, rows: Any) -> _Part:
        """Make a part of some of the rows."""
        return _Part(self.node[rows], self.counts[rows], self.size[rows], self.link[rows])


def _loss(whole: Any, part: Floats) -> Floats:
    return x_log_x(np.asarray(whole)) - x_log_x(part) - x_log_x(np.maximum(whole - part, 0.0))


def link_parts(n_nodes: int, u: Ints, v: Ints, weight: Ints) -> list[tuple[int, int]]:
    """Give links that make a forest one tree: from the heaviest tree to each of the others.

    Parameters
    ----------
    n_nodes : int
        Nodes are 0 to n_nodes − 1.
    u, v : ndarray, shape (n,), integer
        Links of the forest.
    weight : ndarray, shape (n nodes,)
        Of each node.
    """
    links = coo_array((np.ones(len(u)), (u, v)), shape=(n_nodes, n_nodes))
    n_parts, part = connected_components(links, directed=False)
    heaviest_first = np.argsort(-weight, kind="stable")
    of_part = heaviest_first[np.unique(part[heaviest_first], return_index=True)[1]]
    root = int(np.argmax(np.bincount(part, weights=weight, minlength=n_parts)))
    return [(int(of_part[root]), int(of_part[i])) for i in range(n_parts) if i != root]


class Forest(NamedTuple):
    """Parts of objects, and the links between them; every object is a tree, or several.

    Attributes
    ----------
    owner : ndarray, shape (n nodes,)
        Object that each node is a part of; 0 for nodes that do not count.
    fragment : ndarray, shape (n nodes,), int
        Largest fragment of each node.
    owned : ndarray, shape (n nodes,), int64
        Voxels of the fragments of each node, each counted for its own neurite only.
    low, high : ndarray, shape (n links,), int
        Nodes of each link.
    edge : ndarray, shape (n links,), int
        Edge of the region graph that stands for it.
    rank : ndarray, shape (n links,), int
        The order in which links were taken.
    """

    owner: Ints
    fragment: npt.NDArray[np.intp]
    owned: npt.NDArray[np.int64]
    low: npt.NDArray[np.intp]
    high: npt.NDArray[np.intp]
    edge: npt.NDArray[np.intp]
    rank: npt.NDArray[np.intp]

    def trees(self) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
        """Nodes and links of every object of at least two nodes."""
        order = np.argsort(self.owner, kind="stable")
        starts = np.flatnonzero(np.diff(self.owner[order])) + 1
        of_link = self.owner[self.low]
        link_order = np.argsort(of_link, kind="stable")
        of_link = of_link[link_order]
        for nodes in np.split(order, starts):
            if len(nodes) > 1 and self.owner[nodes[0]]:
                owner = self.owner[nodes[0]]
                start, stop = (np.searchsorted(of_link, owner, side) for side in SIDES)
                yield nodes, link_order[start:stop]

    def cuts(
        self,
        nodes: npt.NDArray[np.intp],
        links: npt.NDArray[np.intp],
        counts: npt.NDArray[Any],
        *,
        shared_labels: bool,
        least_gain: float,
    ) -> Iterator[Place]:
        """Cut one object; see `worst_cuts`. Parts that touch nowhere are linked all the same."""
        u, v = np.searchsorted(nodes, self.low[links]), np.searchsorted(nodes, self.high[links])
        more = np.array(link_parts(len(nodes), u, v, self.owned[nodes]), np.intp).reshape(-1, 2)
        u, v = np.concatenate([u, more[:, 0]]), np.concatenate([v, more[:, 1]])
        last = int(self.rank.max(initial=0)) + 1
        weakness = np.concatenate([self.rank[links], np.full(len(more), last)])
        for cut in worst_cuts(
            counts, u, v, weakness, shared_labels=shared_labels, least_gain=least_gain
        ):
            edge = int(self.edge[links[cut.link]]) if cut.link < len(links) else None
            yield Place(cut.gain, nodes[cut.larger], nodes[cut.smaller], edge)


class Place(NamedTuple):
    """Where an object is cut; `edge` is None where the two sides do not touch."""

    gain: float
    larger: npt.NDArray[np.intp]
    smaller: npt.NDArray[np.intp]
    edge: int | None
