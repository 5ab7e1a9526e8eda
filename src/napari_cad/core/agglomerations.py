"""Every way from a region graph to segments that is offered to people, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.agglomeration import (
    MERGE_FUNCTIONS,
    MergeHistory,
    agglomerate_graph,
    agglomerate_voxels,
)
from napari_cad.core.errors import ConfigError
from napari_cad.core.multicut import multicut

if TYPE_CHECKING:
    from napari_cad.core.region_graph import RegionGraph
    from napari_cad.core.store import SegmentationStore

#: The one that is not waterz's: it has no threshold.
MULTICUT = "multicut"

#: Name → what it is, in one line.
AGGLOMERATIONS: dict[str, str] = {
    **{name: function.help for name, function in MERGE_FUNCTIONS.items()},
    MULTICUT: "Multicut of the region graph by mean affinity and area; the threshold has no effect",
}


def check_agglomeration(name: str) -> None:
    """Refuse a name that is not offered.

    Raises
    ------
    ConfigError
        Listing those that are.
    """
    if name not in AGGLOMERATIONS:
        raise ConfigError(
            f"merge_function must be one of {', '.join(AGGLOMERATIONS)}, got {name!r}"
        )


def agglomerate(store: SegmentationStore, name: str) -> None:
    """Make the merge history of a finished store in one more way, if it is not there.

    Parameters
    ----------
    store : SegmentationStore
        Opened for writing; all its sections have their edges.
    name : str
        A key of `AGGLOMERATIONS`. The published merge function needs the region graph only; one
        whose edges start from more than their maximum needs the whole volume in memory.

    Raises
    ------
    ConfigError
        If there is no such way.
    StoreError
        If sections are missing.
    JobError
        If waterz or the solver fails.
    """
    check_agglomeration(name)
    if store.has_agglomeration(name):
        return
    graph = store.region_graph()
    if name == MULTICUT:
        history = multicut_history(graph)
    elif MERGE_FUNCTIONS[name].on_graph:
        history = agglomerate_graph(graph, name)
    else:
        history = agglomerate_voxels(store.affinities, store.fragments, name)
    store.write_agglomeration(name, history, graph)


def multicut_history(graph: RegionGraph) -> MergeHistory:
    """Give the multicut of a region graph as a merge history of which every merge has score 0.

    So everything that works on a merge history works on a multicut, and gives the same segments at
    every threshold above 0.
    """
    lut = multicut(graph)
    merged = np.flatnonzero(lut != np.arange(len(lut))).astype(np.uint32)
    return MergeHistory(lut[merged], merged, np.zeros(len(merged), np.float32))
