from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_cad.core.errors import ShapeError
from napari_cad.core.merge_tree import (
    MergeHistory,
    MergeTree,
    is_below,
    join_scores,
    segment_lut,
    union_by_size,
)
from napari_cad.core.region_graph import EdgeTable, RegionGraph


def history_of(merges):
    a, b, score = zip(*merges, strict=True) if merges else ((), (), ())
    return MergeHistory(np.array(a, np.uint32), np.array(b, np.uint32), np.array(score, np.float32))


def reference_partition(n_fragments, merges, threshold):
    """Do the merges of the prefix on plain sets, and name every set by its smallest member."""
    sets = {i: {i} for i in range(n_fragments + 1)}
    for a, b, score in merges:
        if np.float32(score) >= np.float32(threshold):
            break
        union = sets[a] | sets[b]
        for i in union:
            sets[i] = union
    return [min(sets[i]) for i in range(n_fragments + 1)]


def reference_join_score(merges, u, v):
    """Replay the history until u and v are in one set."""
    sets = {}
    highest = -np.inf
    for a, b, score in merges:
        highest = max(highest, np.float32(score))
        union = sets.get(a, {a}) | sets.get(b, {b})
        for i in union:
            sets[i] = union
        if u in union and v in union:
            return highest
    return np.inf


def reference_union_by_size(a, b, sizes):
    """Join regions edge by edge in plain Python: one row per edge that joins two."""
    size, root, smallest = sizes.tolist(), list(range(len(sizes))), list(range(len(sizes)))
    rows = []
    for place, (i, j) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        while root[i] != i:
            i = root[i]
        while root[j] != j:
            j = root[j]
        if i == j:
            continue
        swap = size[i] >= size[j]
        if not swap:
            i, j = j, i
        root[j] = i
        smaller = size[j]
        size[i] += size[j]
        smallest[i] = min(smallest[i], smallest[j])
        rows.append((j, i, smallest[i], place, smaller, swap))
    return rows


@st.composite
def histories(draw):
    """Merges of any fragments at scores of a few levels, so that many are equal or fall."""
    n = draw(st.integers(1, 25))
    ids = st.integers(1, n)
    merge = st.tuples(ids, ids, st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9]))
    return n, draw(st.lists(merge, max_size=40))


THRESHOLDS = [-1.0, 0.0, 0.1, 0.2, 0.25, 0.3, 0.5, 0.6, 0.7, 0.90001, 2.0]


@settings(max_examples=60, deadline=None)
@given(histories())
def test_every_view_of_a_history_is_the_same(case):
    n, merges = case
    tree = MergeTree.from_history(n, history_of(merges))
    fragments = np.arange(n + 1)
    everyone = np.stack(np.meshgrid(fragments[1:], fragments[1:])).reshape(2, -1)
    joined_at = tree.join_scores(*everyone)

    for threshold in THRESHOLDS:
        expected = reference_partition(n, merges, threshold)
        np.testing.assert_array_equal(tree.lut(threshold), expected)
        np.testing.assert_array_equal(tree.segments_of(fragments, threshold), expected)
        tree_lut = segment_lut(n, *tree.edges(), tree.running_score, threshold)
        np.testing.assert_array_equal(tree_lut, expected)
        graph_lut = segment_lut(n, *everyone, joined_at, threshold)
        np.testing.assert_array_equal(graph_lut, expected)
        assert tree_lut.dtype == tree.lut(threshold).dtype == np.uint32


@settings(max_examples=60, deadline=None)
@given(histories())
def test_join_scores_equal_a_replay(case):
    n, merges = case
    tree = MergeTree.from_history(n, history_of(merges))

    for u in range(1, n + 1):
        others = np.array([v for v in range(1, n + 1) if v != u], np.uint32)
        expected = np.array([reference_join_score(merges, u, v) for v in others], np.float32)
        got = tree.join_scores(np.full(len(others), u, np.uint32), others)
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.float32
    assert tree.join_scores(np.array([1]), np.array([1])) == [0]


@settings(max_examples=60, deadline=None)
@given(histories(), st.integers(0, 2**32 - 1))
def test_unions_are_those_of_plain_python(case, seed):
    n, merges = case
    a, b = (np.array([merge[i] for merge in merges], np.uint32) for i in (0, 1))
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 5, n + 1)
    before = sizes.copy()
    order = rng.permutation(len(a))[: rng.integers(len(a) + 1)]  # not always all

    expected = reference_union_by_size(a, b, sizes)
    assert list(zip(*union_by_size(a, b, sizes), strict=True)) == expected
    ordered = reference_union_by_size(a[order], b[order], sizes)
    expected = [(*row[:3], order[row[3]], *row[4:]) for row in ordered]
    assert list(zip(*union_by_size(a, b, sizes, order), strict=True)) == expected
    np.testing.assert_array_equal(sizes, before)


@settings(max_examples=60, deadline=None)
@given(histories(), st.integers(0, 2**32 - 1))
def test_sizes_of_segments_are_those_of_their_fragments(case, seed):
    n, merges = case
    sizes = np.random.default_rng(seed).integers(0, 9, n + 1)
    tree = MergeTree.from_history(n, history_of(merges)).with_sizes(sizes)
    fragments = np.arange(n + 1)

    for threshold in THRESHOLDS:
        expected = np.bincount(tree.lut(threshold), sizes, n + 1)
        segments, size = tree.sized_segments_of(fragments, threshold, sizes)
        np.testing.assert_array_equal(segments, tree.lut(threshold))
        np.testing.assert_array_equal(size, expected[segments])
        every = tree.segment_sizes(threshold, sizes)
        assert len(every) == tree.n_segments(threshold) == len(np.unique(segments[1:]))
        np.testing.assert_array_equal(np.sort(every), np.sort(expected[np.unique(segments[1:])]))


