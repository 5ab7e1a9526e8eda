"""Checking a store: everything is there, can be read, and follows from what it was made from.

Nothing after the affinities is taken on trust. Fragments are made again from the stored affinities,
edges from the fragments, join scores from the merge history, and compared number for number, one
section at a time. The affinities themselves would need the network: they are read, since a damaged
chunk fails to decompress, and nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.agglomeration import join_scores
from napari_cad.core.errors import NapariCadError
from napari_cad.core.events import Event, SectionDone, StageStarted, Warned
from napari_cad.core.fragments import section_fragments
from napari_cad.core.region_graph import section_edges, section_fragment_table
from napari_cad.core.store import STAGES, SegmentationStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

#: What a chunk that is missing, cut short or overwritten makes zarr and its codecs raise.
_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, NapariCadError)


@dataclass(frozen=True)
class Problem(Warned):
    """Something that is not as it should be; `z` is its section, None for the whole store."""

    z: int | None = None


@dataclass(frozen=True)
class Verified(Event):
    """Everything was looked at."""

    problems: int
    sections: int


def verify_store(path: str | Path) -> Iterator[Event]:
    """Check a store, finished or not.

    Parameters
    ----------
    path : path
        The store; only read.

    Yields
    ------
    Event
        `StageStarted`, a `SectionDone` per section, a `Problem` wherever something is wrong, and
        `Verified` at the end. A section that is marked as done is checked as far as it is marked; a
        run that is not finished has no problem for that alone.

    Raises
    ------
    StoreError
        If there is no store, or one of a newer version.
    """
    store = SegmentationStore.open(path)
    n_sections = store.n_sections
    yield StageStarted("verification", n_sections)
    n_problems = 0
    prev: npt.NDArray[np.uint32] | None = None
    for z in range(n_sections):
        problems, prev = _check_section(store, z, prev)
        for message in problems:
            n_problems += 1
            yield Problem(f"section {z}: {message}", z)
        yield SectionDone("verification", z, z + 1, n_sections)
    if n_problems == 0 and store.sections_done("edges").all():
        for message in _check_agglomerations(store):
            n_problems += 1
            yield Problem(message)
    yield Verified(n_problems, n_sections)


def _check_section(
    store: SegmentationStore, z: int, prev: npt.NDArray[np.uint32] | None
) -> tuple[list[str], npt.NDArray[np.uint32] | None]:
    """List what is wrong with section `z`, and give the fragments that it should have."""
    done = [stage for stage in STAGES if store.is_done(stage, z)]
    if done != list(STAGES[: len(done)]):
        return [f"{done[-1]} are marked as done, but what they are made from is not"], None
    if not done:
        return [], None
    try:
        affinities = store.read_affinities(z)
    except _UNREADABLE as error:
        return [f"the affinities cannot be read ({_line(error)})"], None
    if "fragments" not in done:
        return [], None
    try:
        fragments = store.read_fragments(z)
    except _UNREADABLE as error:
        return [f"the fragments cannot be read ({_line(error)})"], None

    problems = []
    offset = int(store.fragment_offsets[z])
    expected = section_fragments(affinities, store.config.fragments)
    expected[expected > 0] += np.uint32(offset)
    count = int(store.counts("fragments")[z])
    if int(expected.max(initial=offset)) - offset != count:
        problems.append(
            f"{count} fragments are counted, the affinities give "
            f"{int(expected.max(initial=offset)) - offset}"
        )
    if not np.array_equal(fragments, expected):
        wrong = np.count_nonzero(fragments != expected)
        problems.append(f"{wrong} voxels are in other fragments than the affinities give")
    if "edges" in done and not problems and (z == 0 or prev is not None):
        problems += _check_tables(store, z, affinities, fragments, prev)
    return problems, expected


def _check_tables(
    store: SegmentationStore,
    z: int,
    affinities: npt.NDArray[np.uint8],
    fragments: npt.NDArray[np.uint32],
    prev: npt.NDArray[np.uint32] | None,
) -> list[str]:
    try:
        stored = store.read_edges(z).to_array()
        table = store.read_fragment_table(z)
    except _UNREADABLE as error:
        return [f"the edges or the table of the fragments cannot be read ({_line(error)})"]
    problems = []
    edges = section_edges(fragments, affinities, z, prev).to_array()
    # older stores lack the last column
    if stored.shape[0] != len(edges) or not np.array_equal(stored, edges[:, : stored.shape[1]]):
        problems.append("the edges are not those that fragments and affinities give")
    if not np.array_equal(table, section_fragment_table(fragments, z)):
        problems.append("the table of the fragments is not what the fragments give")
    return problems


def _check_agglomerations(store: SegmentationStore) -> Iterator[str]:
    """Check every merge history against its join scores; holds the region graph in memory."""
    graph = store.region_graph()
    for name in store.agglomerations:
        try:
            history = store.merge_history(name, absorb=0)
            stored = store.join_scores(name, absorb=0)
        except _UNREADABLE as error:
            yield f"the agglomeration by {name} cannot be read ({_line(error)})"
            continue
        if len(history) and max(int(history.a.max()), int(history.b.max())) > graph.n_fragments:
            yield f"the merge history of {name} names fragments that do not exist"
        elif not np.array_equal(stored, join_scores(graph, history)):
            yield f"the join scores of {name} do not follow from its merge history"


def _line(error: Any) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
