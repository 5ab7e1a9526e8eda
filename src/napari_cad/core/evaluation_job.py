"""Evaluation in a child process: scores, errors and their places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.error_report import LEAST_VOXELS, ErrorReport
from napari_cad.core.errors import ShapeError
from napari_cad.core.evaluation import fragments_for
from napari_cad.core.events import Event, SectionDone, StageStarted
from napari_cad.core.metrics import ContingencyTable, contingency

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_cad.core.store import SegmentationStore
    from napari_cad.core.volume import EMVolume

#: Names of the jobs, as `JobProcess` wants them.
EVALUATE_RUN = f"{__name__}:evaluate_run"
EVALUATE_LABELS = f"{__name__}:evaluate_labels"

#: Stages of their events.
COUNTING, LOCATING = "comparing", "locating"


@dataclass(frozen=True, eq=False)
class Counted(Event):
    """Fragments × truth of a run: enough to evaluate it at any other LUT without a voxel."""

    table: ContingencyTable


@dataclass(frozen=True, eq=False)
class Evaluated(Event):
    """The end of an evaluation."""

    report: ErrorReport


def evaluate_run(
    run: str,
    truth: EMVolume,
    *,
    lut: npt.NDArray[np.integer] | None = None,
    least_voxels: int = LEAST_VOXELS,
    table: ContingencyTable | None = None,
) -> Iterator[Event]:
    """Find the errors of a run.

    Parameters
    ----------
    run : str
        Path of the store.
    truth : EMVolume
        Labels of the store's own shape, or of its volume before it was binned; 0 is unlabelled.
    lut : ndarray, shape (n_fragments + 1,), optional
        Fragment to segment; by default that of the store at its own threshold.
    least_voxels : int
        Smallest error to look for.
    table : ContingencyTable, optional
        What an earlier evaluation of this run with this truth has counted.

    Yields
    ------
    Event
        `StageStarted` and `SectionDone` while voxels are compared, `Counted`, `Evaluated`.

    Raises
    ------
    ShapeError
        If the shapes differ.
    VolumeError
        If there is no truth in this part.
    """
    from napari_cad.core.store import SegmentationStore

    store = SegmentationStore.open(run)
    if table is None:
        fragments = fragments_for(store, truth.shape)
        tables = []
        yield StageStarted(COUNTING, store.n_sections)
        for z in range(store.n_sections):
            tables.append(contingency(truth.section(z), np.asarray(fragments[z])))
            yield SectionDone(COUNTING, z, z + 1, store.n_sections)
        table = ContingencyTable.total(tables)
        yield Counted(table)
    yield StageStarted(LOCATING, 1)
    yield Evaluated(run_errors(store, table, lut=lut, least_voxels=least_voxels))


def run_errors(
    store: SegmentationStore,
    table: ContingencyTable,
    *,
    lut: npt.NDArray[np.integer] | None = None,
    least_voxels: int = LEAST_VOXELS,
) -> ErrorReport:
    """Find the errors of a run whose fragments have been counted; see `evaluate_run`."""
    from napari_cad.core.segmentation_errors import find_errors

    measured = store.fragment_table()
    centroids = np.zeros((store.n_fragments + 1, 3))
    centroids[measured[:, 0].astype(np.intp)] = measured[:, 8:]
    return find_errors(
        table,
        store.region_graph(),
        store.lut() if lut is None else lut,
        centroids,
        join_score=store.join_scores(),
        least_voxels=least_voxels,
    )


def evaluate_labels(
    labels: EMVolume, truth: EMVolume, *, least_voxels: int = LEAST_VOXELS
) -> Iterator[Event]:
    """Find the errors of labels that come without a region graph.

    Parameters
    ----------
    labels, truth : EMVolume
        Of one shape; 0 in the truth is unlabelled.
    least_voxels : int
        Smallest error to look for.

    Yields
    ------
    Event
        `StageStarted` and `SectionDone` while voxels are compared, then `Evaluated`.

    Raises
    ------
    ShapeError
        If the shapes differ.
    VolumeError
        If there is no truth in this part.
    """
    from napari_cad.core.label_pieces import PieceCollector
    from napari_cad.core.segmentation_errors import find_errors

    _check_shapes(truth.shape, labels.shape)
    collector = PieceCollector()
    yield StageStarted(COUNTING, truth.n_sections)
    for z in range(truth.n_sections):
        collector.add(z, truth.section(z), labels.section(z))
        yield SectionDone(COUNTING, z, z + 1, truth.n_sections)
    yield StageStarted(LOCATING, 1)
    pieces = collector.finish()
    yield Evaluated(
        find_errors(
            pieces.table, pieces.graph, pieces.lut, pieces.centroids, least_voxels=least_voxels
        )
    )


def _check_shapes(truth: tuple[int, ...], labels: tuple[int, ...]) -> None:
    if truth != labels:
        raise ShapeError(
            f"expected truth and segmentation of one shape, got {truth} and {labels}: crop one to "
            "the sections and the region of the other"
        )
