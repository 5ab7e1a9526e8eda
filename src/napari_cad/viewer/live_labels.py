"""The labels layer's array of a run whose threshold moves: segments of what is on screen only."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.live_segmentation import LiveSegmentation
from napari_cad.viewer.layers import LutLabels

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.core.live_segmentation import SegmentsAt
    from napari_cad.core.store import SegmentationStore
    from napari_cad.core.volume import ArrayLike

#: Ids between the lowest and the highest of a part that are all looked up, at most; where a part
#: has them further apart, those that occur are found first.
_MOST_IDS = 4_000_000

#: Sections whose ids are kept.
_KEPT = 2


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
        self._sections: OrderedDict[int, tuple[npt.NDArray[Any], npt.NDArray[np.intp]]] = (
            OrderedDict()
        )

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

    def _read(self, z: slice, y: slice, x: slice) -> npt.NDArray[Any]:
        shown = self._shown  # another thread may change it meanwhile
        if shown is None:
            return super()._read(z, y, x)
        if self._keeps and z.stop == z.start + 1:
            ids, index = self._known(z.start)
            index = index[None, y, x]
        else:
            ids, index = _ids(np.asarray(self._fragments[z, y, x]))
        return shown.segments_of(ids).astype(self.dtype).take(index)

    def _known(self, z: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
        """Give the ids of a section and their places; the last two sections are kept."""
        known = self._sections.pop(z, None)  # another thread may do the same
        if known is None:
            known = _ids(np.asarray(self._fragments[z]))
        self._sections[z] = known
        while len(self._sections) > _KEPT:
            self._sections.popitem(last=False)
        return known


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
    return ids, np.maximum(part.astype(np.intp), lowest - 1) - (lowest - 1)


def segments_of_run(store: SegmentationStore) -> LutLabels:
    """Make the labels of a run as it was last left: its segments, or its fragments at first."""
    if not store.has_agglomeration(store.merge_function):
        return LutLabels(store.fragments)
    if store.absorb:
        return LutLabels(store.fragments, store.lut())
    live = LiveSegmentation(store.merge_function, store.merge_tree(), store.fragment_sizes())
    return LiveLabels(store.fragments, live.at(store.threshold))
