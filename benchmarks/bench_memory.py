"""Peak memory of `napari-cad segment`, and whether it grows with the number of sections.

    python benchmarks/bench_memory.py [--size 1024] [--sections 10 40] [--memory 1.2GB]

Each run is a process of its own; the peak of the resident memory of it and its children together is
sampled every 50 ms. Shared pages are counted once per process, so the sum is an upper bound.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from napari_cad.core.synthetic import synthetic_em

if TYPE_CHECKING:
    from collections.abc import Callable


def sample_peak(pid: int, report: Callable[[int], None] = lambda _: None) -> int:
    """Watch a process until it ends; the largest sum of resident bytes over its process tree.

    `report` is given it whenever it grows.
    """
    watched, peak = psutil.Process(pid), 0
    while watched.is_running() and watched.status() != psutil.STATUS_ZOMBIE:
        total = 0
        try:
            tree = [watched, *watched.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for one in tree:
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        if total > peak:
            peak = total
            report(peak)
        time.sleep(0.05)
    return peak


def peak_memory(command: list[str]) -> int:
    """Run a command; the largest sum of resident bytes over its process tree."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = sample_peak(process.pid)
    if process.wait():
        raise SystemExit(f"{command} failed")
    return peak


def main() -> None:
    """Measure both and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--sections", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--memory", help="a limit to keep, as of napari-cad segment")
    options = parser.parse_args()
    tissue = synthetic_em((4, options.size, options.size), seed=0).raw
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for n_sections in options.sections:
            path = Path(folder) / f"{n_sections}.npy"
            # back and forth through the same sections, so that neighbours stay similar
            order = np.abs(np.arange(n_sections) % 6 - 3)
            np.save(path, tissue[order])
            command = [
                sys.executable, "-m", "napari_cad", "segment", str(path), "--json",
                "-c", options.checkpoint, "-o", str(Path(folder) / f"{n_sections}.zarr"),
            ]  # fmt: skip
            if options.memory is not None:
                command += ["--memory", options.memory]
            peaks.append(peak_memory(command))
            print(
                f"{n_sections} sections of {options.size}²: {peaks[-1] / 2**20:.0f} MiB", flush=True
            )
    print(f"ratio {peaks[-1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
