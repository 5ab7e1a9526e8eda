"""A volume larger than the memory that it may take: peak of all processes, and time per stage.

    python benchmarks/bench_gigavoxel.py FOLDER [--sections 256] [--size 2048] [--memory 3GB]

FOLDER keeps a synthetic volume, made once, and the run; stopped at any time, the same command goes
on, and adds to the measurements in FOLDER/measured.json. The volume repeats a block of synthetic
tissue, back and forth in z and mirrored in y and x, so that neighbours are always neighbours.
Reported: the highest sum of resident memory over the process tree (shared pages counted once per
process, so an upper bound), sampled every 50 ms, and per stage the seconds from its first event to
its last; stages that go on side by side overlap. Beside the seconds of the clock stand those of the
processors, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from _race import cpu_seconds
from bench_memory import sample_peak
from napari_cad.core.memory_plan import format_memory, parse_memory
from napari_cad.core.synthetic import synthetic_em

#: Of the block of tissue that is repeated.
_BLOCK = (16, 1024, 1024)


def make_volume(path: Path, n_sections: int, size: int) -> None:
    """Write the volume, section by section, unless it is there."""
    shape = (n_sections, size, size)
    if path.exists() and zarr.open_array(path, mode="r").shape == shape:
        return
    tissue = synthetic_em(_BLOCK, seed=0).raw
    quarter = np.concatenate([tissue, tissue[:, ::-1]], axis=1)
    block = np.concatenate([quarter, quarter[:, :, ::-1]], axis=2)
    repeats = -(-size // block.shape[1])
    partial = path.with_suffix(".partial")
    volume = zarr.create_array(
        partial, shape=shape, chunks=(1, 512, 512), dtype="uint8", overwrite=True
    )
    period = 2 * (len(block) - 1)
    for z in range(n_sections):
        at = z % period
        section = block[min(at, period - at)]
        volume[z] = np.tile(section, (repeats, repeats))[:size, :size]
    partial.rename(path)


class Measured:
    """What the runs took so far, in a file that is always up to date.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = {"peak": 0, "cpu": 0.0, "seconds": {}}
        if path.exists():
            self.values |= json.loads(path.read_text())
        self._before = json.loads(json.dumps(self.values))
        self._cpu_before = cpu_seconds()
        self._first: dict[str, float] = {}

    def peak(self, n_bytes: int) -> None:
        """Take note of memory."""
        self.values["peak"] = max(self.values["peak"], n_bytes)

    def event(self, stage: str) -> None:
        """Take note of an event of a stage."""
        now = time.monotonic()
        took = now - self._first.setdefault(stage, now)
        self.values["seconds"][stage] = self._before["seconds"].get(stage, 0.0) + took
        self.values["cpu"] = self._before["cpu"] + cpu_seconds() - self._cpu_before
        self._path.write_text(json.dumps(self.values))


def run(command: list[str], measured: Measured) -> None:
    """Run a segmentation to its end, or until it is stopped; adds to what was measured."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    threading.Thread(target=sample_peak, args=(process.pid, measured.peak), daemon=True).start()
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if "stage" in event:
            measured.event(event["stage"])
        if event["event"] != "SectionDone" or event["done"] % 16 == 0:
            print(line, end="", flush=True)
    if process.wait():
        raise SystemExit(f"{command} failed")


def main() -> None:
    """Make the volume, segment it, and write what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sections", type=int, default=256)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--memory", default="3GB")
    parser.add_argument("--checkpoint", default="default")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    volume = options.folder / "volume.zarr"
    make_volume(volume, options.sections, options.size)
    measured = Measured(options.folder / "measured.json")
    command = [
        sys.executable, "-m", "napari_cad", "segment", str(volume), "--json",
        "-c", options.checkpoint, "-o", str(options.folder / "run.zarr"),
        "--voxel-size", "30,6,6", "--memory", options.memory,
    ]  # fmt: skip
    run(command, measured)
    voxels = options.sections * options.size**2
    print(
        f"{voxels / 1e9:.2f} gigavoxels under {format_memory(parse_memory(options.memory))}: peak "
        f"{measured.values['peak'] / 1e9:.2f} GB"
    )
    for stage, value in measured.values["seconds"].items():
        print(f"{stage:16}{value:9.0f} s")
    print(f"{'processors':16}{measured.values['cpu']:9.0f} s")


if __name__ == "__main__":
    main()
