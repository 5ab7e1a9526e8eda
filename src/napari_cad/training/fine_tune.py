"""Fine-tuning a checkpoint on a few labelled sections, as a job of the viewer runs it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import imageio.v3 as iio
import numpy as np

from napari_cad.core.config import InferenceConfig
from napari_cad.core.readers import open_volume
from napari_cad.core.registry import resolve_checkpoint
from napari_cad.training.config import (
    DataConfig,
    LossConfig,
    OptimiserConfig,
    StudentConfig,
    TrainingConfig,
    ValidationConfig,
)
from napari_cad.training.data import TrainingVolume
from napari_cad.training.data_config import VolumeConfig
from napari_cad.training.events import CheckpointSaved, Validated
from napari_cad.training.fine_tune_config import (
    Compared,
    FineTuneConfig,
    Truth,
    retention_for,
    split_sections,
)
from napari_cad.training.loop import Trainer
from napari_cad.training.validation import validate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from queue import SimpleQueue
    from typing import Any

    from napari_cad.core.checkpoint import Checkpoint
    from napari_cad.core.events import Event

#: Side of what is validated on and shown, in voxels.
_SIZE = 384


def read_truth(folder: str | Path) -> Truth:
    """Open a folder of training data.

    Parameters
    ----------
    folder : str or Path
        See `VolumeConfig.from_folder`.

    Returns
    -------
    Truth

    Raises
    ------
    ConfigError, VolumeError
        If it is none, or a volume in it cannot be read.
    """
    config = VolumeConfig.from_folder(folder)
    image = open_volume(config.image, dataset=config.image_dataset, voxel_size=config.voxel_size)
    labels = open_volume(config.labels, dataset=config.labels_dataset)
    if config.sections is not None:
        image, labels = image.crop(config.sections), labels.crop(config.sections)
    return Truth(
        image, labels, sparse=config.truth == "sparse", unlabelled=config.unlabelled,
        complete=config.complete, labelled=config.labelled_sections,
    )  # fmt: skip


def fine_tuning(
    checkpoint: Checkpoint,
    name: str,
    settings: FineTuneConfig,
    device: str = "auto",
    *,
    retention: float = 0.0,
) -> TrainingConfig:
    """Make the settings of a training run that fine-tunes a checkpoint.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where it starts.
    name : str
        The same checkpoint's name or path.
    settings : FineTuneConfig
        The little that is chosen.
    device : str
        Where to train.
    retention : float
        Weight of L_keep; see `retention_for`.

    Returns
    -------
    TrainingConfig
        The new checkpoint says what it comes from; what else it keeps, `resolve_config` fills in.
    """
    old = checkpoint.metadata
    side = settings.patch
    return TrainingConfig(
        name=f"{old.name} fine-tuned",
        training_data=f"{old.training_data}; then fine-tuned on labelled sections",
        steps=settings.steps,
        device=device,
        save_every=settings.every,
        log_every=5,
        data=DataConfig(patch=(2, side, side), batch=settings.batch),
        student=StudentConfig(checkpoint=name),
        loss=LossConfig(retention=retention),
        optimiser=OptimiserConfig(learning_rate=settings.learning_rate, warmup=20, decay=0.5),
        validation=ValidationConfig(every=settings.every, size=_SIZE, at_start=True),
    )


def fine_tune(
    truth: Truth | str,
    checkpoint: str,
    run: str,
    settings: FineTuneConfig | None = None,
    *,
    validation: Sequence[int] | None = None,
    device: str = "auto",
    go_on: bool = False,
    requests: SimpleQueue[Any] | None = None,
) -> Iterator[Event]:
    """Fine-tune a checkpoint, or go on with it.

    Parameters
    ----------
    truth : Truth or str
        What to learn from, or a folder of training data.
    checkpoint : str
        "default", the name of a published one, or a file.
    run : str
        Folder of the run.
    settings : FineTuneConfig, optional
        By default the defaults.
    validation : sequence of int, optional
        Labelled sections to keep out and choose the best weights with; see `split_sections`.
    device : str
        Where to train.
    go_on : bool
        Take up the run in the folder, towards the steps that the settings say now.
    requests : SimpleQueue, optional
        Anything that comes in it stops the run after the step at hand, with everything saved.

    Yields
    ------
    Event
        See `napari_cad.training.events`, and `Compared` before the first step and from time to
        time.

    Raises
    ------
    NapariCadError
        If the data, the checkpoint or the settings cannot be used, or training fails.
    """
    settings = settings or FineTuneConfig()
    if isinstance(truth, str):
        truth = read_truth(truth)
    loaded = resolve_checkpoint(checkpoint)
    learned, kept = _volumes(truth, loaded, validation)
    volumes: Any = {"volumes": [learned], "validation": [kept] if kept is not None else []}
    if go_on:
        trainer = Trainer.resume(run, steps=settings.steps, device=device, **volumes)
    else:
        labelled = np.flatnonzero(learned.is_labelled).tolist()
        retention = retention_for([z for z in labelled if learned.read_truth(z).any()])
        config = fine_tuning(loaded, checkpoint, settings, device, retention=retention)
        trainer = Trainer.start(config, run, **volumes)
    if requests is not None:
        threading.Thread(target=_stop_when_asked, args=(trainer, requests), daemon=True).start()
    yield from _with_pictures(
        trainer, None if kept is not None else _preview(truth, loaded, learned)
    )


def _with_pictures(trainer: Trainer, preview: TrainingVolume | None) -> Iterator[Event]:
    """Show what the student makes of a section: of those that validate, else of `preview`."""
    if preview is not None and trainer.step == 0:
        yield _compare(trainer, preview)
    for event in trainer.run():
        yield event
        if isinstance(event, Validated) and event.picture is not None:
            yield Compared(event.step, iio.imread(event.picture), event.scores, kept_out=True)
        elif isinstance(event, CheckpointSaved) and preview is not None:
            yield _compare(trainer, preview)


def _compare(trainer: Trainer, preview: TrainingVolume) -> Compared:
    inference = InferenceConfig(device=trainer.device.name, precision=trainer.device.precision)
    outcome = validate(
        trainer.learner.averaged_student(), [preview], size=_SIZE, inference=inference,
        threshold=trainer.config.validation.fixed_threshold,
    )  # fmt: skip
    return Compared(trainer.step, outcome.picture, outcome.to_json(), kept_out=False)


def _stop_when_asked(trainer: Trainer, requests: SimpleQueue[Any]) -> None:
    requests.get()
    trainer.stop()


def _volumes(
    truth: Truth, checkpoint: Checkpoint, validation: Sequence[int] | None
) -> tuple[TrainingVolume, TrainingVolume | None]:
    """Make the volumes to learn from and to validate on."""
    labelled = truth.labelled
    learned = _volume(truth, checkpoint, labelled)  # in memory, and checked, before it is split
    if labelled is None:
        labelled = tuple(z for z in range(learned.shape[0]) if learned.read_truth(z).any())
    training, kept = split_sections(labelled, validation)
    learned.limit_to(training)
    if not kept:
        return learned, None
    first, stop = min(kept), max(kept) + 1
    part = Truth(
        learned.image.crop((first, stop)), learned.labels.crop((first, stop)), truth.sparse,
        truth.unlabelled, truth.complete, tuple(z - first for z in kept),
    )  # fmt: skip
    return learned, _volume(part, checkpoint, part.labelled)


def _volume(truth: Truth, checkpoint: Checkpoint, labelled: Sequence[int] | None) -> TrainingVolume:
    return TrainingVolume(
        truth.image,
        truth.labels,
        sparse=truth.sparse,
        unlabelled=truth.unlabelled,
        complete=truth.complete,
        labelled_sections=labelled,
        intensity=checkpoint.metadata.intensity,
    )


def _preview(truth: Truth, checkpoint: Checkpoint, learned: TrainingVolume) -> TrainingVolume:
    """Take the labelled section in the middle, with its neighbours, to be looked at."""
    sections = np.flatnonzero(learned.is_labelled).tolist()
    z = sections[len(sections) // 2]
    first, stop = max(0, z - 1), min(learned.shape[0], z + 2)
    part = Truth(
        learned.image.crop((first, stop)), learned.labels.crop((first, stop)), truth.sparse,
        truth.unlabelled, truth.complete,
        tuple(i - first for i in range(first, stop) if i in sections),
    )  # fmt: skip
    return _volume(part, checkpoint, part.labelled)
