"""A store or a label volume against ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.binning import EnlargedLabels, binned_shape
from napari_cad.core.errors import ShapeError
from napari_cad.core.metrics import (
    ContingencyTable,
    Scores,
    threshold_curve,
    volume_contingency,
)

if TYPE_CHECKING:
    from napari_cad.core.store import SegmentationStore
    from napari_cad.core.volume import ArrayLike, EMVolume

#: Thresholds of a curve: 0.05, 0.10, … 0.95.
CURVE_THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))

SectionRange = tuple[int | None, int | None]


@dataclass(frozen=True)
class StoreEvaluation:
    """Scores of a store at its threshold, and over all of them.

    Attributes
    ----------
    threshold : float
        The store's own.
    scores : Scores
        At that threshold.
    curve : dict of float to Scores
        At `CURVE_THRESHOLDS`.
    n_voxels : int
        Voxels counted, that is, labelled in the truth.
    """

    threshold: float
    scores: Scores
    curve: dict[float, Scores]
    n_voxels: int

    @property
    def best_threshold(self) -> float:
        """Where the curve's VOI is lowest. Chosen by the truth, so its score is no test score."""
        return min(self.curve, key=lambda threshold: self.curve[threshold].voi)

    def to_json(self) -> dict[str, Any]:
        """Plain values that `json` can write."""
        return {
            "threshold": self.threshold,
            **self.scores.to_json(),
            "n_voxels": self.n_voxels,
            "curve": [
                {"threshold": threshold, **scores.to_json()}
                for threshold, scores in self.curve.items()
            ],
            "best_threshold": self.best_threshold,
            "best_voi": self.curve[self.best_threshold].voi,
        }


def evaluate_store(
    store: SegmentationStore,
    truth: EMVolume,
    sections: SectionRange | None = None,
    table: ContingencyTable | None = None,
) -> StoreEvaluation:
    """Score a store at every threshold from one pass over its fragments.

    Parameters
    ----------
    store : SegmentationStore
        Finished.
    truth : EMVolume
        Labels, 0 = unlabelled, which is not counted. Either of the store's own shape, or of the
        volume that the store's was cropped from. The truth of a run that was binned may have the
        full resolution: the labels are then brought up to it, every voxel repeated, so that scores
        are about the same voxels as those of a run that was not.
    sections : (start, stop), optional
        Half-open, counted in the uncropped volume.
    table : ContingencyTable, optional
        What `store_contingency` has counted, where that has been done.

    Returns
    -------
    StoreEvaluation

    Raises
    ------
    ShapeError
        If truth and store are not of one volume.
    """
    table = store_contingency(store, truth, sections) if table is None else table
    tree = store.merge_tree()
    curve = threshold_curve(table, tree.lut, (*CURVE_THRESHOLDS, store.threshold))
    return StoreEvaluation(
        store.threshold,
        curve[-1],
        dict(zip(CURVE_THRESHOLDS, curve, strict=False)),
        table.n_voxels,
    )


def store_contingency(
    store: SegmentationStore, truth: EMVolume, sections: SectionRange | None = None
) -> ContingencyTable:
    """Count fragments × truth, section by section; see `evaluate_store`."""
    bounds = _bounds(store)
    first = bounds[0][0]
    if truth.shape not in (store.shape, tuple(stop - start for start, stop in bounds)):
        if any(stop > length for (_, stop), length in zip(bounds, truth.shape, strict=True)):
            raise ShapeError(
                f"the run has shape {store.shape}, cut out of {bounds} (z, y, x), and the truth "
                f"{truth.shape}: expected truth of the same shape or of the uncropped volume"
            )
        if _is_cropped(store):
            truth = truth.crop(*bounds)
    fragments = fragments_for(store, truth.shape)
    start, stop = sections or (None, None)
    wanted = range(first, first + store.n_sections)[
        slice(
            None if start is None else max(0, start - first),
            None if stop is None else max(0, stop - first),
        )
    ]
    if not wanted:
        raise ShapeError(
            f"the run has the sections {first}:{first + store.n_sections}, none of {start}:{stop}"
        )
    return volume_contingency(
        truth=truth.data, segmentation=fragments, sections=[z - first for z in wanted]
    )


def fragments_for(store: SegmentationStore, shape: tuple[int, int, int]) -> ArrayLike:
    """Give the fragments of a run at the resolution of a truth.

    Parameters
    ----------
    store : SegmentationStore
        Of a run, which may have been binned.
    shape : tuple of int
        (Z, Y, X) of the truth: that of the run, or of its volume before it was binned.

    Returns
    -------
    array_like, shape `shape`, uint32
        Read when it is sliced.

    Raises
    ------
    ShapeError
        If the truth has neither shape.
    """
    if shape == store.shape:
        return store.fragments
    if store.bin > 1 and binned_shape(shape, store.bin) == store.shape:
        return EnlargedLabels(store.fragments, store.bin, shape)
    finer = f", or {store.bin} times that in y and x" if store.bin > 1 else ""
    raise ShapeError(
        f"expected truth and segmentation of one shape, the run's {store.shape}{finer}, got "
        f"{shape}: crop one to the sections and the region of the other"
    )


def evaluate_labels(
    labels: EMVolume, truth: EMVolume, sections: SectionRange | None = None
) -> Scores:
    """Score a label volume.

    Parameters
    ----------
    labels, truth : EMVolume
        Of one shape; 0 in the truth is not counted.
    sections : (start, stop), optional
        Half-open.

    Raises
    ------
    ShapeError
        If the shapes differ.
    """
    if labels.shape != truth.shape:
        raise ShapeError(
            f"expected labels and truth of one shape, got {labels.shape} and {truth.shape}"
        )
    wanted = range(truth.n_sections)[slice(*(sections or (None, None)))]
    return Scores.of(
        volume_contingency(truth=truth.data, segmentation=labels.data, sections=wanted)
    )


def _bounds(store: SegmentationStore) -> list[tuple[int, int]]:
    """Where the store's volume lies in the file it came from, half-open, in its voxels."""
    source = store.settings["volume"]["source"]
    if source and source["bounds"]:
        return [(int(start), int(stop)) for start, stop in source["bounds"]]
    return [(0, length) for length in store.shape]


def _is_cropped(store: SegmentationStore) -> bool:
    source = store.settings["volume"]["source"]
    return bool(source and source["bounds"])


def coloured(labels: np.ndarray[Any, Any], seed: int = 0) -> np.ndarray[Any, Any]:
    """Colours for a section of labels, for pictures: the same id always has the same colour.

    Parameters
    ----------
    labels : ndarray, shape (Y, X), integer
        Segment ids of a section.
    seed : int
        Another seed, other colours.

    Returns
    -------
    ndarray, shape (Y, X, 3), uint8
        0 is black.
    """
    palette = np.random.default_rng(seed).integers(64, 256, (4096, 3), dtype=np.uint8)
    palette[0] = 0
    index = labels.astype(np.int64) % 4095 + 1
    return palette[np.where(labels == 0, 0, index)]
