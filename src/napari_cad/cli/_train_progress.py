"""A training run as a progress bar or as lines of JSON, and Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from napari_cad.core.events import Warned
from napari_cad.training.events import StepsDone, TrainingFinished, TrainingStarted, Validated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from napari_cad.core.events import Event
    from napari_cad.training.loop import Trainer


@contextlib.contextmanager
def stop_on_interrupt(trainer: Trainer) -> Iterator[None]:
    """Let the first Ctrl-C end the run after its step, with everything saved; a second, at once.

    Parameters
    ----------
    trainer : Trainer
        What runs inside.
    """

    def stop(_number: int, _frame: Any) -> None:
        trainer.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def follow(events: Iterable[Event], *, as_json: bool) -> TrainingFinished | None:
    """Show the events of a training run until it ends.

    Parameters
    ----------
    events : iterable of Event
        From `Trainer.run`; consumed here.
    as_json : bool
        One JSON object per event on stdout instead of a bar on stderr.

    Returns
    -------
    TrainingFinished or None
        The last event; None in a process that reports nothing.
    """
    finished = None
    for event in _json_lines(events) if as_json else _bar(events):
        if isinstance(event, TrainingFinished):
            finished = event
    return finished


def _json_lines(events: Iterable[Event]) -> Iterator[Event]:
    for event in events:
        line = {"event": type(event).__name__, **dataclasses.asdict(event)}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        yield event


def _bar(events: Iterable[Event]) -> Iterator[Event]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}  {task.fields[left]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("steps", total=None, loss="", left="")
        for event in events:
            if isinstance(event, TrainingStarted):
                console.print(
                    f"training on {event.device}, in {event.run}", style="dim", highlight=False
                )
                progress.update(task, total=event.steps, completed=event.step)
            elif isinstance(event, StepsDone):
                progress.update(
                    task,
                    completed=event.step,
                    loss=f"loss {event.losses['loss']:.3f}",
                    left=f"{_duration(event.seconds_left)} left",
                )
            elif isinstance(event, Validated):
                console.print(validation_line(event.step, event.scores, event.best))
            elif isinstance(event, Warned):
                console.print(f"warning: {event.message}", style="yellow", highlight=False)
            yield event


def validation_line(step: int, scores: dict[str, float], best: bool) -> str:
    """Write a validation on one line."""
    return (
        f"step {step}: validation loss {scores['loss']:.3f}, VOI {scores['voi']:.3f} "
        f"({scores['voi_split']:.3f} split + {scores['voi_merge']:.3f} merge), "
        f"ARAND {scores['arand']:.3f}{', the best so far' if best else ''}"
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
