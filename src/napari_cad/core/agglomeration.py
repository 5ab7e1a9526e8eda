"""Agglomeration: from the region graph to a merge history, and from that to segments.

waterz merges regions in the order of their edge scores, 1 − a statistic of the affinities on their
contact, and re-scores edges as regions grow. Its merge history is everything: the segmentation at
a threshold is what a prefix of it has joined.

What "at a threshold" means, and how segments follow from a history without any voxels, is the
business of `napari_cad.core.merge_tree`; its names can be had from here.

The published merge function starts every edge from a single number, its maximum affinity
(waterz: InitWithMax). So it can be run on the region graph laid out as a line of voxels, and gives
the merge history that it gives on the volume, entry for entry. In that line every edge is one
contact along x, and id 0, which waterz gives no edges, keeps the edges apart.

On large graphs waterz's histograms need more memory than everything else together, and a module
of our own (`napari_cad.core._quantile_merging`) gives the same history, tie by tie, in a thirtieth
of it.

Funke et al., "Large scale image segmentation with structured loss based deep learning for
connectome reconstruction", TPAMI 2019 (waterz); Liu et al., CVPR 2024 (the choice of the median).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.columns import CHUNK_ROWS
from napari_cad.core.errors import ConfigError, JobError, ShapeError
from napari_cad.core.jobs import JobProcess, Served
from napari_cad.core.merge_tree import MergeHistory, MergeTree, join_scores, segment_lut

if TYPE_CHECKING:
    from napari_cad.core.region_graph import RegionGraph
    from napari_cad.core.volume import ArrayLike

__all__ = [
    "MERGE_FUNCTIONS",
    "MergeFunction",
    "MergeHistory",
    "MergeTree",
    "agglomerate_graph",
    "agglomerate_voxels",
    "agglomeration_memory",
    "join_scores",
    "known_merge_function",
    "segment_lut",
]

#: Largest graph that waterz gets, in edges: 140 MB. For small ones it is there at once, while our
#: own module is compiled the first time that it is used.
WATERZ_EDGES = 100_000

_WATERZ_BYTES_PER_EDGE = 1400
#: Most edges that are merged as one graph: both ends of each are numbered in 32 bits.
MOST_EDGES = 2**31 - 1

#: Of a table of edges while it is read: a chunk, compressed and not.
_TABLE_BYTES_PER_ROW = 100
_BYTES_PER_EDGE = 42
_BYTES_PER_NODE = 21
_TREE_BYTES_PER_FRAGMENT = 110

_HISTOGRAM = "OneMinus<HistogramQuantileAffinity<RegionGraphType, {}, ScoreValue, 256, {}>>"


@dataclass(frozen=True)
class MergeFunction:
    """A statistic of the affinities between two regions, as waterz knows it.

    Attributes
    ----------
    help : str
        One line for people.
    scoring_function : str
        waterz's name; one that its wheels have compiled in.
    queue_bins : int
        Bins of waterz's queue; 0 is an exact queue. The scores of quantiles are 256 numbers, so
        256 bins are exact for them as well, and faster.
    on_graph : bool
        Whether every edge starts from its maximum affinity, so that the region graph is enough.
        Otherwise the whole volume has to be in memory.
    percent : int or None
        Which quantile it is, if it is one.
    """

    help: str
    scoring_function: str
    queue_bins: int
    on_graph: bool
    percent: int | None = None


def _quantile(percent: int, *, of_maxima: bool, published: bool = False) -> MergeFunction:
    statistic = "Median" if percent == 50 else f"{percent} % quantile"
    values = (
        "of the highest affinities, one of each pair of fragments that touch"
        if of_maxima
        else "of the affinities of all voxels that touch; needs the whole volume in memory"
    )
    return MergeFunction(
        f"{statistic} {values}{' (as published)' if published else ''}",
        _HISTOGRAM.format(percent, "true" if of_maxima else "false"),
        256,
        on_graph=of_maxima,
        percent=percent,
    )


#: Names offered to people: some that waterz has compiled in. The mean goes with the exact queue
#: only: with 256 bins it merges out of order, and what a threshold gives would not be what any
#: prefix of the merge history gives.
MERGE_FUNCTIONS: dict[str, MergeFunction] = {
    "median": _quantile(50, of_maxima=True, published=True),
    "quantile25": _quantile(25, of_maxima=True),
    "quantile75": _quantile(75, of_maxima=True),
    "quantile85": _quantile(85, of_maxima=True),
    "mean": MergeFunction(
        "Mean of the affinities of all voxels that touch; needs the whole volume in memory",
        "OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>",
        0,
        on_graph=False,
    ),
    "voxel_median": _quantile(50, of_maxima=False),
    "voxel_quantile75": _quantile(75, of_maxima=False),
}


def agglomerate_graph(graph: RegionGraph, merge_function: str = "median") -> MergeHistory:
    """Merge everything that touches, on the region graph alone.

    It is done in a child process, whose memory is given back when it ends: by waterz, which holds
    the interpreter's lock, prints, and takes 1.4 kB per edge, or on larger graphs by
    `napari_cad.core._quantile_merging`, which takes 41 bytes.

    Parameters
    ----------
    graph : RegionGraph
        Its maximum affinities are used; the order of its edges does not matter.
    merge_function : str
        A key of `MERGE_FUNCTIONS` with `on_graph`.

    Returns
    -------
    MergeHistory
        Up to score 1: what waterz gives on the volume itself.

    Raises
    ------
    ConfigError
        If the merge function is not known or needs voxels.
    ShapeError
        If an edge does not join two different fragments.
    JobError
        If the child process fails.
    """
    function = known_merge_function(merge_function)
    if not function.on_graph or function.percent is None:
        usable = ", ".join(name for name, f in MERGE_FUNCTIONS.items() if f.on_graph)
        raise ConfigError(
            f"merge function {merge_function!r} needs the voxels of the contacts; on a region "
            f"graph there are {usable}"
        )
    if len(graph) == 0:
        return MergeHistory(np.zeros(0, np.uint32), np.zeros(0, np.uint32), np.zeros(0, np.float32))
    if not (min(graph.u.min(), graph.v.min()) > 0 and (graph.u != graph.v).all()):
        raise ShapeError(
            "edges of a region graph join two different fragments with ids from 1 on; got one "
            "from a fragment to itself or to the background"
        )
    edges = {"u": graph.u, "v": graph.v, "affinity": graph.max}
    if len(graph) > WATERZ_EDGES:
        return _run("_quantile_merging:merge_history", percent=function.percent, **edges)
    return _run_waterz("merge_history_of_graph", function, **edges)


def agglomeration_memory(n_edges: int, n_fragments: int) -> int:
    """Estimate the memory that agglomerating a region graph exactly takes.

    Parameters
    ----------
    n_edges, n_fragments : int
        Of the volume. In serial sections of 6 nm (AC4, student AC34) there are 23,307 and 3,816 per
        million voxels.

    Returns
    -------
    int
        Bytes of the child process at its peak, beside what an interpreter with our libraries
        takes; from measurements, see docs/scale.md.
    """
    if n_edges <= WATERZ_EDGES:
        return _WATERZ_BYTES_PER_EDGE * n_edges
    merging = _BYTES_PER_EDGE * n_edges + _BYTES_PER_NODE * n_fragments
    reading = _TABLE_BYTES_PER_ROW * min(n_edges, CHUNK_ROWS)
    return reading + max(merging, _TREE_BYTES_PER_FRAGMENT * n_fragments)


def agglomerate_voxels(
    affinities: ArrayLike, fragments: ArrayLike, merge_function: str = "mean"
) -> MergeHistory:
    """Merge everything that touches, looking at every voxel of every contact.

    waterz runs in a child process, which holds the whole volume: 20 bytes per voxel, and what
    waterz makes of it.

    Parameters
    ----------
    affinities : array, shape (3, Z, Y, X), uint8
        numpy, zarr or the like; read one section at a time, from another thread.
    fragments : array, shape (Z, Y, X), unsigned integer
        The same; 0 is background.
    merge_function : str
        A key of `MERGE_FUNCTIONS`.

    Returns
    -------
    MergeHistory
        Up to score 1.

    Raises
    ------
    ShapeError
        If the two do not fit each other, or affinities are not uint8.
    ConfigError, JobError
        As `agglomerate_graph`.
    """
    function = known_merge_function(merge_function)
    if tuple(affinities.shape) != (3, *fragments.shape) or affinities.dtype != np.uint8:
        raise ShapeError(
            f"fragments of shape {tuple(fragments.shape)} need uint8 affinities of shape "
            f"{(3, *fragments.shape)}, got {affinities.dtype} of shape {tuple(affinities.shape)}"
        )
    return _run_waterz(
        "merge_history_of_volume",
        function,
        affinities=Served(affinities),
        fragments=Served(fragments),
    )


def known_merge_function(name: str) -> MergeFunction:
    """Look a merge function up.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name not in MERGE_FUNCTIONS:
        raise ConfigError(
            f"merge_function must be one of {', '.join(MERGE_FUNCTIONS)}, got {name!r}"
        )
    return MERGE_FUNCTIONS[name]


def _run_waterz(task: str, function: MergeFunction, **arguments: Any) -> MergeHistory:
    return _run(
        f"_waterz_child:{task}",
        scoring_function=function.scoring_function,
        queue_bins=function.queue_bins,
        **arguments,
    )


def _run(task: str, **arguments: Any) -> MergeHistory:
    return MergeHistory(*run_child(task, **arguments))


def run_child(task: str, **arguments: Any) -> Any:
    """Run a child of one result to its end; it ends with the caller, however that ends.

    Parameters
    ----------
    task : str
        "module:function" of this package.
    **arguments
        Of the function.

    Raises
    ------
    JobError
        If it fails.
    """
    job = JobProcess(f"napari_cad.core.{task}", arguments)
    try:
        results = list(job.events())
    finally:
        job.cancel()
    if len(results) != 1:
        raise JobError(f"{task} should give one result, gave {len(results)}")
    return results[0]
