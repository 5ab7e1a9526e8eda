"""Whatever a person does, in whatever order: the LUT is that of the definition, and comes back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from napari_cad.proofreading import questions
from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.session import ProofreadingSession

OPERATIONS = (
    "merge", "cut", "cut voxels", "detach", "isolate", "lock", "unlock", "threshold", "relabel",
    "erase", "accept", "reject", "later", "note", "undo", "redo", "go to",
)  # fmt: skip

steps = st.lists(
    st.tuples(
        st.sampled_from(OPERATIONS),
        st.integers(0, 2**16),
        st.integers(0, 2**16),
        st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


def perform(session: ProofreadingSession, operation: str, i: int, j: int, force: bool) -> None:
    """Do what `operation` says with whatever the numbers happen to choose."""
    alive = np.flatnonzero(session.graph.alive)
    a, b = int(alive[i % len(alive)]), int(alive[j % len(alive)])
    segment, other = session.segment_of(a), session.segment_of(b)
    living = session.graph.alive
    edges = np.flatnonzero(living[session.graph.u] & living[session.graph.v])
    edge = int(edges[i % len(edges)])
    shape = session.fragments.shape
    voxel = tuple(int(k) % n for k, n in zip((i, j, i // 7 + j), shape, strict=True))
    match operation:
        case "merge":
            session.merge([segment, other], keep=segment if i % 2 else None, force=force)
        case "cut":
            members = session.fragments_of(segment)
            reds = {int(members[k % len(members)]) for k in (i, i // 3)}
            blues = {int(members[k % len(members)]) for k in (j, j // 3)} - reds
            keep = ("red", "blue", None)[j % 3]
            session.apply_cut(
                session.preview_cut(sorted(reds), sorted(blues), keep=keep), force=force
            )
        case "cut voxels":
            inside = np.argwhere(session.fragments[...] == a)
            red, blue = inside[i % len(inside)], inside[j % len(inside)]
            preview = session.preview_cut([tuple(red.tolist())], [tuple(blue.tolist())])
            session.apply_cut(preview, force=force)
        case "detach":
            session.detach(a, force=force)
        case "isolate":
            session.isolate(a, force=force)
        case "lock":
            session.lock([segment, other])
        case "unlock":
            session.unlock(list(session.decisions.locks)[i % 3 :])
        case "threshold":
            session.set_threshold((i % 11) / 10)
        case "relabel" | "erase":
            extent = [
                1 + (i + k) % min(5, n - v) for k, v, n in zip((j, i, j), voxel, shape, strict=True)
            ]
            mask = np.random.default_rng(i).random(extent) < 0.7
            target = other if j % 2 and operation == "relabel" else None
            session.relabel(voxel, mask, target, erase=operation == "erase")
        case "accept":
            questions.accept(session, edge, force=force)
        case "reject":
            questions.reject(session, edge, force=force)
        case "later":
            questions.postpone(session, edge)
        case "note":
            session.add_note(f"{i}", position=voxel if j % 2 else None, segment=segment)
        case "undo":
            session.undo()
        case "redo":
            session.redo()
        case "go to":
            session.go_to(i % session.history.next_id)


def snapshot(session: ProofreadingSession) -> tuple:
    d = session.decisions
    return (
        session.lut.tolist(),
        session.fragments[...].tolist(),
        sorted(d.links),
        np.flatnonzero(d.cut).tolist(),
        sorted(d.locks.items()),
        d.threshold,
        sorted(d.answers.items()),
        sorted(d.notes.items()),
        d.name.tolist(),
        d.rank.tolist(),
    )


def without_padding(state: tuple) -> tuple:
    """Of what later patches add nothing is seen in an earlier state but room for it."""
    lut, *rest, name, rank = state
    n = max(i for i, s in enumerate(lut) if s) + 1
    return (lut[:n], *rest, name[:n], rank[:n])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=steps, seed=st.integers(0, 3))
# a fragment that was erased as a whole comes back, and joins again what it had joined
@example(steps=[("erase", 64609, 285, False), ("undo", 0, 0, False)], seed=0)
def test_the_lut_is_that_of_the_definition(steps, seed, new_source, by_hand):
    source = new_source(seed)
    original = source.fragments.copy()
    with tempfile.TemporaryDirectory() as folder, mock.patch("os.fsync"):
        path = Path(folder) / "session"
        states = {}
        with ProofreadingSession(source, path, user="me") as session:
            shown = [session.lut.copy()]

            def show(event, session=session, shown=shown):
                lut = np.zeros_like(session.lut)
                n = min(len(lut), len(shown[0]))
                lut[:n] = shown[0][:n]
                lut[event.fragments] = session.lut[event.fragments]
                shown[0] = lut

            session.segments_changed.connect(show)
            states[0] = snapshot(session)
            for step in steps:
                try:
                    perform(session, *step)
                except ProofreadingError:
                    continue
                np.testing.assert_array_equal(session.lut, by_hand(session))
                # a viewer that only refreshes what the signal names sees the same
                n = min(len(shown[0]), len(session.lut))
                np.testing.assert_array_equal(shown[0][:n], session.lut[:n])
                assert not session.lut[n:].any()
                np.testing.assert_array_equal(
                    session.preview_threshold(0.55), by_hand(session, 0.55)
                )
                # voxels and graph agree
                ids = np.unique(session.fragments[...])
                np.testing.assert_array_equal(ids[ids > 0], np.flatnonzero(session.graph.alive))
                np.testing.assert_array_equal(
                    np.bincount(session.fragments[...].ravel())[ids[ids > 0]],
                    session.graph.size[ids[ids > 0]],
                )
                states.setdefault(session.history.current, snapshot(session))
            last, current = snapshot(session), session.history.current
        with ProofreadingSession(source, path, user="me") as again:
            assert snapshot(again) == last
            for edit, state in states.items():
                again.go_to(edit)
                assert without_padding(snapshot(again)) == without_padding(state)
            again.go_to(current)
            assert snapshot(again) == last
        np.testing.assert_array_equal(source.fragments, original)
