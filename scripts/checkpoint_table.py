"""The table of docs/default_student.md: our student beside the five published ones.

    python scripts/checkpoint_table.py --shared ../shared --runs runs/checkpoints
    python scripts/checkpoint_table.py ... --checkpoints mine.safetensors

Every checkpoint segments sections 80-99 of SNEMI3D and all of ISBI 2012, the latter as it is and
adapted without labels (`--adapt 1`), with the merge function and the threshold that the checkpoint
recommends; the lowest VOI of the curve stands beside it. Of the default student, the threshold was
chosen on sections 70-79, nothing at all on ISBI 2012. Stopped at any time, the script goes on where
it was. About two minutes per checkpoint on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import napari_cad
from napari_cad.core.config import FitConfig
from napari_cad.core.evaluation import evaluate_store
from napari_cad.core.readers import open_volume
from napari_cad.core.registry import resolve_checkpoint
from napari_cad.core.segmentation_job import SegmentationOptions

PUBLISHED = ("AC34", "CremiA", "CremiB", "CremiC", "wafer4")

#: Title -> raw, labels, voxel size (z, y, x) in nm, sections, strength of the adaptation.
TASKS: dict[str, tuple[str, str, tuple[float, float, float], tuple[int, int], float]] = {
    "SNEMI3D 80–99": ("snemi3d_ac4/raw", "snemi3d_ac4/labels.tif", (30, 6, 6), (80, 100), 0.0),
    "ISBI 2012": ("isbi2012/raw.tif", "isbi2012/labels.tif", (50, 4, 4), (0, 30), 0.0),
    "ISBI 2012, adapted": ("isbi2012/raw.tif", "isbi2012/labels.tif", (50, 4, 4), (0, 30), 1.0),
}


def score(checkpoint: str, title: str, data: Path, runs: Path) -> dict[str, Any]:
    """Segment and evaluate, or read what was found before."""
    raw, labels, voxel_size, sections, adapt = TASKS[title]
    digest = resolve_checkpoint(checkpoint).sha256[:8]
    run = runs / f"{Path(checkpoint).stem} {digest} {title}.zarr"
    kept = run.with_suffix(".json")
    if not kept.exists():
        volume = open_volume(data / raw, voxel_size=voxel_size).crop(sections)
        options = SegmentationOptions(fit=FitConfig(adapt=adapt))
        store = napari_cad.segment(volume, run, checkpoint, options=options)
        result = evaluate_store(store, open_volume(data / labels)).to_json()
        partial = kept.with_suffix(".partial")
        partial.write_text(json.dumps(result))
        partial.replace(kept)
    return json.loads(kept.read_text())


def cells(result: dict[str, Any]) -> list[str]:
    """Give VOI and ARAND at the recommended threshold, and the lowest VOI of the curve."""
    return [f"{result[key]:.3f}" for key in ("voi", "arand", "best_voi")]


def main() -> None:
    """Score what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--runs", type=Path, default=Path("runs/checkpoints"))
    parser.add_argument(
        "--checkpoints", nargs="+", help="by default the default student and the published ones"
    )
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    published = [str(options.shared / "checkpoints" / f"{name}.ckpt") for name in PUBLISHED]
    rows = []
    for checkpoint in options.checkpoints or ["default", *published]:
        row = [Path(checkpoint).stem]
        for title in TASKS:
            row += cells(score(checkpoint, title, options.shared / "data", options.runs))
        rows.append(row)
        print(" | ".join(row), flush=True)
    heads = [f"{title}: {what}" for title in TASKS for what in ("VOI", "ARAND", "lowest VOI")]
    for line in (["checkpoint", *heads], ["---"] * (len(heads) + 1), *rows):
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
