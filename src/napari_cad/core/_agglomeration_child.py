"""What runs in the child process that agglomerates a store; see `agglomerations.agglomerate`.

It reads three columns of the region graph, 9 bytes per edge, and writes the merge history and all
that follows from it back into the store, so the graph is nowhere else in memory.

Where the graph does not fit, it goes part by part: a part is a range of sections with the edges
inside it, and is merged only up to a *conservative score*, so that what is joined would most likely
be joined in any case. What is left of the parts, regions and edges with whole histograms, is far
smaller, and is merged as one graph, with the edges between the parts. Edges that come to lead
between the same two regions add their histograms as in waterz. The one difference from the exact
way is that while a part is merged its edges to other parts do not count.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core._quantile_merging import (
    ContractedEdges,
    QuantileGraph,
    levels_of,
    merge,
    n_lines,
    scores_of,
)
from napari_cad.core.agglomeration import WATERZ_EDGES, MergeFunction, known_merge_function
from napari_cad.core.merge_tree import MergeHistory, MergeTree
from napari_cad.core.sorted_edges import sorted_edges
from napari_cad.core.store import SegmentationStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    U32 = npt.NDArray[np.uint32]
    U8 = npt.NDArray[np.uint8]
    Edges = tuple[U32, U32, U8]


def agglomerate_store(
    path: str, name: str, parts: list[int] | None, conservative_score: float
) -> Iterator[tuple[int, int]]:
    """Make an agglomeration and write it.

    Parameters
    ----------
    path : str
        Of the store.
    name : str
        A merge function that works on the graph.
    parts : list of int, optional
        First section of each part; None = exactly, all at once.
    conservative_score : float
        Up to which the parts are merged.

    Yields
    ------
    int, int
        Edges there were, and edges between regions when the parts had been merged.
    """
    store = SegmentationStore.open(path, mode="a")
    function = known_merge_function(name)
    n_edges = int(store.counts("edges").sum())
    if parts is None:
        left = n_edges
        record: dict[str, Any] = {"exact": True}
        history = exact_history(store, function)
    else:
        history, left = history_by_parts(store, function, parts, conservative_score)
        record = {
            "exact": False,
            "parts": parts,
            "conservative_score": conservative_score,
            "edges_between_regions": left,
        }
    store.write_agglomeration(name, history, record=record)
    yield n_edges, left


def exact_history(store: SegmentationStore, function: MergeFunction) -> MergeHistory:
    """Merge the whole graph; entry for entry what waterz gives on the voxels."""
    u, v, level = read_sorted(store)
    if len(u) == 0:  # waterz refuses it
        return MergeHistory(np.zeros(0, np.uint32), np.zeros(0, np.uint32), np.zeros(0, np.float32))
    if len(u) <= WATERZ_EDGES:
        # waterz is there at once, while our own module is compiled when it is used the first time
        from napari_cad.core._waterz_child import merge_history_of_graph

        affinity = ((level + 0.5) / 256).astype(np.float32)
        (columns,) = merge_history_of_graph(
            u, v, affinity, function.scoring_function, function.queue_bins
        )
        return MergeHistory(*columns)
    a, b, merged = merge(
        QuantileGraph.of_edges(u, v, level), store.n_fragments, _percent(function)
    )[0]
    return MergeHistory(a, b, scores_of(merged))


def read_sorted(store: SegmentationStore) -> Edges:
    """Read u, v and the level of the maximum affinity of all edges, in the order of (u, v)."""
    n = int(store.counts("edges").sum())
    u, v, level = np.empty(n, np.uint32), np.empty(n, np.uint32), np.empty(n, np.uint8)
    at = 0
    for low, high, levels in _blocks(store):
        stop = at + len(low)
        u[at:stop], v[at:stop], level[at:stop] = low, high, levels
        at = stop
    return u, v, level


def _blocks(store: SegmentationStore) -> Iterator[Edges]:
    for block in sorted_edges(store, "max"):
        yield block.columns["u"], block.columns["v"], levels_of(block.columns["max"])


def history_by_parts(
    store: SegmentationStore, function: MergeFunction, parts: list[int], conservative_score: float
) -> tuple[MergeHistory, int]:
    """Merge part by part up to a score, and what is left of them as one graph.

    Returns
    -------
    history : MergeHistory
        First the merges inside the parts, in the order of their running scores. Up to the
        conservative score segments end where parts do.
    n_edges : int
        Of the graph of the regions.
    """
    offsets = store.fragment_offsets
    blocks = _blocks(store)
    merges: list[Edges] = []
    contracted: list[ContractedEdges] = []
    across: Edges | None = None  # from regions of the part before to fragments of this one
    for start, stop in pairwise([*parts, store.n_sections]):
        base, end = int(offsets[start]), int(offsets[stop])
        u, v, level = _joined([next(blocks) for _ in range(start, stop)])
        inner = v <= end
        graph = QuantileGraph.of_edges(
            u[inner] - np.uint32(base), v[inner] - np.uint32(base), level[inner]
        )
        (a, b, merged), left = merge(graph, end - base, _percent(function), conservative_score)
        edges = ContractedEdges.left_of(graph, left)
        del graph
        shift = np.uint32(base)
        merges.append((a + shift, b + shift, merged))
        contracted.append(edges._replace(u=edges.u + shift, v=edges.v + shift))
        region = MergeTree.from_history(end - base, MergeHistory(a, b, scores_of(merged))).lut(1)
        if across is not None:
            low, high, levels = across
            contracted.append(
                ContractedEdges.of_parallel(low, region[high - shift] + shift, levels)
            )
        across = region[u[~inner] - shift] + shift, v[~inner], level[~inner]
    whole = ContractedEdges.concatenate(contracted)
    del contracted
    first = _in_order(merges)
    n_edges = len(whole.u)
    # tables are as long as the highest id, and there are far fewer regions than fragments
    names = np.unique(np.concatenate([np.zeros(1, np.uint32), whole.u, whole.v]))
    whole = whole._replace(
        u=np.searchsorted(names, whole.u).astype(np.uint32),
        v=np.searchsorted(names, whole.v).astype(np.uint32),
    )
    (a, b, merged), _ = merge(whole.graph(), len(names) - 1, _percent(function))
    # a region of several parts is not there before its parts are
    merged = np.minimum(merged, np.uint8(255 - n_lines(conservative_score)))
    a, b, merged = _joined([first, (names[a], names[b], merged)])
    return MergeHistory(a, b, scores_of(merged)), n_edges


def _in_order(merges: list[Edges]) -> Edges:
    """Sort the merges of all parts by running score; those of one part stay in their order."""
    a, b, level = _joined(merges)
    running = np.concatenate([np.minimum.accumulate(part[2]) for part in merges])
    order = np.argsort(255 - running, kind="stable")
    return a[order], b[order], level[order]


def _joined(parts: list[Edges]) -> Edges:
    u, v, level = (np.concatenate(column) for column in zip(*parts, strict=True))
    return u, v, level


def _percent(function: MergeFunction) -> int:
    if function.percent is None:
        raise ValueError("only quantiles are merged on the graph")
    return function.percent
