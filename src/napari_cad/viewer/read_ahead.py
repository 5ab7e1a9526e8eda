"""Reading sections in a thread before they are shown, so that the viewer need not wait for them.

Every array that does so has a thread of its own, which is begun when there is something to read
and ends with the array.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from napari_cad.core._lazy import LazyArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from napari.components import ViewerModel

    from napari_cad.core.volume import ArrayLike

Section = TypeVar("Section")

#: Bytes of the sections of an array that are kept, and their number, at most.
_MOST_BYTES, _MOST_SECTIONS = 128 << 20, 6
#: So many have to have room for neighbours to be read: one, two neighbours, and the first, which
#: napari reads whenever a label is selected, to see of which type it is.
_WITH_NEIGHBOURS = 4
#: First part of the names of threads.
THREAD = "napari-cad-read-ahead"
#: Seconds until the neighbours of a section are read: its picture goes first.
_PAUSE = 0.05


class Sections(Generic[Section]):
    """The sections that were wanted last, and their neighbours, which a thread has made ahead.

    Parameters
    ----------
    make : callable
        Number of a section → the section; called from several threads.
    n_sections : int
        How many there are.
    n_bytes : int
        Of one.
    """

    def __init__(self, make: Callable[[int], Section], n_sections: int, n_bytes: int) -> None:
        self._make = make
        self._n = n_sections
        self._most = min(_MOST_SECTIONS, _MOST_BYTES // max(1, n_bytes))
        self._futures: OrderedDict[int, Future[Section]] = OrderedDict()
        self._lock = threading.Lock()
        # set while somebody waits, so that there is no pause
        self._hurry = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=THREAD)
        # what the thread is given does not hold this object, so both go when nobody has it
        self._end = weakref.finalize(self, _end, self._thread, self._hurry)
        self._end.atexit = False

    @property
    def kept(self) -> bool:
        """Whether there is room for two; where there is not, use the array itself."""
        return self._most >= 2

    def close(self) -> None:
        """Make nothing ahead any more, and end the thread; sections can still be had.

        The same happens when nobody has this object any more.
        """
        with self._lock:
            self._end()

    def get(self, z: int) -> Section:
        """Give a section, and have its neighbours made; do not write into it."""
        future = self._begun(z)
        if future is not None and not future.done():
            self._hurry.set()
        # one that failed in the thread is made here: now it may work, or the caller has the error
        if future is None or future.exception() is not None:
            future = self._made_here(z)
        if self._most >= _WITH_NEIGHBOURS:
            for neighbour in (z + 1, z - 1):
                self._submit(neighbour, _PAUSE)
        return future.result()

    def ahead(self, z: int) -> Future[Section] | None:
        """Have a section made soon; None where there is none, or no room for it."""
        if not self.kept:
            return None
        self._hurry.set()
        return self._submit(z, 0.0)

    def _begun(self, z: int) -> Future[Section] | None:
        """Give a section that is there, or being made; one that still waits is not made there."""
        with self._lock:
            future = self._futures.get(z)
            if future is None or future.cancel():
                return None
            self._keep(z, future)
            return future

    def _made_here(self, z: int) -> Future[Section]:
        with self._lock:
            self._futures.pop(z, None)
        future: Future[Section] = Future()
        future.set_result(self._make(z))
        with self._lock:
            self._keep(z, future)
        return future

    def _submit(self, z: int, pause: float) -> Future[Section] | None:
        if not 0 <= z < self._n:
            return None
        with self._lock:
            future = self._futures.get(z)
            if future is None and self._end.alive:
                moment = time.monotonic() + pause
                future = self._thread.submit(_make_at, self._make, z, moment, self._hurry)
                self._keep(z, future)
            return future

    def _keep(self, z: int, future: Future[Section]) -> None:
        self._futures[z] = future
        self._futures.move_to_end(z)
        while len(self._futures) > self._most:
            self._futures.popitem(last=False)[1].cancel()


def _end(thread: ThreadPoolExecutor, hurry: threading.Event) -> None:
    """Give up what waits for a thread; what it sleeps over is made, and is the last."""
    thread.shutdown(wait=False, cancel_futures=True)
    hurry.set()


def _make_at(
    make: Callable[[int], Section], z: int, moment: float, hurry: threading.Event
) -> Section:
    """Make a section at some time, or as soon as somebody waits."""
    if hurry.wait(max(0.0, moment - time.monotonic())):
        hurry.clear()
    return make(z)


class ReadAhead(LazyArray):
    """An array that nobody writes, of which sections are kept and read ahead.

    Parts of several sections are read when they are asked for. Another process is sent the array
    that this one reads from.

    Parameters
    ----------
    data : array_like, shape (Z, Y, X)
        Read by slices, from several threads.
    """

    def __init__(self, data: ArrayLike) -> None:
        super().__init__(data.shape, data.dtype)
        self._data = data
        n_bytes = self.nbytes // max(1, self.shape[0])
        self._sections = Sections(partial(_section, data), self.shape[0], n_bytes)

    def __reduce__(self) -> Any:
        return _itself, (self._data,)

    def ahead(self, z: int) -> Future[npt.NDArray[Any]] | None:
        """Have a section read; see `Sections.ahead`."""
        return self._sections.ahead(z)

    def _read(self, z: slice, y: slice, x: slice) -> npt.NDArray[Any]:
        if not self._sections.kept or z.stop != z.start + 1:
            return np.asarray(self._data[z, y, x])
        return self._sections.get(z.start)[None, y, x].copy()


def _section(data: ArrayLike, z: int) -> npt.NDArray[Any]:
    return np.asarray(data[z])


def _itself(data: ArrayLike) -> ArrayLike:
    return data


def read_ahead(viewer: ViewerModel, point: Sequence[float]) -> list[Future[Any]]:
    """Have the sections read that all visible layers will show at a point of the world.

    Returns
    -------
    list of Future
        Done when that is done; empty where nothing needs to be read, or not ahead.
    """
    if viewer.dims.ndisplay == 3:
        return []
    futures = []
    for layer in viewer.layers:
        ahead = getattr(layer.data, "ahead", None)
        if layer.visible and ahead is not None:
            future = ahead(round(float(layer.world_to_data(point)[0])))
            if future is not None:
                futures.append(future)
    return futures
