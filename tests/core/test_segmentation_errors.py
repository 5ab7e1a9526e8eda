"""Where the errors are, against a slow reference that does everything by its definition."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from napari_cad.core.errors import ShapeError, VolumeError
from napari_cad.core.label_pieces import label_pieces
from napari_cad.core.merge_tree import segment_lut
from napari_cad.core.metrics import Scores, contingency
from napari_cad.core.region_graph import (
    RegionGraph,
    section_edges,
    section_fragment_table,
)
from napari_cad.core.segmentation_errors import find_errors


def find(truth, fragments, lut, join_score=None, least_voxels=1):
    """Errors of fragments (Z, Y, X) with ids that are unique per section."""
    zeros = np.zeros((3, *truth.shape[1:]), np.uint8)
    edges = [
        section_edges(f, zeros, z, fragments[z - 1] if z else None) for z, f in enumerate(fragments)
    ]
    graph = RegionGraph.concatenate(edges, n_fragments=len(lut) - 1)
    centroids = np.zeros((len(lut), 3))
    for z, section in enumerate(fragments):
        table = section_fragment_table(section, z)
        centroids[table[:, 0].astype(int)] = table[:, 8:]
    scores = None if join_score is None else join_score(graph)
    report = find_errors(
        contingency(truth, fragments),
        graph,
        lut,
        centroids,
        join_score=scores,
        least_voxels=least_voxels,
    )
    return report, graph


def columns(*widths, height=6):
    """One section of vertical stripes, 1, 2, … from the left."""
    row = np.repeat(np.arange(1, len(widths) + 1), widths)
    return np.tile(row, (1, height, 1)).astype(np.uint32)


# ---------------------------------------------------------------------- told by eye


def test_a_wrong_join_is_where_the_two_neurites_were_joined():
    fragments = columns(4, 4, 4, 4)
    truth = np.array([0, 7, 7, 9, 9])[fragments]
    lut = np.array([0, 1, 1, 1, 1])
    report, _ = find(truth, fragments, lut, lambda graph: np.array([0.1, 0.4, 0.2]))
    (error,) = report.errors
    assert (error.kind, error.cause) == ("merge", "contact")
    assert error.fragments == (2, 3)
    assert error.truth in ((7, 9), (9, 7))
    assert error.segments == (1, 1)
    assert error.voxels == 48
    assert error.area == 6
    assert error.score == 0.4
    assert error.cost == report.scores.voi_merge == 1.0
    np.testing.assert_allclose(error.position, (0, 2.5, 8))


def test_a_wrong_cut_is_at_the_largest_contact():
    # the neurite 5 in three segments; the second touches the first over 6 faces
    fragments = columns(4, 4, 4)
    report, _ = find(np.full(fragments.shape, 5), fragments, np.arange(4))
    assert [error.kind for error in report.errors] == ["split", "split"]
    assert {error.fragments for error in report.errors} == {(1, 2), (2, 3)}
    assert sum(error.cost for error in report.errors) == pytest.approx(math.log2(3))
    assert report.scores.voi_split == pytest.approx(math.log2(3))
    assert report.neurites[0].parts == ((1, 24), (2, 24), (3, 24))
    assert report.segments == ()


def test_of_joins_that_are_equally_bad_the_weakest_is_shown():
    # 2 has no truth: either contact could be the wrong one, the one joined last is
    fragments = columns(4, 4, 4)
    truth = np.array([0, 7, 0, 9])[fragments]
    for scores, expected in (((0.1, 0.3), (2, 3)), ((0.3, 0.1), (1, 2))):
        report, _ = find(
            truth, fragments, np.array([0, 1, 1, 1]), lambda graph, s=scores: np.array(s)
        )
        assert [error.fragments for error in report.errors] == [expected]


def test_a_small_bit_of_a_neurite_does_not_hide_where_it_was_joined():
    # 3 is a bit of neurite 9 and hangs on neurite 7; the right contact 3–4 was joined last
    fragments = columns(10, 10, 1, 19)
    truth = np.array([0, 7, 7, 9, 9])[fragments]
    report, _ = find(
        truth, fragments, np.array([0, 1, 1, 1, 1]), lambda graph: np.array([0.1, 0.2, 0.3])
    )
    assert report.errors[0].fragments == (2, 3)
    assert report.errors[0].voxels == 20 * 6


def test_a_fragment_in_two_neurites_is_said_to_be_the_cause():
    fragments = columns(8)
    truth = np.where(np.arange(8) < 5, 1, 2) * np.ones_like(fragments)
    report, _ = find(truth, fragments, np.array([0, 1]))
    (error,) = report.errors
    assert (error.kind, error.cause, error.fragments) == ("merge", "fragment", (1, 1))
    assert error.truth == (1, 2)
    assert error.voxels == 18
    assert error.cost == pytest.approx(report.scores.voi_merge)
    assert error.position == (0, 2.5, 3.5)


def test_parts_that_touch_nowhere():
    fragments = columns(4, 4, 4)
    truth = np.array([0, 7, 9, 7])[fragments]
    split, _ = find(truth, fragments, np.array([0, 1, 2, 3]))
    (error,) = split.errors
    assert (error.kind, error.cause, error.area) == ("split", "apart", 0)
    merge, _ = find(np.array([0, 7, 9, 5])[fragments], fragments, np.array([0, 1, 2, 1]))
    (error,) = merge.errors
    assert (error.kind, error.cause) == ("merge", "apart")
    assert {*error.truth} == {5, 7}


def test_nothing_is_located_where_there_is_no_segment():
    fragments = columns(4, 4)
    report, _ = find(np.full(fragments.shape, 3), fragments, np.array([0, 1, 0]))
    assert report.errors == ()
    assert report.scores.voi_split == 1.0
    assert report.neurites[0].id == 3


def test_small_errors_are_left_out_on_request():
    fragments = columns(20, 2, 10)
    truth = np.full(fragments.shape, 1)
    assert len(find(truth, fragments, np.arange(4), least_voxels=12)[0].errors) == 2
    (error,) = find(truth, fragments, np.arange(4), least_voxels=13)[0].errors
    assert error.voxels == 72


def test_a_perfect_segmentation_has_none():
    fragments = columns(4, 4, 4)
    report, _ = find(fragments + 10, fragments, np.arange(4))
    assert report.errors == report.neurites == report.segments == ()


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf, 0.25])
def test_a_report_is_valid_json(score):
    """Edges that a multicut cuts never join, and those of absorbed fragments always do."""
    fragments = columns(4, 4)
    truth = np.full(fragments.shape, 7)
    report, _ = find(truth, fragments, np.arange(3), lambda graph: np.array([score]))
    text = json.dumps(report.to_json(), allow_nan=False)
    (error,) = json.loads(text)["errors"]
    assert error["score"] == (score if np.isfinite(score) else None)


def test_what_does_not_fit_is_refused():
    fragments = columns(4, 4)
    table = contingency(fragments, fragments)
    graph = RegionGraph.concatenate(
        [section_edges(fragments[0], np.zeros((3, 6, 8), np.uint8), 0)], n_fragments=2
    )
    with pytest.raises(ShapeError, match="3 centroids"):
        find_errors(table, graph, np.arange(3), np.zeros((2, 3)))
    with pytest.raises(ShapeError, match="fragments up to 2"):
        find_errors(table, graph, np.arange(2), np.zeros((2, 3)))
    with pytest.raises(VolumeError, match="labelled"):
        find_errors(
            contingency(np.zeros_like(fragments), fragments), graph, np.arange(3), np.zeros((3, 3))
        )


# ---------------------------------------------------------------------- against the slow reference


def entropy_bits(counts):
    """H times the number of voxels."""
    n = sum(counts)
    return sum(c * math.log2(n / c) for c in counts if c)


def components(nodes, links):
    """Sets of nodes that hang together."""
    left, found = set(nodes), []
    while left:
        reached, todo = set(), [left.pop()]
        while todo:
            node = todo.pop()
            reached.add(node)
            todo += [b for a, b in [*links, *((b, a) for a, b in links)] if a == node]
            todo = [other for other in todo if other not in reached]
        left -= reached
        found.append(reached)
    return found


def slow_cuts(nodes, links, labels_of, weakness):
    """Cut a tree at its worst link, and both parts again; (link, gain) each."""
    if len(nodes) < 2:
        return []

    def bits(part):
        total = {}
        for node in part:
            for label, count in labels_of(node).items():
                total[label] = total.get(label, 0) + count
        return entropy_bits(total.values())

    best = None
    for link in links:
        sides = components(nodes, [other for other in links if other != link])
        gain = bits(nodes) - sum(map(bits, sides))
        if best is None or (round(gain, 6), weakness[link]) > (round(best[0], 6), best[1]):
            best = (gain, weakness[link], link, sides)
    gain, _, link, sides = best
    if gain < 1:
        return []
    cuts = [(link, gain)]
    for side in sides:
        inside = [other for other in links if other[0] in side and other[1] in side]
        cuts += slow_cuts(side, inside, labels_of, weakness)
    return cuts


def slow_merges(truth, fragments, lut, graph, scores):
    """Wrong joins, {(u, v): bits}, by Kruskal's algorithm and `slow_cuts`."""
    labels = {
        f: {
            t: int(c)
            for t, c in zip(*np.unique(truth[fragments == f], return_counts=True), strict=True)
            if t
        }
        for f in range(1, len(lut))
    }
    owner = {f: max(c, key=lambda t: (c[t], -t)) if c else 0 for f, c in labels.items()}
    order = np.lexsort((-graph.area.astype(int), -graph.mean, scores))
    found = {}
    for segment in set(lut[1:].tolist()):
        nodes = [f for f in range(1, len(lut)) if lut[f] == segment]
        group = {f: {f} for f in nodes}
        tree, weakness = [], {}
        for rank, i in enumerate(order):
            u, v = int(graph.u[i]), int(graph.v[i])
            if u in group and v in group and group[u] is not group[v]:
                group[u] |= group[v]
                for f in group[v]:
                    group[f] = group[u]
                tree.append((u, v))
                weakness[u, v] = rank
        same = components(nodes, [(u, v) for u, v in tree if owner[u] == owner[v]])
        node_of = {f: i for i, part in enumerate(same) for f in part}
        links = {(node_of[u], node_of[v]): (u, v) for u, v in tree if owner[u] != owner[v]}

        def labels_of(node, same=same):
            total = {}
            for f in same[node]:
                for t, c in labels[f].items():
                    total[t] = total.get(t, 0) + c
            return total

        weak = {link: weakness[edge] for link, edge in links.items()}
        for link, gain in slow_cuts(set(range(len(same))), list(links), labels_of, weak):
            found[links[link]] = gain
    return found


