"""Settings as a run writes them down, whatever the working directory and the checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.registry import resolve_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_cad.training.config import TrainingConfig
    from napari_cad.training.data_config import VolumeConfig


def resolve_config(config: TrainingConfig, volumes: Sequence[str] | None = None) -> TrainingConfig:
    """Fill in what settings leave open.

    Files are named by their whole path, so that the run can be gone on with from anywhere. What
    goes on from a checkpoint keeps its licence, threshold and intensity mapping, where nothing
    else is set, and says what it was trained on before.

    Parameters
    ----------
    config : TrainingConfig
        As given.
    volumes : sequence of str, optional
        Names of what is learned from; by default those of the settings' files.

    Returns
    -------
    TrainingConfig

    Raises
    ------
    CheckpointError
        If the student's checkpoint cannot be loaded.
    """
    if volumes is None:
        volumes = [Path(volume.image).name for volume in config.data.volumes]
    student, teacher = config.student, config.teacher
    licence, training_data = config.licence, config.training_data
    threshold, intensity = config.validation.threshold, IntensityMapping()
    if student.checkpoint is not None:
        old = resolve_checkpoint(student.checkpoint).metadata
        intensity = old.intensity
        threshold = old.threshold if threshold is None else threshold
        licence = licence or old.licence
        training_data = training_data or (
            f"{old.training_data}; then fine-tuned on {', '.join(volumes)}"
        )
        student = dataclasses.replace(student, checkpoint=_whole(student.checkpoint))
    if teacher is not None and teacher.checkpoint is not None:
        teacher = dataclasses.replace(teacher, checkpoint=_whole(teacher.checkpoint))
    return dataclasses.replace(
        config,
        licence=licence,
        training_data=training_data,
        student=student,
        teacher=teacher,
        data=dataclasses.replace(
            config.data,
            volumes=tuple(_volume(one, intensity) for one in config.data.volumes),
            validation=tuple(_volume(one, intensity) for one in config.data.validation),
        ),
        validation=dataclasses.replace(config.validation, threshold=threshold),
    )


def _volume(volume: VolumeConfig, intensity: IntensityMapping) -> VolumeConfig:
    given = volume.intensity != IntensityMapping()
    return dataclasses.replace(
        volume,
        image=_whole(volume.image),
        labels=_whole(volume.labels),
        intensity=volume.intensity if given else intensity,
    )


def _whole(path: str) -> str:
    """Give the whole path of a file or folder; names and URLs stay as they are."""
    here = Path(path).expanduser()
    return str(here.absolute()) if here.exists() else path
