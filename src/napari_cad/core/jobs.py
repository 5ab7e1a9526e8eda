"""Jobs: generators that run in a child process and report events to this one.

A job is a generator function named as "package.module:function". It runs in a fresh interpreter
(a subprocess, not `multiprocessing`, so the person's own main module is never imported again),
so neither a computation that holds the GIL nor a crash in CUDA or C++ touches the process that
asked for it, and cancelling is ending the process.

Frames go both ways through the child's standard streams: a length and a pickle. The streams are
moved away from file descriptors 0 and 1 first, so nothing that a library prints can get between
the frames. The child ends itself, with all its own children, when the parent's end of its
standard input is closed, which is what the system does when the parent dies.

A job that is given `Requests()` as an argument finds there a queue of what the parent sends it
while it runs.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil

from napari_cad.core import _job_child
from napari_cad.core._job_child import (
    POSIX,
    REQUESTS,
    ArrayHandle,
    ServedArray,
    read_frame,
    signal_group,
    to_bytes,
    write_frame,
)
from napari_cad.core.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from napari_cad.core.volume import ArrayLike

__all__ = ["JobProcess", "Requests", "Served", "ServedArray"]

#: Lines of the child's standard error kept for the details of a crash.
_STDERR_LINES = 200
#: Seconds between asking a job's processes to end and ending them.
_GRACE = 0.3
#: Seconds that a child which has said its last word may take to go.
_EXIT_TIMEOUT = 5.0


class Served:
    """An array of this process that a job may read without a copy of it being made.

    Anywhere among the arguments of a job, it arrives in the child as a `ServedArray`. In this
    process it behaves as the array itself.

    Parameters
    ----------
    array : array_like
        numpy, zarr, dask, ...: anything with shape, dtype and `[]`. It is read from another
        thread than the one that starts the job.
    """

    def __init__(self, array: ArrayLike) -> None:
        self.array = array
        self.shape = tuple(int(n) for n in array.shape)
        self.dtype = np.dtype(array.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> Any:
        return self.array[key]

    def __reduce__(self) -> Any:
        raise TypeError("a served array can only be sent to a job, as an argument of JobProcess")


class Requests:
    """Stands among the arguments of a job for the queue of requests to it.

    In the child it is a `queue.SimpleQueue`, into which goes whatever `JobProcess.send` is given,
    in order.
    """

    def __reduce__(self) -> Any:
        raise TypeError("requests can only be an argument of JobProcess")


class _End(NamedTuple):
    """The last thing that a child's output gives."""

    error: JobError | None


