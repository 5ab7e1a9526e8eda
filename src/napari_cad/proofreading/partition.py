"""From decisions to segments.

::

    segmentation(t) = connected components of
                      { edges with join score < t } − { cut edges } + { links }

over the living fragments, in which the fragments of a locked segment hold together and have no
other neighbours. The id of a segment is the name of its fragment of the highest rank
(`Decisions.name`), so the LUT is a function of the graph and the decisions and of nothing else.

There are two ways to it. `from_scratch` gives the LUT at any threshold: from the merge forest,
which is as good as all edges where the person has done nothing, and from the edges themselves in
every segment that a decision touches (after a cut the forest is not enough: inside a segment
*every* edge holds). `after` gives the LUT once decisions have changed, looking only into the
segments that hold a touched fragment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from napari_cad.proofreading.decisions import Decisions
    from napari_cad.proofreading.edits import Change
    from napari_cad.proofreading.graph import Ids


def from_scratch(
    decisions: Decisions,
    base_lut: Callable[[float], npt.NDArray[np.uint32]],
    threshold: float | None = None,
) -> npt.NDArray[np.uint32]:
    """Fragment → segment, whatever it was before.

    Parameters
    ----------
    decisions : Decisions
        Threshold, cuts, links, locks and names.
    base_lut : callable
        Gives the LUT of the store's fragments at a threshold, without any decision; a segment's
        id is its smallest fragment id.
    threshold : float, optional
        By default the one of the session.

    Returns
    -------
    ndarray, shape (n_fragments + 1,), uint32
        0 for 0 and for retired fragments.
    """
    if threshold is None:
        threshold = decisions.threshold
    graph = decisions.graph
    base = base_lut(threshold)
    roots = base[graph.roots]
    # what was painted over background belongs to no segment of the store: it gets its own
    painted = np.flatnonzero(graph.roots == 0)
    own = painted.astype(np.uint32) + np.uint32(graph.n_base_fragments + 1)
    roots[painted] = own
    base = np.concatenate([base, roots])
    touched = np.zeros(graph.n_fragments + 1, np.bool_)
    touched[base[_touched_by_decisions(decisions)]] = True
    fragments = np.flatnonzero(touched[base] & graph.alive)
    lut: npt.NDArray[np.uint32] = np.where(graph.alive, base, np.uint32(0))
    lut[fragments] = segment_ids(decisions, fragments, threshold)
    return lut


def after(
    decisions: Decisions, lut: npt.NDArray[np.uint32], changes: Sequence[Change]
) -> npt.NDArray[np.int64]:
    """Fragments whose segment may differ now that `changes` have been applied.

    Parameters
    ----------
    decisions : Decisions
        With the changes.
    lut : ndarray, shape (n_fragments + 1,), uint32
        As it was without them, 0 for fragments that did not live.
    changes : sequence of Change
        In the order of applying.

    Returns
    -------
    ndarray, shape (n,), int64
        Sorted fragments, living or retired; of the living ones no edge or link that holds leads
        to any other, so `segment_ids` may be called on them alone.
    """
    touched = [change.touched(decisions) for change in changes]
    ids = np.concatenate([np.zeros(0, np.int64), *touched]).astype(np.int64)
    # what lives again was in no segment: it may join those that it touches or is linked with
    revived = ids[lut[ids] == 0]
    if len(revived):
        graph, links = decisions.graph, decisions.link_array()
        edges = graph.edges_around(revived)
        linked = links[np.isin(links, revived).any(axis=1)].ravel()
        ids = np.concatenate([ids, graph.u[edges], graph.v[edges], linked]).astype(np.int64)
    in_touched = np.zeros(len(lut), np.bool_)
    in_touched[lut[ids]] = True
    in_touched[0] = False  # not a segment: background and fragments that did not live
    region = in_touched[lut]
    region[ids] = True
    result: npt.NDArray[np.int64] = np.flatnonzero(region)
    return result


def segment_ids(
    decisions: Decisions, fragments: Ids, threshold: float | None = None
) -> npt.NDArray[np.uint32]:
    """Ids of the segments of some fragments.

    Parameters
    ----------
    decisions : Decisions
        Threshold, cuts, links, locks and names.
    fragments : ndarray, shape (n,), integer
        Sorted living fragments that no edge or link that holds leads out of.
    threshold : float, optional
        By default the one of the session.

    Returns
    -------
    ndarray, shape (n,), uint32
    """
    component = components(decisions, fragments, threshold)
    names, ranks = decisions.name[fragments], decisions.rank[fragments]
    order = np.lexsort((names, -ranks, component))
    ordered = component[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    # components are numbered 0, 1, …, so the i-th first entry is that of component i
    result: npt.NDArray[np.uint32] = names[order[first]][component]
    return result


def components(
    decisions: Decisions,
    fragments: Ids,
    threshold: float | None = None,
    edges: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int32]:
    """Find the connected component of each of some fragments among themselves.

    Parameters
    ----------
    decisions : Decisions
        Threshold, cuts, links and locks.
    fragments : ndarray, shape (n,), integer
        Sorted living fragments.
    threshold : float, optional
        By default the one of the session.
    edges : ndarray, shape (m,), int64, optional
        The edges among the fragments, where the caller has them already.

    Returns
    -------
    ndarray, shape (n,), int32
        Counted from 0.
    """
    graph = decisions.graph
    if edges is None:
        edges = graph.edges_within(fragments)
    edges = edges[decisions.connects(edges, threshold)]
    index = np.full(graph.n_fragments + 1, -1, np.int32)
    index[fragments] = np.arange(len(fragments), dtype=np.int32)
    links = decisions.link_array().T
    if links.size:
        lock = decisions.lock
        held = (index[links] >= 0).all(axis=0) & (lock[links] == 0).all(axis=0)
        links = index[links[:, held]].astype(np.int64)
    locked = np.flatnonzero(decisions.lock[fragments])
    _, first, group = np.unique(
        decisions.lock[fragments[locked]], return_index=True, return_inverse=True
    )
    a = np.concatenate([index[graph.u[edges]], links[0], locked])
    b = np.concatenate([index[graph.v[edges]], links[1], locked[first][group]])
    n = len(fragments)
    matrix = coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(n, n)).tocsr()
    result: npt.NDArray[np.int32] = connected_components(matrix, directed=False)[1]
    return result


def _touched_by_decisions(decisions: Decisions) -> npt.NDArray[np.int64]:
    """Fragments about which there is any decision, or that are not the store's own."""
    graph = decisions.graph
    cut = np.flatnonzero(decisions.cut)
    own = np.arange(len(decisions.name), dtype=np.uint32)
    marked = ~graph.alive | (decisions.lock != 0) | (decisions.name != own) | (decisions.rank != 0)
    marked[graph.n_base_fragments + 1 :] = True
    marked[0] = False
    for ids in (graph.u[cut], graph.v[cut], decisions.link_array().ravel()):
        marked[ids] = True
    result: npt.NDArray[np.int64] = np.flatnonzero(marked)
    return result
