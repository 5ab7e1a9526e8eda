"""The training loop: exact to resume, since everything that it depends on is in the state.

The patches of a step follow from the seed and the step's number, so the position in the data is
the step. What else a step depends on (weights, batch norms, the optimiser's moments, the running
average, torch's random states) is saved together, in one file that appears whole or not at all.
A killed run that is resumed repeats the steps since the last saved state, on a CPU to the last
bit, and its curves show nothing.
"""

from __future__ import annotations

import dataclasses
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import imageio.v3 as iio

from napari_cad.core.checkpoint import save_checkpoint
from napari_cad.core.config import InferenceConfig
from napari_cad.core.device import pick_device
from napari_cad.core.errors import ConfigError
from napari_cad.core.teacher import save_teacher
from napari_cad.training.build import run_facts, student_metadata, teacher_metadata
from napari_cad.training.curves import Curves
from napari_cad.training.data import open_training_volume, synthetic_volumes
from napari_cad.training.events import (
    CheckpointSaved,
    StepsDone,
    TrainingFinished,
    TrainingStarted,
    Validated,
)
from napari_cad.training.freed_memory import freed_memory_kept
from napari_cad.training.learner import Learner, TrainingDivergedError
from napari_cad.training.parallel import Processes
from napari_cad.training.patches import PatchDataset, batches
from napari_cad.training.resolve import resolve_config
from napari_cad.training.run_folder import RunFolder, check_same_data
from napari_cad.training.validation import check_validation, validate

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from napari_cad.core.events import Event
    from napari_cad.core.network import StudentNetwork
    from napari_cad.training.config import TrainingConfig
    from napari_cad.training.data import TrainingVolume

#: Why a run may end early and go on later, as numbers that processes can exchange.
_HALTS = ("", "time", "stopped")


