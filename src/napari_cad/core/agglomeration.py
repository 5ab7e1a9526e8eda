"""Agglomeration: from the region graph to a merge history, and from that to segments.

waterz merges regions in the order of their edge scores, 1 − a statistic of the affinities on their
contact, and re-scores edges as regions grow. Its merge history is everything: the segmentation at
a threshold is what a prefix of it has joined.

*At threshold t* means what it means in waterz: every merge with a score below t is done. The score
at which two fragments first come together, the running maximum of the history up to there, is
their *join score*; so the segments at t are the connected components of the edges with a join score
below t. Moving the threshold is then a matter of the n − 1 edges of the merge tree, not of voxels.

The published merge function starts every edge from a single number, its maximum affinity
(waterz: InitWithMax). So it can be run on the region graph laid out as a line of voxels, and gives
the merge history that it gives on the volume, entry for entry.

Funke et al., "Large scale image segmentation with structured loss based deep learning for
connectome reconstruction", TPAMI 2019 (waterz); Liu et al., CVPR 2024 (the choice of the median).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_cad.core.errors import ConfigError, JobError, ShapeError
from napari_cad.core.jobs import JobProcess

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.core.region_graph import RegionGraph

_HISTOGRAM = "OneMinus<HistogramQuantileAffinity<RegionGraphType, {}, ScoreValue, 256, {}>>"


@dataclass(frozen=True)
class MergeFunction:
    """A statistic of the affinities on a contact, as waterz knows it.

    Attributes
    ----------
    help : str
        One line for people.
    scoring_function : str
        waterz's name; one that its wheels have compiled in.
    queue_bins : int
        Bins of waterz's queue; 0 is an exact queue.
    on_graph : bool
        Whether it starts from the edges' maximum, so that the region graph is enough.
    """

    help: str
    scoring_function: str
    queue_bins: int
    on_graph: bool


def _quantile(percent: int, *, of_maxima: bool) -> MergeFunction:
    name = "median" if percent == 50 else f"{percent} % quantile"
    start = "of the contacts' maxima" if of_maxima else "of all affinities"
    return MergeFunction(
        f"{name} {start}",
        _HISTOGRAM.format(percent, "true" if of_maxima else "false"),
        256,
        on_graph=of_maxima,
    )


#: Names offered to people. The mean is offered with the exact queue only: with 256 bins waterz
#: merges out of order, and no threshold would give the segments that the slider shows.
MERGE_FUNCTIONS: dict[str, MergeFunction] = {
    "median": _quantile(50, of_maxima=True),
    "quantile75": _quantile(75, of_maxima=True),
    "quantile85": _quantile(85, of_maxima=True),
    "quantile25": _quantile(25, of_maxima=True),
    "mean": MergeFunction(
        "mean of all affinities", "OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>", 0, False
    ),
    "voxel_median": _quantile(50, of_maxima=False),
    "voxel_quantile75": _quantile(75, of_maxima=False),
}


class _Stack(Protocol):
    """An array that gives sections: numpy, zarr or anything else."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class MergeHistory:
    """The merges in the order in which they were done.

    Attributes
    ----------
    a, b : ndarray, shape (n,), uint32
        A fragment of either side; not always the same one for a region.
    score : ndarray, shape (n,), float32 in [0, 1]
        The edge score at which it happened; not always rising.
    """

    a: npt.NDArray[np.uint32]
    b: npt.NDArray[np.uint32]
    score: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.a)


def agglomerate_graph(graph: RegionGraph, merge_function: str = "median") -> MergeHistory:
    """Merge history of a region graph, up to score 1.

    waterz runs in a child process: it holds the interpreter's lock for the whole call and prints.

    Parameters
    ----------
    graph : RegionGraph
        Its maximum affinities are used.
    merge_function : str
        A key of `MERGE_FUNCTIONS` with `on_graph`.

    Returns
    -------
    MergeHistory
        What waterz gives on the volume itself.

    Raises
    ------
    ConfigError
        If the merge function is not known or needs voxels.
    JobError
        If waterz fails.
    """
    function = known_merge_function(merge_function)
    if not function.on_graph:
        usable = ", ".join(name for name, f in MERGE_FUNCTIONS.items() if f.on_graph)
        raise ConfigError(
            f"merge function {merge_function!r} needs the voxels of the contacts; on a region "
            f"graph there are {usable}"
        )
    if len(graph) == 0:
        return _empty_history()
    order = np.lexsort((graph.v, graph.u))
    return _run(
        "merge_history_of_graph",
        u=graph.u[order],
        v=graph.v[order],
        affinity=graph.max[order],
        scoring_function=function.scoring_function,
        queue_bins=function.queue_bins,
    )