class JobProcess:
    """A running job, seen from the process that asked for it.

    No method blocks, but for `wait` and `events`, which are for scripts.

    Parameters
    ----------
    function : str
        "package.module:function", a generator function that can be imported.
    arguments : mapping of str to object
        Its keyword arguments: anything picklable, and `Served` arrays.

    Attributes
    ----------
    error : JobError or None
        Why the job failed.
    """

    def __init__(self, function: str, arguments: Mapping[str, Any] | None = None) -> None:
        self.error: JobError | None = None
        self._ended = False
        self._cancelled = False
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._arrays: list[ArrayLike] = []
        # pickled here, so that an argument which cannot be sent is the caller's error
        self._outgoing.put(to_bytes(list(sys.path)))
        self._outgoing.put(self._pickle_call(function, dict(arguments or {})))
        self._process = subprocess.Popen(
            # -P: a file in the working directory must not replace a module of the library
            [sys.executable, "-P", "-m", _job_child.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # its own group: Ctrl-C in the terminal is the parent's business, and ending the
            # group ends grandchildren whose parent has already gone; but no session of its own,
            # for Linux shares the cores among sessions, however nice the processes in them are
            process_group=0 if POSIX else None,
            creationflags=0 if POSIX else _windows_flags(),
        )
        self._stderr_thread = threading.Thread(target=self._read_stderr, daemon=True)
        self._stderr_thread.start()
        threading.Thread(target=self._write, daemon=True).start()
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def state(self) -> str:
        """One of "running", "finished", "failed", "cancelled".

        It leaves "running" only when every event has been given out by `poll`.
        """
        if self._cancelled:
            return "cancelled"
        if not self._ended:
            return "running"
        return "failed" if self.error is not None else "finished"

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the child still exists, cancelled or not."""
        return self._process.poll() is None

    def send(self, request: Any) -> None:
        """Send something to a job that was given `Requests`; lost where it has ended.

        Parameters
        ----------
        request : object
            Anything picklable.
        """
        self._outgoing.put(to_bytes(("request", request)))

    def poll(self) -> list[Any]:
        """Give the events that came since the last call.

        Returns
        -------
        list
            In the order in which the job yielded them; empty after `cancel`.
        """
        events: list[Any] = []
        while not self._items.empty():
            self._accept(self._items.get(), events)
        if POSIX and not self._ended and not self.is_alive():
            # a crash may leave processes that hold the pipe open, so that its end is not seen
            signal_group(self._process.pid, signal.SIGTERM)
        return [] if self._cancelled else events

    def events(self, timeout: float | None = None) -> Iterator[Any]:
        """Give events as they come, until the job has ended. Blocks.

        Parameters
        ----------
        timeout : float, optional
            Longest wait for one event, in seconds.

        Yields
        ------
        object
            What the job yields.

        Raises
        ------
        JobError
            If the job failed.
        TimeoutError
            If nothing came for `timeout` seconds.
        """
        while not self._ended and not self._cancelled:
            try:
                item = self._items.get(timeout=timeout)
            except queue.Empty:
                raise TimeoutError(f"the job reported nothing for {timeout} s") from None
            events: list[Any] = []
            self._accept(item, events)
            yield from events
        if self.error is not None and not self._cancelled:
            raise self.error

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the child has gone, and give its exit code. Blocks.

        Raises
        ------
        TimeoutError
            If it is still there after `timeout` seconds.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"the job still runs after {timeout} s") from error

    def cancel(self) -> None:
        """End the job with everything it started, within a second; returns at once.

        Does nothing where the job has already ended.
        """
        if not self._ended and not self._cancelled:
            self._cancelled = True
            threading.Thread(target=_end_tree, args=(self._process,), daemon=True).start()

    def _accept(self, item: Any, events: list[Any]) -> None:
        if isinstance(item, _End):
            self._ended = True
            self.error = None if self._cancelled else item.error
        else:
            events.append(item)

    def _pickle_call(self, function: str, arguments: dict[str, Any]) -> bytes:
        arrays = self._arrays

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj: Any) -> ArrayHandle | str | None:
                if isinstance(obj, Requests):
                    return REQUESTS
                if not isinstance(obj, Served):
                    return None
                arrays.append(obj.array)
                return ArrayHandle(len(arrays) - 1, obj.shape, obj.dtype.str)

        buffer = io.BytesIO()
        Pickler(buffer, protocol=5).dump((function, arguments))
        return buffer.getvalue()

    # The following run in threads of their own and touch nothing but the queues.

    def _write(self) -> None:
        """Send frames in order, so that no other thread ever waits for the pipe."""
        with contextlib.suppress(OSError, ValueError):  # it has ended, or its pipe is closed
            while (frame := self._outgoing.get()) is not None:
                write_frame(_required(self._process.stdin), frame)

    def _read_stderr(self) -> None:
        with _required(self._process.stderr) as stream:
            for line in stream:
                self._stderr.append(line.decode(errors="replace").rstrip())

    def _serve(self) -> None:
        """Read what the child says and answer what it asks."""
        error: JobError | None = JobError("Reading from the job failed.")
        try:
            error = self._converse()
        finally:
            self._outgoing.put(None)
            self._items.put(_End(error))

    def _converse(self) -> JobError | None:
        receive, send = _required(self._process.stdout), _required(self._process.stdin)
        last: tuple[str, ...] | None = None
        while last is None and (reply := read_frame(receive)) is not None:
            try:
                kind, *payload = pickle.loads(reply)  # noqa: S301 - written by our own child
            except Exception as error:  # noqa: BLE001 - a class of the job's may raise anything
                _end_tree(self._process)
                last = ("failed", f"The job's report cannot be read: {error}", "")
                break
            if kind == "event":
                self._items.put(payload[0])
            elif kind == "read":
                self._outgoing.put(self._read_array(*payload))
            else:
                last = (kind, *payload)
        self._arrays.clear()
        code = self._wait_or_end()
        for stream in (receive, send):
            with contextlib.suppress(OSError):  # what was not sent need not be
                stream.close()
        if last is None:
            return self._crash(code)
        return JobError(*last[1:]) if last[0] == "failed" else None

    def _read_array(self, request: int, number: int, key: Any) -> bytes:
        try:
            values = np.asarray(self._arrays[number][key])
            return to_bytes(("answer", request, values, None))
        except Exception as error:  # noqa: BLE001 - an array-like of others may raise anything
            return to_bytes(("answer", request, None, f"{type(error).__name__}: {error}"))

    def _wait_or_end(self) -> int:
        try:
            code = self._process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            _end_tree(self._process)
            code = self._process.wait()
        if POSIX:
            signal_group(self._process.pid, signal.SIGTERM)  # whom a crash has orphaned
        return code

    def _crash(self, code: int) -> JobError:
        self._stderr_thread.join(1.0)
        details = "\n".join(self._stderr)
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            hint = " Most likely the memory was not enough." if name == "SIGKILL" else ""
            return JobError(f"The job was ended by the system ({name}).{hint}", details)
        return JobError(f"The job ended without a result (exit code {code}).", details)


def _end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process and all its descendants; may take a little longer than the grace."""
    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        # one by one too, not only as a group: a job within the job has a group of its own
        descendants = psutil.Process(process.pid).children(recursive=True)
    # SIGTERM ends a Python process at once, even inside a library, but leaves multiprocessing's
    # resource tracker alive, which then removes the semaphores and shared memory left behind
    process.terminate()
    for descendant in descendants:
        with contextlib.suppress(psutil.Error):
            descendant.terminate()
    if POSIX:
        signal_group(process.pid, signal.SIGTERM)
    _, alive = psutil.wait_procs(descendants, timeout=_GRACE)
    process.kill()
    for descendant in alive:
        with contextlib.suppress(psutil.Error):
            descendant.kill()
    if POSIX:
        signal_group(process.pid, signal.SIGKILL)


def _windows_flags() -> int:
    # looked up by name: these exist on Windows only
    names = ("CREATE_NO_WINDOW", "CREATE_NEW_PROCESS_GROUP", "BELOW_NORMAL_PRIORITY_CLASS")
    return sum(int(getattr(subprocess, name)) for name in names)


def _required(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise JobError("a job needs all three standard streams")
    return stream
