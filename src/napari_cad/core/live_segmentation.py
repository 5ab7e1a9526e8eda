"""A segmentation whose threshold moves: the LUT and what it amounts to, without any voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.errors import StoreError
from napari_cad.core.events import Event, StageStarted

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_cad.core.absorption import SpanningForest
    from napari_cad.core.merge_tree import MergeTree
    from napari_cad.core.metrics import Scores
    from napari_cad.core.volume import EMVolume


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
    forest : SpanningForest or None
        For absorbing; None where it was not asked for.
    """

    merge_function: str
    tree: MergeTree
    fragment_sizes: npt.NDArray[np.int64]
    forest: SpanningForest | None = None

    def __reduce__(self) -> Any:
        # sizes that are mapped from the store go the way of the tree: as the place where they are
        sizes = None if isinstance(self.fragment_sizes, np.memmap) else self.fragment_sizes
        return _sent, (self.merge_function, self.tree, sizes, self.forest)

    def lut(self, threshold: float, smallest: int = 0, absorb: int = 0) -> npt.NDArray[np.uint32]:
        """Fragment → segment at a threshold.

        Parameters
        ----------
        threshold : float
            In score units, from 0 to 1.
        smallest : int
            Segments of fewer voxels are hidden, that is, 0.
        absorb : int
            Segments of fewer voxels are joined to a neighbour first; needs the forest.

        Returns
        -------
        ndarray, shape (n_fragments + 1,), uint32

        Raises
        ------
        StoreError
            If something is to be absorbed, and there is no forest.
        """
        if not absorb:
            lut = self.tree.lut(threshold)
        elif self.forest is None:
            raise StoreError("expected a forest to absorb small segments, got none: load it")
        else:
            lut = self.forest.lut(threshold, absorb)
        if smallest > 1:
            lut[self._sizes(lut)[lut] < smallest] = 0
        return lut

    def at(self, threshold: float, smallest: int = 0) -> SegmentsAt:
        """Give the segments at a threshold, to be worked out where they are looked at."""
        return SegmentsAt(self, threshold, smallest)

    def sizes(self, lut: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.int64]:
        """Voxels of every segment of a LUT, in no order, shape (n_segments,), int64."""
        sizes = self._sizes(lut)
        sizes[0] = 0
        return sizes[sizes > 0]

    def _sizes(self, lut: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.int64]:
        """Voxels by segment id."""
        # whole numbers up to 2⁵³ are exact as weights
        return np.bincount(lut, self.fragment_sizes, len(lut)).astype(np.int64)


def _sent(
    merge_function: str,
    tree: MergeTree,
    sizes: npt.NDArray[np.int64] | None,
    forest: SpanningForest | None,
) -> LiveSegmentation:
    """Put together what came from another process."""
    if sizes is None:
        from napari_cad.core.store import SegmentationStore

        sizes = SegmentationStore.open(tree.origin).fragment_sizes()
    return LiveSegmentation(merge_function, tree, sizes, forest)


@dataclass(frozen=True, eq=False)
class SegmentsAt:
    """Segments at a threshold, nothing absorbed.

    Attributes
    ----------
    live : LiveSegmentation
        Whose they are; with sizes in its tree where small ones are hidden.
    threshold : float
    smallest : int
        Segments of fewer voxels are hidden, that is, 0.
    """

    live: LiveSegmentation
    threshold: float
    smallest: int = 0

    def segments_of(self, fragments: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint32]:
        """Segments of some fragments, shape (n,), in a time that hardly grows with the volume.

        Fragments that the run has not are 0: it may be being made anew while it is looked at.
        """
        tree = self.live.tree
        fragments = np.where(fragments <= tree.n_fragments, fragments, 0)
        if self.smallest <= 1:
            return tree.segments_of(fragments, self.threshold)
        segments, sizes = tree.sized_segments_of(
            fragments, self.threshold, self.live.fragment_sizes
        )
        segments[sizes < self.smallest] = 0
        return segments

    def lut(self) -> npt.NDArray[np.uint32]:
        """Fragment → segment of all fragments."""
        return self.live.lut(self.threshold, self.smallest)

    def sizes(self) -> SegmentSizes:
        """Count them by size; a tenth of a second for ten million fragments."""
        live = self.live
        sizes = live.tree.segment_sizes(self.threshold, live.fragment_sizes)
        return SegmentSizes.of(sizes[sizes >= max(1, self.smallest)])


@dataclass(frozen=True, eq=False)
class SegmentSizes(Event):
    """How many segments there are, and how large.

    Attributes
    ----------
    n_segments, largest : int
        The largest one in voxels.
    histogram : ndarray, shape (bins,), int64
        See `size_histogram`.
    """

    n_segments: int
    largest: int
    histogram: npt.NDArray[np.int64]

    @classmethod
    def of(cls, sizes: npt.NDArray[np.int64]) -> SegmentSizes:
        """Count sizes of segments, in voxels, in any order."""
        return cls(len(sizes), int(sizes.max(initial=0)), size_histogram(sizes))


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


def load(store_path: str, merge_function: str, absorbing: bool = False) -> Iterator[Event]:
    """Job: agglomerate a run by a merge function if that is still to be done, and load it.

    Parameters
    ----------
    store_path : str
        Of a run whose sections are all done.
    merge_function : str
        A key of `napari_cad.core.agglomerations.AGGLOMERATIONS`.
    absorbing : bool
        Whether small segments are to be absorbed, which needs more to be made.

    Yields
    ------
    Event
        `StageStarted`, `Approximated` where the graph did not fit, then `LiveSegmentation`.

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
        notice = agglomerate(SegmentationStore.open(store_path, mode="a"), merge_function)
        if notice is not None:
            yield notice
    forest = None
    if absorbing:
        try:
            forest = SegmentationStore.open(store_path, mode="a").spanning_forest(merge_function)
        except PermissionError:
            forest = store.spanning_forest(merge_function)
    tree, sizes = store.merge_tree(merge_function, absorb=0), store.fragment_sizes()
    if tree.columns.voxels is None:  # an older version has written the agglomeration
        tree = tree.with_sizes(sizes)
    yield LiveSegmentation(merge_function, tree, sizes, forest)


def count(
    store_path: str, merge_function: str, threshold: float, smallest: int = 0
) -> Iterator[Event]:
    """Job: count the segments of a large run by size.

    Parameters
    ----------
    store_path, merge_function
        As for `load`, which has made the agglomeration.
    threshold, smallest
        As for `LiveSegmentation.at`.

    Yields
    ------
    Event
        `SegmentSizes`.
    """
    for event in load(store_path, merge_function):
        if isinstance(event, LiveSegmentation):
            yield event.at(threshold, smallest).sizes()


def curve(
    store_path: str, merge_function: str, truth: EMVolume, absorb: int = 0
) -> Iterator[Event]:
    """Job: score a run at every threshold.

    Parameters
    ----------
    store_path, merge_function
        As for `load`, which has made the agglomeration.
    truth : EMVolume
        See `napari_cad.core.evaluation.store_contingency`.
    absorb : int
        Segments of fewer voxels are joined to a neighbour.

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
    tree = store.merge_tree(merge_function, absorb=absorb)
    scores = threshold_curve(table, tree.lut, CURVE_THRESHOLDS)
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
