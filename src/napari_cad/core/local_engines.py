"""Engines of this machine: the calling process, or processes beside it."""

from __future__ import annotations

import contextlib
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future
from concurrent.futures import wait as wait_for_any
from typing import TYPE_CHECKING, Any

import napari_cad
from napari_cad.core.engines import Engine, TaskFailed, carry_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from napari_cad.core.engines import TaskFuture


class InlineEngine(Engine):
    """Does the work when it is submitted, in this process."""

    def submit(self, function: Callable[..., Any], /, *args: Any, network: bool) -> TaskFuture:
        """See `Engine.submit`."""
        future: Future[Any] = Future()
        try:
            future.set_result(carry_out(napari_cad.__version__, function, args))
        except TaskFailed as error:
            future.set_exception(error)
        return future

    def wait(self, futures: Sequence[TaskFuture], timeout: float) -> None:
        """See `Engine.wait`: everything has ended."""


class ProcessEngine(Engine):
    """Processes of this machine; one that dies is replaced.

    Parameters
    ----------
    n_workers : int
        How many.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_slots = n_workers
        self._executor = self._start()

    def submit(self, function: Callable[..., Any], /, *args: Any, network: bool) -> TaskFuture:
        """See `Engine.submit`."""
        call = (carry_out, napari_cad.__version__, function, args)
        try:
            future: TaskFuture = self._executor.submit(*call)
        except BrokenExecutor:
            self.stop(kill=True)
            self._executor = self._start()
            future = self._executor.submit(*call)
        return future

    def wait(self, futures: Sequence[TaskFuture], timeout: float) -> None:
        """See `Engine.wait`."""
        wait_for_any(futures, timeout, FIRST_COMPLETED)  # type: ignore[arg-type]

    def stop(self, *, kill: bool) -> None:
        """End the processes, or let them finish what they have been given first."""
        self._executor.shutdown(wait=True, kill_workers=kill)

    def _start(self) -> Any:
        # loky instead of the standard pool: its workers never import the person's main module
        # again, and one that dies is an error instead of a hang
        from joblib.externals.loky import ProcessPoolExecutor

        return ProcessPoolExecutor(max_workers=self.n_slots)


@contextlib.contextmanager
def open_local(n_workers: int) -> Iterator[Engine]:
    """Give the engine of a run on this machine; its processes end with the run.

    Parameters
    ----------
    n_workers : int
        Processes; 0 is the calling one.
    """
    if n_workers == 0:
        yield InlineEngine()
        return
    processes = ProcessEngine(n_workers)
    finished = False
    try:
        yield processes
        finished = True
    finally:
        # what an abandoned run still has in the queue is not worth waiting for
        processes.stop(kill=not finished)
