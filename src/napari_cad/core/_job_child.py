"""The child's side of a job, and the frames that go between it and its parent.

Run as a module it is the child process; see `napari_cad.core.jobs`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pickle
import queue
import signal
import struct
import sys
import threading
import traceback
from typing import IO, Any, NamedTuple

import numpy as np
import psutil

from napari_cad.core.errors import JobError, NapariCadError

POSIX = os.name == "posix"
_HEADER = struct.Struct("<Q")


class ArrayHandle(NamedTuple):
    """How a served array travels in a pickle."""

    number: int
    shape: tuple[int, ...]
    dtype: str


#: How the queue of requests travels in a pickle.
REQUESTS = "requests"


def to_bytes(value: Any) -> bytes:
    """Pickle a message."""
    return pickle.dumps(value, protocol=5)


def write_frame(stream: IO[bytes], payload: bytes) -> None:
    """Write one frame and see it off."""
    stream.write(_HEADER.pack(len(payload)))
    stream.write(payload)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Read one frame; None where the other side has gone, even in the middle of one."""
    try:
        header = stream.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack(header)
        payload = stream.read(length)
    except OSError:
        return None
    return payload if len(payload) == length else None


def signal_group(pid: int, number: int) -> None:
    """Signal a process group, where it still exists (POSIX only)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


class ServedArray:
    """An array of the parent process, read piece by piece when it is asked for.

    Made by `JobProcess` from `Served`; may be read from several threads.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    """

    def __init__(self, channel: _Channel, handle: ArrayHandle) -> None:
        self._channel = channel
        self._number = handle.number
        self.shape = handle.shape
        self.dtype = np.dtype(handle.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray[Any, Any]:
        """Read a part: integers, slices and an ellipsis.

        Raises
        ------
        JobError
            If the array raised in the parent; the message says what.
        """
        return self._channel.read_array(self._number, key)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if copy is False:
            raise ValueError("an array of another process cannot be had without a copy")
        return np.asarray(self[...], dtype=dtype)

    def __reduce__(self) -> Any:
        raise TypeError("an array served by the parent process cannot be sent on to another one")


class _Channel:
    """The child's ends of the two pipes."""

    def __init__(self, receive: IO[bytes], send: IO[bytes]) -> None:
        self._receive = receive
        self._send = send
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: dict[int, queue.SimpleQueue[Any]] = {}
        self._n_requests = 0

    def receive_call(self) -> tuple[str, dict[str, Any]]:
        """Read the first two frames: where modules are, and what to do."""
        channel = self

        class Unpickler(pickle.Unpickler):
            def persistent_load(self, pid: Any) -> ServedArray | queue.SimpleQueue[Any]:
                return channel._requests if pid == REQUESTS else ServedArray(channel, pid)

        path, call = read_frame(self._receive), read_frame(self._receive)
        if path is None or call is None:
            os._exit(1)  # the parent died while starting this process
        threading.Thread(target=self._listen, daemon=True).start()
        sys.path[:] = pickle.loads(path)  # noqa: S301 - written by our own parent
        function, arguments = Unpickler(io.BytesIO(call)).load()
        return function, arguments

    def send(self, *message: Any) -> None:
        payload = to_bytes(message)
        with self._lock:
            write_frame(self._send, payload)

    def read_array(self, number: int, key: Any) -> np.ndarray[Any, Any]:
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._lock:
            self._n_requests += 1
            request = self._n_requests
            self._answers[request] = answer
        self.send("read", request, number, key)
        values, problem = answer.get()
        if problem is not None:
            raise JobError(f"Reading the volume failed: {problem}")
        result: np.ndarray[Any, Any] = values
        return result

    def _listen(self) -> None:
        """Hand answers to those who asked, and requests on; end all when the parent has gone."""
        try:
            while (frame := read_frame(self._receive)) is not None:
                kind, *payload = pickle.loads(frame)  # noqa: S301 - our own parent
                if kind == "request":
                    self._requests.put(payload[0])
                else:
                    number, values, problem = payload
                    self._answers.pop(number).put((values, problem))
        except BaseException:  # noqa: BLE001 - a request may fail to load: nobody would listen
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        for descendant in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                descendant.kill()
        if POSIX:
            signal_group(0, signal.SIGKILL)
        os._exit(1)


def _take_streams() -> _Channel:
    """Move the pipes away from descriptors 0 and 1, where libraries read and print."""
    receive = os.fdopen(os.dup(0), "rb")
    send = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for the life of the process
    sys.stdout = sys.stderr
    return _Channel(receive, send)


def _run_job(channel: _Channel) -> None:
    try:
        name, arguments = channel.receive_call()
        module, _, attribute = name.partition(":")
        function = getattr(importlib.import_module(module), attribute)
        for event in function(**arguments):
            channel.send("event", event)
    except BrokenPipeError:
        os._exit(1)  # nobody listens
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        channel.send("failed", _message(error), traceback.format_exc())
    else:
        channel.send("finished")


def _message(error: BaseException) -> str:
    """One line for a person."""
    if isinstance(error, NapariCadError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"The job ran out of memory. {error}".strip()
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def main() -> None:
    """Run the job that arrives at standard input."""
    import faulthandler

    faulthandler.enable()  # a crash in a library leaves a Python traceback at standard error
    if POSIX:
        os.nice(5)  # the viewer goes first; on Windows the creation flags say so
    _run_job(_take_streams())


if __name__ == "__main__":
    # the module under its own name, so that its classes exist once
    from napari_cad.core import _job_child

    _job_child.main()
