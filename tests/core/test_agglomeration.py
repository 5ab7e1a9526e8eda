from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys

import numpy as np
import pytest
import waterz
from waterz._agglomerate import _load_prebuilt

from napari_cad.core import _waterz_child as child
from napari_cad.core import agglomeration
from napari_cad.core._quantile_merging import merge_history
from napari_cad.core.agglomeration import (
    MERGE_FUNCTIONS,
    MergeHistory,
    MergeTree,
    agglomerate_graph,
    agglomerate_voxels,
    join_scores,
    segment_lut,
)
from napari_cad.core.errors import ConfigError, JobError, ShapeError
from napari_cad.core.fragments import distance_watershed
from napari_cad.core.region_graph import EdgeTable, RegionGraph, section_edges
from napari_cad.core.stored_affinity import dequantise

MEAN = MERGE_FUNCTIONS["mean"].scoring_function
THRESHOLDS = [round(0.1 * i, 1) for i in range(1, 10)]
ON_GRAPH = [name for name, f in MERGE_FUNCTIONS.items() if f.on_graph]


# ------------------------------------------------------------------------- data


def real_volume(shared_dir, checkpoint, shape=(4, 128, 128)):
    """Stored affinities of a real crop and their fragments, ids unique over the volume."""
    z, y, x = shape
    with np.load(shared_dir / "golden" / "published_students.npz") as golden:
        real = golden[f"{checkpoint}/affinities"][:, :z, :y, :x]
    affinities = np.minimum(255, np.floor(256 * real)).astype(np.uint8)
    fragments = np.zeros(shape, np.uint32)
    for i in range(z):
        fragments[i] = distance_watershed(affinities[:, i]) + fragments.max()
    return affinities, fragments


