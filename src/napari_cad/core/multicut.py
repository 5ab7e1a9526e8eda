"""Multicut of the region graph: segments without a threshold.

The second agglomeration of the published evaluation, there called LMC, although nothing in it is
lifted: an edge costs the log odds of its mean affinity, weighted by its area, and the partition
that cuts the least is sought with the Kernighan–Lin heuristic from a greedy start (Keuper et al.,
"Efficient decomposition of image and mesh graphs by lifted multicuts", ICCV 2015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.errors import ConfigError
from napari_cad.core.jobs import JobProcess
from napari_cad.core.merge_tree import MergeHistory, segment_lut

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_cad.core.region_graph import RegionGraph


def multicut_costs(graph: RegionGraph) -> npt.NDArray[np.float64]:
    """Cost of cutting each edge; negative where cutting it is a gain.

    Parameters
    ----------
    graph : RegionGraph
        Its mean affinities and areas are used.

    Returns
    -------
    ndarray, shape (n,), float64
        ln((1 − p) / p) · area / largest area, where p is 1 − the mean affinity, moved away from 0
        and 1 by p ← 0.998 p + 0.001.
    """
    cut = 0.998 * (1.0 - graph.mean.astype(np.float64)) + 0.001
    largest = max(1, int(graph.area.max(initial=0)))
    costs: npt.NDArray[np.float64] = np.log((1.0 - cut) / cut) * (graph.area / largest)
    return costs


def multicut(graph: RegionGraph) -> npt.NDArray[np.uint32]:
    """Partition a region graph.

    The solver, bioimage-cpp, runs in a child process: it may take minutes, and a crash of it must
    not be the caller's.

    Parameters
    ----------
    graph : RegionGraph
        Its edges in any order.

    Returns
    -------
    ndarray, shape (n_fragments + 1,), uint32
        Fragment → segment: lut[0] = 0; a segment's id is the smallest of its fragments' ids.

    Raises
    ------
    ConfigError
        If bioimage-cpp is not installed.
    JobError
        If the solver fails.
    """
    if len(graph) == 0:
        return np.arange(graph.n_fragments + 1, dtype=np.uint32)
    try:
        import bioimage_cpp  # noqa: F401 - asked for here, used in the child
    except ImportError as error:
        raise ConfigError(
            "the multicut needs the package bioimage-cpp: pip install bioimage-cpp, or choose "
            "another merge function"
        ) from error
    order = np.lexsort((graph.v, graph.u))  # as the solver wants them
    job = JobProcess(
        f"{__name__}:_solve",
        {
            "n_nodes": graph.n_fragments + 1,
            "u": graph.u[order],
            "v": graph.v[order],
            "costs": multicut_costs(graph)[order],
        },
    )
    try:
        (labels,) = job.events()
    finally:
        job.cancel()
    # what an edge holds together; a label without such an edge would be no segment
    joined = np.where(labels[graph.u] == labels[graph.v], 0.0, np.inf)
    return segment_lut(graph.n_fragments, graph.u, graph.v, joined, 1.0)


def multicut_history(graph: RegionGraph) -> MergeHistory:
    """Give the same as a merge history of which every merge has score 0.

    So everything that works on a merge history works on a multicut, and gives the same segments at
    every threshold above 0.
    """
    lut = multicut(graph)
    merged = np.flatnonzero(lut != np.arange(len(lut))).astype(np.uint32)
    return MergeHistory(lut[merged], merged, np.zeros(len(merged), np.float32))


def _solve(
    n_nodes: int,
    u: npt.NDArray[np.uint32],
    v: npt.NDArray[np.uint32],
    costs: npt.NDArray[np.float64],
) -> Iterator[npt.NDArray[np.uint64]]:
    """Run in the child process: one label per node."""
    from bioimage_cpp.graph import UndirectedGraph
    from bioimage_cpp.graph.multicut import (
        ChainedMulticutSolvers,
        GreedyAdditiveMulticut,
        KernighanLinMulticut,
        MulticutObjective,
    )

    graph = UndirectedGraph.from_unique_edges(n_nodes, np.stack([u, v], 1).astype(np.uint64))
    solver = ChainedMulticutSolvers([GreedyAdditiveMulticut(), KernighanLinMulticut()])
    yield np.asarray(solver.optimize(MulticutObjective(graph, costs)))
