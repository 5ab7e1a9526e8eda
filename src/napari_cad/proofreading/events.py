"""What a session tells: that segments changed, and what came of an edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_cad.proofreading.edits import Edit
    from napari_cad.proofreading.errors import Conflict


@dataclass(frozen=True, eq=False)
class SegmentsChanged:
    """What `ProofreadingSession.segments_changed` tells.

    Attributes
    ----------
    segments : tuple of int
        Ids of segments that changed, came or went; empty if they are too many to list.
    fragments : ndarray, shape (n,), int64
        Sorted fragments whose entry in the LUT is another one now.
    boxes : tuple
        Half-open (z, y, x) boxes of voxels whose fragment is another one now.
    """

    segments: tuple[int, ...]
    fragments: npt.NDArray[np.int64]
    boxes: tuple[tuple[tuple[int, int], ...], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of an edit.

    Attributes
    ----------
    edit : Edit
    segments : tuple of int
        Ids of the segments that there are now where it was made.
    warnings : tuple of str
        For the person.
    conflicts : tuple of Conflict
        Earlier decisions that the edit could not respect, for the threshold alone: other edits
        that go against one raise `ConflictError` and do nothing.
    """

    edit: Edit
    segments: tuple[int, ...]
    warnings: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
