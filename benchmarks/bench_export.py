"""Peak memory and time of writing labels as OME-Zarr, and whether they grow with the stack.

    python benchmarks/bench_export.py [--size 4096] [--sections 5 20]

Each export is a process of its own; see `bench_memory.py` for how its memory is measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench_memory import peak_memory
from napari_cad.core.export import export_labels


def main() -> None:
    """Measure both and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--sections", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--write", nargs=2, metavar=("N", "PATH"), help="what a process does")
    options = parser.parse_args()
    if options.write is not None:
        n_sections, path = options.write
        write(int(n_sections), options.size, path)
        return
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for n_sections in options.sections:
            path = Path(folder) / f"{n_sections}.zarr"
            arguments = ["--size", str(options.size), "--write", str(n_sections), str(path)]
            begun = time.perf_counter()
            peaks.append(peak_memory([sys.executable, __file__, *arguments]))
            seconds = time.perf_counter() - begun
            files = sum(file.is_file() for file in path.rglob("*"))
            print(
                f"{n_sections} sections of {options.size}²: {peaks[-1] / 2**20:.0f} MiB, "
                f"{seconds / n_sections:.2f} s per section, {files} files"
            )
    print(f"ratio {peaks[-1] / peaks[0]:.2f}")


def write(n_sections: int, size: int, path: str) -> None:
    """Export irregular labels of some fifty pixels across, others in every section."""
    random = np.random.default_rng(0)
    wave = np.cumsum(random.integers(-1, 2, size))
    y, x = (np.arange(size)[:, None] + wave) // 50, (np.arange(size) + wave[:, None]) // 50
    labels = (y * 100 + x % 100 - min(0, int(wave.min())) * 2).astype(np.uint32)
    export_labels(
        lambda z: labels + np.uint32(z),
        (n_sections, size, size),
        path,
        voxel_size=(30, 6, 6),
        max_label=int(labels.max()) + n_sections,
    )


if __name__ == "__main__":
    main()
