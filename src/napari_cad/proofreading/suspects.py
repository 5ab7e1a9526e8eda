"""Segments that end inside the volume: neurites do not, so something may be missing there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

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
    leaves the volume there by a side. Locked segments and ends that were confirmed are left out,
    and a fragment with which a segment begins and ends is one end.

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
    ends = _all_ends(session, min_size)
    is_open = _is_free(session, ends.fragment) & ~_is_confirmed(session, ends.fragment)
    return [ends.end(row) for row in np.flatnonzero(is_open).tolist()]


def confirm_end(session: ProofreadingSession, fragment: int) -> Outcome:
    """Remember that a segment truly ends at a fragment, so that it is not asked about again."""
    fragment = int(fragment)
    segment = session.segment_of(fragment)
    # edges are counted from 0 and fragments from 1: a negative number is the fragment of an end
    change = GiveAnswer(-fragment, session.decisions.answers.get(-fragment), "accept")
    details = {"fragment": fragment}
    return session.commit(
        Plan("accept", (change,), session.revision, segments=(segment,), details=details)
    )


class EndQueue:
    """The ends of a session, one after the other.

    They are found when the queue is made. What is confirmed, locked or divided later is passed by;
    which segments end elsewhere after an edit, or no more, only a new queue knows.

    Parameters
    ----------
    session : ProofreadingSession
    after : EndQueue, optional
        An earlier queue of the session, whose visits count as visits of this one.

    Raises
    ------
    ProofreadingError
        If the source has no bounding boxes.
    """

    def __init__(self, session: ProofreadingSession, after: EndQueue | None = None) -> None:
        self._session = session
        self._lut = session.lut.copy()
        self._ends = _all_ends(session)
        self._visited: list[int] = [] if after is None else list(after._visited)
        self._at: int = -1 if after is None else after._at
        self._round: list[int] = [] if after is None else list(after._round)

    @property
    def is_stale(self) -> bool:
        """Whether segments have changed since; answers and locks are looked up when asked."""
        return not np.array_equal(self._lut, self._session.lut)

    def next(self) -> End | None:
        """Go one end on; None once after the last one, and then from the first one again."""
        fragments = self._open()
        while self._at + 1 < len(self._visited):
            self._at += 1
            if self._visited[self._at] in fragments:
                return self._end(self._visited[self._at])
        fresh = fragments[~np.isin(fragments, self._round)]
        if not len(fresh):
            self._round.clear()
            return None
        chosen = int(fresh[0])
        self._round.append(chosen)
        self._visited.append(chosen)
        self._at = len(self._visited) - 1
        return self._end(chosen)

    def previous(self) -> End | None:
        """Go one end back, to one that is still open; None if there is none."""
        fragments = self._open()
        while self._at > 0:
            self._at -= 1
            if self._visited[self._at] in fragments:
                return self._end(self._visited[self._at])
        return None

    def progress(self) -> tuple[int, int]:
        """How many ends are open, and of how many: those and the confirmed ones."""
        return len(self._open()), int(_is_free(self._session, self._ends.fragment).sum())

    def _open(self) -> npt.NDArray[np.int64]:
        """Fragments of the ends that are still to be asked about, in order."""
        session, fragments = self._session, self._ends.fragment
        return fragments[_is_free(session, fragments) & ~_is_confirmed(session, fragments)]

    def _end(self, fragment: int) -> End:
        return self._ends.end(int(np.flatnonzero(self._ends.fragment == fragment)[0]))


class _Ends(NamedTuple):
    """Columns of ends; there are more of them than anybody looks at."""

    segment: npt.NDArray[np.integer[Any]]
    fragment: npt.NDArray[np.int64]
    position: npt.NDArray[np.float64]
    cross_section: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]

    def end(self, row: int) -> End:
        z, y, x = self.position[row].tolist()
        return End(
            int(self.segment[row]),
            int(self.fragment[row]),
            (z, y, x),
            int(self.cross_section[row]),
            int(self.size[row]),
        )

    def take(self, rows: npt.NDArray[np.int64]) -> _Ends:
        """Choose some of them."""
        return _Ends(
            self.segment[rows],
            self.fragment[rows],
            self.position[rows],
            self.cross_section[rows],
            self.size[rows],
        )


def _is_free(
    session: ProofreadingSession, fragments: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Tell which fragments live and are not locked."""
    free: npt.NDArray[np.bool_] = session.decisions.lock[fragments] == 0
    return free & session.graph.alive[fragments]


def _is_confirmed(
    session: ProofreadingSession, fragments: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Tell at which fragments a segment truly ends, as the person said."""
    answers = session.decisions.answers
    return np.isin(fragments, [-key for key, answer in answers.items() if answer == "accept"])


def _all_ends(session: ProofreadingSession, min_size: int = 1) -> _Ends:
    """Find the ends, confirmed and locked ones too, the largest first, one per fragment."""
    source, lut = session.source, session.lut
    if source.boxes is None or source.fragments is None:
        raise ProofreadingError("where segments end is not known: the source has no bounding boxes")
    n_sections, height, width = source.fragments.shape
    boxes = session.voxels.boxes()
    living = np.flatnonzero(lut)
    sizes = session.segment_sizes()
    living = living[sizes[lut[living]] >= min_size]
    at_side = (boxes[:, 1:3] == 0).any(axis=1) | (boxes[:, 4:] == (height, width)).any(axis=1)
    parts = []
    for column, limit, extreme in ((0, 0, np.minimum), (3, n_sections, np.maximum)):
        reached = np.full(len(lut), n_sections if column == 0 else 0, np.int64)
        extreme.at(reached, lut[living], boxes[living, column])
        last = living[boxes[living, column] == reached[lut[living]]]
        last = last[reached[lut[last]] != limit]
        leaves = np.zeros(len(lut), np.bool_)
        leaves[lut[last[at_side[last]]]] = True
        last = last[~leaves[lut[last]]]
        parts.append(_ends(session, last, boxes, sizes))
    segment, fragment, position, cross_section, size = (
        np.concatenate(columns) for columns in zip(*parts, strict=True)
    )
    found = _Ends(segment, fragment, position, cross_section, size)
    order = np.lexsort((found.segment, -found.cross_section))
    _, first = np.unique(found.fragment[order], return_index=True)
    order = order[np.sort(first)]
    return found.take(order)


def _ends(
    session: ProofreadingSession,
    last: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.int32],
    sizes: npt.NDArray[np.int64],
) -> _Ends:
    """One end for each segment of the fragments in its last section."""
    lut, size = session.lut, session.graph.size
    cross_section = np.bincount(lut[last], weights=size[last], minlength=1)
    largest = last[np.lexsort((last, -size[last], lut[last]))]
    segments, first = np.unique(lut[largest], return_index=True)
    fragments = largest[first]
    box = boxes[fragments]
    return _Ends(
        segments,
        fragments,
        (box[:, :3] + box[:, 3:] - 1) / 2,
        cross_section[segments].astype(np.int64),
        sizes[segments],
    )
