"""A session with ten thousand edits opens to the state that they left."""

from __future__ import annotations

import json

import numpy as np

from napari_cad.proofreading.decisions import Decisions
from napari_cad.proofreading.edits import CutEdges, Edit, LinkFragments, LockSegment, Rename
from napari_cad.proofreading.graph import EditableGraph
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource


def write_long_log(source, path, n_edits, rng):
    """Edits of the usual sizes, all on one branch, without the work of making them."""
    decisions = Decisions(EditableGraph(source), source.threshold)
    lines = []
    for i in range(1, n_edits + 1):
        pair = sorted(rng.choice(np.arange(1, source.n_fragments), 2, replace=False).tolist())
        edges = tuple(rng.integers(0, len(source.u), 20).tolist())
        name, rank = int(decisions.name[pair[0]]), int(decisions.rank[pair[0]])
        rename = Rename((pair[0],), ((name, rank),), ((name, i),))
        fragments = tuple(range(i * 3, i * 3 + 3))
        change = (LinkFragments(((pair[0], pair[1]),)), CutEdges(edges), LockSegment(i, fragments))
        changes = (change[i % 3], rename)
        for c in changes:
            c.apply(decisions)
        edit = Edit(i, i - 1, "cut", changes, (5, 6), (5,), {"links": [pair]}, "2026-01-01", "me")
        lines.append(json.dumps(edit.to_json()))
    (path / "edits.jsonl").write_text("\n".join(lines) + "\n")


def test_ten_thousand_edits_are_replayed(tmp_path):
    rng = np.random.default_rng(0)
    n = 50_000
    u = np.arange(1, n)
    source = ProofreadingSource.from_arrays(
        u, u + 1, rng.uniform(0, 1, n - 1), rng.uniform(0, 1, n - 1)
    )
    source.base_lut(0.5)  # the forest, which is there before a session is opened
    ProofreadingSession(source, tmp_path).close()
    write_long_log(source, tmp_path, 10_000, rng)
    session = ProofreadingSession(source, tmp_path)
    assert len(session.history.edits) == 10_000
    assert session.history.current == 10_000
    session.close()