def random_volume(seed, shape=(3, 24, 30), blob=3):
    """Small blocks as fragments, with background, and affinities without any structure."""
    rng = np.random.default_rng(seed)
    z, y, x = shape
    rows, columns = -(-y // blob), -(-x // blob)
    fragments = 1 + np.arange(z * rows * columns).reshape(z, rows, columns)
    fragments[rng.random(fragments.shape) < 0.1] = 0
    fragments = fragments.repeat(blob, axis=1).repeat(blob, axis=2)[:, :y, :x].astype(np.uint32)
    return rng.integers(0, 256, (3, *shape), np.uint8), fragments


def coarse_volume(seed):
    """Affinities of few levels, so that most scores are equal and order decides."""
    affinities, fragments = random_volume(seed, shape=(4, 20, 20), blob=2)
    return affinities // 32 * 32, fragments


@pytest.fixture(params=["AC34", "CremiB", "random", "coarse"])
def volume(request):
    if request.param == "random":
        return random_volume(1)
    if request.param == "coarse":
        return coarse_volume(2)
    return real_volume(request.getfixturevalue("shared_dir"), request.param)


def graph_of(affinities, fragments):
    tables = [
        section_edges(fragments[z], affinities[:, z], z, fragments[z - 1] if z else None)
        for z in range(len(fragments))
    ]
    return RegionGraph.concatenate(tables, n_fragments=int(fragments.max()))


@pytest.fixture
def in_process(monkeypatch):
    """Call the child's functions here: what they compute is the same, starting them is not free."""

    def run(task, **arguments):
        module, function = task.split(":")
        (columns,) = getattr(importlib.import_module(f"napari_cad.core.{module}"), function)(
            **arguments
        )
        return MergeHistory(*columns)

    monkeypatch.setattr(agglomeration, "_run", run)


@pytest.fixture(params=["waterz", "ours"])
def engine(request, monkeypatch):
    """What a graph of any size is given to."""
    monkeypatch.setattr(agglomeration, "WATERZ_EDGES", 0 if request.param == "ours" else 10**9)
    return request.param


def run_waterz(affinities, fragments, thresholds, scoring_function=MEAN, queue_bins=0, **options):
    """Call waterz itself on stored affinities, everything copied in and out."""
    results = waterz.agglomerate(
        dequantise(affinities),
        thresholds,
        fragments=fragments.astype(np.uint64),
        scoring_function=scoring_function,
        discretize_queue=queue_bins,
        **options,
    )
    for result in results:
        yield (result[0].copy(), *result[1:]) if isinstance(result, tuple) else result.copy()


def assert_same_history(a, b):
    for column in ("a", "b", "score"):
        np.testing.assert_array_equal(getattr(a, column), getattr(b, column))


# ------------------------------------------------------------------------- waterz, as it is
# If one of these fails after an update of waterz, the adapter has to be thought through again.


def two_rows(at_row=1, affinity=0.1):
    """Fragments 1 over 2 on a volume of four rows; all affinities 1 but for one row along y."""
    affinities = np.ones((3, 1, 4, 5), np.float32)
    affinities[1, :, at_row] = affinity
    fragments = np.array([1, 1, 2, 2], np.uint64)[None, :, None].repeat(5, axis=2)
    return affinities, np.ascontiguousarray(fragments)


def test_waterz_overwrites_the_fragments_it_is_given():
    affinities, fragments = two_rows(at_row=2, affinity=0.9)

    list(waterz.agglomerate(affinities, [0.5], fragments=fragments))

    assert (fragments == 1).all()


def test_waterz_yields_one_buffer():
    affinities, fragments = two_rows(at_row=2, affinity=0.5)

    first, second = waterz.agglomerate(affinities, [0.3, 0.9], fragments=fragments)

    assert np.shares_memory(first, second)
    assert (first == 1).all()  # the first result is gone


def test_waterz_sorts_thresholds():
    affinities, fragments = two_rows(at_row=2, affinity=0.5)

    results = waterz.agglomerate(affinities, [0.9, 0.3], fragments=fragments)

    assert [len(np.unique(r)) for r in results] == [2, 1]


def test_waterz_prints_to_the_stdout_of_c():
    code = (
        "import numpy, sys, waterz; sys.stdout = None; "
        "affinities = numpy.ones((3, 1, 1, 2), numpy.float32); "
        "list(waterz.agglomerate(affinities, [0.5], fragments=numpy.array([[[1, 2]]], 'uint64')))"
    )

    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    assert b"region graph" in done.stdout


@pytest.mark.parametrize(("row", "score"), [(1, 0.0), (2, 0.9), (3, 0.0)])
def test_waterz_reads_an_affinity_at_the_later_voxel_and_scores_one_minus_it(row, score):
    affinities, fragments = two_rows(at_row=row, affinity=0.1)

    ((_, ((edge,))),) = waterz.agglomerate(
        affinities, [0.0], fragments=fragments, return_region_graph=True
    )

    assert (edge["u"], edge["v"]) == (1, 2)
    assert edge["score"] == pytest.approx(score)


def test_waterz_needs_three_channels():
    affinities, fragments = two_rows()

    with pytest.raises(ValueError, match="at least 3"):
        list(waterz.agglomerate(affinities[1:], [0.5], fragments=fragments))


def test_waterz_stops_at_scores_that_are_not_below_the_threshold():
    score = np.float32(1 - 0.75)
    for threshold, n_segments in ((score, 2), (np.nextafter(score, np.float32(1)), 1)):
        affinities, fragments = two_rows(at_row=2, affinity=0.75)

        (segments,) = waterz.agglomerate(affinities, [threshold], fragments=fragments)

        assert len(np.unique(segments)) == n_segments


def test_waterz_names_a_region_by_its_smallest_fragment(volume):
    ((segments, history),) = run_waterz(*volume, [0.7], return_merge_history=True)

    assert history
    assert all(merge["a"] == merge["c"] < merge["b"] for merge in history)
    for segment in np.unique(segments):
        assert segment == volume[1][segments == segment].min()


def test_waterz_gives_no_edges_to_background():
    affinities = np.ones((3, 1, 1, 3), np.float32)
    fragments = np.array([[[1, 0, 2]]], np.uint64)

    ((_, graph),) = waterz.agglomerate(
        affinities, [0.5], fragments=fragments, return_region_graph=True
    )

    assert graph == []


def test_the_mean_with_256_bins_merges_out_of_order():
    """Why it is not offered."""
    ((_, history),) = run_waterz(
        *random_volume(0), [1.0], queue_bins=256, return_merge_history=True
    )
    scores = np.array([merge["score"] for merge in history])

    assert np.any(np.diff(scores) < -0.001)


@pytest.mark.parametrize("name", MERGE_FUNCTIONS)
def test_only_compiled_in_functions_are_offered(name):
    function = MERGE_FUNCTIONS[name]

    assert _load_prebuilt(function.scoring_function, function.queue_bins) is not None
    assert (name, function.queue_bins) != ("mean", 256)
    assert function.help


# ------------------------------------------------------------------------- what we make of it


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", MERGE_FUNCTIONS)
def test_components_of_join_scores_are_the_segments_of_waterz(volume, name):
    """Ids included, at every threshold, by every way from a history to segments."""
    affinities, fragments = volume
    function = MERGE_FUNCTIONS[name]
    graph = graph_of(affinities, fragments)
    if function.on_graph:
        history = agglomerate_graph(graph, name)
    else:
        history = agglomerate_voxels(affinities, fragments, name)
    joined_at = join_scores(graph, history)
    tree = MergeTree.from_history(graph.n_fragments, history)

    n_segments = []
    expected = run_waterz(
        affinities, fragments, THRESHOLDS, function.scoring_function, function.queue_bins
    )
    for threshold, segments in zip(THRESHOLDS, expected, strict=True):
        lut = segment_lut(graph.n_fragments, graph.u, graph.v, joined_at, threshold)
        np.testing.assert_array_equal(lut[fragments], segments)
        np.testing.assert_array_equal(tree.lut(threshold), lut)
        section = np.unique(fragments[-1])
        np.testing.assert_array_equal(tree.segments_of(section, threshold), lut[section])
        n_segments.append(len(np.unique(segments)))
    assert len(set(n_segments)) > 3  # thresholds that change nothing would test nothing


@pytest.mark.usefixtures("in_process", "engine")
@pytest.mark.parametrize(
    ("engine", "queue_bins"), [("waterz", 0), ("waterz", 256), ("ours", 256)], indirect=["engine"]
)
@pytest.mark.parametrize("name", ON_GRAPH)
def test_the_graph_gives_the_history_of_the_voxels(volume, name, queue_bins, monkeypatch):
    """Entry for entry: decided by the edges' maxima, their order and the queue alone."""
    function = dataclasses.replace(MERGE_FUNCTIONS[name], queue_bins=queue_bins)
    monkeypatch.setitem(MERGE_FUNCTIONS, name, function)
    graph = graph_of(*volume)

    history = agglomerate_graph(graph, name)

    assert_same_history(history, agglomerate_voxels(*volume, name))
    assert len(history) > len(np.unique(volume[1])) / 2


@pytest.mark.usefixtures("in_process", "engine")
def test_the_order_of_edges_does_not_matter(volume):
    graph = graph_of(*volume)
    order = np.random.default_rng(0).permutation(len(graph))
    shuffled = RegionGraph.concatenate(
        [EdgeTable.from_array(graph.to_array()[order])], graph.n_fragments
    )

    assert_same_history(agglomerate_graph(shuffled), agglomerate_graph(graph))


@pytest.mark.usefixtures("in_process", "engine")
def test_ids_far_apart_give_the_same_history(monkeypatch):
    """The numbers that waterz sees must not grow with them, its memory would."""
    affinities, fragments = random_volume(3)
    far = np.where(fragments > 0, fragments * np.uint32(4_000_000) + np.uint32(7), 0)
    far = far.astype(np.uint32)
    seen = []
    original = waterz.agglomerate
    monkeypatch.setattr(
        child.waterz,
        "agglomerate",
        lambda *a, **k: seen.append(k["fragments"].max()) or original(*a, **k),
    )

    for run in (
        lambda labels: agglomerate_voxels(affinities, labels, "mean"),
        lambda labels: agglomerate_graph(graph_of(affinities, labels), "median"),
    ):
        near, history = run(fragments), run(far)
        np.testing.assert_array_equal(history.a, near.a * np.uint32(4_000_000) + np.uint32(7))
        np.testing.assert_array_equal(history.b, near.b * np.uint32(4_000_000) + np.uint32(7))
        np.testing.assert_array_equal(history.score, near.score)
    assert max(seen) <= fragments.size


@pytest.mark.usefixtures("in_process")
def test_dense_renumbering_without_background():
    fragments = np.array([[[10**6, 10**9]]], np.uint32)
    affinities = np.full((3, 1, 1, 2), 200, np.uint8)

    history = agglomerate_voxels(affinities, fragments)

    assert (history.a[0], history.b[0]) == (10**6, 10**9)


def random_graph(seed):
    """Any graph, from a handful of edges to many with few different scores: (u, v, affinity)."""
    rng = np.random.default_rng(seed)
    n_nodes, n_edges = ((5, 8), (20, 60), (100, 500), (600, 3000))[seed % 4]
    edges = np.unique(np.sort(rng.integers(1, n_nodes + 1, (n_edges, 2)), axis=1), axis=0)
    edges = rng.permutation(edges[edges[:, 0] != edges[:, 1]]).astype(np.uint32)
    n_levels = (1, 2, 8, 256)[seed // 4 % 4]
    levels = rng.integers(0, n_levels, len(edges)) * (256 // n_levels)
    return edges[:, 0], edges[:, 1], ((levels + 0.5) / 256).astype(np.float32)


@pytest.mark.parametrize("name", ON_GRAPH)
@pytest.mark.parametrize("seed", range(32))
def test_our_merging_is_that_of_waterz_tie_by_tie(seed, name):
    u, v, affinity = random_graph(seed)
    function = MERGE_FUNCTIONS[name]

    (ours,) = merge_history(u, v, affinity, function.percent)

    (reference,) = child.merge_history_of_graph(
        u, v, affinity, function.scoring_function, function.queue_bins
    )
    for column, expected in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(column, expected)
        assert column.dtype == expected.dtype


# ------------------------------------------------------------------------- in the child process


def test_a_large_graph_gets_the_same_history_in_a_child(monkeypatch):
    graph = graph_of(*random_volume(4))
    expected = agglomerate_graph(graph)
    monkeypatch.setattr(agglomeration, "WATERZ_EDGES", len(graph) - 1)
    tasks = []
    run = agglomeration._run
    monkeypatch.setattr(
        agglomeration, "_run", lambda task, **values: tasks.append(task) or run(task, **values)
    )

    assert_same_history(agglomerate_graph(graph), expected)
    assert tasks == ["_quantile_merging:merge_history"]


def test_the_child_gives_what_waterz_gives_and_prints_nothing(capfd):
    affinities, fragments = random_volume(4)
    graph = graph_of(affinities, fragments)
    before = affinities.copy(), fragments.copy(), graph.to_array()

    on_graph = agglomerate_graph(graph)
    on_voxels = agglomerate_voxels(affinities, fragments, "median")

    assert capfd.readouterr() == ("", "")
    assert_same_history(on_graph, on_voxels)
    function = MERGE_FUNCTIONS["median"]
    ((_, merges),) = run_waterz(
        affinities,
        fragments,
        [1.0],
        function.scoring_function,
        function.queue_bins,
        return_merge_history=True,
    )
    np.testing.assert_array_equal(on_graph.a, [merge["a"] for merge in merges])
    np.testing.assert_array_equal(on_graph.score, [merge["score"] for merge in merges])
    assert on_graph.a.dtype == on_graph.b.dtype == np.uint32
    assert on_graph.score.dtype == np.float32
    np.testing.assert_array_equal(affinities, before[0])
    np.testing.assert_array_equal(fragments, before[1])
    np.testing.assert_array_equal(graph.to_array(), before[2])


def test_a_failure_of_the_child_says_what_happened():
    graph = graph_of(*random_volume(5))
    broken = dataclasses.replace(graph, max=graph.max[:-1])

    with pytest.raises(JobError, match="broadcast") as caught:
        agglomerate_graph(broken)

    assert "merge_history_of_graph" in caught.value.details


def test_a_graph_without_edges():
    history = agglomerate_graph(RegionGraph.concatenate([], n_fragments=3))

    assert len(history) == 0
    assert (history.a.dtype, history.score.dtype) == (np.uint32, np.float32)


def test_unknown_and_unfit_merge_functions_are_refused():
    graph = RegionGraph.concatenate([], n_fragments=1)
    with pytest.raises(ConfigError, match=r"one of median, .*mean.* got 'mode'"):
        agglomerate_graph(graph, "mode")
    with pytest.raises(ConfigError, match=r"'mean' needs the voxels .* median, quantile25"):
        agglomerate_graph(graph, "mean")


def test_unfit_input_is_refused():
    affinities, fragments = random_volume(6)
    with pytest.raises(ShapeError, match="need uint8 affinities of shape"):
        agglomerate_voxels(affinities[:, :2], fragments)
    with pytest.raises(ShapeError, match="float32"):
        agglomerate_voxels(dequantise(affinities), fragments)
    for u, v in ((0, 1), (2, 2)):
        array = np.zeros((1, 8))
        array[0, :2] = u, v
        with pytest.raises(ShapeError, match="two different fragments"):
            agglomerate_graph(RegionGraph.concatenate([EdgeTable.from_array(array)]))
