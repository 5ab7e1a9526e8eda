"""The few-shot table of docs/training.md: fine-tuning on 1, 2, 4 and 8 labelled sections.

    python scripts/few_shot.py --data ../shared/data/isbi2012 --runs runs/few_shot --threads 1
    python scripts/few_shot.py --runs runs/few_shot --table

A stack that the student has not seen (ISBI 2012). Sections 0-19 may be labelled, 20-29 are scored.
With n labelled sections: the student fine-tuned as it is, fine-tuned after it was adapted to the
stack without labels (its batch-norm statistics measured there), and one from random weights,
trained on the same sections for at least as many steps. No labelled section is left to choose a
threshold with, so all are scored at the checkpoint's, 0.5 for those from random weights; the lowest
VOI of all thresholds stands beside it. Stopped at any time, the script goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from napari_cad.core.adaptation import blend_statistics, measure_statistics
from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.config import PRECISIONS
from napari_cad.core.preprocessing import Preprocessing
from napari_cad.core.readers import open_volume
from napari_cad.core.registry import resolve_checkpoint
from napari_cad.training.config import (
    DataConfig,
    LossConfig,
    OptimiserConfig,
    StudentConfig,
    TrainingConfig,
)
from napari_cad.training.data import TrainingVolume
from napari_cad.training.fine_tune_config import retention_for
from training_table import best, kept, read_curve, trained

if TYPE_CHECKING:
    from napari_cad.core.volume import EMVolume

POOL, TEST = (0, 20), (20, 30)
#: Labelled sections: neighbours, from the middle of the pool.
LABELLED = {n: tuple(range(10 - n // 2, 10 - n // 2 + n)) for n in (1, 2, 4, 8)}


def adapted(path: Path, checkpoint: str, image: EMVolume, mapping: Any) -> str:
    """Save the checkpoint with the stack's own batch-norm statistics; no labels are read."""
    if not path.exists():
        loaded = resolve_checkpoint(checkpoint)
        student = loaded.build()
        statistics = measure_statistics(student, image, Preprocessing(mapping))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, blend_statistics(student, statistics, 1.0), loaded.metadata)
    return str(path)


def settings(start: str | None, n: int, options: argparse.Namespace) -> TrainingConfig:
    """Give the settings of a run with n labelled sections, from a checkpoint or random weights."""
    rate = OptimiserConfig(learning_rate=0.0005, warmup=20, decay=0.5)
    return TrainingConfig(
        name="few-shot",
        steps=options.steps if start is not None else options.scratch_steps,
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        data=DataConfig(patch=(2, options.side, options.side), batch=options.batch),
        student=StudentConfig(checkpoint=start),
        loss=LossConfig(retention=0 if start is None else retention_for(LABELLED[n])),
        optimiser=rate if start is not None else OptimiserConfig(),
    )


def main() -> None:
    """Train what is missing, score it and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/isbi2012"))
    parser.add_argument("--runs", type=Path, default=Path("runs/few_shot"))
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--numbers", nargs="+", type=int, choices=LABELLED, default=list(LABELLED))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--scratch-steps", type=int, default=1200)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--table", action="store_true", help="only write what is there")
    options = parser.parse_args()
    if not options.table:
        run(options)
    print(table(options.runs, resolve_checkpoint(options.checkpoint).metadata.threshold or 0.5))


def run(options: argparse.Namespace) -> None:
    """Train and score everything that is not there yet."""
    torch.set_num_threads(options.threads)
    image = open_volume(options.data / "raw.tif", voxel_size=(50, 4, 4))
    labels = open_volume(options.data / "labels.tif")
    test = TrainingVolume(image.crop(TEST), labels.crop(TEST))
    starts = {
        "as is": options.checkpoint,
        "adapted": adapted(
            options.runs / "adapted.safetensors", options.checkpoint, image, test.intensity
        ),
    }
    for name, start in starts.items():
        kept(_scores(options.runs, name, 0), resolve_checkpoint(start).build(), test)
    for n in options.numbers:
        few = TrainingVolume(image.crop(POOL), labels.crop(POOL), labelled_sections=LABELLED[n])
        for name, start in (*starts.items(), ("scratch", None)):
            folder = options.runs / f"{name.replace(' ', '_')}-{n}"
            checkpoint = trained(settings(start, n, options), folder, [few])
            kept(_scores(options.runs, name, n), load_checkpoint(checkpoint).build(), test)


def _scores(runs: Path, name: str, n: int) -> Path:
    return runs / "scores" / f"{name.replace(' ', '_')}-{n}.json"


def table(runs: Path, recommended: float) -> str:
    """Write the scores that are there: VOI at the recommended threshold (lowest of all)."""
    numbers = [0, *LABELLED]
    titles = {"as is": "from the student as it is", "adapted": "from the adapted student",
              "scratch": "from random weights"}  # fmt: skip
    lines = ["| labelled sections | " + " | ".join(str(n) for n in numbers) + " |",
             "|---" * (len(numbers) + 1) + "|"]  # fmt: skip
    for name, title in titles.items():
        cells = []
        for n in numbers:
            path = _scores(runs, name, n)
            if not path.exists():
                cells.append("")
                continue
            curve = read_curve(path)
            scores = curve.scores
            at = min(scores, key=lambda t: abs(t - (0.5 if name == "scratch" else recommended)))
            cells.append(f"{scores[at].voi:.3f} ({scores[best(curve)].voi:.3f})")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
