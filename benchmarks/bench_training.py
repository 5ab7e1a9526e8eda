"""Steps per second of a training on the CPU, with and without what is done for its speed.

    python benchmarks/bench_training.py [--rounds 3] [--threads 2] [--teacher] [--cpu-time]

The default settings: pairs of 160 × 160 voxels, five per step, a student of width 16; with
--teacher two patches of 6 × 128 × 128 and a narrow teacher that learns along. Each way is a process
of its own, since torch and glibc read their settings when they start; the ways take turns, so that
a busy machine disturbs all of them alike. On a very busy one, --cpu-time with one thread counts the
seconds that the process had a core; those of a worker are not in it.

    before   torch and glibc as they come
    pages    huge pages (core/torch_memory.py)
    kept     also, freed memory is used again: as every training is (training/freed_memory.py)
    worker   as kept, patches prepared by a process beside
    bfloat16 as kept, in that arithmetic: where the processor has it, and only if asked for (--ways)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise

#: Way → environment, whether freed memory is kept, processes that prepare patches, and arithmetic.
WAYS: dict[str, tuple[dict[str, str], bool, int, str]] = {
    "before": ({"THP_MEM_ALLOC_ENABLE": "0"}, False, 0, "float32"),
    "pages": ({}, False, 0, "float32"),
    "kept": ({}, True, 0, "float32"),
    "worker": ({}, True, 1, "float32"),
    "bfloat16": ({}, True, 0, "bfloat16"),
}
WARM_UP = 3


def measure(options: argparse.Namespace) -> None:
    """Train some steps in this process; writes the seconds of each."""
    import torch

    from napari_cad.training import loop
    from napari_cad.training.config import DataConfig, TeacherConfig, TrainingConfig
    from napari_cad.training.events import StepsDone

    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    patch = {"patch": (6, 128, 128), "batch": 2} if options.teacher else {}
    config = TrainingConfig(
        steps=WARM_UP + options.steps,
        log_every=1,
        save_every=10_000,
        device="cpu",
        precision=options.precision,
        teacher=TeacherConfig(widths=(8, 12, 16, 20, 24)) if options.teacher else None,
        data=DataConfig(
            synthetic_weight=1.0, synthetic_volumes=1, synthetic_shape=(8, 384, 384),
            workers=options.workers, **patch,
        ),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        if not options.kept:
            loop.freed_memory_kept = contextlib.nullcontext
        events = loop.train(config, f"{folder}/run")
        times = [clock() for event in events if isinstance(event, StepsDone)]
    seconds = [b - a for a, b in pairwise(times)][WARM_UP - 1 :]
    print(json.dumps(statistics.median(seconds)))


def main() -> None:
    """Measure all ways in turns and write steps per second."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--teacher", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS)[:-1])
    parser.add_argument("--workers", type=int, help="measure in this process (used by itself)")
    parser.add_argument("--kept", action="store_true", help="(used by itself)")
    parser.add_argument("--precision", default="float32", help="(used by itself)")
    options = parser.parse_args()
    if options.workers is not None:
        measure(options)
        return
    seconds: dict[str, list[float]] = {way: [] for way in options.ways}
    for _ in range(options.rounds):
        for way in options.ways:
            environment, kept, workers, precision = WAYS[way]
            command = [
                sys.executable, __file__, "--workers", str(workers),
                "--steps", str(options.steps), "--threads", str(options.threads),
                "--precision", precision,
                *(["--teacher"] if options.teacher else []),
                *(["--kept"] if kept else []),
                *(["--cpu-time"] if options.cpu_time else []),
            ]  # fmt: skip
            answer = subprocess.run(
                command, env=os.environ | environment, check=True, capture_output=True, text=True
            )
            seconds[way].append(float(answer.stdout))
    first = seconds[options.ways[0]]
    for way, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(first, found, strict=True))
        print(
            f"{way:<8} {1 / statistics.median(found):.2f} steps/s  "
            f"({', '.join(f'{s:.3f}' for s in found)} s a step), {ratio:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
