"""The labels layer's array of a run whose threshold moves: segments of what is on screen only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.live_segmentation import LiveSegmentation, SegmentsAt
from napari_cad.viewer.layer_data import LutLabels

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy.typing as npt

    from napari_cad.core.store import SegmentationStore
    from napari_cad.core.volume import ArrayLike

#: Ids between the lowest and the highest of a part that are all looked up, at most; where a part
#: has them further apart, those that occur are found first.
_MOST_IDS = 4_000_000


class LiveLabels(LutLabels):
    """The labels at a threshold, worked out for the fragments that are read, when they are.

    Parameters
    ----------
    fragments : array_like, shape (Z, Y, X), unsigned integer
        As for `LutLabels`.
    shown : SegmentsAt
        What is shown at first.

    Notes
    -----
    The LUT of all fragments is made when somebody asks for it, once for every threshold.
    """

    def __init__(self, fragments: ArrayLike, shown: SegmentsAt) -> None:
        super().__init__(fragments)
        self.dtype = np.dtype(np.uint16 if shown.live.tree.n_fragments < 2**16 else np.uint32)
        self._shown: SegmentsAt | None = shown
        self._known = self._sections(_ids_of_section)

    @property
    def shown(self) -> object:
        """What is shown; another object for every change of it."""
        return self._lut if self._shown is None else self._shown

    @property
    def lut(self) -> npt.NDArray[Any] | None:
        """The LUT that is shown, of this array's type; do not write into it."""
        if self._lut is None and self._shown is not None:
            self._lut = self._shown.lut().astype(self.dtype)
        return self._lut

    def show(self, shown: SegmentsAt) -> None:
        """Show another threshold from now on; refresh the layer to see it."""
        self._shown, self._lut = shown, None

    def set_lut(self, lut: npt.NDArray[Any]) -> None:
        """Show any LUT, see `LutLabels.set_lut`."""
        super().set_lut(lut)
        self._shown = None

    def ahead(self, z: int) -> Future[Any] | None:
        """Have a section read; None where they are not kept."""
        if self._shown is None:
            return super().ahead(z)
        return self._known.ahead(z) if self._is_stored else None

    def _read(self, z: slice, y: slice, x: slice) -> npt.NDArray[Any]:
        shown = self._shown  # another thread may change it meanwhile
        if shown is None:
            return super()._read(z, y, x)
        if self._keeps(z, self._known):
            ids, index = self._known.get(z.start)
            index = index[None, y, x]
        else:
            ids, index = _ids(np.asarray(self._fragments[z, y, x]))
        return shown.segments_of(ids).astype(self.dtype).take(index)


def _ids_of_section(fragments: ArrayLike, z: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    return _ids(np.asarray(fragments[z]))


def _ids(part: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Find the ids in a part of the fragments, and the index of each voxel among them."""
    lowest = int(part.min(initial=np.iinfo(np.uint32).max, where=part > 0))
    highest = int(part.max(initial=0))
    if highest == 0:
        return np.zeros(1, np.int64), np.zeros(part.shape, np.intp)
    if highest - lowest > _MOST_IDS:
        ids, index = np.unique(part, return_inverse=True)
        return ids, index.reshape(part.shape)
    # those of a section are consecutive: one more for the background, in front
    ids = np.arange(lowest - 1, highest + 1)
    ids[0] = 0
    # in the type of the part, which is half as wide; an index has to be wider
    return ids, (np.maximum(part, lowest - 1) - (lowest - 1)).astype(np.intp)


def segments_of_run(store: SegmentationStore) -> LutLabels:
    """Make the labels of a run as it was last left: its segments, or its fragments at first."""
    if not store.has_agglomeration(store.merge_function):
        return LutLabels(store.fragments)
    if store.absorb:
        return LutLabels(store.fragments, store.lut())
    live = LiveSegmentation(store.merge_function, store.merge_tree(), store.fragment_sizes())
    return LiveLabels(store.fragments, live.at(store.threshold))


def shown_threshold(labels: object, merge_function: str) -> float | None:
    """Give the threshold at which labels are shown.

    Parameters
    ----------
    labels : object
        Of a layer.
    merge_function : str
        How the threshold is meant.

    Returns
    -------
    float or None
        None where they are shown in another way: by another merge function, with small segments
        left out, or by any other LUT.
    """
    shown = labels.shown if isinstance(labels, LiveLabels) else None
    if isinstance(shown, SegmentsAt) and shown.live.merge_function == merge_function:
        return None if shown.smallest else shown.threshold
    return None