@pytest.mark.parametrize("seed", range(12))
def test_wrong_joins_against_the_slow_reference(seed):
    rng = np.random.default_rng(seed)
    n, shape = 9, (2, 8, 8)
    fragments = np.concatenate(
        [blobs(rng, shape[1:], n)[None] + z * n for z in range(shape[0])]
    ).astype(np.uint32)
    truth = np.stack([blobs(rng, shape[1:], 3)] * 2)
    truth[rng.random(shape) < 0.15] = 0
    graph = find(truth, fragments, np.arange(2 * n + 1))[1]
    scores = rng.random(len(graph)).astype(np.float32)
    lut = segment_lut(2 * n, graph.u, graph.v, scores, 0.3)
    report, graph = find(truth, fragments, lut, lambda graph: scores)
    contacts = {
        e.fragments: e.cost * report.n_voxels
        for e in report.errors
        if (e.kind, e.cause) == ("merge", "contact")
    }
    expected = slow_merges(truth, fragments, lut, graph, scores)
    for edge, gain in contacts.items():  # some cuts are no errors: too few voxels of their own
        assert expected[edge] == pytest.approx(gain)
    unreported = sum(expected.values()) - sum(contacts.values())
    assert -1e-6 <= unreported <= 0.5 * sum(expected.values())
    assert report.scores == Scores.of(contingency(truth, lut[fragments]))
    for kind, total in (("split", report.scores.voi_split), ("merge", report.scores.voi_merge)):
        assert report.located(kind) <= total + 1e-9
    for costs, total in (
        (report.neurites, report.scores.voi_split),
        (report.segments, report.scores.voi_merge),
    ):
        assert sum(o.cost for o in costs) == pytest.approx(total)
        assert [o.cost for o in costs] == sorted((o.cost for o in costs), reverse=True)


