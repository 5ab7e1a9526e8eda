"""Agglomerating a store: from the columns of its sections to history, tree and join scores."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import numpy as np
import pytest
import zarr

from napari_cad.core import agglomeration, agglomerations
from napari_cad.core._agglomeration_child import agglomerate_store, history_by_parts, read_sorted
from napari_cad.core._quantile_merging import ContractedEdges, QuantileGraph, merge
from napari_cad.core.agglomeration import (
    MERGE_FUNCTIONS,
    agglomerate_graph,
    agglomeration_memory,
)
from napari_cad.core.agglomerations import Approximated, agglomerate
from napari_cad.core.errors import ConfigError, StoreError
from napari_cad.core.merge_tree import MergeTree, join_scores
from napari_cad.core.sorted_edges import sorted_edges
from napari_cad.core.store import SegmentationStore

MEDIAN = MERGE_FUNCTIONS["median"]


@pytest.fixture
def store(tmp_path, make_run):
    return make_run(tmp_path / "run.zarr")


@pytest.fixture
def ours(monkeypatch):
    """Let our own merging do graphs of any size."""
    monkeypatch.setattr("napari_cad.core._agglomeration_child.WATERZ_EDGES", 0)
    monkeypatch.setattr(agglomeration, "WATERZ_EDGES", 0)


def assert_same_history(a, b):
    for column in ("a", "b", "score"):
        np.testing.assert_array_equal(getattr(a, column), getattr(b, column))
        assert getattr(a, column).dtype == getattr(b, column).dtype


def test_edges_come_in_the_order_of_their_fragments(store):
    graph = store.region_graph()
    blocks = list(sorted_edges(store, "max", "area"))

    rows = np.concatenate([block.rows for block in blocks])
    np.testing.assert_array_equal(rows, np.lexsort((graph.v, graph.u)))
    for name in ("u", "v", "max", "area"):
        column = np.concatenate([block.columns[name] for block in blocks])
        np.testing.assert_array_equal(column, getattr(graph, name)[rows])
        assert column.dtype == getattr(graph, name).dtype
    assert [block.z for block in blocks] == list(range(6))
    u, _, level = read_sorted(store)
    np.testing.assert_array_equal(level, np.floor(graph.max[rows] * 256))
    assert (u.dtype, level.dtype) == (np.uint32, np.uint8)


def test_edges_of_other_sections_are_refused(store):
    values = zarr.open_group(store.path, mode="r+")["edges/3"]
    values[0, 1] = 1

    with pytest.raises(StoreError, match="section 3 lead to fragments of other sections"):
        list(sorted_edges(store))


@pytest.mark.parametrize("name", [n for n, f in MERGE_FUNCTIONS.items() if f.on_graph])
def test_a_store_gets_the_history_of_its_graph_and_what_follows_from_it(store, name):
    """In a child, and read back: history, join scores, tree, sizes and the record."""
    graph = store.region_graph()
    expected = agglomerate_graph(graph, name)
    assert len(expected) > 100

    assert agglomerate(store, name) is None

    assert_same_history(store.merge_history(name), expected)
    np.testing.assert_array_equal(store.join_scores(name), join_scores(graph, expected))
    made = MergeTree.from_history(graph.n_fragments, expected).with_sizes(store.fragment_sizes())
    read = store.merge_tree(name)
    for column, value in made.columns._asdict().items():
        stored = getattr(read.columns, column)
        assert isinstance(stored, np.memmap)
        assert stored.dtype == value.dtype
        np.testing.assert_array_equal(stored, value)
    table = store.fragment_table()
    np.testing.assert_array_equal(store.fragment_sizes(), [0, *table[:, 1]])
    assert store.agglomeration_record(name) == {"exact": True}


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("seed", range(3))
def test_parts_that_are_not_merged_change_nothing(tmp_path, make_run, seed):
    """Taken apart, contracted and put together again, entry for entry, tie by tie."""
    store = make_run(tmp_path / "run.zarr", seed)
    expected = agglomerate_graph(store.region_graph())

    for parts in ([0, 3], [0, 1, 2, 5]):
        history, left = history_by_parts(store, MEDIAN, parts, 0.0)
        assert_same_history(history, expected)
        assert left == int(store.counts("edges").sum())


def slow_contraction(u, v, level, lut):
    """Count the numbers on all edges between regions, one edge at a time."""
    histograms = defaultdict(Counter)
    for a, b, number in zip(lut[u].tolist(), lut[v].tolist(), level.tolist(), strict=True):
        if a != b:
            histograms[min(a, b), max(a, b)][number] += 1
    return histograms


def as_histograms(edges):
    entries = zip(edges.level.tolist(), edges.number.tolist(), strict=True)
    return {
        (u, v): Counter(dict(next(entries) for _ in range(n)))
        for u, v, n in zip(
            edges.u.tolist(), edges.v.tolist(), edges.n_entries.tolist(), strict=True
        )
    }


@pytest.mark.parametrize("score", [0.0, 0.3, 0.6, 1.0])
def test_what_is_left_keeps_every_number(store, score):
    u, v, level = read_sorted(store)
    n = store.n_fragments
    graph = QuantileGraph.of_edges(u.copy(), v.copy(), level)
    (a, b, merged), left = merge(graph, n, 50, score)
    assert ((1 - (merged + 0.5) / 256) < score).all()
    history = agglomeration.MergeHistory(a, b, np.zeros(len(a), np.float32))
    lut = MergeTree.from_history(n, history).lut(1)

    edges = ContractedEdges.left_of(graph, left)

    assert as_histograms(edges) == slow_contraction(u, v, level, lut)
    again = edges.graph()
    assert as_histograms(ContractedEdges.left_of(again, np.ones(len(again.u), bool))) == (
        as_histograms(edges)
    )
    assert (np.diff(again.u.astype(int) << 32 | again.v) > 0).all()


def test_parallel_edges_add_their_histograms():
    rng = np.random.default_rng(0)
    u, v = rng.integers(1, 5, (2, 200)).astype(np.uint32)
    v += 5
    level = rng.integers(0, 4, 200).astype(np.uint8)

    edges = ContractedEdges.of_parallel(u, v, level)

    assert as_histograms(edges) == slow_contraction(u, v, level, np.arange(20))


@pytest.mark.usefixtures("ours")
def test_a_graph_that_does_not_fit_is_agglomerated_in_parts_and_says_so(store, monkeypatch):
    # so that a few edges have a size
    monkeypatch.setattr(agglomeration, "_TABLE_BYTES_PER_ROW", 0)
    needed = agglomeration_memory(int(store.counts("edges").sum()), store.n_fragments)
    run = agglomerations.run_child

    def in_process(task, **arguments):
        assert task == "_agglomeration_child:agglomerate_store"
        (result,) = agglomerate_store(**arguments)
        return result

    monkeypatch.setattr(agglomerations, "run_child", in_process)
    assert run is not in_process

    notice = agglomerate(store, "median", memory=needed - 1, conservative_score=0.3)
    agglomerate(store, "quantile75", memory=needed)

    assert isinstance(notice, Approximated)
    assert "3 ranges of sections" in notice.message
    record = store.agglomeration_record("median")
    assert record["exact"] is False
    assert record["conservative_score"] == 0.3
    assert record["parts"][0] == 0
    assert len(record["parts"]) == 3
    assert json.dumps(record)
    assert store.agglomeration_record("quantile75") == {"exact": True}
    # every region of the exact way at the conservative score is still one, if in one part
    tree, graph = store.merge_tree("median"), store.region_graph()
    np.testing.assert_array_equal(store.join_scores("median"), tree.join_scores(graph.u, graph.v))
    part = np.searchsorted(
        store.fragment_offsets[record["parts"][1:]], np.arange(store.n_fragments + 1), "left"
    )
    segments = tree.lut(0.3 - 1e-3)
    for segment in np.unique(segments[1:]):
        assert len(np.unique(part[segments == segment])) == 1
    assert len(np.unique(tree.lut(1))) == len(np.unique(store.merge_tree("quantile75").lut(1)))


@pytest.mark.parametrize("name", ["median", "quantile75"])
def test_a_graph_without_an_edge_has_nothing_to_merge(tmp_path, make_run, name):
    """One fragment in one section, as in a first try on a crop."""
    store = make_run(tmp_path / "run.zarr", shape=(1, 3, 3))
    assert (store.n_fragments, len(store.region_graph())) == (1, 0)

    agglomerate(store, name)

    history = store.merge_history(name)
    assert_same_history(history, agglomerate_graph(store.region_graph(), name))
    np.testing.assert_array_equal(store.merge_tree(name).lut(0.5), [0, 1])


@pytest.mark.usefixtures("ours")
def test_a_memory_too_small_for_a_section_is_refused(store):
    with pytest.raises(ConfigError, match=r"section 0 alone needs .* give it more"):
        agglomerate(store, "median", memory=1000)


def test_an_agglomeration_that_was_cut_short_is_made_anew(store):
    agglomerate(store, "median")
    group = zarr.open_group(store.path, mode="r+")["agglomeration/median"]
    group.attrs["whole"] = False

    assert not store.has_agglomeration("median")
    assert store.agglomerations == []
    agglomerate(store, "median")
    assert store.agglomerations == ["median"]


def test_a_store_without_a_tree_makes_one(store):
    """As older versions have written them."""
    agglomerate(store, "median")
    expected = store.lut(0.5)
    group = zarr.open_group(store.path, mode="r+")
    del group["agglomeration/median/tree"], group["graph"]
    group["agglomeration/median"].attrs.clear()

    old = SegmentationStore.open(store.path)
    assert old.has_agglomeration("median")
    np.testing.assert_array_equal(old.lut(0.5), expected)
    np.testing.assert_array_equal(old.fragment_sizes(), [0, *old.fragment_table()[:, 1]])
    assert old.agglomeration_record("median") == {"exact": True}
