"""What a training run reports while it goes on: small, frozen, picklable."""

from __future__ import annotations

from dataclasses import dataclass

from napari_cad.core.events import Event


@dataclass(frozen=True)
class TrainingStarted(Event):
    """Training begins at `step` of `steps`, on `device`; `run` is its folder."""

    run: str
    step: int
    steps: int
    device: str


@dataclass(frozen=True)
class StepsDone(Event):
    """A point of the curve: means over the steps since the last point.

    `losses` has "loss", which is descended, and its parts without their weights. `seconds_left`
    is an estimate to the end of the run, without what is still to validate.
    """

    step: int
    steps: int
    losses: dict[str, float]
    learning_rate: float
    seconds_left: float


@dataclass(frozen=True)
class Validated(Event):
    """Scores on the validation volumes; `best` says that they are the best so far.

    `picture` is a PNG file: image, affinities, segmentation and truth of one section.
    """

    step: int
    scores: dict[str, float]
    best: bool
    picture: str | None = None


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A student's checkpoint, ready for use, was written."""

    step: int
    path: str


@dataclass(frozen=True)
class TrainingFinished(Event):
    """The run is over. `checkpoint` is the one to use: the best, or the last without validation.

    `reason` is "steps" (all are done), "patience" (no better validation for too long), or, where
    the run can be resumed, "time" or "stopped".
    """

    run: str
    checkpoint: str
    step: int
    seconds: float
    reason: str