def blobs(rng, shape, n):
    """Nearest of n random seeds, 1 to n, each there."""
    places = rng.permutation(shape[0] * shape[1])[:n]
    seeds = np.stack(np.unravel_index(places, shape), axis=1)
    grid = np.stack(np.indices(shape), axis=-1)
    return 1 + np.argmin(((grid[:, :, None] - seeds) ** 2).sum(-1), axis=-1)


@pytest.mark.parametrize("seed", range(4))
def test_pure_fragments_explain_all_of_voi(seed):
    """Where fragments respect the truth and all hang together, the errors are the VOI."""
    rng = np.random.default_rng(seed)
    truth = np.stack([blobs(rng, (12, 12), 4)] * 2)
    cut = blobs(rng, (12, 12), 5)
    pieces = label_pieces(zip(truth, np.stack([cut, cut]), strict=True), grow=0)
    report = find_errors(pieces.table, pieces.graph, pieces.lut, pieces.centroids, least_voxels=1)
    assert report.located("split") == pytest.approx(report.scores.voi_split)
    # a cut between two parts that both lie in the same two neurites belongs to neither
    assert report.located("merge") <= report.scores.voi_merge + 1e-9
    assert report.located("merge") > 0.8 * report.scores.voi_merge


# ---------------------------------------------------------------------- labels from elsewhere


