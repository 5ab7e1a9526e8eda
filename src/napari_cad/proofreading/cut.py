"""The minimum cut between seeds of two colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, maximum_flow

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.proofreading.operations import Plan

    Indices = npt.NDArray[np.integer]

#: Sum of all capacities after rounding: twice that must fit into 32 bits.
_CAPACITY_TOTAL = 2**29


@dataclass(frozen=True, eq=False)
class CutPreview:
    """A cut that can be looked at and then applied.

    Attributes
    ----------
    plan : Plan
        The edit that makes it; with a division where seeds of both colours lie in one fragment.
    red, blue : ndarray, shape (n,), int64
        Fragments of each side, parts of divided fragments included. These have the ids that they
        will have once the cut is applied.
    edges : ndarray, shape (n,), int64
        Edges that are cut, those of divided fragments included.
    n_contacts : int
        Contact area that is cut, in voxel faces.
    affinity : float
        Mean affinity over these contacts, in [0, 1]; not a number where there is none.
    position : ndarray, shape (n, 3), float32
        Place of each cut edge, (z, y, x) in voxels.
    links : tuple of (int, int)
        Merges by hand that would be undone. Not empty = applying it is a conflict.
    n_red_parts, n_blue_parts : int
        Segments that each side falls into: more than one if seeds of a colour lie apart with the
        other colour between them.
    """

    plan: Plan
    red: npt.NDArray[np.int64]
    blue: npt.NDArray[np.int64]
    edges: npt.NDArray[np.int64]
    n_contacts: int
    affinity: float
    position: npt.NDArray[np.float32]
    links: tuple[tuple[int, int], ...]
    n_red_parts: int
    n_blue_parts: int


def minimum_cut(
    n: int,
    u: Indices,
    v: Indices,
    capacity: npt.NDArray[np.float64],
    red: Indices,
    blue: Indices,
    together: npt.NDArray[np.integer],
) -> npt.NDArray[np.bool_] | None:
    """Divide nodes so that the edges between the two sides weigh as little as possible.

    Parameters
    ----------
    n : int
        Number of nodes.
    u, v : ndarray, shape (m,), integer
        Nodes of each undirected edge, 0 … n − 1.
    capacity : ndarray, shape (m,), float64, positive
        Weight of each edge. Rounded to a 2²⁹th of their sum, and to no less than that.
    red, blue : ndarray, integer
        Nodes of each colour, at least one.
    together : ndarray, shape (k, 2), integer
        Pairs of nodes that must not come apart.

    Returns
    -------
    ndarray, shape (n,), bool, or None
        True on the red side; None if `together` ties a red node to a blue one. Of several minimum
        cuts the one with the smallest red side, so the result is determined by the input.
    """
    # nodes that stay together become one: that is an infinite capacity without a large number
    same = np.concatenate([_chain(red), _chain(blue), together.reshape(-1, 2)]).T
    joined = coo_array((np.ones(same.shape[1], np.bool_), (same[0], same[1])), shape=(n, n))
    n_groups, group = connected_components(joined.tocsr(), directed=False)
    source, sink = group[red[0]], group[blue[0]]
    if source == sink:
        return None
    a, b = group[u], group[v]
    apart = a != b
    a, b, weight = a[apart], b[apart], capacity[apart]
    scale = _CAPACITY_TOTAL / max(float(weight.sum()), 1e-9)
    rounded = np.maximum(np.rint(weight * scale), 1).astype(np.int32)
    network = csr_array(
        (np.tile(rounded, 2), (np.concatenate([a, b]), np.concatenate([b, a]))),
        shape=(n_groups, n_groups),
    )
    network.sum_duplicates()
    network.sort_indices()
    flow = maximum_flow(network, source, sink).flow
    residual = network - flow
    residual.eliminate_zeros()
    reached = breadth_first_order(residual, source, return_predecessors=False)
    red_group = np.zeros(n_groups, np.bool_)
    red_group[reached] = True
    side: npt.NDArray[np.bool_] = red_group[group]
    return side


def _chain(nodes: Indices) -> npt.NDArray[np.integer]:
    """Pairs that tie nodes together."""
    return np.stack([nodes[:-1], nodes[1:]], axis=1)
