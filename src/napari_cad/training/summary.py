"""What a run folder says about its run, for a person and for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_cad.training.run_folder import RunFolder, read_curve

if TYPE_CHECKING:
    import os


def run_summary(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Summarise a training run, also while it goes on.

    Parameters
    ----------
    run : str or Path
        Its folder.

    Returns
    -------
    dict
        Plain values: what was asked for, how far the run is by its curve, its best validation, and
        the checkpoint to use now (None before the first one is saved).

    Raises
    ------
    ConfigError
        If the folder holds no training run.
    """
    folder = RunFolder(run)
    config, facts = folder.read_config(), folder.read_facts()
    curve, validation = read_curve(folder.curve), read_curve(folder.validation)
    best = next((point for point in reversed(validation) if point["best"]), None)
    last = curve[-1] if curve else {}
    student, teacher = config.student, config.teacher
    usable = (path for path in (folder.best, folder.last) if path.exists())
    return {
        "kind": "training run",
        "name": config.name,
        "steps_done": last.get("step", 0),
        "steps": config.steps,
        "minutes": round(last.get("seconds", 0.0) / 60, 1),
        "loss": last.get("loss"),
        "student": student.checkpoint or f"from random weights, width {student.width}",
        "teacher": None if teacher is None else teacher.checkpoint or "from random weights",
        "teacher_frozen": None if teacher is None else teacher.frozen,
        "patch_zyx": list(config.data.patch),
        "batch": config.data.batch,
        "volumes": [volume["name"] for volume in facts["volumes"]],
        "validation_volumes": [volume["name"] for volume in facts["validation"]],
        "validations": len(validation),
        "best_step": best and best["step"],
        "best_voi": best and best["voi"],
        "best_arand": best and best["arand"],
        "checkpoint": next((str(path) for path in usable), None),
        "teacher_checkpoint": str(folder.teacher) if folder.teacher.exists() else None,
        "versions": facts["versions"],
    }
