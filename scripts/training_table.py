"""What the scripts of tables of trained students share: runs that go on, and scores that stay."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from napari_cad.core.metrics import Scores
from napari_cad.training.events import StepsDone, TrainingFinished
from napari_cad.training.loop import Trainer
from napari_cad.training.resolve import resolve_config
from napari_cad.training.validation import ScoreCurve, score_curve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_cad.core.network import StudentNetwork
    from napari_cad.training.config import TrainingConfig
    from napari_cad.training.data import TrainingVolume

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def trained(
    config: TrainingConfig,
    run: Path,
    volumes: Sequence[TrainingVolume],
    validation: Sequence[TrainingVolume] = (),
) -> Path:
    """Train a run to its end, or go on with it, or find it done; gives its last checkpoint."""
    data: dict[str, Any] = {"volumes": volumes, "validation": validation}
    if (run / "config.json").exists():
        trainer = Trainer.resume(run, **data)
        wanted = resolve_config(config, [volume.name for volume in volumes])
        if trainer.config != wanted:
            raise SystemExit(
                f"{run} was made with other settings: take another --runs, or delete it"
            )
    else:
        trainer = Trainer.start(config, run, **data)
    if trainer.step < trainer.config.steps:
        for event in trainer.run():
            if isinstance(event, StepsDone):
                left = event.seconds_left / 60
                print(f"\r{run.name}: step {event.step}, {left:.0f} minutes left ", end="")
            elif isinstance(event, TrainingFinished):
                print()
    return run / "last.safetensors"


def kept(path: Path, student: StudentNetwork, volume: TrainingVolume) -> ScoreCurve:
    """Score a student on a volume at all thresholds, or read the scores from where they are.

    Scores of other weights are not those that are asked for, and are made again.
    """
    weights = _hash(student)
    if not path.exists() or json.loads(path.read_text())["weights"] != weights:
        curve = score_curve(student, volume, THRESHOLDS)
        scores = {t: [s.voi_split, s.voi_merge, s.arand] for t, s in curve.scores.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"weights": weights, "loss": curve.loss, "scores": scores}))
        partial.replace(path)
    return read_curve(path)


def read_curve(path: Path) -> ScoreCurve:
    """Read what `kept` has written."""
    found = json.loads(path.read_text())
    return ScoreCurve(found["loss"], {float(t): Scores(*s) for t, s in found["scores"].items()})


def _hash(student: StudentNetwork) -> str:
    digest = hashlib.sha256()
    for value in student.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def best(curve: ScoreCurve) -> float:
    """Give the threshold with the lowest VOI."""
    return min(curve.scores, key=lambda threshold: curve.scores[threshold].voi)