class Trainer:
    """Trains one run; made by `start` or `resume`, run by `run`.

    Attributes
    ----------
    config : TrainingConfig
        The settings.
    folder : RunFolder
        Where everything is written.
    step : int
        Steps done.
    """

    def __init__(
        self,
        config: TrainingConfig,
        folder: RunFolder,
        volumes: Sequence[TrainingVolume] | None,
        validation: Sequence[TrainingVolume] | None,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.processes = Processes.from_environment()
        self.device = pick_device(self.processes.own_gpu(config.device), config.precision)
        if volumes is None:
            memory = config.data.memory
            volumes = [open_training_volume(one, memory) for one in config.data.volumes]
        if validation is None:
            memory = config.data.memory
            validation = [open_training_volume(one, memory) for one in config.data.validation]
        self.volumes = [*volumes, *synthetic_volumes(config.data)]
        self.validation = list(validation)
        check_validation(self.validation, config.validation)
        self.dataset = PatchDataset(self.volumes, config.data, config.augment, config.seed)
        self.facts = run_facts(config, self.volumes, self.validation)
        self.learner = Learner(
            config, self.device, None if state is None else state["learner"]["networks"]["student"]
        )
        self.step = 0
        self._pending: list[dict[str, float]] = []
        self._best: dict[str, Any] = {"score": math.inf, "step": 0, "since": 0}
        self._saved = -1
        self._seconds = 0.0
        self._ended = ""
        self._stopping = False
        # what the folder needs before the first step, written when all processes have read it
        self._write_down: Callable[[], None] | None = None

    @classmethod
    def start(
        cls,
        config: TrainingConfig,
        run: str | os.PathLike[str],
        *,
        volumes: Sequence[TrainingVolume] | None = None,
        validation: Sequence[TrainingVolume] | None = None,
    ) -> Self:
        """Prepare a new run.

        Parameters
        ----------
        config : TrainingConfig
            The settings.
        run : str or Path
            A folder that holds no run yet; it is made.
        volumes, validation : sequence of TrainingVolume, optional
            In place of those that the settings name, for example of arrays in memory.

        Returns
        -------
        Trainer

        Raises
        ------
        ConfigError, VolumeError, ShapeError, CheckpointError
            If the settings, the data or a checkpoint cannot be used. Nothing is written then.
        """
        folder = RunFolder(run)
        if Processes.from_environment().is_first:
            folder.check_empty()
        names = None if volumes is None else [volume.name for volume in volumes]
        config = resolve_config(config, names)
        trainer = cls(config, folder, volumes, validation)
        trainer._write_down = partial(folder.create, config, trainer.facts)
        return trainer

    @classmethod
    def resume(
        cls,
        run: str | os.PathLike[str],
        *,
        volumes: Sequence[TrainingVolume] | None = None,
        validation: Sequence[TrainingVolume] | None = None,
        steps: int | None = None,
        device: str | None = None,
    ) -> Self:
        """Take up a run where its last saved state is.

        Parameters
        ----------
        run : str or Path
            The folder of the run.
        volumes, validation : sequence of TrainingVolume, optional
            As given to `start`; they must be the same.
        steps : int, optional
            Another number of steps for the whole run. A run whose learning rate has begun to
            fall goes back to where it had not yet.
        device : str, optional
            Another device than that of the settings.

        Returns
        -------
        Trainer

        Raises
        ------
        ConfigError, CheckpointError
            If the folder holds no run, or its state cannot be read.
        StoreMismatchError
            If the data are not those of the run.
        """
        folder = RunFolder(run)
        old = folder.read_config()
        config = old
        if device is not None:
            config = dataclasses.replace(config, device=device)
        if steps is not None:
            config = dataclasses.replace(config, steps=steps)
        facts = folder.read_facts()
        state = folder.load_state()
        trainer = cls(config, folder, volumes, validation, state)
        check_same_data(facts, trainer.facts)
        other_length = state is not None and config.steps != old.steps
        if state is not None and other_length:
            state = _before_decay(folder, state, old, config.steps)
        if state is not None:
            trainer._load(state)

        def write_down() -> None:
            if state is not None and other_length:  # first: a kill in between must not mix the two
                folder.save_state(state)
            if config != old:
                folder.write_config(config)
            folder.note_versions(facts, trainer.step, trainer.facts["versions"])

        trainer._write_down = write_down
        return trainer

    # ---------------------------------------------------------------------------------- running

    def run(self, *, minutes: float | None = None) -> Iterator[Event]:
        """Train to the end.

        Parameters
        ----------
        minutes : float, optional
            Stop after this time, with everything saved; `resume` goes on.

        Yields
        ------
        Event
            See `napari_cad.training.events`. Of several processes only the first one reports.

        Raises
        ------
        TrainingDivergedError
            If the loss or a gradient is not finite.
        DeviceMemoryError
            If a step does not fit into memory.
        """
        self.processes.join(self.device.name)
        try:
            self.processes.agree(0)
            if self._write_down is not None and self.processes.is_first:
                self._write_down()
            self._write_down = None
            with freed_memory_kept():
                for event in self._run(minutes):
                    if self.processes.is_first:
                        yield event
        finally:
            self._stopping = False
            self.processes.leave()

    def stop(self) -> None:
        """Ask `run` to end after the step it is at, with everything saved.

        It may be called at any time, also by a signal's handler or from another thread.
        """
        self._stopping = True

    def _run(self, minutes: float | None) -> Iterator[Event]:
        config, begun, first = self.config, time.monotonic(), self.step
        yield TrainingStarted(str(self.folder.path), self.step, config.steps, self.device.name)
        loss = config.loss
        module = self.processes.wrap(
            self.learner.networks, self.device.name, unused=loss.teacher == 0 or loss.slice == 0
        )
        fresh = self._saved < 0  # no state: what an earlier try has logged counts for nothing
        curves = (
            Curves(self.folder, -1 if fresh else self.step) if self.processes.is_first else None
        )
        stream = batches(
            self.dataset,
            first_step=self.step,
            rank=self.processes.rank,
            world=self.processes.world,
            pin_memory=self.device.kind == "cuda",
        )
        reason, before = self._ended or "steps", self._seconds
        try:
            if fresh and self.validation and config.validation.at_start:
                if self.processes.is_first:
                    yield self._validate(curves)
                yield from self._save()
            while self.step < config.steps and not self._ended:
                late = minutes is not None and time.monotonic() - begun > 60 * minutes
                halt = "stopped" if self._stopping else "time" if late else ""
                halt = _HALTS[self.processes.agree(_HALTS.index(halt))]
                if halt:
                    reason = halt
                    break
                self._pending.append(self.learner.step(module, *next(stream), self.step))
                self.step += 1
                elapsed = time.monotonic() - begun
                self._seconds = before + elapsed
                left = elapsed / (self.step - first) * (config.steps - self.step)
                at_end = self.step == config.steps
                if self.step % config.log_every == 0 or at_end:
                    yield self._point(curves, left)
                validated = bool(self.validation) and (
                    self.step % config.validation.every == 0 or at_end
                )
                if validated:
                    if self.processes.is_first:
                        yield self._validate(curves)
                    patience = config.validation.patience
                    if self.processes.agree(bool(patience) and self._best["since"] >= patience):
                        self._ended = reason = "patience"
                if validated or self.step % config.save_every == 0:
                    yield from self._save()
                if self.step == _decay_start(config):
                    self._save_state(before_decay=True)
            if self._saved != self.step:
                yield from self._save()
        except TrainingDivergedError as error:
            again = (
                f"Start a new run from the last good weights, those of step {self._saved} in "
                f"{self.folder.last} (student.checkpoint, or --checkpoint),"
                if self._saved >= 0
                else "Start a new run"
            )
            raise TrainingDivergedError(
                f"{error}. {again} with a lower optimiser.learning_rate, a lower optimiser.clip "
                "(0 is no limit), or precision float32"
            ) from error
        finally:
            if curves is not None:
                curves.close()
        use = self.folder.best if self.folder.best.exists() else self.folder.last
        yield TrainingFinished(str(self.folder.path), str(use), self.step, self._seconds, reason)

    # ---------------------------------------------------------------------- curves and validation

    def _point(self, curves: Curves | None, seconds_left: float) -> StepsDone:
        """Average the steps since the last point; a loss that began midway, over its own."""
        names = dict.fromkeys(name for values in self._pending for name in values)
        losses = {}
        for name in names:
            values = [one[name] for one in self._pending if name in one]
            losses[name] = math.fsum(values) / len(values)
        self._pending = []
        rate = self.config.optimiser.learning_rate_at(self.step - 1, self.config.steps)
        if curves is not None:
            curves.add_losses(
                self.step, losses, learning_rate=rate, seconds=round(self._seconds, 1)
            )
        return StepsDone(self.step, self.config.steps, losses, rate, seconds_left)

    def _validate(self, curves: Curves | None) -> Validated:
        config = self.config.validation
        student = self.learner.averaged_student()
        outcome = validate(
            student,
            self.validation,
            size=config.size,
            threshold=config.fixed_threshold,
            inference=InferenceConfig(device=self.device.name, precision=self.device.precision),
        )
        scores = outcome.to_json()
        score = scores[config.select]
        best = score < self._best["score"]
        if best:
            self._best = {"score": score, "step": self.step, "since": 0}
            self._save_student(self.folder.best, student)
        else:
            self._best["since"] += 1
        iio.imwrite(self.folder.picture, outcome.picture)
        if curves is not None:
            curves.add_validation(self.step, scores, best)
        return Validated(self.step, scores, best, str(self.folder.picture))

    # ------------------------------------------------------------------------------------ saving

    def _save(self) -> Iterator[Event]:
        if not self.processes.is_first:
            return
        self._save_state()
        self._save_student(self.folder.last, self.learner.averaged_student())
        teacher = self.learner.averaged_teacher()
        if teacher is not None:
            metadata = teacher_metadata(self.config, teacher, self.volumes, self._notes())
            save_teacher(self.folder.teacher, teacher, metadata)
        self._saved = self.step
        yield CheckpointSaved(self.step, str(self.folder.last))

    def _save_student(self, path: Path, student: StudentNetwork) -> None:
        metadata = student_metadata(self.config, student, self.volumes, self._notes())
        save_checkpoint(path, student, metadata)

    def _notes(self) -> str:
        return f"step {self.step} of {self.config.steps}"

    def _save_state(self, *, before_decay: bool = False) -> None:
        if not self.processes.is_first:
            return
        state = {
            "step": self.step,
            "learner": self.learner.state_dict(),
            "pending": self._pending,
            "best": self._best,
            "seconds": self._seconds,
            "ended": self._ended,
        }
        self.folder.save_state(state, before_decay=before_decay)

    def _load(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.step = self._saved = state["step"]
        self._pending = state["pending"]
        self._best = state["best"]
        self._seconds = state["seconds"]
        self._ended = state["ended"]


def train(
    config: TrainingConfig,
    run: str | os.PathLike[str],
    *,
    volumes: Sequence[TrainingVolume] | None = None,
    validation: Sequence[TrainingVolume] | None = None,
    minutes: float | None = None,
) -> Iterator[Event]:
    """Train a new run to its end; see `Trainer.start` and `Trainer.run`."""
    yield from Trainer.start(config, run, volumes=volumes, validation=validation).run(
        minutes=minutes
    )


def resume(
    run: str | os.PathLike[str],
    *,
    volumes: Sequence[TrainingVolume] | None = None,
    validation: Sequence[TrainingVolume] | None = None,
    steps: int | None = None,
    device: str | None = None,
    minutes: float | None = None,
) -> Iterator[Event]:
    """Go on with a run to its end; see `Trainer.resume` and `Trainer.run`."""
    trainer = Trainer.resume(
        run, volumes=volumes, validation=validation, steps=steps, device=device
    )
    yield from trainer.run(minutes=minutes)


def _decay_start(config: TrainingConfig) -> int:
    """Step after which the learning rate falls; −1 if it never does."""
    if config.optimiser.schedule == "constant" or config.optimiser.decay == 0:
        return -1
    return int((1 - config.optimiser.decay) * config.steps)


def _before_decay(
    folder: RunFolder, state: dict[str, Any], old: TrainingConfig, steps: int
) -> dict[str, Any]:
    """Choose the state from which a run with another number of steps goes on."""
    best = state["best"] | {"since": 0}  # on disk; it stays the one to beat
    if 0 <= _decay_start(old) < state["step"]:
        state = folder.load_state(before_decay=True) or state
    if state["step"] > steps:
        raise ConfigError(f"{folder.path} is at step {state['step']} already, got steps {steps}")
    return state | {"best": best, "ended": ""}
