"""The events of a run as a progress bar or as lines of JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from napari_cad.core.events import Event, Finished, SectionDone, StageStarted, Warned

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.progress import Task, TaskID


class _SpeedColumn(ProgressColumn):
    """Sections per second, or seconds per section where it is slower than one a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        text = f"{speed:.1f} sections/s" if speed >= 1 else f"{1 / speed:.1f} s/section"
        return Text(text, style="progress.data.speed")


def follow(events: Iterable[Event], *, as_json: bool) -> Finished | None:
    """Show the events of a run until it ends.

    Parameters
    ----------
    events : iterable of Event
        From `segment_volume`; consumed here.
    as_json : bool
        One JSON object per event on stdout instead of a bar on stderr.

    Returns
    -------
    Finished or None
        The last event.
    """
    return _follow_json(events) if as_json else _follow_bar(events)


def _follow_json(events: Iterable[Event]) -> Finished | None:
    finished = None
    for event in events:
        line = {"event": type(event).__name__, **dataclasses.asdict(event)}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        if isinstance(event, Finished):
            finished = event
    return finished


def _follow_bar(events: Iterable[Event]) -> Finished | None:
    finished = None
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        _SpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=120) as progress:
        tasks: dict[str, TaskID] = {}
        for event in events:
            if isinstance(event, StageStarted):
                tasks[event.stage] = progress.add_task(
                    event.stage, total=event.total, completed=event.done
                )
            elif isinstance(event, SectionDone):
                progress.update(tasks[event.stage], completed=event.done)
            elif isinstance(event, Warned):
                console.print(f"warning: {event.message}", style="yellow", highlight=False)
            elif isinstance(event, Finished):
                finished = event
    return finished
