"""Segments that end inside the volume: neurites do not, so something may be missing there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.proofreading.edits import GiveAnswer
from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.operations import Plan

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.proofreading.events import Outcome
    from napari_cad.proofreading.session import ProofreadingSession


@dataclass(frozen=True)
class End:
    """A place where a segment ends although the volume goes on.

    Attributes
    ----------
    segment : int
    fragment : int
        Its largest fragment in the last section that it reaches.
    position : (float, float, float)
        Middle of that fragment, (z, y, x) in voxels.
    cross_section : int
        Voxels of the segment in that section. The more, the less likely it is a true end.
    size : int
        Voxels of the segment.
    """

    segment: int
    fragment: int
    position: tuple[float, float, float]
    cross_section: int
    size: int


def ends_inside(session: ProofreadingSession, *, min_size: int = 1) -> list[End]:
    """Find where segments end inside the volume, the largest cross-sections first.

    A segment ends at its first or last section, unless that is one of the volume's, or the segment
    leaves the volume there by a side. Locked segments and ends that were confirmed are left out.

    Parameters
    ----------
    session : ProofreadingSession
        Of a source with fragments and their bounding boxes.
    min_size : int
        Smallest segment that is looked at, in voxels.

    Raises
    ------
    ProofreadingError
        If the source has no bounding boxes.
    """
    source, lut = session.source, session.lut
    if source.boxes is None or source.fragments is None:
        raise ProofreadingError("where segments end is not known: the source has no bounding boxes")
    n_sections, height, width = source.fragments.shape
    boxes = session.voxels.boxes()
    living = np.flatnonzero((lut > 0) & (session.decisions.lock == 0))
    sizes = session.segment_sizes()
    living = living[sizes[lut[living]] >= min_size]
    at_side = (boxes[:, 1:3] == 0).any(axis=1) | (boxes[:, 4:] == (height, width)).any(axis=1)
    found = []
    for column, limit, extreme in ((0, 0, np.minimum), (3, n_sections, np.maximum)):
        reached = np.full(len(lut), n_sections if column == 0 else 0, np.int64)
        extreme.at(reached, lut[living], boxes[living, column])
        last = living[boxes[living, column] == reached[lut[living]]]
        last = last[reached[lut[last]] != limit]
        leaves = np.zeros(len(lut), np.bool_)
        leaves[lut[last[at_side[last]]]] = True
        last = last[~leaves[lut[last]]]
        found += _ends(session, last, boxes, sizes)
    confirmed = {-key for key, answer in session.decisions.answers.items() if answer == "accept"}
    open_ends = [end for end in found if end.fragment not in confirmed]
    return sorted(open_ends, key=lambda end: (-end.cross_section, end.segment))


def confirm_end(session: ProofreadingSession, fragment: int) -> Outcome:
    """Remember that a segment truly ends at a fragment, so that it is not asked about again."""
    fragment = int(fragment)
    segment = session.segment_of(fragment)
    # edges are counted from 0 and fragments from 1: a negative number is the fragment of an end
    change = GiveAnswer(-fragment, session.decisions.answers.get(-fragment), "accept")
    details = {"fragment": fragment}
    return session.commit(Plan("accept", (change,), segments=(segment,), details=details))


def _ends(
    session: ProofreadingSession,
    last: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.int32],
    sizes: npt.NDArray[np.int64],
) -> list[End]:
    """One end for each segment of the fragments in its last section."""
    lut, size = session.lut, session.graph.size
    cross_section = np.bincount(lut[last], weights=size[last], minlength=1)
    largest = last[np.lexsort((last, -size[last], lut[last]))]
    segments, first = np.unique(lut[largest], return_index=True)
    ends = []
    for segment, fragment in zip(segments.tolist(), largest[first].tolist(), strict=True):
        box = boxes[fragment]
        z, y, x = ((box[:3] + box[3:] - 1) / 2).tolist()
        ends.append(
            End(segment, fragment, (z, y, x), int(cross_section[segment]), int(sizes[segment]))
        )
    return ends
