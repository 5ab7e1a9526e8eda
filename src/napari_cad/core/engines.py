"""What carries out the tasks of a run, and what happens to a task that fails.

`local_engines` are this process and others of this machine, `cluster` has the workers of dask.

A task is a plain function whose arguments can be pickled; what it makes goes into the store, and
only counts and addresses travel. An engine takes tasks and gives futures, and nothing in a result
depends on which engine it was.

A task whose worker is lost, or that fails in reading or writing, is asked for again a few times;
what fails for another reason would fail again.
"""

from __future__ import annotations

import errno
import time
from abc import ABC, abstractmethod
from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any, Protocol

import napari_cad
from napari_cad.core.errors import NapariCadError, SectionError
from napari_cad.core.locations import remote_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: How often a task is tried that fails in a way that may pass.
ATTEMPTS = 3

#: Seconds before the second attempt; twice as many before the third.
PAUSE = 0.5


class TaskFuture(Protocol):
    """What engines give for a task; `concurrent.futures.Future` is one."""

    def done(self) -> bool:
        """Whether it has ended, well or not."""

    def exception(self) -> BaseException | None:
        """Wait for the end, and give the error if there was one."""

    def result(self) -> Any:
        """Wait for the end, and give what the function returned, or raise its error."""


class Engine(ABC):
    """Carries out tasks.

    Attributes
    ----------
    n_slots : int
        How many tasks it is worth giving it at once.
    """

    n_slots = 1

    @abstractmethod
    def submit(self, function: Callable[..., Any], /, *args: Any, network: bool) -> TaskFuture:
        """Ask for a task.

        Parameters
        ----------
        function : callable
            A function of a module.
        args : object
            Its arguments; anything that can be pickled.
        network : bool
            Whether it runs the network and so belongs on a GPU where there is one.
        """

    @abstractmethod
    def wait(self, futures: Sequence[TaskFuture], timeout: float) -> None:
        """Wait until one of some futures has ended, or `timeout` seconds have passed."""

    def set_aside(self, unfit: WorkerUnfit) -> bool:
        """Give a worker that says it is unfit no more tasks; False where no other is left."""
        return False

    def notices(self) -> list[str]:
        """Give what is worth telling a person and has not been given before."""
        return []


class TaskFailed(Exception):
    """What a task that failed says, in a form that any process can unpickle.

    Parameters
    ----------
    message : str
        For people.
    may_pass : bool
        Whether it may succeed when it is tried again.
    """

    def __init__(self, message: str, may_pass: bool) -> None:
        super().__init__(message, may_pass)
        self.message = message
        self.may_pass = may_pass


class WorkerUnfit(TaskFailed):
    """What a worker says that was given a task and cannot take part in the run.

    Parameters
    ----------
    message : str
        What it lacks.
    worker : str
        Its address.
    """

    def __init__(self, message: str, worker: str) -> None:
        super().__init__(message, may_pass=False)
        self.args = (message, worker)
        self.worker = worker


def carry_out(version: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Run a task; this is what workers are given.

    Raises
    ------
    TaskFailed
        From the error, whatever it was: not every error survives the way to another process.
    """
    if version != napari_cad.__version__:
        raise TaskFailed(
            f"a worker has napari-cad {napari_cad.__version__}, this process {version}: install "
            "the same version everywhere",
            False,
        )
    try:
        return function(*args)
    except Exception as error:
        raise TaskFailed(describe(error), may_pass(error)) from error


def expected_errors() -> tuple[type[Exception], ...]:
    """List what a task may fail with although the code is right."""
    return (NapariCadError, MemoryError, *remote_errors())


class Task:
    """A task that is asked for again where that can help.

    Parameters
    ----------
    engine : Engine
        Carries it out.
    what : str
        Names it in error messages, such as "fragments of section 3".
    function, args, network
        See `Engine.submit`.
    """

    def __init__(
        self,
        engine: Engine,
        what: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        network: bool = False,
    ) -> None:
        self._what = what
        self._attempts = 0
        self._engine = engine
        self._call = (function, *args)
        self._network = network
        self.future = self._submit()

    def done(self) -> bool:
        """Whether it has ended for good."""
        return self.future.done() and not self._try_again()

    def result(self) -> Any:
        """Wait for it.

        Raises
        ------
        SectionError
            If it failed, naming what it was to make.
        """
        while True:
            error = self.future.exception()
            if error is None:
                return self.future.result()
            if not self._try_again():
                raise failure(self._what, error) from (
                    error.__cause__ if isinstance(error, TaskFailed) else error
                )

    def _submit(self) -> TaskFuture:
        self._attempts += 1
        return self._engine.submit(*self._call, network=self._network)

    def _try_again(self) -> bool:
        error = self.future.exception()
        if isinstance(error, WorkerUnfit):
            if not self._engine.set_aside(error):
                return False
            self._attempts -= 1  # it was not even begun
        elif error is None or self._attempts >= ATTEMPTS or not may_pass(error):
            return False
        else:
            time.sleep(PAUSE * self._attempts)
        self.future = self._submit()
        return True


def failure(what: str, error: BaseException) -> SectionError:
    """Make the error that a run ends with, of one that will not pass."""
    return SectionError(f"the {what} could not be made: {_advice(error)}")


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed: a network or a disk that failed, a lost process."""
    if isinstance(error, TaskFailed):
        return error.may_pass
    if isinstance(error, NapariCadError):
        return error.__cause__ is not None and may_pass(error.__cause__)
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    return isinstance(error, (BrokenExecutor, *remote_errors())) and not _is_full(error)


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _advice(error: BaseException) -> str:
    """Say what happened and what to do; what is done is in the store, whatever it was."""
    if isinstance(error, WorkerUnfit):
        said = f"no worker can take part in this run; {error.worker} says: {error.message}"
    elif isinstance(error, BrokenExecutor):
        said = (
            f"its process ended {ATTEMPTS} times, perhaps for lack of memory; fewer workers need "
            "less"
        )
    elif isinstance(error, TaskFailed):
        said = error.message
    else:
        said = describe(error)
    return f"{said}. What is done is in the store: the same call goes on from there"


def describe(error: BaseException) -> str:
    """Say in one line what an error says, and of which kind it is if it is not one of ours."""
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, NapariCadError):
        return text
    if _is_full(error):
        return f"the disk is full ({text}): free some space"
    return f"{type(error).__name__}{f': {text}' if text else ''}"
