"""The ablation of docs/training.md: what the teacher's losses add to the student's own.

    python scripts/ablation.py --data ../shared/data/snemi3d_ac4 --runs runs/ablation --threads 1
    python scripts/ablation.py --runs runs/ablation --table

Each kind of loss is trained for the same number of steps on the same patches, with several seeds,
on sections 0-69. The threshold is the one with the lowest VOI on sections 70-79, and the scores are
those of the last (averaged) weights on sections 80-99 at that threshold; no weights are selected.
Beside them stands the loss of the affinities there, which needs no threshold and varies less. The
teacher is a narrow one that learns along, as in the publication; in the last kind, it is the one
that the run before it with the same losses and seed has made, and learns no more. Stopped at any
time, the script goes on where it was. At the defaults, one run takes some hours on one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from napari_cad.core.checkpoint import load_checkpoint
from napari_cad.core.config import PRECISIONS
from napari_cad.training.config import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from napari_cad.training.data import TrainingVolume, open_training_volume
from napari_cad.training.data_config import VolumeConfig
from training_table import best, kept, read_curve, trained

if TYPE_CHECKING:
    from collections.abc import Sequence

TEACHER = TeacherConfig(widths=(8, 12, 16, 20, 24))

#: Title → teacher and losses.
KINDS = {
    "student": ("the student alone", None, LossConfig()),
    "cad": ("+ teacher, L_CAD", TEACHER, LossConfig(interaction=0.0)),
    "cad_fgi": ("+ teacher, L_CAD, L_FGI (recommended)", TEACHER, LossConfig()),
    "published": ("+ teacher, L_CAD, L_FGI (published)", TEACHER, LossConfig(published_fgi=True)),
    "frozen": (
        "+ frozen teacher of the run before, L_CAD, L_FGI (recommended)",
        TEACHER,
        LossConfig(),
    ),
}
#: Kind whose teacher, of the same seed, the frozen one is.
TEACHER_OF = "cad_fgi"


def settings(kind: str, seed: int, options: argparse.Namespace) -> TrainingConfig:
    """Give the settings of one run; only losses and teacher differ between kinds."""
    _, teacher, loss = KINDS[kind]
    if kind == "frozen":
        made = str(_teacher_file(seed, options).absolute())
        teacher = dataclasses.replace(TEACHER, checkpoint=made, frozen=True)
    return TrainingConfig(
        name=f"ablation {kind} {seed}",
        steps=options.steps,
        seed=seed,
        device=options.device,
        precision=options.precision,
        data=DataConfig(patch=tuple(options.patch), batch=options.batch, workers=options.workers),
        student=StudentConfig(width=options.width),
        teacher=teacher,
        loss=loss,
        # the published losses know no voxels without truth, so they get no blank sections; all
        # else of a patch is as for the other kinds
        augment=AugmentConfig(missing=0.0) if loss.published_fgi else AugmentConfig(),
    )


def _teacher_file(seed: int, options: argparse.Namespace) -> Path:
    path: Path = options.runs / f"{TEACHER_OF}-{seed}" / "teacher.safetensors"
    return path


def volume(folder: Path, sections: tuple[int, int]) -> TrainingVolume:
    """Open some sections of the stack."""
    return open_training_volume(
        VolumeConfig(
            image=str(folder / "raw"),
            labels=str(folder / "labels.tif"),
            sections=sections,
            voxel_size=(30, 6, 6),
        )
    )


def table(runs: Path, seeds: list[int]) -> str:
    """Write the scores that are there as a table."""
    lines = ["| losses | seed | threshold | VOI | split | merge | ARAND | loss |", "|---" * 8 + "|"]
    for kind, (title, _, _) in KINDS.items():
        rows = []
        for seed in seeds:
            run = runs / f"{kind}-{seed}"
            if not (run / "test.json").exists():
                continue
            threshold = best(read_curve(run / "validation.json"))
            test = read_curve(run / "test.json")
            s = test.scores[threshold]
            rows.append((s.voi, s.voi_split, s.voi_merge, s.arand, test.loss))
            lines.append(f"| {title} | {seed} | {threshold:g} | {_cells(rows[-1])} |")
        if len(rows) > 1:
            means = [statistics.mean(column) for column in zip(*rows, strict=True)]
            lines.append(f"| **{title}** | mean of {len(rows)} | | {_cells(means)} |")
    return "\n".join(lines)


def _cells(values: Sequence[float]) -> str:
    return " | ".join(f"{value:.3f}" for value in values)


def main() -> None:
    """Train what is missing, score it and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/snemi3d_ac4"))
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--patch", nargs=3, type=int, default=[6, 128, 128])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--sections", nargs=3, type=int, default=[70, 80, 100], metavar="END")
    parser.add_argument("--table", action="store_true", help="only write what is there")
    options = parser.parse_args()
    if not options.table:
        torch.set_num_threads(options.threads)
        one, two, three = options.sections
        train, validation, test = (
            volume(options.data, part) for part in ((0, one), (one, two), (two, three))
        )
        # seed by seed, so that a table of fewer seeds is there early
        for seed in options.seeds:
            for kind in options.kinds:
                if kind == "frozen" and not _teacher_file(seed, options).exists():
                    raise SystemExit(
                        f"the frozen teacher is that of {TEACHER_OF}: run that kind too"
                    )
                run = options.runs / f"{kind}-{seed}"
                checkpoint = trained(settings(kind, seed, options), run, [train])
                student = load_checkpoint(checkpoint).build()
                kept(run / "validation.json", student, validation)
                kept(run / "test.json", student, test)
    print(table(options.runs, options.seeds))


if __name__ == "__main__":
    main()
