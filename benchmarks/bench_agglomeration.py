"""Memory and time of the graph stage: agglomerating a made run, in all processes together.

    python benchmarks/bench_agglomeration.py [--edges 5e5 5e6 5e7] [--memory GIB] [--keep FOLDER]

Each run is agglomerated by a process of its own, which starts the child that does it. Printed are
the peak of the resident memory of both together, sampled every 20 ms, the highest peak of either
(ru_maxrss), what `agglomeration_memory` had estimated, and the bytes on the disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from napari_cad.core.agglomeration import agglomeration_memory
from napari_cad.core.store import SegmentationStore
from synthetic_graph import make_store

_CODE = """
import json, resource, sys
from napari_cad.core.agglomerations import agglomerate
from napari_cad.core.store import SegmentationStore
memory = None if sys.argv[2] == "None" else int(float(sys.argv[2]) * 2**30)
notice = agglomerate(SegmentationStore.open(sys.argv[1], mode="a"), "median", memory=memory)
peaks = [resource.getrusage(who).ru_maxrss * 1024 for who in (0, -1)]
print(json.dumps({"peaks": peaks, "notice": notice and notice.message}))
"""


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=float, nargs="+", default=[5e5, 5e6, 5e7])
    parser.add_argument("--side", type=int, default=200)
    parser.add_argument("--memory", help="GiB that it may take; more is approximated")
    parser.add_argument("--keep", type=Path, help="where made runs are kept; by default nowhere")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for n in options.edges:
            path = (options.keep or Path(folder)) / f"{int(n)}.zarr"
            store = (
                SegmentationStore.open(path)
                if path.exists()
                else make_store(path, int(n), options.side)
            )
            measure(store, str(options.memory))


def measure(store: SegmentationStore, memory: str) -> None:
    """Agglomerate one run."""
    began = time.perf_counter()
    command = [sys.executable, "-c", _CODE, str(store.path), memory]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        total = 0
        for one in [watched, *watched.children(recursive=True)]:
            try:
                # what is mapped from files is not counted: the system takes it back at will
                info = one.memory_info()
                total += info.rss - info.shared
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, total)
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    if process.returncode or process.stdout is None:
        raise SystemExit("the agglomeration failed")
    told = json.loads(process.stdout.read().splitlines()[-1])
    n, n_fragments = int(store.counts("edges").sum()), store.n_fragments
    disk = sum(p.stat().st_size for p in (store.path / "agglomeration").rglob("*") if p.is_file())
    print(
        f"{n:,} edges, {n_fragments:,} fragments: peak {peak >> 20:,} MiB, {peak / n:.1f} B per "
        f"edge (parent {told['peaks'][0] >> 20:,}, child {told['peaks'][1] >> 20:,} MiB; estimated "
        f"{agglomeration_memory(n, n_fragments) >> 20:,} MiB), {seconds:.1f} s, {disk / n:.1f} B "
        f"per edge on disk",
        flush=True,
    )
    if told["notice"]:
        print(told["notice"])


if __name__ == "__main__":
    main()
