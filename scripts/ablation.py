"""The ablation of docs/training.md: what the teacher's losses add to the student's own.

    python scripts/ablation.py --data ../shared/data/snemi3d_ac4 --runs runs/ablation --threads 1
    python scripts/ablation.py --runs runs/ablation --table

Each kind of loss is trained for the same number of steps on the same patches, with several seeds,
on sections 0-69. The threshold is the one with the lowest VOI on sections 70-79, and the scores are
those of the last (averaged) weights on sections 80-99 at that threshold; no weights are selected.
The teacher is a narrow one that learns along, as in the publication. Stopped at any time, the
script goes on where it was. At the defaults, one run takes some hours on one core.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from napari_cad.core.checkpoint import load_checkpoint
from napari_cad.training.config import (
    DataConfig,
    LossConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from napari_cad.training.data import TrainingVolume, open_training_volume
from napari_cad.training.data_config import VolumeConfig
from training_table import best, kept, trained

TEACHER = TeacherConfig(widths=(8, 12, 16, 20, 24))

#: Title → teacher and losses.
KINDS = {
    "student": ("the student alone", None, LossConfig()),
    "cad": ("+ teacher, L_CAD", TEACHER, LossConfig(interaction=0.0)),
    "cad_fgi": ("+ teacher, L_CAD, L_FGI (recommended)", TEACHER, LossConfig()),
    "published": ("+ teacher, L_CAD, L_FGI (published)", TEACHER, LossConfig(published_fgi=True)),
}


def settings(kind: str, seed: int, options: argparse.Namespace) -> TrainingConfig:
    """Give the settings of one run; only losses and teacher differ between kinds."""
    _, teacher, loss = KINDS[kind]
    return TrainingConfig(
        name=f"ablation {kind} {seed}",
        steps=options.steps,
        seed=seed,
        device=options.device,
        data=DataConfig(patch=tuple(options.patch), batch=options.batch, workers=options.workers),
        student=StudentConfig(width=options.width),
        teacher=teacher,
        loss=loss,
    )


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
    lines = ["| losses | seed | threshold | VOI | split | merge | ARAND |", "|---" * 7 + "|"]
    for kind, (title, _, _) in KINDS.items():
        found = []
        for seed in seeds:
            run = runs / f"{kind}-{seed}"
            if not (run / "test.json").exists():
                continue
            # both were scored before: nothing is read but the files
            threshold = best(kept(run / "validation.json", None, None))  # type: ignore[arg-type]
            scores = kept(run / "test.json", None, None)[threshold]  # type: ignore[arg-type]
            found.append(scores)
            lines.append(f"| {title} | {seed} | {threshold:g} | {_row(scores)} |")
        if len(found) > 1:
            mean = {k: statistics.mean(s[k] for s in found) for k in found[0]}
            lines.append(f"| **{title}** | mean of {len(found)} | | {_row(mean)} |")
    return "\n".join(lines)


def _row(scores: dict[str, float]) -> str:
    return " | ".join(f"{scores[k]:.3f}" for k in ("voi", "voi_split", "voi_merge", "arand"))


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
                run = options.runs / f"{kind}-{seed}"
                checkpoint = trained(settings(kind, seed, options), run, [train])
                student = load_checkpoint(checkpoint).build()
                kept(run / "validation.json", student, validation)
                kept(run / "test.json", student, test)
    print(table(options.runs, options.seeds))


if __name__ == "__main__":
    main()
