"""Divided and painted fragments: the graph is patched to what it would have been all along."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from napari_cad.proofreading.errors import ConflictError, ProofreadingError, SessionError
from napari_cad.proofreading.patch import FragmentPatch, PatchVoxels
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource


def living_edges(session):
    """The graph of a session by pair of fragments: mean affinity, area, position."""
    graph, alive = session.graph, session.graph.alive
    return {
        (int(graph.u[e]), int(graph.v[e])): (graph.mean[e], graph.area[e], *graph.position[e])
        for e in range(graph.n_edges)
        if alive[graph.u[e]] and alive[graph.v[e]]
    }


@pytest.mark.parametrize("seed", range(6))
def test_the_patched_graph_is_that_of_the_patched_fragments(seed, new_source):
    source = new_source(seed)
    session = ProofreadingSession(source)
    rng = np.random.default_rng(seed)
    for _ in range(6):
        corner = tuple(int(rng.integers(0, n - 3)) if n > 3 else 0 for n in source.fragments.shape)
        mask = rng.random((2, 4, 3)) < 0.6
        segment = int(rng.choice(np.unique(session.lut[session.lut > 0])))
        target = segment if rng.random() < 0.5 else None
        with contextlib.suppress(ProofreadingError):  # nothing to change
            session.relabel(corner, mask, target, erase=bool(rng.random() < 0.3))
        alive = np.flatnonzero(session.graph.alive)
        inside = np.argwhere(session.fragments[...] == rng.choice(alive))
        if len(inside) > 1:
            red, blue = (tuple(voxel) for voxel in inside[[0, -1]].tolist())
            session.apply_cut(session.preview_cut([red], [blue]), force=True)
    expected = edges_by_voxel(session.fragments[...], source.affinities)
    found = living_edges(session)
    assert found.keys() == expected.keys()
    for pair, row in expected.items():
        np.testing.assert_allclose(found[pair], row, rtol=1e-5)


def test_fragments_of_several_sections_are_patched_too():
    labels = np.ones((4, 6, 10), np.uint32)
    labels[:, :, 5:] = 2
    affinities = np.random.default_rng(0).integers(0, 256, (3, *labels.shape), np.uint8)
    source = ProofreadingSource.from_arrays(
        [1], [2], [0.5], [np.inf], fragments=labels, affinities=affinities, area=[24],
        sizes=[0, 120, 120],
    )  # fmt: skip
    session = ProofreadingSession(source)
    session.apply_cut(session.preview_cut([(0, 0, 0)], [(3, 5, 4)]))
    fragments = session.fragments[...]
    found, expected = living_edges(session), edges_by_voxel(fragments, affinities)
    assert found.keys() == expected.keys()
    for pair in expected:
        np.testing.assert_allclose(found[pair], expected[pair], rtol=1e-5)
    assert len(np.unique(session.lut[fragments])) == 3


def edges_by_voxel(fragments, affinities):
    """Every contact one by one."""
    contacts = {}
    for index in np.ndindex(*fragments.shape):
        for axis in range(3):
            if index[axis] == 0:
                continue
            earlier = tuple(i - (a == axis) for a, i in enumerate(index))
            a, b = int(fragments[index]), int(fragments[earlier])
            if a != b and a and b:
                value = (float(affinities[(axis, *index)]) + 0.5) / 256
                contacts.setdefault((min(a, b), max(a, b)), []).append((value, *index))
    return {
        pair: (np.mean([r[0] for r in rows]), len(rows), *np.mean([r[1:] for r in rows], axis=0))
        for pair, rows in contacts.items()
    }


def test_without_affinities_parts_take_over_what_their_fragment_had(new_source):
    with_all = new_source(1)
    columns = (with_all.u, with_all.v, with_all.mean, with_all.join_score)
    source = ProofreadingSource.from_arrays(
        *columns, area=with_all.area, fragments=with_all.fragments, sizes=with_all.sizes,
        threshold=0.3,
    )  # fmt: skip
    session = ProofreadingSession(source)
    inside = np.argwhere(source.fragments == 5)
    session.apply_cut(
        session.preview_cut([tuple(inside[0].tolist())], [tuple(inside[-1].tolist())])
    )
    graph = session.graph
    patch = session.decisions.patches[0]
    parents = dict(zip(patch.fragments, patch.parents, strict=True))
    mean = {(int(u), int(v)): m for u, v, m in zip(source.u, source.v, source.mean, strict=True)}
    for e in patch.edges:
        pair = [parents.get(int(f), int(f)) for f in (graph.u[e], graph.v[e])]
        if pair[0] != pair[1]:
            assert graph.mean[e] == mean[min(pair), max(pair)]


def test_a_cut_stays_when_its_fragment_is_divided(new_source):
    session = ProofreadingSession(new_source(2))
    session.isolate(5)
    inside = np.argwhere(session.fragments[...] == 5)
    red, blue = (tuple(voxel) for voxel in inside[[0, -1]].tolist())
    session.apply_cut(session.preview_cut([red], [blue]))
    parts = list(session.decisions.patches[0].fragments)
    session.set_threshold(1.0)
    for part in parts:
        assert session.fragments_of(session.segment_of(part)).tolist() == [part]


class TestPaint:
    def test_to_a_new_segment(self, new_source):
        session = ProofreadingSession(new_source())
        before = session.lut[session.fragments[...]]
        mask = np.zeros((2, 5, 5), np.bool_)
        mask[:, 1:4, 1:4] = True
        outcome = session.relabel((0, 3, 3), mask)
        shown = session.lut[session.fragments[...]]
        painted = np.unique(shown[0:2, 3:8, 3:8][mask])
        assert len(painted) == 1
        assert (shown == painted[0]).sum() == mask.sum()
        assert painted[0] in outcome.segments
        session.set_threshold(1.0)  # nothing holds it to anything else
        assert (session.lut[session.fragments[...]] == painted[0]).sum() == mask.sum()
        session.go_to(0)
        np.testing.assert_array_equal(session.lut[session.fragments[...]], before)

    def test_to_a_segment(self, new_source):
        session = ProofreadingSession(new_source())
        shown = session.lut[session.fragments[...]]
        target = int(shown[0, 0, 0])
        other = np.argwhere(shown != target)[0].tolist()
        session.relabel(tuple(other), np.ones((1, 1, 1), np.bool_), target)
        now = session.lut[session.fragments[...]]
        assert now[tuple(other)] == target
        assert (now[shown == target] == target).all()

    def test_to_background(self, new_source):
        session = ProofreadingSession(new_source())
        session.relabel((0, 0, 0), np.ones((1, 14, 1), np.bool_), erase=True)
        assert not session.fragments[0, :, 0].any()
        assert session.graph.size[session.graph.alive].sum() == 3 * 14 * 16 - 14

    def test_a_line_through_a_fragment_divides_it(self):
        labels = np.ones((1, 5, 9), np.uint32)
        source = ProofreadingSource.from_arrays([], [], [], [], n_fragments=1, fragments=labels)
        session = ProofreadingSession(source)
        session.relabel((0, 0, 4), np.ones((1, 5, 1), np.bool_), erase=True)
        left, right = session.fragments[0, 0, ::8]
        assert session.segment_of(int(left)) != session.segment_of(int(right))

    def test_over_background(self):
        labels = np.zeros((1, 4, 8), np.uint32)
        labels[0, :, :3] = 1
        source = ProofreadingSource.from_arrays([], [], [], [], n_fragments=1, fragments=labels)
        session = ProofreadingSession(source)
        session.relabel((0, 0, 3), np.ones((1, 4, 2), np.bool_), 1)
        assert (session.lut[session.fragments[0, :, :5]] == 1).all()
        session.relabel((0, 0, 6), np.ones((1, 4, 1), np.bool_))
        assert len(np.unique(session.lut[session.fragments[...]])) == 3

    def test_what_is_so_already_is_no_edit(self, new_source):
        session = ProofreadingSession(new_source())
        segment = int(session.lut[session.fragments[0, 0, 0]])
        with pytest.raises(ProofreadingError, match="nothing to change"):
            session.relabel((0, 0, 0), np.ones((1, 1, 1), np.bool_), segment)

    def test_locked_segments_keep_their_voxels(self, new_source):
        session = ProofreadingSession(new_source())
        segment = int(session.lut[session.fragments[0, 0, 0]])
        session.lock([segment])
        with pytest.raises(ConflictError, match="locked and cannot be painted over"):
            session.relabel((0, 0, 0), np.ones((1, 1, 1), np.bool_))

    def test_outside_of_the_volume(self, new_source):
        session = ProofreadingSession(new_source())
        with pytest.raises(ProofreadingError, match="reaches outside"):
            session.relabel((2, 0, 0), np.ones((2, 1, 1), np.bool_))


KEYS = [
    np.s_[...],
    np.s_[1],
    np.s_[-1],
    np.s_[:, 3],
    np.s_[0, 2:9, 4],
    np.s_[1, 5, 6],
    np.s_[::2, ::-1, 1::3],
    np.s_[..., 7],
    np.s_[0, ...],
    np.s_[2:1],
    np.s_[np.int64(1), 2, 3:4],
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_the_overlay_is_indexed_like_an_array(key, new_source):
    source = new_source(3)
    original = source.fragments.copy()
    session = ProofreadingSession(source)
    session.relabel((0, 2, 2), np.ones((2, 6, 7), np.bool_))
    session.relabel((1, 0, 0), np.ones((2, 5, 5), np.bool_), erase=True)
    whole = session.fragments[...]
    assert whole.dtype == np.uint32 == session.fragments.dtype
    assert not (whole == original).all()
    np.testing.assert_array_equal(session.fragments[key], whole[key])
    assert np.shape(session.fragments[key]) == whole[key].shape
    np.testing.assert_array_equal(np.asarray(session.fragments), whole)
    np.testing.assert_array_equal(source.fragments, original)


def test_a_patch_and_its_voxels_come_back_from_the_disk(new_source, tmp_path):
    session = ProofreadingSession(new_source(), tmp_path / "session")
    session.relabel((0, 2, 2), np.ones((2, 3, 3), np.bool_))
    patch = session.decisions.patches[0]
    assert FragmentPatch.from_json(patch.to_json()) == patch
    voxels = PatchVoxels.load(tmp_path / "session" / "patches" / "000001.npz")
    assert voxels.box == patch.box
    whole = session.fragments[...]
    inside = tuple(slice(a, b) for a, b in patch.box)
    np.testing.assert_array_equal(whole[inside][voxels.mask], voxels.new)
    np.testing.assert_array_equal(session.source.fragments[inside][voxels.mask], voxels.old)


def test_lost_voxels_are_named_and_the_edit_can_be_undone(new_source, tmp_path):
    source = new_source()
    with ProofreadingSession(source, tmp_path / "session") as session:
        session.relabel((0, 2, 2), np.ones((2, 3, 3), np.bool_))
    (tmp_path / "session" / "patches" / "000001.npz").unlink()
    with ProofreadingSession(source, tmp_path / "session") as session:
        with pytest.raises(SessionError, match=r"000001\.npz"):
            session.fragments[0]
        session.undo()
        np.testing.assert_array_equal(session.fragments[...], source.fragments)
