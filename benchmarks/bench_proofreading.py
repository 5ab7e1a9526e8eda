"""How long a person waits while proofreading: medians and 95th percentiles of every interaction.

    python benchmarks/bench_proofreading.py [--fragments 50000 1000000] [--rounds 40]

The graph is made: fragments on a grid of sections, six edges each, and a merge tree of nested
blocks, so that segments have 400 fragments at threshold 0.5 and 20,000 at 0.7. Sessions are
kept on the disk, so times of edits include the log's way there. CPU times stand beside wall times:
where they differ much, the machine was busy with something else, or the disk was slow.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.proofreading import questions
from napari_cad.proofreading.queue import UncertaintyQueue
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource

if TYPE_CHECKING:
    from collections.abc import Callable

#: Targets in milliseconds, for the 95th percentile.
TARGETS = {
    "select a segment": 50,
    "merge": 100,
    "undo": 100,
    "redo": 100,
    "detach": 100,
    "lock": 100,
    "unlock": 100,
    "cut preview, 20k fragments": 150,
    "apply cut, 20k fragments": 200,
    "next question": 200,
    "accept": 100,
    "threshold preview": 50,
}

#: Blocks of the merge tree, in fragments (z, y, x), and the join scores inside them.
LEVELS = (
    ((5, 1, 1), 0.05),
    ((5, 2, 2), 0.2),
    ((25, 4, 4), 0.35),
    ((50, 20, 20), 0.55),
    ((10**6,) * 3, 0.85),
)


def main() -> None:
    """Time every interaction and print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fragments", type=int, nargs="+", default=[50_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    for n in options.fragments:
        run(n, options.rounds)


def run(n_fragments: int, rounds: int) -> None:
    """Print the table for one size of graph."""
    source = nested_blocks(n_fragments)
    times = Times()
    with tempfile.TemporaryDirectory() as folder:
        times.take("merge tree, where there is none", source.merge_tree)
        session = ProofreadingSession(source, Path(folder) / "session")
        session.close()
        session = times.take(
            "open a session", lambda: ProofreadingSession(source, Path(folder) / "session")
        )
        rng = np.random.default_rng(0)
        queue = times.take("make the queue", lambda: UncertaintyQueue(session))
        for _ in range(rounds):
            edits(session, queue, rng, times)
        session.set_threshold(0.7)
        for _ in range(rounds):
            cuts(session, rng, times)
        session.close()
    print(f"\n{source.n_fragments:,} fragments, {len(source.u):,} edges, {rounds} rounds")
    print(f"{'':32}{'median':>9}{'95 %':>9}{'CPU':>9}{'95 %':>9}   target (ms)")
    for name, rows in times.rows.items():
        wall, cpu = np.array(rows).T * 1e3
        target = TARGETS.get(name)
        note = "" if target is None else f"{target:8d}"
        if target is not None and np.percentile(wall, 95) > target:
            note += "  missed"
        print(
            f"{name:32}{np.median(wall):9.1f}{np.percentile(wall, 95):9.1f}"
            f"{np.median(cpu):9.1f}{np.percentile(cpu, 95):9.1f}   {note}"
        )


def edits(
    session: ProofreadingSession, queue: UncertaintyQueue, rng: np.random.Generator, times: Times
) -> None:
    """One of each edit, at segments of some hundred fragments; leaves a merge behind."""
    edge = int(rng.choice(np.flatnonzero(session.graph.join >= session.threshold)))
    a, b = (session.segment_of(int(f)) for f in (session.graph.u[edge], session.graph.v[edge]))
    if a == b or {a, b} & session.decisions.locks.keys():
        return
    times.take("select a segment", lambda: (session.size_of(a), session.weakest_join(a)))
    times.take("merge", lambda: session.merge([a, b]))
    times.take("undo", session.undo)
    times.take("redo", session.redo)
    merged = session.segment_of(int(session.graph.u[edge]))
    times.take("detach", lambda: session.detach(int(session.fragments_of(merged)[5])))
    session.undo()
    times.take("lock", lambda: session.lock([merged]))
    times.take("unlock", lambda: session.unlock([merged]))
    times.take("threshold preview", lambda: session.preview_threshold(float(rng.uniform(0.4, 0.6))))
    question = times.take("next question", queue.next)
    if question is not None:
        times.take("accept", lambda: questions.accept(session, question.edge, force=True))


def cuts(session: ProofreadingSession, rng: np.random.Generator, times: Times) -> None:
    """Preview and make a cut through a segment of 20,000 fragments, and undo it."""
    segments, counts = np.unique(session.lut, return_counts=True)
    large = segments[(counts > 10_000) & (segments > 0)]
    members = session.fragments_of(int(rng.choice(large if len(large) else segments[1:])))
    red, blue = members[:2000], members[-2000:]
    seeds = (rng.choice(red, 3).tolist(), rng.choice(blue, 3).tolist())
    preview = times.take("cut preview, 20k fragments", lambda: session.preview_cut(*seeds))
    times.take("apply cut, 20k fragments", lambda: session.apply_cut(preview, force=True))
    times.take("undo cut, 20k fragments", session.undo)


class Times:
    """Wall and CPU seconds by name."""

    def __init__(self) -> None:
        self.rows: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    def take(self, name: str, function: Callable[[], Any]) -> Any:
        """Call a function and remember how long it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = function()
        self.rows[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        return result


def nested_blocks(n_fragments: int) -> ProofreadingSource:
    """Make a grid of about `n_fragments` fragments whose merge tree is one of nested blocks."""
    rng = np.random.default_rng(0)
    n_sections = 100 if n_fragments >= 500_000 else 50
    side = round((n_fragments / n_sections) ** 0.5)
    shape = (n_sections, side, side)
    n = n_sections * side * side
    ids = np.arange(1, n + 1, dtype=np.uint32).reshape(shape)
    steps = [(0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 1, 0), (1, 0, 1)]
    u = np.concatenate(
        [ids[tuple(slice(None, -s or None) for s in step)].ravel() for step in steps]
    )
    v = np.concatenate([ids[tuple(slice(s, None) for s in step)].ravel() for step in steps])
    place = np.stack(np.unravel_index(np.arange(n), shape), axis=1)
    join = np.full(len(u), -1.0, np.float32)
    for block, score in LEVELS:
        label = np.ravel_multi_index(tuple((place // block).T), tuple(np.array(shape) // block + 1))
        inside = (label[u - 1] == label[v - 1]) & (join < 0)
        jitter = rng.uniform(0, 0.1, label.max() + 1).astype(np.float32)
        join[inside] = score + jitter[label[u[inside] - 1]]
    return ProofreadingSource.from_arrays(
        u,
        v,
        np.clip(1 - join + rng.normal(0, 0.1, len(u)), 0.01, 0.99),
        join,
        area=rng.integers(1, 400, len(u)),
        position=np.concatenate([place[u - 1]]),
        sizes=np.concatenate([[0], rng.integers(50, 2000, n)]),
        threshold=0.5,
    )


if __name__ == "__main__":
    main()
