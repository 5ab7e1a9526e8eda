"""Cutting between seeds: the cut is minimal, and does what the preview said."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from napari_cad.core.region_graph import RegionGraph, section_edges
from napari_cad.proofreading import cutting
from napari_cad.proofreading.cut import minimum_cut
from napari_cad.proofreading.errors import ConflictError, ProofreadingError, StalePlanError
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource

NO_PAIRS = np.zeros((0, 2), np.int64)


def best_by_trying(n, u, v, capacity, red, blue, together):
    """Weight of the lightest of all ways to colour the nodes; None if none is allowed."""
    best = None
    for colours in itertools.product((False, True), repeat=n):
        side = np.array(colours)
        if not side[red].all() or side[blue].any():
            continue
        if any(side[a] != side[b] for a, b in together):
            continue
        weight = capacity[side[u] != side[v]].sum()
        best = weight if best is None else min(best, weight)
    return best


@pytest.mark.parametrize("seed", range(40))
def test_no_colouring_is_lighter_than_the_minimum_cut(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    pairs = np.array(list(itertools.combinations(range(n), 2)))
    pairs = pairs[rng.random(len(pairs)) < 0.6]
    u, v = pairs.reshape(-1, 2).T
    capacity = rng.uniform(0.01, 100, len(u))
    nodes = rng.permutation(n)
    n_red = int(rng.integers(1, min(3, n)))
    red, blue = nodes[:n_red], nodes[n_red : n_red + int(rng.integers(1, 3))]
    together = rng.integers(0, n, (int(rng.integers(0, 3)), 2))
    expected = best_by_trying(n, u, v, capacity, red, blue, together)
    side = minimum_cut(n, u, v, capacity, red, blue, together)
    if expected is None:
        assert side is None
    else:
        assert side[red].all()
        assert not side[blue].any()
        assert all(side[a] == side[b] for a, b in together)
        np.testing.assert_allclose(capacity[side[u] != side[v]].sum(), expected, rtol=1e-6)


def test_capacities_of_very_different_size_do_not_overflow():
    side = minimum_cut(
        3,
        np.array([0, 1]),
        np.array([1, 2]),
        np.array([1e12, 1e-12]),
        np.array([0]),
        np.array([2]),
        NO_PAIRS,
    )
    np.testing.assert_array_equal(side, [True, True, False])


def chain(n: int = 6, weak: int = 3) -> ProofreadingSource:
    """Fragments 1 … n in a row, the edge (weak, weak + 1) the weakest; all in one segment."""
    u = np.arange(1, n)
    mean = np.where(u == weak, 0.2, 0.9)
    return ProofreadingSource.from_arrays(
        u, u + 1, mean, np.full(n - 1, 0.1), area=np.full(n - 1, 10), sizes=[0, *[100] * n]
    )


def test_a_preview_says_what_the_cut_does():
    session = ProofreadingSession(chain())
    preview = session.preview_cut([1], [6])
    assert session.history.edits == {}
    assert (preview.red.tolist(), preview.blue.tolist()) == ([1, 2, 3], [4, 5, 6])
    assert preview.edges.tolist() == [2]
    assert preview.n_contacts == 10
    assert preview.affinity == pytest.approx(0.2)
    assert (preview.n_red_parts, preview.n_blue_parts) == (1, 1)
    outcome = session.apply_cut(preview)
    assert session.lut.tolist() == [0, 1, 1, 1, 4, 4, 4]
    assert outcome.segments == (1, 4)
    assert outcome.edit.before == (1,)


def test_seeds_of_one_colour_on_both_sides_of_the_other_give_more_segments_and_a_warning():
    session = ProofreadingSession(chain())
    preview = session.preview_cut([1, 6], [3])
    assert (preview.n_red_parts, preview.n_blue_parts) == (2, 1)
    outcome = session.apply_cut(preview)
    assert len(outcome.segments) == 3
    assert "red side falls into 2" in outcome.warnings[0]


def test_the_clicked_side_or_the_larger_one_keeps_the_id():
    for keep, keeps in ((None, [3, 4, 5, 6]), ("red", [1, 2])):
        session = ProofreadingSession(chain(weak=2))
        session.apply_cut(session.preview_cut([1], [6], keep=keep))
        assert session.fragments_of(1).tolist() == keeps
        assert len(np.unique(session.lut)) == 3


def test_edges_beyond_the_threshold_are_cut_too():
    # 1 and 3 touch weakly: at a higher threshold they would join again without a cut there
    source = ProofreadingSource.from_arrays(
        [1, 2, 1], [2, 3, 3], [0.9, 0.3, 0.1], [0.1, 0.2, 0.2], threshold=0.5
    )
    session = ProofreadingSession(source)
    session.apply_cut(session.preview_cut([1], [3]))
    session.set_threshold(1.0)
    assert session.lut[1] != session.lut[3]
    assert session.decisions.cut.tolist() == [False, True, True]  # sorted: (1,2), (1,3), (2,3)


def test_a_preview_is_good_for_one_state_only():
    session = ProofreadingSession(chain())
    preview = session.preview_cut([1], [6])
    session.add_note("meanwhile")
    with pytest.raises(StalePlanError, match="there was an edit since this cut was worked out"):
        session.apply_cut(preview)
    session.undo()  # the same segments, and still not the state that it was made for
    with pytest.raises(StalePlanError):
        session.apply_cut(preview)
    session.apply_cut(session.preview_cut([1], [6]))


def test_an_edit_during_a_preview_makes_it_stale(monkeypatch):
    session = ProofreadingSession(chain())
    cut = cutting.minimum_cut

    def cut_meanwhile(*arguments):
        session.add_note("meanwhile")
        return cut(*arguments)

    monkeypatch.setattr(cutting, "minimum_cut", cut_meanwhile)
    preview = session.preview_cut([1], [6])
    with pytest.raises(StalePlanError):
        session.apply_cut(preview)


def test_a_stale_cut_is_stale_before_it_is_a_conflict():
    source = ProofreadingSource.from_arrays([1], [2], [0.9], [0.9], threshold=0.5)
    session = ProofreadingSession(source)
    session.merge([1, 2])
    preview = session.preview_cut([1], [2])
    assert preview.links
    session.add_note("meanwhile")
    for force in (False, True):
        with pytest.raises(StalePlanError):
            session.apply_cut(preview, force=force)


def test_what_was_merged_by_hand_is_cut_around_or_reported():
    source = ProofreadingSource.from_arrays(
        [1, 2, 3], [2, 3, 4], [0.9, 0.1, 0.9], [0.1, 0.9, 0.1], threshold=0.5
    )
    session = ProofreadingSession(source)
    session.merge([1, 3])
    assert set(session.decisions.links) == {(2, 3)}
    # somewhere else: the link holds although its edge is the weakest
    preview = session.preview_cut([1], [4])
    assert preview.links == ()
    # through the link
    preview = session.preview_cut([2], [3])
    assert preview.links == ((2, 3),)
    with pytest.raises(ConflictError, match="merged by hand in edit 1") as info:
        session.apply_cut(preview)
    assert info.value.forceable
    assert info.value.conflicts[0].edits == (1,)
    assert len(session.history.edits) == 1
    session.apply_cut(preview, force=True)
    assert session.decisions.links == {}
    assert session.lut.tolist() == [0, 1, 1, 3, 3]
    session.undo()
    assert set(session.decisions.links) == {(2, 3)}


@pytest.mark.parametrize(
    ("red", "blue", "message"),
    [
        ([1], [], "both sides"),
        ([1], [9], "no fragment 9"),
        ([1], [1], "give voxels"),
        ([(0, 0, 0)], [2], "only a region graph"),
    ],
)
def test_seeds_that_do_not_fit_are_refused(red, blue, message):
    session = ProofreadingSession(chain())
    with pytest.raises(ProofreadingError, match=message):
        session.preview_cut(red, blue)


def test_seeds_lie_in_one_segment():
    session = ProofreadingSession(chain())
    session.apply_cut(session.preview_cut([1], [6]))
    with pytest.raises(ProofreadingError, match=r"red ones in \[1\] and blue ones in \[4\]"):
        session.preview_cut([1], [6])


def voxel_source(affinity_across: int = 10) -> ProofreadingSource:
    """Two sections of two fragments, the left ones with a membrane inside, at x = 4."""
    fragments = np.zeros((2, 8, 12), np.uint32)
    fragments[0, :, :8], fragments[1, :, :8] = 1, 3
    fragments[0, :, 8:], fragments[1, :, 8:] = 2, 4
    affinities = np.full((3, 2, 8, 12), 240, np.uint8)
    affinities[2, :, :, 4] = affinity_across
    affinities[2, :, :, 8] = affinity_across
    graph = RegionGraph.concatenate(
        [
            section_edges(fragments[0], affinities[:, 0], 0),
            section_edges(fragments[1], affinities[:, 1], 1, fragments[0]),
        ]
    )
    join = np.where(graph.mean > 0.5, 0.1, 0.8)
    return ProofreadingSource.from_arrays(
        graph.u, graph.v, graph.mean, join, area=graph.area, position=graph.position,
        fragments=fragments, affinities=affinities, sizes=np.bincount(fragments.ravel()),
    )  # fmt: skip


def test_seeds_in_one_fragment_divide_it_along_the_membrane():
    source = voxel_source()
    session = ProofreadingSession(source)
    assert session.lut.tolist() == [0, 1, 2, 1, 2]
    preview = session.preview_cut([(0, 2, 1), (1, 2, 1)], [(0, 2, 6), (1, 2, 6)])
    assert session.graph.n_fragments == 4  # a preview changes nothing
    assert preview.plan.division is not None
    assert preview.n_contacts == 16  # the membrane, 8 voxels in either section
    assert preview.affinity == pytest.approx(10.5 / 256, rel=1e-4)
    session.apply_cut(preview)
    shown = session.lut[session.fragments[...]]
    for z in (0, 1):
        assert len(np.unique(shown[z, :, :4])) == 1
        assert len(np.unique(shown[z, :, 4:8])) == 1
    assert (shown[0] == shown[1]).all()
    assert len(np.unique(shown)) == 3
    assert 1 in shown  # one side keeps the id
    np.testing.assert_array_equal(np.unique(source.fragments), [1, 2, 3, 4])  # never written to
    session.undo()
    np.testing.assert_array_equal(session.fragments[...], source.fragments)
    np.testing.assert_array_equal(session.lut[:5], [0, 1, 2, 1, 2])
    session.redo()
    np.testing.assert_array_equal(session.lut[session.fragments[...]], shown)


def test_a_fragment_divided_in_one_section_is_cut_off_in_the_next():
    # seeds only in section 0: section 1 is one fragment and goes to the side it touches more
    session = ProofreadingSession(voxel_source())
    session.apply_cut(session.preview_cut([(0, 2, 1)], [(0, 2, 6)]))
    shown = session.lut[session.fragments[...]]
    assert shown[0, 0, 0] != shown[0, 0, 7]
    assert shown[1, 0, 0] == shown[1, 0, 7]


def test_a_divided_fragment_can_be_divided_again_and_its_links_stay():
    session = ProofreadingSession(voxel_source())
    session.merge([1, 2])
    session.apply_cut(session.preview_cut([(0, 2, 1)], [(0, 2, 6)]))
    linked = {f for pair in session.decisions.links for f in pair}
    assert session.graph.alive[sorted(linked)].all()
    left = int(session.fragments[0, 2, 1])
    segment = session.segment_of(left)
    before = session.lut[session.fragments[...]]
    session.apply_cut(session.preview_cut([(0, 0, 0)], [(0, 7, 0)]), force=True)
    assert not session.graph.alive[left]
    shown = session.lut[session.fragments[...]]
    assert shown[0, 0, 0] != shown[0, 7, 0]
    assert segment in (shown[0, 0, 0], shown[0, 7, 0], shown[1, 0, 0])
    session.undo()
    np.testing.assert_array_equal(session.lut[session.fragments[...]], before)


def test_background_and_outside_are_no_seeds():
    source = voxel_source()
    session = ProofreadingSession(source)
    session.relabel((0, 0, 0), np.ones((1, 1, 1), np.bool_), erase=True)
    with pytest.raises(ProofreadingError, match="is background"):
        session.preview_cut([(0, 0, 0)], [(0, 2, 6)])
    with pytest.raises(ProofreadingError, match="outside"):
        session.preview_cut([(0, 0, 99)], [(0, 2, 6)])


def test_a_seed_takes_those_along_that_surely_belong_to_it():
    # 1 hangs on 2 by the lightest edge of all, but has joined it long before 2 joins 3
    source = ProofreadingSource.from_arrays(
        [1, 2, 3], [2, 3, 4], [0.9, 0.9, 0.9], [0.01, 0.4, 0.01], area=[5, 10, 5], threshold=0.5
    )
    session = ProofreadingSession(source)
    preview = session.preview_cut([1], [4])
    assert (preview.red.tolist(), preview.blue.tolist()) == ([1, 2], [3, 4])
    # unless the person says that it does not
    preview = session.preview_cut([1], [2, 4])
    assert (preview.red.tolist(), preview.blue.tolist()) == ([1], [2, 3, 4])


def test_cutting_again_after_the_sides_met_leaves_the_first_cut_alone():
    # a ring: the first cut opens it at (1, 2), a higher threshold leads around by 4
    source = ProofreadingSource.from_arrays(
        [1, 2, 1, 3], [2, 3, 4, 4], [0.3, 0.9, 0.5, 0.6], [0.1, 0.1, 0.6, 0.6], threshold=0.5
    )
    session = ProofreadingSession(source)
    session.apply_cut(session.preview_cut([1], [3]))
    assert session.decisions.cut.tolist() == [True, False, False, False]
    session.set_threshold(0.7)
    assert len(np.unique(session.lut[1:])) == 1
    preview = session.preview_cut([1], [2])
    assert preview.edges.tolist() == [1]  # (1, 4), the weakest that is left
    session.apply_cut(preview)
    session.undo()
    assert session.decisions.cut.tolist() == [True, False, False, False]
