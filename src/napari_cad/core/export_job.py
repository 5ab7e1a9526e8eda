"""Writing labels for other tools as a job: with progress, and a stop that leaves nothing behind."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_cad.core.errors import NapariCadError
from napari_cad.core.events import Event, SectionDone, StageStarted
from napari_cad.core.export import export_labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_cad.core.volume import EMVolume

#: Names of the jobs, as `JobProcess` wants them.
EXPORT_RUN = f"{__name__}:export_run"
EXPORT_VOLUME = f"{__name__}:export_volume"

#: Stage that sections are written in.
EXPORTING = "export"


@dataclass(frozen=True)
class Exported(Event):
    """The labels are in this file or folder, whole."""

    path: str


class _Stopped(NapariCadError):
    """The export was asked to stop."""


def export_run(
    run: str,
    path: str,
    *,
    lut: npt.NDArray[Any] | None = None,
    overwrite: bool = False,
    requests: queue.SimpleQueue[Any] | None = None,
) -> Iterator[Event]:
    """Write the segments of a run.

    Parameters
    ----------
    run : str
        Path of the store.
    path : str
        Its ending decides the format; see `napari_cad.core.export.export_labels`.
    lut : ndarray, shape (n_fragments + 1,), unsigned integer, optional
        Fragment → segment; by default that of the store.
    overwrite : bool
        Replace what is there; see `napari_cad.core.export.export_labels`.
    requests : SimpleQueue, optional
        Anything in it stops the export, and what was begun is removed.

    Yields
    ------
    Event
        The sections as they are written, and at the end `Exported`, unless it was stopped.

    Raises
    ------
    StoreError, ConfigError
        If it cannot be written there; the message says why.
    """
    from napari_cad.core.store import SegmentationStore

    store = SegmentationStore.open(run)
    table = store.lut() if lut is None else lut
    yield from _written(
        requests,
        labels_source=lambda z: table[store.read_fragments(z)],
        shape=store.shape,
        path=path,
        voxel_size=store.voxel_size,
        origin=store.origin,
        max_label=int(table.max(initial=0)),
        overwrite=overwrite,
        source=store.address,
    )


def export_volume(
    labels: EMVolume,
    path: str,
    *,
    overwrite: bool = False,
    requests: queue.SimpleQueue[Any] | None = None,
) -> Iterator[Event]:
    """Write labels that come without a run; see `export_run`."""
    yield from _written(
        requests,
        labels_source=labels.section,
        shape=labels.shape,
        path=path,
        voxel_size=labels.voxel_size,
        origin=labels.origin,
        overwrite=overwrite,
        source=None if labels.source is None else labels.source.path,
    )


def _written(
    requests: queue.SimpleQueue[Any] | None, *, shape: tuple[int, int, int], **settings: Any
) -> Iterator[Event]:
    reports: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def progress(done: int, _total: int) -> None:
        if requests is not None and not requests.empty():
            raise _Stopped("The export was stopped.")
        reports.put(done)

    yield StageStarted(EXPORTING, shape[0])
    # the writers call back, and a job yields: they meet in a queue
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(export_labels, shape=shape, progress=progress, **settings)
        writing.add_done_callback(lambda _: reports.put(None))
        while (done := reports.get()) is not None:
            yield SectionDone(EXPORTING, done - 1, done, shape[0])
        try:
            yield Exported(str(writing.result()))
        except _Stopped:
            return
