"""The engine of a cluster: the workers of a dask.distributed scheduler.

dask is used for futures only. Before it gets its first task of a run, a worker is asked whether it
sees what the run needs: all that there are before the run begins, which is refused if one does not,
and any that joins later with its first task. Such a one is told of and left out.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from concurrent.futures import FIRST_COMPLETED, CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import napari_cad
from napari_cad.core.engines import Engine, TaskFailed, WorkerUnfit, carry_out, describe
from napari_cad.core.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from napari_cad.core.engines import TaskFuture

#: Resource by which a dask worker says that it has a GPU: `dask worker --resources GPU=1`.
GPU = "GPU"

#: Seconds that a scheduler may take to answer.
_CONNECT_TIMEOUT = 10.0

#: Seconds between two looks at which workers there are, while there are none.
_LOOK_AGAIN = 0.2

#: A cluster is given all it can have at once: how much that is only its scheduler knows.
_MANY = 10_000


@dataclass(frozen=True)
class Check:
    """What a worker has to pass before its first task of a run.

    Attributes
    ----------
    key : str
        Tells it from any other; a process that has passed it is not asked again.
    function : callable
        Raises an error that says what is missing.
    args : tuple
        Its arguments.
    one_thread : bool
        Whether the worker may have one thread only.
    """

    key: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    one_thread: bool = False


#: Keys of the checks that this process has passed.
_passed: set[str] = set()


def carry_out_if_fit(
    version: str, check: Check | None, function: Callable[..., Any], args: tuple[Any, ...]
) -> Any:
    """Run a task on a worker that has passed a check, or passes it now; see `carry_out`.

    Raises
    ------
    WorkerUnfit
        If it does not pass.
    TaskFailed
        As `carry_out`.
    """
    if check is not None and check.key not in _passed:
        from distributed import get_worker

        worker = get_worker()
        try:
            carry_out(version, check.function, check.args)
        except TaskFailed as error:
            raise WorkerUnfit(error.message, worker.address) from error
        if check.one_thread and worker.state.nthreads > 1:
            raise WorkerUnfit(
                f"it has {worker.state.nthreads} threads, each of which would take the memory of "
                "one: start it with --nthreads 1",
                worker.address,
            )
        _passed.add(check.key)
    return carry_out(version, function, args)


def _nothing() -> None:
    """Do nothing: only the check counts."""


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
        self._checks: dict[bool, Check] = {}
        self._unfit: set[str] = set()
        self._notices: list[str] = []

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

    def require(self, what: str, check: Check, *, network: bool) -> None:
        """Let only workers that pass a check have tasks; all that there are now are asked.

        Parameters
        ----------
        what : str
            Names in an error message what a worker is asked for, such as "take part".
        check : Check
            Which.
        network : bool
            Whether it is for tasks that run the network, or for all others.

        Raises
        ------
        ClusterError
            Naming a worker that does not pass, and why. One that joins later and does not pass is
            left out, and named by `notices`.
        """
        self._checks[network] = check
        futures = {
            name: self._submit(_nothing, (), network=network, worker=name)
            for name in self.workers(network=network)
        }
        for name, future in futures.items():
            error = future.exception()
            if error is not None:
                said = error.message if isinstance(error, TaskFailed) else describe(error)
                raise ClusterError(f"the worker {name} cannot {what}: {said}") from error

    def set_aside(self, unfit: WorkerUnfit) -> bool:
        """See `Engine.set_aside`."""
        if unfit.worker not in self._unfit:
            self._unfit.add(unfit.worker)
            self._notices.append(
                f"The worker {unfit.worker} has joined and cannot take part in this run, which "
                f"goes on without it: {unfit.message}"
            )
        return bool(self._fit())

    def notices(self) -> list[str]:
        """See `Engine.notices`."""
        given, self._notices = self._notices, []
        return given

    def _fit(self) -> list[str]:
        return [name for name in self._info() if name not in self._unfit]

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
        among = [worker] if worker else self._fit() if self._unfit else None
        future = self._client.submit(
            carry_out_if_fit,
            napari_cad.__version__,
            self._checks.get(network),
            function,
            args,
            key=f"{function.__name__}-{uuid.uuid4().hex}",
            pure=False,
            resources={GPU: 1} if network and self._has_gpus else None,
            # what a section needs after the network first: its scratch is gone the sooner
            priority=100 if worker else 0 if network else 10,
            workers=among,
            # those that come later are as good, and all of these may go
            allow_other_workers=among is not None and worker is None,
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
            f"expected a dask scheduler at {scheduler}, and none answers ({describe(error)}): "
            "start one with `dask scheduler`, and give the address that it prints"
        ) from error
