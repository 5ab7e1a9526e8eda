"""Measures of segments in a child process that stays, so that another LUT is measured quickly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.errors import VolumeError
from napari_cad.core.events import Event, SectionDone, StageStarted, Warned
from napari_cad.core.segment_export import segment_columns, write_contacts, write_csv
from napari_cad.core.segment_table import ContactTable, Measured, SegmentMeasures, SegmentTable

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from napari_cad.core.volume import EMVolume

#: Names of the jobs, as `JobProcess` wants them.
MEASURE_RUN = f"{__name__}:measure_run"
MEASURE_LABELS = f"{__name__}:measure_labels"

#: What to tell where areas are not exact.
APPROXIMATE = (
    "This run comes from an older version, which did not keep how the faces inside a section are "
    "turned, and its pixels are not square: areas are approximate. Segment the stack anew for "
    "exact ones."
)

#: Stage of their events.
MEASURING = "measuring"


# -------------------------------------------------------------------- what goes to and fro


@dataclass(frozen=True, eq=False)
class WantedSegments:
    """Ask for the segments of a LUT, shape (n_fragments + 1,); None = as they were first."""

    lut: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class WantedContacts:
    """Ask for the contacts of a segment of the LUT that was measured last."""

    segment: int


@dataclass(frozen=True)
class WantedFile:
    """Ask for the segments, or the contacts between them, to be written; see `segment_export`."""

    path: str
    contacts: bool = False


@dataclass(frozen=True, eq=False)
class SegmentsMeasured(Event):
    """The segments of the LUT that was asked for last."""

    segments: SegmentTable


@dataclass(frozen=True, eq=False)
class ContactsFound(Event):
    """The contacts of a segment, the largest first."""

    segment: int
    contacts: ContactTable


@dataclass(frozen=True)
class FileWritten(Event):
    """A file is there."""

    path: str


# -------------------------------------------------------------------- the jobs


def measure_run(run: str, requests: queue.SimpleQueue[Any]) -> Iterator[Event]:
    """Answer requests about the segments of a run until there comes a None.

    Parameters
    ----------
    run : str
        Path of the store.
    requests : queue
        Of `WantedSegments`, which replaces those before it that are not answered yet,
        `WantedContacts` and `WantedFile`; see `napari_cad.core.jobs.Requests`.

    Yields
    ------
    Event
        `Warned` where areas are not exact; `SegmentsMeasured`, `ContactsFound` and `FileWritten`
        in the order of the requests.
    """
    from napari_cad.core.store import SegmentationStore

    store = SegmentationStore.open(run)
    yield StageStarted(MEASURING, 1)
    measures = SegmentMeasures(store.fragment_table(), store.region_graph(), store.voxel_size)
    if not measures.exact:
        yield Warned(APPROXIMATE)
    yield from _answer(measures, store.lut, None, requests)


def measure_labels(labels: EMVolume, requests: queue.SimpleQueue[Any]) -> Iterator[Event]:
    """Answer requests about labels that come without a run; see `measure_run`.

    Yields
    ------
    Event
        `StageStarted` and `SectionDone` while sections are read, then as `measure_run`.
    """
    from napari_cad.core.label_pieces import PieceCollector

    collector = PieceCollector(grow=0)
    yield StageStarted(MEASURING, labels.n_sections)
    for z in range(labels.n_sections):
        section = labels.section(z)
        collector.add(z, section, section)
        yield SectionDone(MEASURING, z, z + 1, labels.n_sections)
    pieces = collector.finish()
    # ids may be any, and here a table is made for all up to the largest
    ids, lut = np.unique(np.append(np.uint64(0), pieces.lut), return_inverse=True)
    measures = SegmentMeasures(pieces.measured, pieces.graph, labels.voxel_size)
    yield from _answer(measures, lambda: lut[1:], ids, requests)


def _answer(
    measures: SegmentMeasures,
    first: Callable[[], npt.NDArray[Any]],
    ids: npt.NDArray[np.uint64] | None,
    requests: queue.SimpleQueue[Any],
) -> Iterator[Event]:
    measured: Measured | None = None
    while True:
        for request in _waiting(requests):
            if request is None:
                return
            if isinstance(request, WantedSegments):
                lut = first() if request.lut is None else request.lut
                measured = measures.measure(lut, measured)
                yield SegmentsMeasured(_named(measured.segments, ids))
                continue
            if measured is None:
                raise VolumeError("Ask for the segments first: nothing has been measured yet.")
            segments, contacts = _named(measured.segments, ids), _named(measured.contacts, ids)
            if isinstance(request, WantedContacts):
                yield ContactsFound(request.segment, contacts_of(contacts, request.segment))
            elif request.contacts:
                write_contacts(request.path, segments, contacts)
                yield FileWritten(request.path)
            else:
                write_csv(request.path, segment_columns(segments))
                yield FileWritten(request.path)


def _waiting(requests: queue.SimpleQueue[Any]) -> list[Any]:
    """Wait for a request, and take all that are there; of several LUTs only the last counts."""
    waiting = [requests.get()]
    while not requests.empty():
        waiting.append(requests.get())
    last = max((i for i, r in enumerate(waiting) if isinstance(r, WantedSegments)), default=0)
    return [r for i, r in enumerate(waiting) if i >= last or not isinstance(r, WantedSegments)]


def contacts_of(contacts: ContactTable, segment: int) -> ContactTable:
    """Give the contacts of one segment, as u; the largest first, without those to nothing."""
    mine = (contacts.u == segment) | (contacts.v == segment)
    rows = np.flatnonzero(mine & (contacts.u != 0))
    known = not np.isnan(contacts.area[rows]).any()
    size = contacts.area if known else contacts.faces
    rows = rows[np.argsort(-size[rows], kind="stable")]
    u, v = contacts.u[rows], contacts.v[rows]
    other = np.where(u == segment, v, u)
    return ContactTable(
        np.full(len(rows), segment, other.dtype),
        other,
        contacts.faces[rows],
        contacts.area[rows],
        contacts.position[rows],
    )


def _named(table: Any, ids: npt.NDArray[np.uint64] | None) -> Any:
    """Give segments the ids that they have in the labels."""
    names = ("id",) if isinstance(table, SegmentTable) else ("u", "v")
    if ids is None:
        return table
    return replace(table, **{name: ids[getattr(table, name)] for name in names})
