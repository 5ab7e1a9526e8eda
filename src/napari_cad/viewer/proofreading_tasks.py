"""What proofreading does in child processes: no Qt, no napari."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pooch

from napari_cad.core.events import Event, SectionDone, StageStarted
from napari_cad.viewer.places import work_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_cad.core.volume import EMVolume
    from napari_cad.proofreading.source import ProofreadingSource

#: Names of the jobs, as `JobProcess` wants them.
OPEN_RUN = f"{__name__}:open_run"
OPEN_LABELS = f"{__name__}:open_labels"
TRAINING_DATA = "napari_cad.proofreading.training_data:write_training_data"

#: Stage of reading what a session works on.
OPENING = "open"


@dataclass(frozen=True, eq=False)
class SourceReady(Event):
    """What a session works on."""

    source: ProofreadingSource


def open_run(run: str) -> Iterator[Event]:
    """Read the region graph of a finished run.

    Parameters
    ----------
    run : str
        Path of the store.

    Yields
    ------
    Event
        `SourceReady` at the end.

    Raises
    ------
    StoreError
        If the run is not finished.
    """
    from napari_cad.core.store import SegmentationStore
    from napari_cad.proofreading.source import ProofreadingSource

    yield StageStarted(OPENING, 1)
    source = ProofreadingSource.from_store(SegmentationStore.open(run))
    yield SectionDone(OPENING, 0, 1, 1)
    yield SourceReady(source)


def open_labels(labels: EMVolume, image: EMVolume | None = None) -> Iterator[Event]:
    """Make a region graph of labels that come without a run.

    Parameters
    ----------
    labels : EMVolume
        Labels.
    image : EMVolume, optional
        Of the same shape, with dark membranes.

    Yields
    ------
    Event
        `SectionDone` for every section, then `SourceReady`.

    Raises
    ------
    ShapeError
        If shapes or types do not fit.
    """
    from napari_cad.proofreading.from_labels import source_from_labels

    yield StageStarted(OPENING, 1)
    source = source_from_labels(
        labels.data,
        image=None if image is None else image.data,
        voxel_size=labels.voxel_size,
    )
    yield SectionDone(OPENING, 0, 1, 1)
    yield SourceReady(source)


def folder_of_labels(name: str, source: ProofreadingSource) -> Path:
    """Where the session of labels without a run lies.

    The same labels have the same folder, whatever the layer is called and whatever image is beside
    them.

    Parameters
    ----------
    name : str
        Of the labels, for people.
    source : ProofreadingSource
        What was made of them.

    Returns
    -------
    Path
        Of the session that there is, else of a new one.
    """
    # where sessions were before: named by the graph, in the cache
    before = Path(pooch.os_cache("napari-cad")) / "proofreading"
    home = work_folder() / "proofreading"
    digest = source.labels[:16]
    for place, end in ((home, digest), (before, str(source.signature.get("graph", ""))[:12])):
        for known in sorted(place.glob(f"*-{end}")):
            return known / "session"
    plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:40]
    return home / f"{plain}-{digest}" / "session"
