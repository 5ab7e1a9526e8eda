"""Checking a store: everything is there, can be read, and follows from what it was made from.

Nothing after the affinities is taken on trust. Fragments are made again from the stored affinities,
edges from the fragments, columns of the graph from the tables of its sections, merge tree and join
scores from the merge history, the forest of absorbed segments from the join scores, and compared
number for number. In memory are two sections at most, a merge history and one number per edge;
where there is a forest, the region graph. The affinities themselves would need the network: they
are read, since a damaged chunk fails to decompress, and nothing more.

A run that another recipe of fragments made (`napari_cad.core.store.RECIPES`) has fragments that
this version cannot make again. That is told, and of them only the ids are checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_cad.core.errors import NapariCadError
from napari_cad.core.events import Event, SectionDone, StageStarted, Warned
from napari_cad.core.fragments import section_fragments
from napari_cad.core.merge_tree import MergeTree
from napari_cad.core.region_graph import section_edges, section_fragment_table
from napari_cad.core.sorted_edges import sorted_edges
from napari_cad.core.store import RECIPES, STAGES, SegmentationStore

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
        run that is not finished has no problem for that alone, and neither has one of another
        recipe of fragments, which is warned of.

    Raises
    ------
    StoreError
        If there is no store, or one of a newer version.
    """
    store = SegmentationStore.open(path)
    n_sections = store.n_sections
    yield StageStarted("verification", n_sections)
    n_problems = n_foreign = 0
    prev: npt.NDArray[np.uint32] | None = None
    recipe = store.signature["recipe"]["fragments"]
    # once: they are as many small files as there are sections
    counts, offsets = store.counts("fragments"), store.fragment_offsets
    for z in range(n_sections):
        checked = _check_section(store, z, prev, int(offsets[z]), int(counts[z]), recipe)
        prev = checked.fragments
        n_foreign += checked.foreign
        for message in checked.problems:
            n_problems += 1
            yield Problem(f"section {z}: {message}", z)
        yield SectionDone("verification", z, z + 1, n_sections)
    if n_foreign:
        yield Warned(
            f"{n_foreign} of {n_sections} sections have other fragments than this version of "
            f"napari-cad makes: the run is of recipe {recipe} of fragments, this version has "
            f"recipe {RECIPES['fragments']}. Whether they follow from the affinities was not "
            "checked, what follows from them was"
        )
    if n_problems == 0 and store.sections_done("edges").all():
        for message in chain(_check_graph(store), _check_agglomerations(store)):
            n_problems += 1
            yield Problem(message)
    yield Verified(n_problems, n_sections)


class _Checked(NamedTuple):
    """What was found of a section.

    Attributes
    ----------
    problems : list of str
        What is wrong with it.
    fragments : ndarray, optional
        Those that it should have.
    foreign : bool
        Whether they are taken as they are, since another recipe made them.
    """

    problems: list[str]
    fragments: npt.NDArray[np.uint32] | None = None
    foreign: bool = False


def _check_section(
    store: SegmentationStore,
    z: int,
    prev: npt.NDArray[np.uint32] | None,
    offset: int,
    count: int,
    recipe: int,
) -> _Checked:
    done = [stage for stage in STAGES if store.is_done(stage, z)]
    if done != list(STAGES[: len(done)]):
        return _Checked([f"{done[-1]} are marked as done, but what they are made from is not"])
    if not done:
        return _Checked([])
    try:
        affinities = store.read_affinities(z)
    except _UNREADABLE as error:
        return _Checked([f"the affinities cannot be read ({_line(error)})"])
    if "fragments" not in done:
        return _Checked([])
    try:
        fragments = store.read_fragments(z)
    except _UNREADABLE as error:
        return _Checked([f"the fragments cannot be read ({_line(error)})"])

    problems = []
    expected = section_fragments(affinities, store.config.fragments)
    expected[expected > 0] += np.uint32(offset)
    n_expected = int(expected.max(initial=offset)) - offset
    wrong = int(np.count_nonzero(fragments != expected))
    foreign = wrong > 0 and recipe != RECIPES["fragments"]
    if foreign:
        expected = fragments
        ids = np.unique(fragments)
        if not np.array_equal(ids[ids > 0], np.arange(offset + 1, offset + count + 1)):
            problems.append(f"the ids of its fragments are not {offset + 1} to {offset + count}")
    else:
        if n_expected != count:
            problems.append(f"{count} fragments are counted, the affinities give {n_expected}")
        if wrong:
            problems.append(f"{wrong} voxels are in other fragments than the affinities give")
    if "edges" in done and not problems and (z == 0 or prev is not None):
        problems += _check_tables(store, z, affinities, fragments, prev)
    return _Checked(problems, expected, foreign)


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


