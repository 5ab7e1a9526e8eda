"""Every way from a region graph to segments that is offered to people, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from napari_cad.core import agglomeration
from napari_cad.core.agglomeration import (
    MERGE_FUNCTIONS,
    MergeHistory,
    agglomerate_voxels,
    agglomeration_memory,
    run_child,
)
from napari_cad.core.errors import ConfigError
from napari_cad.core.events import Warned
from napari_cad.core.multicut import multicut

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.core.region_graph import RegionGraph
    from napari_cad.core.store import SegmentationStore

#: The one that is not waterz's: it has no threshold.
MULTICUT = "multicut"

#: Up to which the parts of a graph that does not fit are agglomerated by themselves. Chosen on
#: sections 0 to 39 of the AC4 stack, see docs/scale.md.
CONSERVATIVE_SCORE = 0.03

#: What a process takes before it has read anything.
_INTERPRETER = 200 << 20

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


@dataclass(frozen=True)
class Approximated(Warned):
    """A graph was too large for the memory and was agglomerated in parts; see docs/scale.md."""


def agglomerate(
    store: SegmentationStore,
    name: str,
    *,
    memory: int | None = None,
    conservative_score: float = CONSERVATIVE_SCORE,
) -> Approximated | None:
    """Make the merge history of a finished store in one more way, if it is not there.

    Parameters
    ----------
    store : SegmentationStore
        Opened for writing; all its sections have their edges.
    name : str
        A key of `AGGLOMERATIONS`. The published merge function needs the region graph only; one
        whose edges start from more than their maximum needs the whole volume in memory.
    memory : int, optional
        Bytes that it may take beside the interpreter; by default nine tenths of what the machine
        has free. Where a graph of more than 100,000 edges needs more (`agglomeration_memory`),
        ranges of sections are agglomerated first, up to `conservative_score` only. Of no effect on
        the ways that need voxels, and on the multicut.
    conservative_score : float
        Used only then: lower is closer to the exact result, higher leaves a smaller graph.

    Returns
    -------
    Approximated or None
        What the person should know, if it is not exact. `SegmentationStore.agglomeration_record`
        tells it later.

    Raises
    ------
    ConfigError
        If there is no such way, or the memory is too small for the parts.
    StoreError
        If sections are missing.
    JobError
        If waterz or the solver fails.
    """
    check_agglomeration(name)
    if store.has_agglomeration(name):
        return None
    if name == MULTICUT:
        store.write_agglomeration(name, multicut_history(store.region_graph()))
        return None
    if not MERGE_FUNCTIONS[name].on_graph:
        history = agglomerate_voxels(store.affinities, store.fragments, name)
        store.write_agglomeration(name, history)
        return None
    store.require_edges()
    parts = _parts(store, memory)
    arguments: dict[str, Any] = {
        "path": store.address,
        "name": name,
        "parts": parts,
        "conservative_score": conservative_score,
    }
    if store.address.startswith("memory://"):  # no other process sees it
        from napari_cad.core._agglomeration_child import agglomerate_store

        ((n_edges, left),) = agglomerate_store(**arguments)
    else:
        n_edges, left = run_child("_agglomeration_child:agglomerate_store", **arguments)
    store.forget_agglomerations()
    if parts is None:
        return None
    return Approximated(
        f"the region graph of {n_edges:,} edges does not fit into the memory: {len(parts)} ranges "
        f"of sections were agglomerated up to the score {conservative_score:g}, and the {left:,} "
        "edges that were left as one graph. Segments may differ a little from the exact ones "
        "(docs/scale.md); more memory makes them exact"
    )


def _parts(store: SegmentationStore, memory: int | None) -> list[int] | None:
    """First section of each part, as few parts as fit; None where the whole graph fits."""
    if memory is None:
        memory = psutil.virtual_memory().available * 9 // 10 - _INTERPRETER
    edges, fragments = store.counts("edges"), store.counts("fragments")
    if edges.sum() <= agglomeration.WATERZ_EDGES or _fits(edges, fragments, memory):
        return None
    # half of it for a part, and half for what is left of all parts
    starts = [0]
    for z in range(store.n_sections):
        part = slice(starts[-1], z + 1)
        if _fits(edges[part], fragments[part], memory // 2):
            continue
        if starts[-1] == z:
            needed = 2 * agglomeration_memory(int(edges[z]), int(fragments[z]))
            raise ConfigError(
                f"agglomerating section {z} alone needs {needed >> 20:,} MiB, expected them in "
                f"the memory of {memory >> 20:,} MiB: give it more"
            )
        starts.append(z)
    return starts


def _fits(edges: npt.NDArray[np.int64], fragments: npt.NDArray[np.int64], memory: int) -> bool:
    n_edges, n_fragments = int(edges.sum()), int(fragments.sum())
    fits = agglomeration_memory(n_edges, n_fragments) <= memory
    return fits and n_edges <= agglomeration.MOST_EDGES


def multicut_history(graph: RegionGraph) -> MergeHistory:
    """Give the multicut of a region graph as a merge history of which every merge has score 0.

    So everything that works on a merge history works on a multicut, and gives the same segments at
    every threshold above 0.
    """
    lut = multicut(graph)
    merged = np.flatnonzero(lut != np.arange(len(lut))).astype(np.uint32)
    return MergeHistory(lut[merged], merged, np.zeros(len(merged), np.float32))
