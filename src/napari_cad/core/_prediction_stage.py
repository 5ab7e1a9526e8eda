"""Affinities of all sections: by this process, or by the workers of a cluster.

Here the network runs in the calling process, one section after the other, while worker processes
make fragments. A cluster is given ranges of sections; the marks in the store say how far it is, so
that sections go on to the next stage one by one. Both give the same things in the same form.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from napari_cad.core import section_tasks
from napari_cad.core.cluster import Check
from napari_cad.core.engines import ATTEMPTS, PAUSE, Task, expected_errors, failure, may_pass
from napari_cad.core.errors import ConfigError, NapariCadError
from napari_cad.core.section_tasks import Predictor, Student

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_cad.core.adaptation import Statistics
    from napari_cad.core.agreement import Judgement
    from napari_cad.core.checkpoint import Checkpoint
    from napari_cad.core.cluster import DaskEngine
    from napari_cad.core.config import SegmentationConfig
    from napari_cad.core.store import SegmentationStore
    from napari_cad.core.volume import EMVolume

#: Sections of one task at most. Each range encodes the section before it once more, 8 % of the work
#: on one section, and what a lost worker has begun of it goes on elsewhere.
_RANGE = 8

#: Seconds between two looks at the marks.
_POLL = 0.5


class PredictionStage(Protocol):
    """What makes affinities; the methods are called in this order."""

    def prepare(self) -> tuple[SegmentationConfig, dict[str, Any]]:
        """Settle what was left open; see `section_tasks.prepare_run`."""

    def adapt(self) -> None:
        """Measure what adapting the student to the volume needs."""

    def begin(self, store: SegmentationStore, run: str) -> None:
        """Get ready to write into a store, whose scratch has the text `run`."""

    def sections(self, missing: Sequence[int]) -> Iterator[int | None]:
        """Write affinities; yields each section that has them, and None where time passes."""

    def judge_fit(self) -> JudgementFuture:
        """Ask whether the student fits; see `Predictor.judge_fit`."""


class JudgementFuture(Protocol):
    """A judgement that may take a while."""

    def done(self) -> bool:
        """Whether it is there."""

    def result(self) -> Judgement | None:
        """Wait for it."""


class PredictionHere:
    """Runs the network in this process.

    Parameters
    ----------
    volume : EMVolume
        Any; it need not lie in a file.
    checkpoint : Checkpoint
        The student.
    config : SegmentationConfig
        As the person gave it.
    """

    def __init__(
        self, volume: EMVolume, checkpoint: Checkpoint, config: SegmentationConfig
    ) -> None:
        self._volume = volume
        self._checkpoint = checkpoint
        self._config = config
        self._statistics: Statistics | None = None

    def prepare(self) -> tuple[SegmentationConfig, dict[str, Any]]:
        """See `PredictionStage`."""
        self._config, signature = section_tasks.prepare_run(
            self._volume, self._checkpoint, self._config
        )
        return self._config, signature

    def adapt(self) -> None:
        """See `PredictionStage`."""
        self._statistics = section_tasks.measure_statistics(
            self._volume, self._checkpoint, self._config
        )

    def begin(self, store: SegmentationStore, run: str) -> None:
        """See `PredictionStage`."""
        self._store = store
        self._predictor = Predictor(self._checkpoint, self._config, self._statistics)

    def sections(self, missing: Sequence[int]) -> Iterator[int | None]:
        """See `PredictionStage`."""
        left = list(missing)
        attempt = 1
        while left:
            try:
                for z in self._predictor.predict(self._volume, self._store, left.copy()):
                    left.remove(z)
                    attempt = 1
                    yield z
            except expected_errors() as error:
                if attempt == ATTEMPTS or not may_pass(error):
                    if isinstance(error, (NapariCadError, MemoryError)):
                        raise
                    raise failure(f"affinities of section {left[0]}", error) from error
                time.sleep(PAUSE * attempt)
                attempt += 1

    def judge_fit(self) -> JudgementFuture:
        """See `PredictionStage`."""
        made: Future[Judgement | None] = Future()
        made.set_result(self._predictor.judge_fit(self._volume))
        return made


class _Range(NamedTuple):
    start: int
    stop: int
    task: Task


class PredictionThere:
    """Has the workers of a cluster run the network; this process reads no voxel.

    Parameters
    ----------
    engine : DaskEngine
        With at least one worker.
    volume : EMVolume
        With a source.
    checkpoint : Checkpoint
        In a file.
    config : SegmentationConfig
        As the person gave it.

    Raises
    ------
    ConfigError
        If the volume is in the memory of this process only.
    CheckpointError
        If the checkpoint is.
    """

    def __init__(
        self,
        engine: DaskEngine,
        volume: EMVolume,
        checkpoint: Checkpoint,
        config: SegmentationConfig,
    ) -> None:
        from napari_cad.core.registry import checkpoint_address

        if volume.source is None:
            raise ConfigError(
                f"a cluster opens the volume by its address, and {volume.name} is in the memory "
                "of this process only: write it into a file, or run without a scheduler"
            )
        self._engine = engine
        self._source = volume.source
        self._student = Student(checkpoint_address(checkpoint), checkpoint.sha256, config)

    def prepare(self) -> tuple[SegmentationConfig, dict[str, Any]]:
        """See `PredictionStage`."""
        student = self._student
        config, signature = Task(
            self._engine,
            "plan of the run",
            section_tasks.prepare_run_there,
            self._source,
            student.checkpoint,
            student.sha256,
            student.config,
            network=True,
        ).result()
        self._student = Student(student.checkpoint, student.sha256, config)
        return config, signature

    def adapt(self) -> None:
        """See `PredictionStage`."""
        student = self._student
        measured = Task(
            self._engine,
            "adaptation",
            section_tasks.measure_statistics_there,
            self._source,
            student,
            network=True,
        ).result()
        self._student = Student(student.checkpoint, student.sha256, student.config, measured)

    def begin(self, store: SegmentationStore, run: str) -> None:
        """See `PredictionStage`; no worker has a task before it is seen that it sees what it needs.

        Raises
        ------
        ClusterError
            Naming a worker that does not.
        """
        self._store = store.address
        self._marks = store
        for network, student in ((False, None), (True, self._student)):
            check = Check(
                f"{run} {network}",
                section_tasks.check_worker,
                (self._store, run, self._source, student),
                one_thread=self._student.config.memory is not None,
            )
            self._engine.require("take part in this run", check, network=network)

    def sections(self, missing: Sequence[int]) -> Iterator[int | None]:
        """See `PredictionStage`."""
        n_workers = max(1, len(self._engine.workers(network=True)))
        longest = min(_RANGE, max(1, math.ceil(len(missing) / (2 * n_workers))))
        ranges = [
            _Range(start, stop, self._ask_for(start, stop))
            for start, stop in _cut(missing, longest)
        ]
        unseen = set(missing)
        while ranges:
            # those that may be running: they are begun in this order
            for one in ranges[: 2 * n_workers]:
                if one.task.done():
                    one.task.result()
                    ranges.remove(one)
                    made = list(range(one.start, one.stop))
                else:
                    made = self._marked(one)
                for z in made:
                    if z in unseen:
                        unseen.remove(z)
                        yield z
            yield None
            self._engine.wait([one.task.future for one in ranges[: 2 * n_workers]], _POLL)

    def judge_fit(self) -> JudgementFuture:
        """See `PredictionStage`."""
        return Task(
            self._engine,
            "agreement with the reversed stack",
            section_tasks.judge_fit_there,
            self._source,
            self._student,
            network=True,
        )

    def _ask_for(self, start: int, stop: int) -> Task:
        return Task(
            self._engine,
            f"affinities of sections {start} to {stop - 1}",
            section_tasks.predict_sections,
            self._source,
            self._student,
            self._store,
            start,
            stop,
            network=True,
        )

    def _marked(self, one: _Range) -> list[int]:
        counts = self._marks.counts("affinities", slice(one.start, one.stop))
        return [one.start + i for i, count in enumerate(counts) if count >= 0]


def _cut(sections: Sequence[int], longest: int) -> Iterator[tuple[int, int]]:
    """Cut ascending sections into half-open ranges without gaps, of at most `longest`."""
    start = 0
    for i in range(1, len(sections) + 1):
        if i == len(sections) or sections[i] != sections[i - 1] + 1 or i - start == longest:
            yield sections[start], sections[i - 1] + 1
            start = i
