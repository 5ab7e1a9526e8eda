"""Where the tasks of a run are carried out: here, in processes of this machine, or on a cluster.

A task is a plain function whose arguments can be pickled; what it makes goes into the store, and
only counts and addresses travel. An engine takes tasks and gives futures, and nothing in a result
depends on which engine it was.

A task whose worker is lost, or that fails in reading or writing, is asked for again a few times;
what fails for another reason would fail again.
"""

from __future__ import annotations

import contextlib
import errno
import time
import uuid
from abc import ABC, abstractmethod
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future
from concurrent.futures import wait as wait_for_any
from typing import TYPE_CHECKING, Any, Protocol

import napari_cad
from napari_cad.core.errors import ClusterError, ConfigError, NapariCadError, SectionError
from napari_cad.core.locations import remote_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Resource by which a dask worker says that it has a GPU: `dask worker --resources GPU=1`.
GPU = "GPU"

#: How often a task is tried that fails in a way that may pass.
ATTEMPTS = 3

#: Seconds before the second attempt; twice as many before the third.
PAUSE = 0.5

#: Seconds that a scheduler may take to answer.
_CONNECT_TIMEOUT = 10.0

#: Seconds between two looks at which workers there are, while there are none.
_LOOK_AGAIN = 0.2

#: A cluster is given all it can have at once: how much that is only its scheduler knows.
_MANY = 10_000


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
        raise TaskFailed(_describe(error), may_pass(error)) from error


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
        if error is None or self._attempts >= ATTEMPTS or not may_pass(error):
            return False
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
    if isinstance(error, BrokenExecutor):
        said = (
            f"its process ended {ATTEMPTS} times, perhaps for lack of memory; fewer workers need "
            "less"
        )
    elif isinstance(error, TaskFailed):
        said = error.message
    else:
        said = _describe(error)
    return f"{said}. What is done is in the store: the same call goes on from there"


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, NapariCadError):
        return text
    if _is_full(error):
        return f"the disk is full ({text}): free some space"
    return f"{type(error).__name__}{f': {text}' if text else ''}"


# ---------------------------------------------------------------- this machine


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


# ---------------------------------------------------------------- a cluster


class DaskEngine(Engine):
    """The workers of a dask.distributed scheduler.

    Where any of them declares the resource GPU, tasks that run the network go to those only.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    """

    n_slots = _MANY

    def __init__(self, client: Any) -> None:
        self._client = client
        self._has_gpus = False

    def submit(self, function: Callable[..., Any], /, *args: Any, network: bool) -> TaskFuture:
        """See `Engine.submit`."""
        return self._submit(function, args, network=network)

    def wait(self, futures: Sequence[TaskFuture], timeout: float) -> None:
        """See `Engine.wait`."""
        from distributed import wait

        with self._client.as_current(), contextlib.suppress(TimeoutError, CancelledError):
            wait(
                [f.future for f in futures if isinstance(f, _DaskFuture)],
                timeout,
                return_when=FIRST_COMPLETED,
            )

    def wait_for_workers(self, timeout: float, *, gpu: bool) -> bool:
        """Wait for the first worker, or the first that says it has a GPU; False for none in time.

        From then on it is settled whether the network runs on such workers only.
        """
        deadline = time.monotonic() + timeout
        while True:
            workers = self._info()
            self._has_gpus = bool(_with_gpu(workers))
            if self._has_gpus or (workers and not gpu):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_AGAIN)

    def workers(self, *, network: bool) -> list[str]:
        """Addresses of the workers that there are now; `network`: that are to run the network."""
        workers = self._info()
        return _with_gpu(workers) if network and self._has_gpus else list(workers)

    def check_versions(self) -> None:
        """Compare the version of napari-cad on every worker with the one here.

        Raises
        ------
        ClusterError
            Naming those that have another one or none.
        """

        # a nested function travels as code, so it arrives where napari-cad is not installed
        def installed() -> str | None:
            try:
                import napari_cad
            except ImportError:
                return None
            return napari_cad.__version__

        found = self._client.run(installed, on_error="return")
        wrong = {
            name: version for name, version in found.items() if version != napari_cad.__version__
        }
        if wrong:
            listed = "; ".join(f"{name}: {version or 'none'}" for name, version in wrong.items())
            raise ClusterError(
                f"expected napari-cad {napari_cad.__version__} on every worker, as here, got "
                f"{listed}. Install the same version everywhere"
            )

    def everywhere(
        self, what: str, function: Callable[..., Any], /, *args: Any, network: bool
    ) -> None:
        """Run a function once on every worker that there is now.

        Raises
        ------
        ClusterError
            Naming the worker where it failed, and why.
        """
        futures = {
            name: self._submit(function, args, network=network, worker=name)
            for name in self.workers(network=network)
        }
        for name, future in futures.items():
            error = future.exception()
            if error is not None:
                said = error.message if isinstance(error, TaskFailed) else _describe(error)
                raise ClusterError(f"the worker {name} cannot {what}: {said}") from error

    def _info(self) -> dict[str, Any]:
        workers: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return workers

    def _submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        network: bool,
        worker: str | None = None,
    ) -> _DaskFuture:
        future = self._client.submit(
            carry_out,
            napari_cad.__version__,
            function,
            args,
            key=f"{function.__name__}-{uuid.uuid4().hex}",
            pure=False,
            resources={GPU: 1} if network and self._has_gpus else None,
            # what a section needs after the network first: its scratch is gone the sooner
            priority=100 if worker else 0 if network else 10,
            workers=None if worker is None else [worker],
        )
        return _DaskFuture(future)


def _with_gpu(workers: dict[str, Any]) -> list[str]:
    return [name for name, worker in workers.items() if worker["resources"].get(GPU)]


class _DaskFuture:
    """A distributed future whose errors are those of this module."""

    def __init__(self, future: Any) -> None:
        self.future = future

    def done(self) -> bool:
        return bool(self.future.done())

    def exception(self) -> BaseException | None:
        from distributed import KilledWorker

        error: BaseException | None = self.future.exception()  # waits
        if isinstance(error, KilledWorker):
            return TaskFailed(
                f"{error.allowed_failures + 1} workers that were given it ended one after the "
                "other, perhaps for lack of memory (their logs say more): give workers more "
                "memory or fewer threads",
                False,
            )
        if self.future.cancelled():
            return TaskFailed(
                "the scheduler of the cluster is gone, or has forgotten this run: start it again",
                False,
            )
        return error

    def result(self) -> Any:
        return self.future.result()


# ---------------------------------------------------------------- choosing


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


@contextlib.contextmanager
def open_cluster(scheduler: str) -> Iterator[DaskEngine]:
    """Give the engine of a run on a cluster, whose workers are left as they are.

    Parameters
    ----------
    scheduler : str
        Address of a dask scheduler (tcp://HOST:PORT), or the path of its scheduler file.

    Raises
    ------
    ConfigError
        If dask.distributed is not installed.
    ClusterError
        If no scheduler answers.
    """
    with _client(scheduler) as client:  # what is not done is given up when it is closed
        yield DaskEngine(client)


def _client(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError(
            "a cluster needs dask.distributed, which is not installed: "
            "pip install 'napari-cad[cluster]'"
        ) from error
    given = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
    try:
        return Client(**given, timeout=_CONNECT_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:  # a time-out is an OSError; ValueError: no address
        raise ClusterError(
            f"expected a dask scheduler at {scheduler}, and none answers ({_describe(error)}): "
            "start one with `dask scheduler`, and give the address that it prints"
        ) from error
