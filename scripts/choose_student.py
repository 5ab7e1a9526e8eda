r"""Choose weights and threshold of the student that is shipped, on sections 70-79 and nothing else.

    python scripts/choose_student.py --shared ../shared --runs runs/choice \
        --checkpoints runs/a/best.safetensors runs/a/last.safetensors \
        --mean runs/a/last.safetensors runs/b/last.safetensors

Every candidate segments sections 70-79 with the published merge function.

- The weights: those with the lowest CREMI score, sqrt(VOI * ARAND), at any threshold.
- Their threshold: the lowest one whose CREMI score is within 2 % of that. On ten sections a whole
  range of thresholds scores the same but for chance; among equals the one that merges least is
  taken, since what a wrong merge costs grows with the number of sections.

`--mean` makes one more candidate, with the mean of the given weights and with batch-norm statistics
measured anew on sections 0-69, and keeps it in `--runs`. Stopped at any time, the script goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import napari_cad
from napari_cad.core.adaptation import adapt
from napari_cad.core.checkpoint import save_checkpoint
from napari_cad.core.evaluation import evaluate_store
from napari_cad.core.preprocessing import Preprocessing
from napari_cad.core.readers import open_volume
from napari_cad.core.registry import resolve_checkpoint
from napari_cad.core.segmentation_job import SegmentationOptions

VOXEL_SIZE = (30, 6, 6)
TRAINING_SECTIONS = (0, 70)
CHOOSING_SECTIONS = (70, 80)
MERGE_FUNCTION = "median"

#: Scores that differ by less are taken for equal.
TOLERANCE = 0.02

#: Pairs of training sections on which the statistics of a mean of weights are measured.
N_PAIRS = 24


def mean_of(paths: list[Path], data: Path, target: Path) -> Path:
    """Save the student whose weights are the mean of others of the same size."""
    if target.exists():
        return target
    checkpoints = [resolve_checkpoint(str(path)) for path in paths]
    entries = {
        name: torch.stack([checkpoint.state_dict[name] for checkpoint in checkpoints]).mean(0)
        if value.is_floating_point()
        else value
        for name, value in checkpoints[0].state_dict.items()
    }
    mixed = replace(checkpoints[0], state_dict=entries)
    metadata = mixed.metadata
    volume = open_volume(data / "raw", voxel_size=VOXEL_SIZE).crop(TRAINING_SECTIONS)
    network = adapt(
        mixed.build(),
        volume,
        Preprocessing(metadata.intensity.resolve(volume)),
        strength=1.0,
        n_sections=N_PAIRS,
    )
    save_checkpoint(target, network, replace(metadata, name=target.stem))
    return target


def curve_of(checkpoint: str, data: Path, runs: Path) -> list[dict[str, Any]]:
    """Segment and evaluate the sections that choose, or read what was found before."""
    loaded = resolve_checkpoint(checkpoint)
    path = Path(checkpoint)
    run = runs / f"{path.parent.name} {path.stem} {loaded.sha256[:8]}.zarr"
    kept = run.with_suffix(".json")
    if not kept.exists():
        volume = open_volume(data / "raw", voxel_size=VOXEL_SIZE).crop(CHOOSING_SECTIONS)
        options = SegmentationOptions(merge_function=MERGE_FUNCTION)
        store = napari_cad.segment(volume, run, checkpoint, options=options)
        result = evaluate_store(store, open_volume(data / "labels.tif")).to_json()
        partial = kept.with_suffix(".partial")
        partial.write_text(json.dumps(result))
        partial.replace(kept)
    curve: list[dict[str, Any]] = json.loads(kept.read_text())["curve"]
    return curve


def cremi_score(point: dict[str, Any]) -> float:
    """sqrt(VOI * ARAND), of cremi.org's leaderboard."""
    return float(point["voi"] * point["arand"]) ** 0.5


def recommended(curve: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the points that are as good as the best one, that with the lowest threshold."""
    limit = (1 + TOLERANCE) * min(cremi_score(point) for point in curve)
    return next(point for point in curve if cremi_score(point) <= limit)


def main() -> None:
    """Score what is missing, write the table, say which is chosen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--runs", type=Path, default=Path("runs/choice"))
    parser.add_argument("--checkpoints", nargs="+", default=["default"])
    parser.add_argument(
        "--mean", nargs="+", action="append", default=[], metavar="FILE", help="may be repeated"
    )
    options = parser.parse_args()
    data = options.shared / "data" / "snemi3d_ac4"
    options.runs.mkdir(parents=True, exist_ok=True)
    candidates = list(options.checkpoints)
    for paths in options.mean:
        name = "mean of " + " and ".join(f"{Path(p).parent.name} {Path(p).stem}" for p in paths)
        target = options.runs / f"{name}.safetensors"
        candidates.append(str(mean_of([Path(p) for p in paths], data, target)))
    heads = ("candidate", "threshold", "VOI", "ARAND", "CREMI score", "lowest CREMI score")
    print("| " + " | ".join(heads) + " |")
    print("|" + " --- |" * len(heads), flush=True)
    lowest = {}
    for candidate in candidates:
        curve = curve_of(candidate, data, options.runs)
        lowest[candidate] = min(cremi_score(point) for point in curve)
        point = recommended(curve)
        path = Path(candidate)
        scores = (point["voi"], point["arand"], cremi_score(point), lowest[candidate])
        cells = [f"{path.parent.name} {path.stem}".strip(), str(point["threshold"])]
        print("| " + " | ".join(cells + [f"{score:.3f}" for score in scores]) + " |", flush=True)
    print(f"chosen: {min(lowest, key=lambda candidate: lowest[candidate])}")


if __name__ == "__main__":
    main()