def _check_graph(store: SegmentationStore) -> Iterator[str]:
    """Check the columns of the graph against the tables of the sections, two at a time."""
    try:
        columns = store.graph_columns
        if columns is None:
            return
        wrong, n_begun, offsets = set(), 0, store.fragment_offsets
        for name in ("first", "first_ending"):
            if getattr(columns, name)[[0, 1, -1]].tolist() != [0, 0, len(columns.u)]:
                wrong.add(name)
        for block in sorted_edges(store, "mean", "area", "z", "y", "x"):
            rows = slice(n_begun, n_begun + len(block.rows))
            position = np.stack([block.columns[axis] for axis in "zyx"], axis=1)
            for name in ("u", "v", "mean", "area"):
                if not np.array_equal(getattr(columns, name)[rows], block.columns[name]):
                    wrong.add(name)
            if not np.array_equal(columns.position[rows], position):
                wrong.add("position")
            n_begun = rows.stop
            ids = np.arange(offsets[block.z] + 1, offsets[block.z + 1] + 1)
            if not _are_grouped(columns.u, columns.first, ids, None):
                wrong.add("first")
            if not _are_grouped(columns.v, columns.first_ending, ids, columns.ending):
                wrong |= {"ending", "first_ending"}
            table = store.read_fragment_table(block.z)
            if not np.array_equal(columns.size[table[:, 0].astype(np.intp)], table[:, 1]):
                wrong.add("size")
        if n_begun != len(columns.u):
            wrong.add("u")
    except _UNREADABLE as error:
        yield f"the columns of the region graph cannot be read ({_line(error)})"
        return
    if wrong:
        yield (
            "the columns of the region graph are not those of its sections: "
            f"{', '.join(sorted(wrong))}"
        )


def _are_grouped(
    ends: npt.NDArray[np.uint32],
    first: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int64],
    edges: npt.NDArray[np.integer[Any]] | None,
) -> bool:
    """Whether the edges of consecutive fragments are where `first` says, each edge once."""
    if not len(ids):
        return True
    begin, stop = int(first[ids[0]]), int(first[ids[-1] + 1])
    count = np.diff(first[ids[0] : ids[-1] + 2])
    if (count < 0).any() or not 0 <= begin <= stop <= len(ends):
        return False
    numbers = np.arange(begin, stop) if edges is None else np.asarray(edges[begin:stop])
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(ends):
        return False
    distinct = len(np.unique(numbers)) == len(numbers)
    return distinct and np.array_equal(ends[numbers], np.repeat(ids, count))


def _check_agglomerations(store: SegmentationStore) -> Iterator[str]:
    """Check every merge history against what follows from it, one section at a time."""
    sizes = store.fragment_sizes()
    for name in store.agglomerations:
        try:
            history = store.merge_history(name, absorb=0)
            stored = store.join_scores(name, absorb=0)
            highest = max(int(history.a.max(initial=0)), int(history.b.max(initial=0)))
            if highest > store.n_fragments:
                yield f"the merge history of {name} names fragments that do not exist"
                continue
            made = MergeTree.from_history(store.n_fragments, history)
            kept = store.merge_tree(name, absorb=0)
            if kept.columns.voxels is not None:
                made = made.with_sizes(sizes)
            numbered = store.numbered_join_scores(name)[0] if store.graph_columns else None
        except _UNREADABLE as error:
            yield f"the agglomeration by {name} cannot be read ({_line(error)})"
            continue
        pairs: Iterator[tuple[Any, Any]] = zip(kept.columns, made.columns, strict=True)
        if not all(np.array_equal(ours, theirs) for ours, theirs in pairs):
            yield f"the merge tree of {name} does not follow from its merge history"
        if not _are_join_scores(store, made, stored, numbered):
            yield f"the join scores of {name} do not follow from its merge history"
        else:
            yield from _check_forest(store, name)


def _check_forest(store: SegmentationStore, name: str) -> Iterator[str]:
    """Check what absorbing small segments needs; one that was cut short is made again anyway."""
    try:
        forest = store.kept_forest(name)
        if forest is not None and not np.array_equal(
            forest.to_array(), store.made_forest(name).to_array()
        ):
            yield (
                f"the forest of {name}, by which small segments are absorbed, does not follow from "
                "its join scores"
            )
    except _UNREADABLE as error:
        yield f"the forest of {name} cannot be read ({_line(error)})"


def _are_join_scores(
    store: SegmentationStore,
    tree: MergeTree,
    stored: npt.NDArray[np.float32],
    numbered: npt.NDArray[np.float32] | None,
) -> bool:
    """Whether join scores, by row and by number, are those of a tree."""
    n = 0
    for block in sorted_edges(store):
        expected = tree.join_scores(block.columns["u"], block.columns["v"])
        if not np.array_equal(stored[block.rows], expected):
            return False
        if numbered is not None and not np.array_equal(numbered[n : n + len(expected)], expected):
            return False
        n += len(expected)
    return n == len(stored)


def _line(error: Any) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
