from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from napari_cad.core.errors import ConfigError
from napari_cad.core.merge_tree import MergeTree
from napari_cad.core.multicut import multicut, multicut_costs, multicut_history
from napari_cad.core.region_graph import RegionGraph


def graph_of(edges: dict[tuple[int, int], tuple[float, int]], n_fragments: int) -> RegionGraph:
    """A region graph of {(u, v): (mean affinity, area)}."""
    u, v = np.array(list(edges), np.uint32).reshape(-1, 2).T
    mean, area = np.array(list(edges.values())).reshape(-1, 2).T
    return RegionGraph(
        u,
        v,
        mean.astype(np.float32),
        mean.astype(np.float32),
        area.astype(np.uint32),
        np.zeros((len(u), 3), np.float32),
        n_fragments,
    )


def best_partition(graph: RegionGraph) -> float:
    """Cost of the best of all partitions, by trying every one."""
    costs, best = multicut_costs(graph), np.inf
    for labels in itertools.product(range(graph.n_fragments), repeat=graph.n_fragments):
        label = np.array((-1, *labels))
        best = min(best, costs[label[graph.u] != label[graph.v]].sum())
    return best


def random_graph(rng: np.random.Generator, n: int = 5) -> RegionGraph:
    edges = {
        (u, v): (float(rng.uniform(0.02, 0.98)), int(rng.integers(1, 30)))
        for u, v in itertools.combinations(range(1, n + 1), 2)
        if v == u + 1 or rng.random() < 0.6
    }
    return graph_of(edges, n)


def test_costs_by_hand():
    graph = graph_of({(1, 2): (0.9, 10), (2, 3): (0.1, 5), (3, 4): (0.5, 2)}, 4)
    cut = 0.998 * 0.1 + 0.001
    assert multicut_costs(graph) == pytest.approx(
        [np.log((1 - cut) / cut), -np.log((1 - cut) / cut) / 2, 0.0], abs=1e-6
    )


def test_small_graphs_are_cut_as_well_as_can_be():
    for seed in range(4):
        graph = random_graph(np.random.default_rng(seed))
        lut = multicut(graph)
        cost = multicut_costs(graph)[lut[graph.u] != lut[graph.v]].sum()
        assert cost == pytest.approx(best_partition(graph), abs=1e-6)


def test_a_segment_has_the_smallest_id_of_its_fragments_and_background_stays_background():
    graph = graph_of({(2, 4): (0.9, 10), (1, 3): (0.8, 10), (3, 4): (0.05, 9)}, 5)
    assert multicut(graph).tolist() == [0, 1, 2, 1, 2, 5]


def test_as_a_merge_history_it_is_the_same_at_every_threshold():
    graph = random_graph(np.random.default_rng(9), n=8)
    lut = multicut(graph)
    tree = MergeTree.from_history(graph.n_fragments, multicut_history(graph))
    for threshold in (0.05, 0.5, 1.0):
        assert np.array_equal(tree.lut(threshold), lut)


def test_without_edges_every_fragment_is_a_segment():
    assert multicut(graph_of({}, 3)).tolist() == [0, 1, 2, 3]


def test_without_bioimage_cpp_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "bioimage_cpp", None)
    with pytest.raises(ConfigError, match="pip install bioimage-cpp"):
        multicut(graph_of({(1, 2): (0.9, 10)}, 2))
