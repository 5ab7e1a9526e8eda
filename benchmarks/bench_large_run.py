"""What a person waits for with a run of 10⁷ edges and more: opening, sliding, correcting.

    python benchmarks/bench_large_run.py RUN.zarr [--rounds 20]

The run is one of `synthetic_graph.py` that was agglomerated. Every step is timed in this process,
and beside it stands how much memory of its own (not pages of mapped files) the process has then.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from napari_cad.core.live_segmentation import LiveSegmentation
from napari_cad.core.store import SegmentationStore
from napari_cad.proofreading.queue import UncertaintyQueue
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Print a line for every step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--queue", action="store_true", help="make the queue too: reads all edges")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    take("import and compile", warm_up)
    store = take("open the store", lambda: SegmentationStore.open(options.run))
    print(f"{int(store.counts('edges').sum()):,} edges, {store.n_fragments:,} fragments")
    live = take(
        "tree and sizes",
        lambda: LiveSegmentation("median", store.merge_tree("median"), store.fragment_sizes()),
    )
    offsets = store.fragment_offsets

    def slide() -> None:
        z = int(rng.integers(store.n_sections))
        section = np.arange(offsets[z] + 1, offsets[z + 1] + 1)
        live.at(rng.uniform(0.2, 0.8)).segments_of(section)

    take("segments of a section, first", slide)
    take("segments of a section", slide, options.rounds)
    take("number of segments", lambda: live.tree.n_segments(0.4))
    take("sizes of all segments", lambda: live.at(0.4).sizes())
    take("LUT of all fragments", lambda: live.tree.lut(0.4))
    source = take("map the source", lambda: ProofreadingSource.from_store(store, threshold=0.4))
    session = take("open a session", lambda: ProofreadingSession(source))
    edges = rng.integers(len(source.u), size=200)
    apart = [e for e in edges.tolist() if session.lut[source.u[e]] != session.lut[source.v[e]]]
    together = [e for e in edges.tolist() if e not in set(apart)]

    def merge() -> None:
        edge = apart.pop()
        pair = {session.segment_of(int(ends[edge])) for ends in (source.u, source.v)}
        if len(pair) == 2:
            session.merge(sorted(pair))

    def cut() -> None:
        edge = together.pop()
        a, b = int(source.u[edge]), int(source.v[edge])
        if session.segment_of(a) == session.segment_of(b):
            session.apply_cut(session.preview_cut([a], [b]), force=True)

    def neighbours() -> None:
        fragments = session.fragments_of(session.segment_of(int(source.u[apart[-1]])))
        session.graph.edges_around(fragments)

    rounds = min(options.rounds, len(apart) - 1, len(together))
    take("select a segment", lambda: session.fragments_of(session.segment_of(5)), rounds)
    take("its neighbours", neighbours, rounds)
    take("merge", merge, rounds)
    take("cut, preview and apply", cut, rounds)
    take("undo", session.undo, rounds)
    if options.queue:
        take("make the queue", lambda: UncertaintyQueue(session))


def warm_up() -> None:
    """Load what is compiled, on a graph of one edge."""
    one, two = np.array([1], np.uint32), np.array([2], np.uint32)
    source = ProofreadingSource.from_arrays(one, two, [0.5], [0.3])
    live = LiveSegmentation("", source.merge_tree().with_sizes(source.sizes), source.sizes)
    live.at(0.5, 5).segments_of(np.arange(3))
    live.at(0.5).sizes()
    ProofreadingSession(source).close()


def take(name: str, act: Callable[[], Any], rounds: int = 1) -> Any:
    """Do something some times; print the median and the longest time."""
    seconds, result = [], None
    for _ in range(max(1, rounds)):
        began = time.perf_counter()
        result = act()
        seconds.append(time.perf_counter() - began)
    info = psutil.Process().memory_info()
    print(
        f"{name:30} {np.median(seconds) * 1e3:9.1f} ms, longest {max(seconds) * 1e3:9.1f} ms, "
        f"memory {(info.rss - info.shared) >> 20:6,} MiB",
        flush=True,
    )
    return result


if __name__ == "__main__":
    main()