def test_a_tree_without_sizes_says_so():
    tree = MergeTree.from_history(2, history_of([(1, 2, 0.3)]))
    with pytest.raises(ShapeError, match="with_sizes"):
        tree.segment_sizes(0.5, np.ones(3, np.int64))


def test_a_tree_travels_between_processes():
    tree = _sent(MergeTree.from_history(3, history_of([(1, 3, 0.3)])))
    np.testing.assert_array_equal(tree.lut(0.5), [0, 1, 2, 1])
    reopened = MergeTree(tree.columns, reopen=(_other_tree, (5,)))
    assert len(_sent(reopened).columns.above) == 6


def _sent(tree):
    return pickle.loads(pickle.dumps(tree))  # noqa: S301 - our own


def _other_tree(n):
    return MergeTree.from_history(n, history_of([]))


@pytest.mark.parametrize("order", ["chain", "reversed chain", "star", "random"])
def test_no_fragment_is_deep(order):
    n = 1000
    first = np.arange(1, n)
    if order == "chain":
        merges = [(i, i + 1, 0.1) for i in first]
    elif order == "reversed chain":
        merges = [(i, i + 1, 0.1) for i in first[::-1]]
    elif order == "star":
        merges = [(1, i + 1, 0.1) for i in first]
    else:
        rng = np.random.default_rng(0)
        merges = [(*rng.integers(1, n + 1, 2).tolist(), 0.1) for _ in range(5 * n)]
    tree = MergeTree.from_history(n, history_of(merges))

    above = {int(u): int(v) for u, v in zip(*tree.edges(), strict=True)}
    for fragment in range(1, n + 1):
        depth = 0
        while fragment in above:
            fragment = above[fragment]
            depth += 1
        assert depth <= np.log2(n)


def test_a_threshold_is_a_float32_and_stops_before_its_score():
    score = np.float32(0.1)  # a little more than 0.1
    assert float(score) > 0.1
    tree = MergeTree.from_history(2, history_of([(1, 2, score)]))

    for threshold in (0.1, np.float64(0.1), np.float32(0.1)):
        assert not is_below(np.array([score]), threshold)
        assert tree.n_merges(threshold) == 0
        np.testing.assert_array_equal(tree.lut(threshold), [0, 1, 2])
    above = np.nextafter(score, np.float32(1))
    np.testing.assert_array_equal(tree.lut(above), [0, 1, 1])
    # one that is a little less than what it is written as
    below = np.float32(0.7)
    assert float(below) < 0.7
    np.testing.assert_array_equal(
        segment_lut(2, np.array([1]), np.array([2]), np.array([below]), np.float64(0.7)), [0, 1, 2]
    )


def test_cut_and_added_edges():
    u, v = np.array([1, 2, 3]), np.array([2, 3, 4])
    score = np.array([np.inf, 0.2, -np.inf], np.float32)

    np.testing.assert_array_equal(segment_lut(5, u, v, score, 1e9), [0, 1, 2, 2, 2, 5])
    np.testing.assert_array_equal(segment_lut(5, u, v, score, 0), [0, 1, 2, 3, 3, 5])


def test_join_scores_of_a_graph():
    array = np.zeros((3, 8))
    array[:, :2] = [[1, 2], [2, 3], [1, 4]]
    graph = RegionGraph.concatenate([EdgeTable.from_array(array)], n_fragments=6)

    joined_at = join_scores(graph, history_of([(1, 2, 0.3), (1, 3, 0.2)]))

    np.testing.assert_array_equal(joined_at, np.array([0.3, 0.3, np.inf], np.float32))


def test_segments_of_a_section_in_any_order_and_number():
    tree = MergeTree.from_history(5, history_of([(2, 4, 0.1), (1, 4, 0.5)]))

    np.testing.assert_array_equal(tree.segments_of(np.array([4, 0, 4, 5, 2]), 0.3), [2, 0, 2, 5, 2])
    np.testing.assert_array_equal(tree.segments_of(np.array([4], np.uint32), 0.6), [1])
    assert tree.segments_of(np.zeros(0, np.uint32), 0.6).shape == (0,)


def test_nothing_to_merge():
    tree = MergeTree.from_history(3, history_of([]))

    np.testing.assert_array_equal(tree.lut(1), np.arange(4))
    np.testing.assert_array_equal(tree.segments_of(np.arange(4), 1), np.arange(4))
    np.testing.assert_array_equal(tree.join_scores(np.array([1]), np.array([2])), [np.inf])
    empty = np.zeros(0, np.uint32)
    np.testing.assert_array_equal(segment_lut(0, empty, empty, np.zeros(0, np.float32), 1), [0])


def test_unfit_input_is_refused():
    with pytest.raises(ShapeError, match="up to 3 does not belong to 2"):
        MergeTree.from_history(2, history_of([(1, 3, 0.1)]))
    one, two = np.array([1]), np.array([2])
    with pytest.raises(ShapeError, match="as many"):
        segment_lut(2, one, two, np.zeros(2, np.float32), 1)
    with pytest.raises(ShapeError, match="1 to 1"):
        segment_lut(1, one, two, np.zeros(1, np.float32), 1)
    with pytest.raises(ShapeError, match="from 0"):
        segment_lut(2, np.array([0]), two, np.zeros(1, np.float32), 1)
