"""Jobs without a process of their own, so that many of them are quick."""

from __future__ import annotations

import importlib
import queue
import threading

from napari_cad.core.errors import JobError
from napari_cad.core.jobs import Requests


class ThreadedJob:
    """Runs the function of a job in a thread; what `JobRunner` needs of a `JobProcess`."""

    def __init__(self, function, arguments):
        module, _, name = function.partition(":")
        self._function = getattr(importlib.import_module(module), name)
        self._requests = queue.SimpleQueue()
        self._arguments = {
            key: self._requests if isinstance(value, Requests) else value
            for key, value in arguments.items()
        }
        self._events = queue.SimpleQueue()
        self._cancelled = False
        self.error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def state(self):
        if self._cancelled:
            return "cancelled"
        if self._thread.is_alive() or not self._events.empty():
            return "running"
        return "finished" if self.error is None else "failed"

    def _run(self):
        try:
            for event in self._function(**self._arguments):
                if self._cancelled:
                    return
                self._events.put(event)
        except Exception as error:  # noqa: BLE001 - as in the child process
            self.error = JobError(str(error), "")

    def poll(self):
        return [self._events.get() for _ in range(self._events.qsize())]

    def send(self, request):
        self._requests.put(request)

    def cancel(self):
        self._cancelled = True
        self._requests.put(None)  # a server ends at that