def agglomerate_voxels(
    affinities: _Stack, fragments: _Stack, merge_function: str = "mean"
) -> MergeHistory:
    """Merge history of a volume, for merge functions that look at every voxel of a contact.

    The child process holds the whole volume: 20 bytes per voxel and what waterz needs.

    Parameters
    ----------
    affinities : array, shape (3, Z, Y, X), uint8
        Read one section at a time.
    fragments : array, shape (Z, Y, X), unsigned integer
        Read one section at a time.
    merge_function : str
        A key of `MERGE_FUNCTIONS`.

    Returns
    -------
    MergeHistory

    Raises
    ------
    ShapeError
        If the two do not fit each other.
    ConfigError, JobError
        As `agglomerate_graph`.
    """
    function = known_merge_function(merge_function)
    if tuple(affinities.shape) != (3, *fragments.shape):
        raise ShapeError(
            f"fragments of shape {tuple(fragments.shape)} need affinities of shape "
            f"{(3, *fragments.shape)}, got {tuple(affinities.shape)}"
        )
    # through files: what goes into waterz is volume-sized, and the child may map it
    with tempfile.TemporaryDirectory(prefix="napari-cad-") as folder:
        paths = {}
        for name, array, dtype in (
            ("affinities", affinities, np.uint8),
            ("fragments", fragments, np.uint32),
        ):
            paths[name] = str(Path(folder) / f"{name}.npy")
            mapped = np.lib.format.open_memmap(
                paths[name], mode="w+", dtype=dtype, shape=tuple(array.shape)
            )
            for z in range(fragments.shape[0]):
                mapped[..., z, :, :] = array[..., z, :, :]
            mapped.flush()
            del mapped
        return _run(
            "merge_history_of_volume",
            **paths,
            scoring_function=function.scoring_function,
            queue_bins=function.queue_bins,
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


def _run(function: str, **arguments: Any) -> MergeHistory:
    """Run a function of the waterz child; cancelled with the caller."""
    job = JobProcess(f"napari_cad.core._waterz_child:{function}", arguments)
    try:
        results = list(job.events())
    finally:
        job.cancel()
    if len(results) != 1:
        raise JobError(f"waterz should give one merge history, gave {len(results)}")
    return MergeHistory(*results[0])


def _empty_history() -> MergeHistory:
    return MergeHistory(np.zeros(0, np.uint32), np.zeros(0, np.uint32), np.zeros(0, np.float32))


# ------------------------------------------------------------------ what follows from a history


@dataclass(frozen=True, eq=False)
class MergeTree:
    """The merge history as a forest over the fragments: a union-find that remembers its scores.

    Every fragment but the roots points to a parent; smaller trees are hung below larger ones, so
    no fragment is deeper than log₂ n. `score` is the running maximum of the history when the link
    was made, so it rises from a fragment to its root, and the first common link of two fragments
    is where they came together.

    Attributes
    ----------
    parent : ndarray, shape (n_fragments + 1,), uint32
        Roots, and 0, point to themselves.
    score : ndarray, shape (n_fragments + 1,), float32
        Join score of a fragment with its parent; inf for roots.
    """

    parent: npt.NDArray[np.uint32]
    score: npt.NDArray[np.float32]

    @classmethod
    def from_history(cls, n_fragments: int, history: MergeHistory) -> Self:
        """Build the forest.

        Parameters
        ----------
        n_fragments : int
            Highest fragment id.
        history : MergeHistory
            In its own order.

        Raises
        ------
        ShapeError
            If the history speaks of fragments beyond `n_fragments`.
        """
        highest = int(max(history.a.max(initial=0), history.b.max(initial=0)))
        if highest > n_fragments:
            raise ShapeError(
                f"a merge history of fragments up to {highest} does not belong to {n_fragments} "
                "fragments"
            )
        parent = list(range(n_fragments + 1))
        size = [1] * (n_fragments + 1)
        score = [np.inf] * (n_fragments + 1)
        running = np.maximum.accumulate(history.score).tolist() if len(history) else []
        for a, b, joined_at in zip(history.a.tolist(), history.b.tolist(), running, strict=True):
            while parent[a] != a:
                a = parent[a]
            while parent[b] != b:
                b = parent[b]
            if a == b:
                continue
            if size[a] < size[b]:
                a, b = b, a
            parent[b] = a
            size[a] += size[b]
            score[b] = joined_at
        return cls(np.array(parent, np.uint32), np.array(score, np.float32))

    @property
    def n_fragments(self) -> int:
        """Highest fragment id."""
        return len(self.parent) - 1

    def join_scores(
        self, u: npt.NDArray[np.integer[Any]], v: npt.NDArray[np.integer[Any]]
    ) -> npt.NDArray[np.float32]:
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
        a, b = u.astype(np.intp), v.astype(np.intp)
        joined_at = np.zeros(len(a), np.float32)
        apart = np.flatnonzero(a != b)
        while apart.size:
            # climb on the side whose next link was made first; links are made in rising order,
            # so the last one climbed is the one that joined the two
            a_apart, b_apart = a[apart], b[apart]
            left = self._linked_before(a_apart, b_apart)
            climbing = np.where(left, a_apart, b_apart)
            joined_at[apart] = self.score[climbing]
            above = self.parent[climbing]
            a[apart] = np.where(left, above, a_apart)
            b[apart] = np.where(left, b_apart, above)
            # two roots have nowhere to climb
            apart = apart[(a[apart] != b[apart]) & np.isfinite(joined_at[apart])]
        return joined_at

    def _linked_before(
        self, a: npt.NDArray[np.intp], b: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.bool_]:
        return self.score[a] <= self.score[b]

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
        children = np.flatnonzero(self.score < threshold)
        return segment_lut(
            self.n_fragments, children, self.parent[children], self.score[children], threshold
        )


def join_scores(graph: RegionGraph, history: MergeHistory) -> npt.NDArray[np.float32]:
    """Join score of every edge of a region graph, in its order; see `MergeTree.join_scores`."""
    return MergeTree.from_history(graph.n_fragments, history).join_scores(graph.u, graph.v)


def segment_lut(
    n_fragments: int,
    u: npt.NDArray[np.integer[Any]],
    v: npt.NDArray[np.integer[Any]],
    join_score: npt.NDArray[np.floating[Any]],
    threshold: float,
) -> npt.NDArray[np.uint32]:
    """Fragment → segment: connected components of the edges with a join score below a threshold.

    Parameters
    ----------
    n_fragments : int
        Highest fragment id.
    u, v : ndarray, shape (n,), integer
        Edges: those of a region graph or of a merge tree.
    join_score : ndarray, shape (n,), floating
        One per edge.
    threshold : float
        In score units: higher joins more.

    Returns
    -------
    ndarray, shape (n_fragments + 1,), uint32
        lut[0] = 0; the id of a segment is the smallest of its fragments' ids.
    """
    joined = join_score < threshold
    edges = (u[joined].astype(np.int32), v[joined].astype(np.int32))
    n = n_fragments + 1
    adjacency = coo_array((np.ones(len(edges[0]), np.bool_), edges), shape=(n, n))
    n_components, component = connected_components(adjacency, directed=False)
    # ids rise, so the first fragment of a component that is met is its smallest
    smallest = np.empty(n_components, np.uint32)
    smallest[component[::-1]] = np.arange(n - 1, -1, -1, dtype=np.uint32)
    lut: npt.NDArray[np.uint32] = smallest[component]
    return lut
