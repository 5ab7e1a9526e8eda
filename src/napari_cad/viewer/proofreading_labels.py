"""The arrays behind the layers of a proofreading session: tables that are changed in place.

Every layer shows `table[fragments]` with a table of its own: segment ids, marks, nothing. An edit
writes a few entries of the tables, and the section on screen is looked up again. The sections read
last are kept, since several layers and the pointer look at the same one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core._lazy import LazyArray

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy.typing as npt

    from napari_cad.proofreading.events import SegmentsChanged
    from napari_cad.proofreading.overlay import PatchedFragments
    from napari_cad.proofreading.patch import PatchVoxels
    from napari_cad.proofreading.session import ProofreadingSession

#: Bytes of sections that are kept.
_MOST_BYTES = 128 << 20

#: Up to this many fragments labels have 16 bits, which napari shows almost three times as fast.
_FEW_FRAGMENTS = 60_000

#: Pixels of the line around what is selected.
_LINE_WIDTH = 2

#: Marks: what is selected, the sides of a cut, the sides of a question, what is verified; and the
#: lines around what is selected and between the fragments of what is being cut.
SELECTED, RED, BLUE, ONE_SIDE, OTHER_SIDE, VERIFIED, LINE = range(1, 8)

#: Added to the mark of a fragment whose borders are drawn; a power of two above all marks.
BORDERED = 16

MARK_COLOURS: dict[int | None, tuple[float, float, float, float]] = {
    None: (0.0, 0.0, 0.0, 0.0),
    0: (0.0, 0.0, 0.0, 0.0),
    SELECTED: (1.0, 1.0, 1.0, 0.2),
    RED: (1.0, 0.1, 0.1, 0.65),
    BLUE: (0.1, 0.35, 1.0, 0.65),
    ONE_SIDE: (1.0, 0.6, 0.1, 0.6),
    OTHER_SIDE: (0.2, 0.75, 1.0, 0.6),
    VERIFIED: (0.1, 0.8, 0.2, 0.25),
    LINE: (1.0, 1.0, 1.0, 0.9),
}


class RecentSections(LazyArray):
    """Fragments of a session; the sections that were read last are kept in memory.

    Parameters
    ----------
    fragments : PatchedFragments
        Of the session.

    Attributes
    ----------
    source : PatchedFragments
        The same.
    """

    def __init__(self, fragments: PatchedFragments) -> None:
        super().__init__(fragments.shape, np.uint32)
        self.source = fragments
        self._sections: OrderedDict[int, npt.NDArray[np.uint32]] = OrderedDict()
        section = 4 * self.shape[1] * self.shape[2]
        self._most = _MOST_BYTES // max(1, section)
        self._indices: dict[int, npt.NDArray[np.intp]] = {}
        self._borders: dict[int, npt.NDArray[np.bool_]] = {}
        self._version = 0
        self._lock = threading.Lock()  # napari asks from the thread of its status bar, too

    def section(self, z: int) -> npt.NDArray[np.uint32]:
        """Fragments of a section, shape (Y, X); do not write into it."""
        with self._lock:
            found = self._sections.get(z)
            version = self._version
            if found is not None:
                self._sections.move_to_end(z)
                return found
        found = np.asarray(self.source[z], np.uint32)
        with self._lock:
            if version == self._version:
                self._sections[z] = found
                while len(self._sections) > max(1, self._most):
                    self._sections.popitem(last=False)
        return found

    def index(self, z: int) -> npt.NDArray[np.intp]:
        """Fragments of a section as numpy wants an index, which makes a look-up twice as fast."""
        return self._derived(z, self._indices, _as_index)

    def borders(self, z: int) -> npt.NDArray[np.bool_]:
        """Voxels of a section, shape (Y, X), that lie right of or below another fragment."""
        return self._derived(z, self._borders, _borders_of)

    def _derived(
        self,
        z: int,
        made: dict[int, npt.NDArray[Any]],
        make: Callable[[npt.NDArray[np.uint32]], npt.NDArray[Any]],
    ) -> npt.NDArray[Any]:
        """Find what was made of a section that is on screen, or make it."""
        with self._lock:
            found, version = made.get(z), self._version
        if found is None:
            found = make(self.section(z))
            with self._lock:
                if version == self._version:
                    if len(made) > 1:
                        made.pop(next(iter(made)))
                    made[z] = found
        return found

    def at(self, voxel: tuple[int, ...]) -> int:
        """Fragment of a voxel (z, y, x); 0 outside of the volume."""
        if not all(0 <= i < n for i, n in zip(voxel, self.shape, strict=True)):
            return 0
        if self._most:
            return int(self.section(voxel[0])[voxel[1:]])
        return int(self.source[voxel])

    def forget(self, boxes: Iterable[tuple[tuple[int, int], ...]]) -> None:
        """Read the sections of these boxes anew, since their fragments are others now."""
        with self._lock:
            self._version += 1
            for box in boxes:
                for z in range(*box[0]):
                    self._sections.pop(z, None)
                    self._indices.pop(z, None)
                    self._borders.pop(z, None)

    def one_section(self, z: slice) -> int | None:
        """Which section a slice asks for, if it is one that is kept."""
        sections = range(z.start, z.stop, z.step)
        return sections[0] if self._most and len(sections) == 1 else None

    def _read(self, z: slice, y: slice, x: slice) -> npt.NDArray[Any]:
        sections = range(z.start, z.stop, z.step)
        if self._most and len(sections) == 1:
            return self.section(sections[0])[y, x][None]
        result: npt.NDArray[Any] = self.source[z, y, x]
        return result


def _as_index(section: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
    return section.astype(np.intp)


def _borders_of(section: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    borders = np.zeros(section.shape, np.bool_)
    borders[1:] = section[1:] != section[:-1]
    borders[:, 1:] |= section[:, 1:] != section[:, :-1]
    return borders


class LookedUp(LazyArray):
    """The array `table[fragments]`, looked up when and where it is asked for. Read-only.

    Parameters
    ----------
    fragments : RecentSections
        Shared by all layers of a session.
    table : ndarray, shape (n_fragments + 1,), unsigned integer
        Changed in place by its owner; table[0] = 0.
    """

    def __init__(self, fragments: RecentSections, table: npt.NDArray[Any]) -> None:
        super().__init__(fragments.shape, table.dtype)
        self._fragments = fragments
        self.table = table
        self._over: tuple[PatchVoxels, npt.NDArray[Any]] | None = None

    def lay_over(self, voxels: PatchVoxels | None, values: npt.NDArray[Any] | None = None) -> None:
        """Show other values at some voxels: the parts of fragments that are not yet divided.

        Parameters
        ----------
        voxels : PatchVoxels or None
            Where; None takes it away.
        values : ndarray, shape (n,)
            At its voxels, in C order.
        """
        self._over = None if voxels is None or values is None else (voxels, values)

    def _read(self, z: slice, y: slice, x: slice) -> npt.NDArray[Any]:
        one = self._fragments.one_section(z)
        index = self._fragments[z, y, x] if one is None else self._fragments.index(one)[y, x][None]
        # a fragment that came this moment may be missing in the table: shown once it is there
        result: npt.NDArray[Any] = self.table.take(index, mode="clip")
        if self._over is not None:
            voxels, values = self._over
            self._put(result, (z, y, x), voxels, values)
        return result

    @staticmethod
    def _put(
        result: npt.NDArray[Any],
        key: tuple[slice, slice, slice],
        voxels: PatchVoxels,
        values: npt.NDArray[Any],
    ) -> None:
        filled = np.zeros(voxels.mask.shape, values.dtype)
        filled[voxels.mask] = values
        here, there = [], []
        for part, (start, stop) in zip(key, voxels.box, strict=True):
            at = np.arange(part.start, part.stop, part.step)
            inside = (at >= start) & (at < stop)
            here.append(np.flatnonzero(inside))
            there.append(at[inside] - start)
        mask = voxels.mask[np.ix_(*there)]
        target = np.ix_(*here)
        result[target] = np.where(mask, filled[np.ix_(*there)], result[target])


class Marks(LookedUp):
    """Marks, with lines around what is selected and between fragments of what is being cut.

    Parameters
    ----------
    fragments : RecentSections
        Shared by all layers of a session.
    table : ndarray, shape (n_fragments + 1,), uint8
        Mark of every fragment, plus `BORDERED` where its borders are drawn; changed in place by
        its owner.
    """

    def _read(self, z: slice, y: slice, x: slice) -> npt.NDArray[Any]:
        result = super()._read(z, y, x)
        bordered = result >= BORDERED
        if bordered.any():
            # whole arrays, which is several times as fast as by an index of half of the section
            np.bitwise_and(result, BORDERED - 1, out=result)
            one = self._fragments.one_section(z)
            if one is not None:
                np.logical_and(bordered, self._fragments.borders(one)[y, x], out=bordered)
                np.copyto(result, LINE, where=bordered)
        selected = result == SELECTED
        box = _box(selected)
        if box is not None:
            part = selected[box]
            inside = part.copy()
            for axis in (1, 2):
                for by in (_LINE_WIDTH, -_LINE_WIDTH):
                    inside &= _shifted(part, axis, by)
            view = result[box]
            np.copyto(view, LINE, where=part & ~inside)
        return result


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """Box around what is True, with room for a line; None where nothing is."""
    spans: list[slice] = [slice(None)]
    for axis in (1, 2):
        there = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        if not len(there):
            return None
        spans.append(slice(max(0, int(there[0]) - _LINE_WIDTH), int(there[-1]) + 1 + _LINE_WIDTH))
    return tuple(spans)


def _shifted(mask: npt.NDArray[np.bool_], axis: int, by: int) -> npt.NDArray[np.bool_]:
    """Move a mask along an axis; what comes in from outside is as if it were inside."""
    result = np.ones_like(mask)
    there: list[slice] = [slice(None)] * 3
    here: list[slice] = [slice(None)] * 3
    there[axis] = slice(by, None) if by > 0 else slice(None, by)
    here[axis] = slice(None, -by) if by > 0 else slice(-by, None)
    result[tuple(there)] = mask[tuple(here)]
    return result


class FrozenSegments(LazyArray):
    """The segments as they are now, for a process that reads them while edits go on.

    Parameters
    ----------
    fragments : PatchedFragments
        Of the session; what is divided or painted later does not count.
    table : ndarray, shape (n_fragments + 1,), uint32
        Label of every fragment; it is copied.
    """

    def __init__(self, fragments: PatchedFragments, table: npt.NDArray[np.uint32]) -> None:
        super().__init__(fragments.shape, np.uint32)
        self._fragments = fragments.frozen()
        self._table = table.copy()

    def _read(self, z: slice, y: slice, x: slice) -> npt.NDArray[Any]:
        result: npt.NDArray[Any] = self._table[self._fragments[z, y, x]]
        return result


class SegmentTable:
    """Segment of every fragment as it is shown: 0 where a person has hidden it.

    Parameters
    ----------
    session : ProofreadingSession
        What is shown; tell of its changes by `update`.

    Attributes
    ----------
    hidden : set of int
        Segments that are not shown.
    isolated : set of int or None
        The only ones that are shown.
    is_tried : bool
        Whether another LUT is shown for a while.
    values : ndarray, shape (n_fragments + 1,), uint16 or uint32
        Changed in place as long as it is long enough.
    """

    def __init__(self, session: ProofreadingSession) -> None:
        self._session = session
        self.hidden: set[int] = set()
        self.isolated: set[int] | None = None
        self.values = self._fresh(session.lut)
        self.is_tried = False
        self._alone = np.zeros(0, np.int64)  # fragments of what is isolated

    def follow(self, event: SegmentsChanged) -> None:
        """Follow an edit: what is shown alone, or hidden, stays so in what has become of it."""
        touched = set(event.segments)
        session, isolated = self._session, self.isolated
        if touched & self.hidden:
            self.hidden &= set(session.living(self.hidden))
        if isolated is None or (touched and not touched & isolated):
            self.update(event.fragments)
            return
        # where they are too many to be listed, what the same fragments are now
        self.isolated = (
            isolated | set(session.living(touched)) if touched else self._become(session.lut)
        )
        self.rebuild()

    def update(self, fragments: npt.NDArray[np.int64]) -> None:
        """Look up these fragments anew, those that have come, and all after another LUT."""
        lut = self._session.lut
        if len(lut) != len(self.values):
            self.values = self._fresh(lut)
        elif self.is_tried:
            self.values[:] = self._seen(lut, self.isolated)
        else:
            self.values[fragments] = self._seen(lut[fragments], self.isolated)
        self.is_tried = False

    def rebuild(self) -> None:
        """Look up all of them, because what is shown has changed."""
        lut = self._session.lut
        if self.isolated is not None:
            self._alone = np.flatnonzero(np.isin(lut, list(self.isolated)))
        self.update(np.arange(len(lut)))

    def show(self, lut: npt.NDArray[np.uint32]) -> None:
        """Show another LUT of the same fragments for a while: a threshold that is tried."""
        isolated = None if self.isolated is None else self._become(lut)
        self.values[:] = self._seen(lut, isolated)
        self.is_tried = True

    def _become(self, lut: npt.NDArray[np.uint32]) -> set[int]:
        """Segments that what is isolated has become in a LUT."""
        return set(np.unique(lut[self._alone]).tolist()) - {0}

    def _fresh(self, lut: npt.NDArray[np.uint32]) -> npt.NDArray[Any]:
        few = len(lut) < _FEW_FRAGMENTS
        return self._seen(lut, self.isolated).astype(np.uint16 if few else np.uint32)

    def _seen(
        self, segments: npt.NDArray[np.uint32], isolated: set[int] | None
    ) -> npt.NDArray[np.uint32]:
        if isolated is not None:
            return np.where(np.isin(segments, list(isolated)), segments, 0)
        if self.hidden:
            return np.where(np.isin(segments, list(self.hidden)), 0, segments)
        return segments


class MarkTable:
    """A mark for every fragment, or none: what `MARK_COLOURS` has a colour for.

    Attributes
    ----------
    values : ndarray, shape (n_fragments + 1,), uint8
    bordered : ndarray, shape (n,), int64
        Fragments whose borders are drawn, from the next time on that anything is marked.
    """

    def __init__(self, session: ProofreadingSession) -> None:
        self._session = session
        self.values = np.zeros(len(session.lut), np.uint8)
        self._marked: list[npt.NDArray[np.int64]] = []
        self._locks: dict[int, tuple[int, ...]] = {}
        self._verified = np.zeros(0, np.int64)
        self.bordered: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.mark({})

    def mark(self, marks: Mapping[int, npt.NDArray[np.int64]]) -> None:
        """Mark these fragments, and no others; of what is verified too, the mark given wins.

        Parameters
        ----------
        marks : mapping
            Mark → fragments; ids beyond the table are left out.
        """
        lock = self._session.decisions.lock
        n = len(self._session.lut)
        if len(self.values) != n:
            self.values = np.zeros(n, np.uint8)
        else:
            for fragments in self._marked:
                self.values[fragments] = 0
        locks = self._session.decisions.locks
        if locks != self._locks:
            self._locks, self._verified = dict(locks), np.flatnonzero(lock)
        self.values[self._verified] = VERIFIED
        self._marked = [self._verified, self.bordered]
        for mark, fragments in marks.items():
            known = fragments[fragments < n]
            self.values[known] = mark
            self._marked.append(known)
        self.values[self.bordered] += BORDERED
