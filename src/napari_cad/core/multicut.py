"""Multicut: one partition of the region graph that weighs all its edges against each other.

The second agglomeration of the publication. It calls it a lifted multicut, but what its code
solves has no lifted edges. Per edge of the region graph

    p = mean of 1 − affinity over the contacts            (probability of a cut)
    p ← 0.998 p + 0.001                                   (so that the logarithm is finite)
    cost = (ln((1 − p) / p) + ln((1 − β) / β)) · area / largest area

and the partition is to minimise the sum of the costs of the edges between its parts: Kernighan–Lin
from the result of greedy additive contraction (bioimage-cpp). There is no threshold; β takes its
place, but every β is a computation of its own.

What is not as published: the fragments. The publication makes those of its multicut by another
watershed; here they are the ones of everything else (`napari_cad.core.fragments`).

Beier et al., "Multicut brings automated neurite segmentation closer to human performance", Nature
Methods 2017; Keuper et al., "Efficient decomposition of image and mesh graphs by lifted multicuts",
ICCV 2015 (the solver).
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.errors import ConfigError, JobError
from napari_cad.core.jobs import JobProcess
from napari_cad.core.merge_tree import segment_lut

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_cad.core.region_graph import RegionGraph

_CUT, _JOINED = 1.0, 0.0


def edge_costs(graph: RegionGraph, beta: float = 0.5) -> npt.NDArray[np.float64]:
    """Cost of cutting each edge.

    Parameters
    ----------
    graph : RegionGraph
        Its mean affinities and areas are used.
    beta : float in (0, 1)
        Boundary bias: above 0.5 more is cut, below more is joined. 0.5 is published.

    Returns
    -------
    ndarray, shape (n,), float64
        Positive for an edge that would rather be joined, negative for one that would rather be
        cut; the formula stands at the top of this module.

    Raises
    ------
    ConfigError
        If `beta` is not between 0 and 1.
    """
    if not 0 < beta < 1:
        raise ConfigError(f"beta must lie between 0 and 1, both excluded, got {beta}")
    probability = 0.998 * (1 - graph.mean.astype(np.float64)) + 0.001
    log_odds = np.log((1 - probability) / probability) + np.log((1 - beta) / beta)
    costs: npt.NDArray[np.float64] = log_odds * (graph.area / graph.area.max(initial=1))
    return costs


def multicut(graph: RegionGraph, beta: float = 0.5) -> npt.NDArray[np.uint32]:
    """Partition a region graph by a multicut.

    Runs in a child process, since it may take minutes and cannot be interrupted otherwise.

    Parameters
    ----------
    graph : RegionGraph
        Its mean affinities and areas are used.
    beta : float in (0, 1)
        Boundary bias: above 0.5 more is cut, below more is joined.

    Returns
    -------
    ndarray, shape (n_fragments + 1,), uint32
        LUT fragment → segment; lut[0] = 0; the id of a segment is the smallest of its fragments'
        ids, and its fragments are connected in the graph.

    Raises
    ------
    ConfigError
        If `beta` is not between 0 and 1, or bioimage-cpp is not installed.
    JobError
        If the solver fails.
    """
    costs = edge_costs(graph, beta)
    if find_spec("bioimage_cpp") is None:
        raise ConfigError(
            "the multicut needs bioimage-cpp, which is not installed: "
            "install it with `pip install bioimage-cpp`, or agglomerate by a merge function"
        )
    cut = np.zeros(0, np.bool_) if len(graph) == 0 else _run(graph, costs)
    scores = np.where(cut, _CUT, _JOINED)
    return segment_lut(graph.n_fragments, graph.u, graph.v, scores, (_CUT + _JOINED) / 2)


def _run(graph: RegionGraph, costs: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    job = JobProcess(f"{__name__}:solve", {"u": graph.u, "v": graph.v, "costs": costs})
    try:
        results = list(job.events())
    finally:
        job.cancel()
    if len(results) != 1:
        raise JobError(f"the multicut should give one partition, gave {len(results)}")
    cut: npt.NDArray[np.bool_] = results[0]
    return cut


def solve(
    u: npt.NDArray[np.uint32], v: npt.NDArray[np.uint32], costs: npt.NDArray[np.float64]
) -> Iterator[npt.NDArray[np.bool_]]:
    """Solve a multicut in the calling process; a job for `multicut`.

    Parameters
    ----------
    u, v : ndarray, shape (n,), uint32
        Edges, each pair once.
    costs : ndarray, shape (n,), float64
        Of cutting them.

    Yields
    ------
    ndarray, shape (n,), bool
        Which edges are cut.
    """
    from bioimage_cpp.graph import UndirectedGraph
    from bioimage_cpp.graph.multicut import KernighanLinMulticut, MulticutObjective

    nodes, dense = np.unique(np.concatenate([u, v]), return_inverse=True)
    edges = dense.reshape(2, -1).T
    order = np.lexsort((edges[:, 1], edges[:, 0]))  # bioimage-cpp takes them in no other one
    graph = UndirectedGraph.from_unique_edges(len(nodes), edges[order])
    # starts from greedy additive contraction, being given no labels to start from
    labels = KernighanLinMulticut().optimize(MulticutObjective(graph, costs[order]))
    yield np.not_equal(labels[edges[:, 0]], labels[edges[:, 1]])
