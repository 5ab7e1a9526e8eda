"""A segmentation whose threshold moves: the LUT and what it amounts to, without any voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.events import Event, StageStarted
from napari_cad.core.region_graph import FRAGMENT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_cad.core.merge_tree import MergeTree
    from napari_cad.core.metrics import Scores
    from napari_cad.core.volume import EMVolume


@dataclass(frozen=True, eq=False)
class SegmentationAt:
    """A segmentation at one threshold.

    Attributes
    ----------
    lut : ndarray, shape (n_fragments + 1,), uint32
        Fragment → segment; 0 for what is hidden.
    sizes : ndarray, shape (n_segments,), int64
        Voxels of every segment that is shown, in no order.
    """

    lut: npt.NDArray[np.uint32]
    sizes: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LiveSegmentation(Event):
    """What a run's segments at any threshold follow from.

    Attributes
    ----------
    merge_function : str
        How it was agglomerated.
    tree : MergeTree
    fragment_sizes : ndarray, shape (n_fragments + 1,), int64
        Voxels by fragment id.
    """

    merge_function: str
    tree: MergeTree
    fragment_sizes: npt.NDArray[np.int64]

    def at(self, threshold: float, smallest: int = 0) -> SegmentationAt:
        """Give the segments at a threshold.

        Parameters
        ----------
        threshold : float
            In score units, from 0 to 1.
        smallest : int
            Segments of fewer voxels are hidden.

        Returns
        -------
        SegmentationAt
        """
        lut = self.tree.lut(threshold)
        # whole numbers up to 2⁵³ are exact as weights
        sizes = np.bincount(lut, self.fragment_sizes, len(lut)).astype(np.int64)
        shown = sizes >= max(1, smallest)
        shown[0] = False
        if smallest > 1:
            lut = np.where(shown[lut], lut, 0).astype(np.uint32)
        return SegmentationAt(lut, sizes[shown])


@dataclass(frozen=True, eq=False)
class Curve(Event):
    """Scores over the threshold, against ground truth.

    Attributes
    ----------
    scores : dict of float to Scores
        By threshold.
    """

    scores: dict[float, Scores]

    @property
    def best(self) -> float:
        """Where the VOI is lowest; chosen by the truth, so its score is no test score."""
        return min(self.scores, key=lambda threshold: self.scores[threshold].voi)


def load(store_path: str, merge_function: str) -> Iterator[Event]:
    """Job: agglomerate a run by a merge function if that is still to be done, and load it.

    Parameters
    ----------
    store_path : str
        Of a run whose sections are all done.
    merge_function : str
        A key of `napari_cad.core.agglomerations.AGGLOMERATIONS`.

    Yields
    ------
    Event
        `StageStarted`, then `LiveSegmentation`.

    Raises
    ------
    NapariCadError
        See `napari_cad.core.agglomerations.agglomerate`.
    """
    from napari_cad.core.agglomerations import agglomerate
    from napari_cad.core.store import SegmentationStore

    yield StageStarted("agglomeration", 1)
    store = SegmentationStore.open(store_path)
    if not store.has_agglomeration(merge_function):
        agglomerate(SegmentationStore.open(store_path, mode="a"), merge_function)
    sizes = np.zeros(store.n_fragments + 1, np.int64)
    sizes[1:] = store.fragment_table()[:, FRAGMENT_COLUMNS.index("size")]
    yield LiveSegmentation(merge_function, store.merge_tree(merge_function), sizes)


def curve(store_path: str, merge_function: str, truth: EMVolume) -> Iterator[Event]:
    """Job: score a run at every threshold.

    Parameters
    ----------
    store_path, merge_function
        As for `load`, which has made the agglomeration.
    truth : EMVolume
        See `napari_cad.core.evaluation.store_contingency`.

    Yields
    ------
    Event
        `StageStarted`, then `Curve`.
    """
    from napari_cad.core.evaluation import CURVE_THRESHOLDS, store_contingency
    from napari_cad.core.metrics import threshold_curve
    from napari_cad.core.store import SegmentationStore

    yield StageStarted("evaluation", 1)
    store = SegmentationStore.open(store_path)
    table = store_contingency(store, truth)
    scores = threshold_curve(table, store.merge_tree(merge_function).lut, CURVE_THRESHOLDS)
    yield Curve(dict(zip(CURVE_THRESHOLDS, scores, strict=True)))


def size_histogram(sizes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Count segments by size, four bins for every power of ten.

    Parameters
    ----------
    sizes : ndarray, shape (n,), integer ≥ 1
        In voxels.

    Returns
    -------
    ndarray, shape (bins,), int64
        Bin i holds 10^(i/4) ≤ size < 10^((i+1)/4).
    """
    if not len(sizes):
        return np.zeros(1, np.int64)
    # half an edge of play, so that powers of ten fall into the bin that they open
    bins = np.floor(4 * np.log10(sizes.astype(np.float64)) + 1e-9).astype(np.intp)
    return np.bincount(bins).astype(np.int64)
