"""A quick look, and averaged views, against a run at full resolution: time, and the same scores.

    python benchmarks/bench_quick.py RAW LABELS --checkpoint default [--augment order flips]

They are run in turn, `--rounds` times, after a round on two sections that is not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from _race import cpu_seconds
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
    parser.add_argument("--augment", nargs="*", default=[], help="as of napari-cad segment")
    arguments = parser.parse_args()
    first, last = (int(part) for part in arguments.sections.split(":"))
    raw = open_volume(arguments.raw, voxel_size=arguments.voxel_size)
    truth = open_volume(arguments.labels).crop((first, last))
    ways = {"full": SegmentationOptions(), "quick": SegmentationOptions(bin=QUICK)}
    ways |= {name: SegmentationOptions(augmentation=name) for name in arguments.augment}
    with tempfile.TemporaryDirectory() as folder:
        for checkpoint in arguments.checkpoint:
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            for round_ in range(arguments.rounds + 1):
                stack = raw.crop((first, first + 2 if round_ == 0 else last))
                for name, options in ways.items():
                    took = segment(stack, checkpoint, Path(folder) / f"{name}.zarr", options)
                    if round_ > 0:
                        taken[name].append(took)
            for name, times in taken.items():
                clock, cpu = (median(column) for column in zip(*times, strict=True))
                clock_ratio, cpu_ratio = (
                    median(one[i] / full[i] for one, full in zip(times, taken["full"], strict=True))
                    for i in (0, 1)
                )
                print(
                    f"{checkpoint}, {name}: {clock:.1f} s ({clock_ratio:.2f} × full), processors "
                    f"{cpu:.1f} s ({cpu_ratio:.2f} × full)\n"
                    f"  {scores(SegmentationStore.open(Path(folder) / f'{name}.zarr'), truth)}",
                    flush=True,
                )


def segment(
    stack: EMVolume, checkpoint: str, run: Path, options: SegmentationOptions
) -> tuple[float, float]:
    """Segment a stack and give the seconds that it took, by the clock and of processors."""
    used, begun = cpu_seconds(), time.perf_counter()
    for _ in segmentation_job(stack, checkpoint, run, options, overwrite=True):
        pass
    return time.perf_counter() - begun, cpu_seconds() - used


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
