"""Networks, optimiser and checkpoints' metadata from the settings."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import napari_cad
from napari_cad import __version__
from napari_cad.core.checkpoint import CheckpointMetadata
from napari_cad.core.errors import ConfigError
from napari_cad.core.network import StudentNetwork
from napari_cad.core.registry import resolve_checkpoint
from napari_cad.core.teacher import TeacherMetadata, TeacherNetwork, load_teacher
from napari_cad.training.validation import MERGE_FUNCTION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_cad.training.config import OptimiserConfig, TrainingConfig
    from napari_cad.training.data import TrainingVolume
    from napari_cad.training.step import DistillationStep


def build_student(config: TrainingConfig) -> StudentNetwork:
    """Make the student: from its checkpoint, or with random weights of torch's generator.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be loaded.
    """
    if config.student.checkpoint is not None:
        return resolve_checkpoint(config.student.checkpoint).build()
    return StudentNetwork(config.student.width, config.student.embedding_dim)


def build_teacher(config: TrainingConfig, embedding_dim: int) -> TeacherNetwork | None:
    """Make the teacher, if one is asked for.

    Raises
    ------
    CheckpointError
        If its checkpoint cannot be loaded.
    ConfigError
        If its embeddings do not have the student's dimension, which grafting compares.
    """
    if config.teacher is None:
        return None
    if config.teacher.checkpoint is None:
        return TeacherNetwork(config.teacher.widths, embedding_dim, config.teacher.norm_momentum)
    teacher, _ = load_teacher(config.teacher.checkpoint)
    if teacher.embedding_dim != embedding_dim and config.loss.interaction > 0:
        raise ConfigError(
            f"{config.teacher.checkpoint}: its embeddings have {teacher.embedding_dim} channels "
            f"and the student's {embedding_dim}: make them equal, or set loss.interaction to 0"
        )
    multiple = teacher.size_multiple
    if config.data.patch[1] % multiple or config.data.patch[2] % multiple:
        raise ConfigError(
            f"{config.teacher.checkpoint}: this teacher needs patches whose height and width are "
            f"multiples of {multiple}, got {config.data.patch}"
        )
    return teacher


def build_optimiser(step: DistillationStep, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Make the optimiser, with one group of parameters per network that learns.

    Each group has a factor `rate` of the learning rate.
    """
    groups: list[dict[str, Any]] = [{"params": list(step.student.parameters()), "rate": 1.0}]
    if step.teacher is not None and not step.frozen:
        groups.append({"params": list(step.teacher.parameters()), "rate": config.teacher_rate})
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(
        groups,
        lr=config.learning_rate,
        eps=config.eps,
        weight_decay=config.weight_decay,
        amsgrad=config.amsgrad,
    )


def student_metadata(
    config: TrainingConfig, student: StudentNetwork, volumes: Sequence[TrainingVolume], notes: str
) -> CheckpointMetadata:
    """Write down what a checkpoint of this run needs to be used rightly."""
    first = max(volumes, key=lambda volume: volume.weight)
    return CheckpointMetadata(
        name=config.name,
        width=student.width,
        embedding_dim=student.embedding_dim,
        voxel_size=first.voxel_size,
        intensity=first.given_intensity,
        merge_function=MERGE_FUNCTION,
        threshold=config.validation.fixed_threshold,
        training_data=config.training_data or ", ".join(volume.name for volume in volumes),
        licence=config.licence,
        notes=notes,
    )


def teacher_metadata(
    config: TrainingConfig, teacher: TeacherNetwork, volumes: Sequence[TrainingVolume], notes: str
) -> TeacherMetadata:
    """Write down what the teacher of this run needs to be used rightly."""
    student = max(volumes, key=lambda volume: volume.weight)
    return TeacherMetadata(
        name=f"{config.name} teacher",
        widths=teacher.widths,
        embedding_dim=teacher.embedding_dim,
        norm_momentum=teacher.norm_momentum,
        voxel_size=student.voxel_size,
        intensity=student.given_intensity,
        training_data=config.training_data or ", ".join(volume.name for volume in volumes),
        licence=config.licence,
        notes=notes,
    )


def _source_digest() -> str:
    """Hash what computes a run, which between two releases changes more often than the version."""
    digest = hashlib.sha256()
    package = Path(napari_cad.__file__).parent
    for room in ("core", "training"):
        for file in sorted((package / room).glob("*.py")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _frozen_teacher(config: TrainingConfig) -> str | None:
    """Hash the file of a teacher that does not learn, and so is in no saved state."""
    teacher = config.teacher
    if teacher is None or not teacher.frozen or teacher.checkpoint is None:
        return None
    return hashlib.sha256(Path(teacher.checkpoint).expanduser().read_bytes()).hexdigest()


def run_facts(
    config: TrainingConfig,
    volumes: Sequence[TrainingVolume],
    validation: Sequence[TrainingVolume],
) -> dict[str, Any]:
    """Collect what a run was made from, besides its settings; `json` can write it."""
    return {
        "volumes": [volume.signature() for volume in volumes],
        "validation": [volume.signature() for volume in validation],
        "frozen_teacher": _frozen_teacher(config),
        "versions": {
            "napari-cad": __version__,
            "napari-cad sources": _source_digest(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
