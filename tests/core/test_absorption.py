from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_cad.core.absorption import SpanningForest, spanning_forest
from napari_cad.core.errors import ShapeError
from napari_cad.core.merge_tree import MergeTree
from napari_cad.core.region_graph import EdgeTable, RegionGraph

THRESHOLDS = [0.0, 0.2, 0.3, 0.5, 0.7, 2.0]
LIMITS = [0, 1, 2, 3, 5, 8, 1000]


def graph_of(n, edges):
    """Of (u, v, join score, mean affinity), u < v."""
    array = np.zeros((len(edges), 8))
    if edges:
        array[:, :2] = [edge[:2] for edge in edges]
        array[:, 2] = [edge[3] for edge in edges]
    graph = RegionGraph.concatenate([EdgeTable.from_array(array)], n_fragments=n)
    return graph, np.array([edge[2] for edge in edges], np.float32)


def reference(n, edges, sizes, threshold, limit):
    """Go through all edges by rank, with sets of fragments that grow."""
    sets = {i: {i} for i in range(n + 1)}
    ranked = sorted(range(len(edges)), key=lambda i: (np.float32(edges[i][2]), -edges[i][3], i))
    for i in ranked:
        u, v, score, _ = edges[i]
        voxels = [sum(int(sizes[f]) for f in sets[end]) for end in (u, v)]
        if np.float32(score) < np.float32(threshold) or min(voxels) < limit:
            union = sets[u] | sets[v]
            for f in union:
                sets[f] = union
    return [min(sets[i]) for i in range(n + 1)]


@st.composite
def graphs(draw):
    """Few levels of scores and affinities, so that many edges are equal; some never join."""
    n = draw(st.integers(1, 14))
    pair = st.tuples(st.integers(1, n), st.integers(1, n)).filter(lambda p: p[0] < p[1])
    score = st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.6, np.inf])
    pairs = draw(st.lists(pair, unique=True, max_size=30)) if n > 1 else []
    affinity = st.sampled_from([0.25, 0.5, 0.75])
    edges = [(*p, draw(score), draw(affinity)) for p in pairs]
    sizes = [0, *draw(st.lists(st.integers(1, 4), min_size=n, max_size=n))]
    return n, edges, np.array(sizes)


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_any_lut_is_that_of_the_slow_way(case):
    n, edges, sizes = case
    forest = spanning_forest(*graph_of(n, edges), sizes)
    kept = SpanningForest.from_array(n, forest.to_array())
    for limit in LIMITS:
        tree = MergeTree.from_history(n, forest.history(limit))
        for threshold in THRESHOLDS:
            expected = reference(n, edges, sizes, threshold, limit)
            np.testing.assert_array_equal(forest.lut(threshold, limit), expected)
            np.testing.assert_array_equal(kept.lut(threshold, limit), expected)
            np.testing.assert_array_equal(tree.lut(threshold), expected)
    assert forest.lut(0.5, 3).dtype == np.uint32


def test_a_crumb_joins_the_strongest_neighbour_and_crumbs_hold_together():
    """Fragments 1 and 2 are large; 3 is a crumb beside both; 4, 5 are crumbs beside 1; 6 alone."""
    edges = [
        (1, 2, 0.6, 0.5),
        (1, 3, 0.6, 0.4),  # of two that come together at one score, the higher affinity decides
        (2, 3, 0.6, 0.7),
        (4, 5, 0.7, 0.5),
        (1, 4, 0.8, 0.5),
    ]
    sizes = np.array([0, 100, 100, 3, 4, 4, 2])
    forest = spanning_forest(*graph_of(6, edges), sizes)
    assert forest.lut(0.5, 0).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert forest.lut(0.5, 8).tolist() == [0, 1, 2, 2, 4, 4, 6]
    assert forest.lut(0.5, 9).tolist() == [0, 1, 2, 2, 1, 1, 6]
    # the large ones join by their score only
    assert forest.lut(0.61, 9).tolist() == [0, 1, 1, 1, 1, 1, 6]


def test_what_never_joins_is_absorbed_last():
    edges = [(1, 2, np.inf, 0.9), (2, 3, 0.9, 0.1)]
    forest = spanning_forest(*graph_of(3, edges), np.array([0, 50, 1, 50]))
    assert forest.lut(0.5, 10).tolist() == [0, 1, 2, 2]
    lonely = spanning_forest(*graph_of(2, edges[:1]), np.array([0, 50, 1]))
    assert lonely.lut(0.5, 10).tolist() == [0, 1, 1]


def test_nothing_to_absorb_and_unfit_input():
    graph, score = graph_of(2, [])
    forest = spanning_forest(graph, score, np.array([0, 1, 1]))
    assert forest.lut(1, 10).tolist() == [0, 1, 2]
    assert len(SpanningForest.from_array(2, forest.to_array()).history(10)) == 0
    with pytest.raises(ShapeError, match="expected 0 join scores and 3 sizes"):
        spanning_forest(graph, score, np.zeros(2, np.int64))
