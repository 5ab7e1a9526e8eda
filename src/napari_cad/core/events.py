"""What a run reports while it goes on: small, frozen, picklable."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """Base of all events of a run."""


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage begins; `done` of `total` sections were finished by an earlier run."""

    stage: str
    total: int
    done: int = 0


@dataclass(frozen=True)
class SectionDone(Event):
    """Section `z` of a stage is in the store, `done` of `total` are."""

    stage: str
    z: int
    done: int
    total: int


@dataclass(frozen=True)
class Warned(Event):
    """Something that the person should know; the run goes on."""

    message: str


@dataclass(frozen=True)
class OutOfDomain(Warned):
    """The checkpoint does not seem to fit the volume; fitting it (`core.fit`) may help."""


@dataclass(frozen=True)
class Finished(Event):
    """The run is complete."""

    store_path: str
    n_fragments: int
    n_segments: int
    seconds: float
