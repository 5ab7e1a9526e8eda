"""A quick look against a run at full resolution: time, and scores against the same truth.

    python benchmarks/bench_quick.py RAW LABELS --checkpoint default --sections 70:80

The two are run in turn, `--rounds` times, after a round on two sections that is not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from napari_cad.core.binning import QUICK
from napari_cad.core.evaluation import evaluate_store
from napari_cad.core.readers import open_volume
from napari_cad.core.segmentation_job import SegmentationOptions, segmentation_job
from napari_cad.core.store import SegmentationStore

if TYPE_CHECKING:
    from napari_cad.core.volume import EMVolume


def main() -> None:
    """Print medians, their ratio, and the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw")
    parser.add_argument("labels")
    parser.add_argument("--checkpoint", nargs="+", default=["default"])
    parser.add_argument("--sections", default="70:80")
    parser.add_argument("--voxel-size", type=float, nargs=3, default=(30, 6, 6))
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    first, last = (int(part) for part in arguments.sections.split(":"))
    raw = open_volume(arguments.raw, voxel_size=arguments.voxel_size)
    truth = open_volume(arguments.labels).crop((first, last))
    with tempfile.TemporaryDirectory() as folder:
        for checkpoint in arguments.checkpoint:
            seconds: dict[int, list[float]] = {1: [], QUICK: []}
            for round_ in range(arguments.rounds + 1):
                stack = raw.crop((first, first + 2 if round_ == 0 else last))
                for factor, times in seconds.items():
                    run = Path(folder) / f"{factor}.zarr"
                    took = segment(stack, checkpoint, run, factor)
                    if round_ > 0:
                        times.append(took)
            full, quick = (median(times) for times in seconds.values())
            print(f"{checkpoint}: full {full:.1f} s, quick {quick:.1f} s, {full / quick:.2f} times")
            for factor in seconds:
                store = SegmentationStore.open(Path(folder) / f"{factor}.zarr")
                print(f"  bin {factor}: {scores(store, truth)}")


def segment(stack: EMVolume, checkpoint: str, run: Path, factor: int) -> float:
    """Segment a stack and give the seconds that it took."""
    begun = time.perf_counter()
    options = SegmentationOptions(bin=factor)
    for _ in segmentation_job(stack, checkpoint, run, options, overwrite=True):
        pass
    return time.perf_counter() - begun


def scores(store: SegmentationStore, truth: EMVolume) -> str:
    """Write the scores at the store's threshold, and the lowest VOI of the curve."""
    result = evaluate_store(store, truth)
    own, best = result.scores, result.curve[result.best_threshold]
    return (
        f"threshold {result.threshold:g}: VOI {own.voi_split:.3f} + {own.voi_merge:.3f} = "
        f"{own.voi:.3f}, ARAND {own.arand:.3f}; lowest {best.voi:.3f} at {result.best_threshold:g}"
    )


if __name__ == "__main__":
    main()
