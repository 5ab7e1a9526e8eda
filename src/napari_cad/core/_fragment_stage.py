"""Fragments and edges of every section, as soon as what they need is there.

Fragments are made of sections in any order, with ids of their own. As soon as all sections before
it have been counted, a section's fragments get their volume-unique ids; then come its edges, which
need the fragments of the section before. So the ids depend on the sections alone, and not on which
worker was the faster one.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core import section_tasks
from napari_cad.core.engines import Task
from napari_cad.core.errors import ConfigError
from napari_cad.core.events import SectionDone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_cad.core.engines import Engine
    from napari_cad.core.events import Event
    from napari_cad.core.store import SegmentationStore

#: Seconds to wait for a task before looking around.
_POLL = 0.5

_HIGHEST_ID = np.iinfo(np.uint32).max


class FragmentStage:
    """Everything that is made of a section from its affinities.

    Parameters
    ----------
    store : SegmentationStore
        With its scratch.
    engine : Engine
        Carries out the tasks.
    look_at : callable
        Called with (z, mean affinity along z) of each section that is looked at; what it yields
        is passed on.
    """

    def __init__(
        self,
        store: SegmentationStore,
        engine: Engine,
        look_at: Callable[[int, float], Iterator[Event]],
    ) -> None:
        self._store = store.address
        self._engine = engine
        self._most = 2 * engine.n_slots  # at once; more would only wait in line
        self._look_at = look_at
        self._n_sections = store.n_sections
        self._numbered = store.sections_done("fragments")
        self._has_edges = store.sections_done("edges")
        # of fragments that have their ids, or wait for them
        self._counts = store.counts("fragments")
        waiting = store.scratch.counts()
        self._counts[~self._numbered] = waiting[~self._numbered]
        self._offset = 0
        # sections with affinities that have not been asked for, the earliest first
        self._ready = [
            int(z)
            for z, has_affinities in enumerate(store.sections_done("affinities"))
            if has_affinities and self._counts[z] < 0
        ]
        self._local: dict[int, Task] = {}
        # in the order of the sections; None where an earlier run has done it
        self._numbering: deque[tuple[int, Task | None]] = deque()
        self._edges: deque[tuple[int, Task]] = deque()
        self._next = 0  # first section whose ids have not been asked for

    def has_affinities(self, z: int) -> None:
        """Take note that the affinities of section `z` are in the store."""
        if self._counts[z] < 0:
            heapq.heappush(self._ready, z)

    def advance(self) -> Iterator[Event]:
        """Do what can be done without waiting.

        Raises
        ------
        SectionError
            If a task failed for good.
        ConfigError
            If the ids do not fit into 32 bits.
        """
        moved = True
        while moved:
            moved = False
            self._ask_for_local()
            for z in [z for z, task in self._local.items() if task.done()]:
                made = self._local.pop(z).result()
                self._counts[z] = made.n_fragments
                moved = True
                yield from self._look_at(z, made.mean_z_affinity)
            self._ask_for_numbers()
            while self._numbering and _is_done(self._numbering[0][1]):
                z, task = self._numbering.popleft()
                if task is not None:
                    task.result()
                moved = True
                if not self._has_edges[z]:
                    self._edges.append((z, self._task("edges", z, section_tasks.make_edges)))
            while self._edges and self._edges[0][1].done():
                z, edges = self._edges.popleft()
                edges.result()
                moved = True
                self._has_edges[z] = True
                done = int(self._has_edges.sum())
                yield SectionDone("fragments", z, done, self._n_sections)

    def finish(self) -> Iterator[Event]:
        """Wait for everything; see `advance`."""
        while True:
            yield from self.advance()
            heads = [tasks[0][1] for tasks in (self._numbering, self._edges) if tasks]
            pending = [task for task in (*self._local.values(), *heads) if task is not None]
            if not pending:
                return
            self._engine.wait([task.future for task in pending], _POLL)

    def _ask_for_local(self) -> None:
        while self._ready and len(self._local) < self._most:
            z = heapq.heappop(self._ready)
            self._local[z] = self._task("fragments", z, section_tasks.make_local_fragments)

    def _ask_for_numbers(self) -> None:
        while (
            self._next < self._n_sections
            and self._counts[self._next] >= 0
            and len(self._numbering) < self._most
        ):
            z, count = self._next, int(self._counts[self._next])
            if self._offset + count > _HIGHEST_ID:
                raise ConfigError(
                    f"more than 2³² fragments by section {z}: segment the volume in parts"
                )
            task = None
            if not self._numbered[z]:
                task = self._task("ids", z, section_tasks.number_fragments, self._offset)
            self._numbering.append((z, task))
            self._offset += count
            self._next += 1

    def _task(self, what: str, z: int, function: Callable[..., Any], *args: Any) -> Task:
        return Task(self._engine, f"{what} of section {z}", function, self._store, z, *args)


def _is_done(task: Task | None) -> bool:
    return task is None or task.done()