def slow_pieces(truth, labels):
    """Pieces of one section by flood fill, as sets of voxels."""
    found, seen = [], np.zeros(truth.shape, bool)
    for start in itertools.product(*map(range, truth.shape)):
        if seen[start]:
            continue
        piece, todo = set(), [start]
        while todo:
            y, x = todo.pop()
            if (y, x) in piece:
                continue
            piece.add((y, x))
            seen[y, x] = True
            for b in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                inside = 0 <= b[0] < truth.shape[0] and 0 <= b[1] < truth.shape[1]
                if inside and truth[b] == truth[y, x] and labels[b] == labels[y, x]:
                    todo.append(b)
        found.append(piece)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_pieces_against_flood_fill(seed):
    rng = np.random.default_rng(seed)
    truth, labels = rng.integers(0, 3, (2, 3, 7, 6))
    pieces = label_pieces(zip(truth, labels, strict=True), grow=0)
    expected = [(z, p) for z in range(3) for p in slow_pieces(truth[z], labels[z])]
    assert len(pieces.lut) == len(expected) + 1
    found = sorted((tuple(c), int(s)) for c, s in zip(pieces.centroids, pieces.lut, strict=True))
    slow = [((0.0, 0.0, 0.0), 0)]
    for z, piece in expected:
        y, x = np.mean(sorted(piece), axis=0)
        slow.append(((float(z), y, x), int(labels[(z, *next(iter(piece)))])))
    np.testing.assert_allclose([c for c, _ in found], [c for c, _ in sorted(slow)])
    assert [s for _, s in found] == [s for _, s in sorted(slow)]
    table = pieces.table.relabelled(pieces.lut)
    direct = contingency(truth, labels)
    np.testing.assert_array_equal(table.count, direct.count)
    # faces between different pieces, counted one by one
    label_of = {}
    for i, (z, piece) in enumerate(expected):
        label_of |= {(z, *voxel): i for voxel in piece}
    faces = sum(
        label_of[a] != label_of[b]
        for a in label_of
        for b in ((a[0] + 1, a[1], a[2]), (a[0], a[1] + 1, a[2]), (a[0], a[1], a[2] + 1))
        if b in label_of
    )
    assert int(pieces.graph.area.sum()) == faces


def test_neurites_meet_across_an_unlabelled_membrane():
    truth = np.zeros((1, 6, 11), int)
    truth[..., :4], truth[..., 7:] = 3, 4
    labels = np.full(truth.shape, 9, np.uint64)
    pieces = label_pieces(zip(truth, labels, strict=True))
    report = find_errors(pieces.table, pieces.graph, pieces.lut, pieces.centroids, least_voxels=1)
    (error,) = report.errors
    assert (error.kind, error.cause) == ("merge", "contact")
    assert {*error.truth} == {3, 4}
    assert 4 <= error.position[2] <= 7
    assert report.scores == Scores.of(contingency(truth, labels))
    assert report.n_voxels == 48


def test_large_label_ids():
    truth = columns(4, 4)
    labels = np.full(truth.shape, 2**40, np.uint64)
    pieces = label_pieces(zip(truth, labels, strict=True))
    report = find_errors(pieces.table, pieces.graph, pieces.lut, pieces.centroids, least_voxels=1)
    assert report.errors[0].segments == (2**40, 2**40)


def test_both_ways_agree_on_the_place():
    """The region graph of pure fragments and the pieces of the labels give the same errors."""
    fragments = columns(4, 4, 4, 4)
    truth = np.array([0, 7, 7, 9, 9])[fragments]
    lut = np.array([0, 1, 1, 1, 4])
    by_graph, _ = find(truth, fragments, lut, lambda graph: np.array([0.1, 0.2, 0.9]))
    pieces = label_pieces(zip(truth, lut[fragments], strict=True))
    by_labels = find_errors(
        pieces.table, pieces.graph, pieces.lut, pieces.centroids, least_voxels=1
    )
    for a, b in zip(by_graph.errors, by_labels.errors, strict=True):
        assert (a.kind, a.truth, a.segments, a.voxels) == (b.kind, b.truth, b.segments, b.voxels)
        assert a.position == b.position
        assert a.cost == pytest.approx(b.cost)
