"""Kill a process that proofreads, again and again, and look whether anything is lost.

A child process edits a session without a pause and reports every edit when it is shown. It is
killed at a random moment. Then the session is opened again: every reported edit must be in the
history, and going to the last reported one must give the LUT that was shown. The next child goes
on in the same session.

    python scripts/kill_proofreading.py --kills 100
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_cad.core.region_graph import RegionGraph, section_edges
from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource


@dataclass(frozen=True)
class Shown:
    """What a child reported last: number of edits, current edit, checksum of the LUT."""

    n_edits: int
    current: int
    checksum: int


def main() -> int:
    """Run the experiment, or be its child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        edit_for_ever(arguments.child, random.Random(arguments.seed))
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        n_edits, n_torn = run(Path(folder) / "session", arguments.kills, arguments.seed)
    print(
        f"{arguments.kills} kills, {n_edits} edits, {n_torn} torn lines, nothing lost, "
        f"{time.monotonic() - started:.0f} s"
    )
    return 0


def run(folder: Path, kills: int, seed: int) -> tuple[int, int]:
    """Kill `kills` children; gives the number of edits and of torn lines.

    Raises
    ------
    AssertionError
        If something that was shown is not there.
    """
    rng = random.Random(seed)
    source = example_source()
    n_torn = 0
    ProofreadingSession(source, folder).close()
    for i in range(kills):
        shown = _edit_and_kill(folder, rng, seed=seed + i)
        with ProofreadingSession(source, folder) as session:
            assert not session.read_only, session.messages
            n_torn += sum("torn" in message for message in session.messages)
            n_edits = len(session.history.edits)
            if shown is None:
                continue
            assert shown.n_edits <= n_edits <= shown.n_edits + 1, (shown, n_edits)
            session.go_to(shown.current)
            assert _checksum(session) == shown.checksum, (shown, session.history.current)
    return n_edits, n_torn


def edit_for_ever(folder: Path, rng: random.Random) -> None:
    """Edit at random and report what is shown, until killed."""
    session = ProofreadingSession(example_source(), folder)

    def report() -> None:
        history = session.history
        line = f"{len(history.edits)} {history.current} {_checksum(session)}\n"
        os.write(sys.stdout.fileno(), line.encode())

    session.history_changed.connect(report)
    os.write(sys.stdout.fileno(), b"ready\n")
    while True:
        try:
            _edit(session, rng)
        except ProofreadingError:
            continue


def example_source() -> ProofreadingSource:
    """Four sections of cells on a grid, the same ones in every process."""
    rng = np.random.default_rng(0)
    cell = np.arange(36, dtype=np.uint32).reshape(6, 6).repeat(4, axis=0).repeat(4, axis=1)
    fragments = np.stack([cell + 36 * z + 1 for z in range(4)])
    affinities = rng.integers(0, 256, (3, *fragments.shape), np.uint8)
    graph = RegionGraph.concatenate(
        section_edges(fragments[z], affinities[:, z], z, fragments[z - 1] if z else None)
        for z in range(4)
    )
    join = rng.uniform(0, 1, len(graph.u))
    return ProofreadingSource.from_arrays(
        graph.u, graph.v, graph.mean, join, area=graph.area, fragments=fragments,
        affinities=affinities, threshold=0.2,
    )  # fmt: skip


def _edit(session: ProofreadingSession, rng: random.Random) -> None:
    fragments = np.flatnonzero(session.graph.alive).tolist()
    a, b = rng.sample(fragments, 2)
    segments = session.segment_of(a), session.segment_of(b)
    members = session.fragments_of(segments[0]).tolist()
    match rng.randrange(8):
        case 0:
            session.merge(segments, force=True)
        case 1 | 2:
            session.apply_cut(session.preview_cut(members[:1], members[-1:]), force=True)
        case 3:
            session.detach(a, force=True)
        case 4:
            session.lock(segments) if rng.random() < 0.5 else session.unlock(segments)
        case 5:
            session.set_threshold(rng.random())
        case 6:
            corner = (rng.randrange(4), rng.randrange(20), rng.randrange(20))
            session.relabel(corner, np.ones((1, 2, 3), np.bool_))
        case 7:
            session.go_to(rng.randrange(session.history.next_id))


def _edit_and_kill(folder: Path, rng: random.Random, seed: int) -> Shown | None:
    """Kill a child and give what it reported last; None if it did not get that far."""
    command = [sys.executable, __file__, "--child", str(folder), "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.0, 0.4))
        child.kill()
        lines = child.stdout.read().split(b"\n")[:-1]  # what comes after the last one is torn
    return Shown(*map(int, lines[-1].split())) if lines else None


def _checksum(session: ProofreadingSession) -> int:
    # entries of fragments that came later are 0 and say nothing
    return zlib.crc32(np.trim_zeros(session.lut, "b").tobytes())


if __name__ == "__main__":
    sys.exit(main())
