"""Ways of doing one thing, timed in turns, as a table with the ratios first.

Used by `bench_stages.py`.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

OURS = "napari-cad"


@dataclass
class Way:
    """One way of doing it.

    Attributes
    ----------
    name : str
        What it is, for the table.
    package : str
        The distribution that does the work; where it is not installed, the row says so.
    prepare : callable
        Imports, and lays the input out as this way wants it; untimed. Gives what is timed.
    describe : callable, optional
        Says of the result what the table should; untimed.
    seconds, cpu : list of float
        Of every round, by the clock and of all processors.
    """

    name: str
    package: str
    prepare: Callable[[], Callable[[], Any]]
    describe: Callable[[Any], str] = lambda _: ""
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    result: str = ""


def race(ways: Sequence[Way], rounds: int) -> list[Way]:
    """Let all ways take turns, `rounds` times after one that warms up; gives those that ran."""
    runners = []
    for way in ways:
        try:
            version(way.package)
        except PackageNotFoundError:
            way.result = "not installed"
            continue
        with silent():
            runners.append((way, way.prepare()))
    for turn in range(rounds + 1):
        for way, run in runners:
            with silent():
                used, started = cpu_seconds(), time.perf_counter()
                made = run()
                seconds = time.perf_counter() - started
                used = cpu_seconds() - used
            if turn:
                way.seconds.append(seconds)
                way.cpu.append(used)
            else:
                way.result = way.describe(made)
            del made
    return [way for way, _ in runners]


def cpu_seconds() -> float:
    """Processor time so far of this process and all below it, of those that have ended too."""
    process = psutil.Process()
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            used = one.cpu_times()
            total += used.user + used.system + used.children_user + used.children_system
    return total


def table(ways: Sequence[Way], voxels: int, *, markdown: bool) -> str:
    """Write one row per way: its time over that of the first of ours, then the time itself.

    The same of the time of processors, which other work on the machine disturbs less.
    """
    ours = next((way for way in ways if way.package == OURS and way.seconds), None)
    rows = [
        [
            "way",
            "version",
            "time / ours",
            "median",
            "fastest",
            "CPU / ours",
            "CPU",
            "Mvx/s",
            "result",
        ]
    ]
    for way in ways:
        if not way.seconds:
            rows.append([way.name, *[""] * 7, way.result])
            continue
        median = statistics.median(way.seconds)
        package = "" if way.package == OURS else f"{way.package} {version(way.package)}"
        rows.append(
            [
                way.name,
                package,
                _ratio(way.seconds, ours and ours.seconds),
                _duration(median),
                _duration(min(way.seconds)),
                _ratio(way.cpu, ours and ours.cpu),
                _duration(statistics.median(way.cpu)),
                f"{voxels / median / 1e6:.1f}",
                way.result,
            ]
        )
    if markdown:
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _ratio(theirs: Sequence[float], ours: Sequence[float] | None) -> str:
    """Compare rounds with rounds: what disturbs both cancels. Times of processors may be zero."""
    if ours is None or min(ours) == 0:
        return ""
    return f"{statistics.median(a / b for a, b in zip(theirs, ours, strict=True)):.2f}"


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep what C libraries print out of the table."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
