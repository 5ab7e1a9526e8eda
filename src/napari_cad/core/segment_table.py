"""Measures of segments without any truth: size, extent, surface, and who touches whom.

Everything comes from the table of the fragments and the region graph, so another LUT costs no
look at a voxel, and where a LUT differs from the last one in a few segments only those are
measured anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.errors import ShapeError
from napari_cad.core.region_graph import FRAGMENT_COLUMNS

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.core.region_graph import EdgeTable

    Ints = npt.NDArray[np.integer[Any]]

VoxelSize = tuple[float, float, float]

_NM_PER_UM = 1000.0


@dataclass(frozen=True, eq=False)
class SegmentTable:
    """One row per segment, sorted by id.

    Attributes
    ----------
    id : ndarray, shape (n,), uint32 (uint64 for labels that come without a run)
    fragments, voxels, sections : ndarray, shape (n,), int64
        Numbers of fragments, of voxels, and of sections in which there is any.
    box : ndarray, shape (n, 6), int64
        Half-open bounding box z_start, y_start, x_start, z_stop, y_stop, x_stop in voxels.
    centroid : ndarray, shape (n, 3), float64
        (z, y, x) in voxels.
    volume : ndarray, shape (n,), float64
        In µm³; NaN where the voxel size is not known.
    surface : ndarray, shape (n,), float64
        Area in µm² of the voxel faces to whatever else there is; those at the border of the stack
        do not count. Faces overestimate a smooth surface, that of a ball by half. NaN where the
        voxel size is not known.
    contacts : ndarray, shape (n,), int64
        Number of other segments that it touches.
    """

    id: npt.NDArray[np.uint32]
    fragments: npt.NDArray[np.int64]
    voxels: npt.NDArray[np.int64]
    sections: npt.NDArray[np.int64]
    box: npt.NDArray[np.int64]
    centroid: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64]
    surface: npt.NDArray[np.float64]
    contacts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.id)


@dataclass(frozen=True, eq=False)
class ContactTable:
    """One row per pair of segments that touch, sorted by (u, v).

    Attributes
    ----------
    u, v : ndarray, shape (n,), uint32
        Ids of the segments, u < v. A u of 0 stands for what is no segment.
    faces : ndarray, shape (n,), int64
        Voxel faces between them.
    area : ndarray, shape (n,), float64
        Their area in µm²; NaN where the voxel size is not known.
    position : ndarray, shape (n, 3), float64
        (z, y, x) in voxels, at the largest contact of two of their fragments.
    """

    u: npt.NDArray[np.uint32]
    v: npt.NDArray[np.uint32]
    faces: npt.NDArray[np.int64]
    area: npt.NDArray[np.float64]
    position: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.u)


@dataclass(frozen=True, eq=False)
class Measured:
    """Both tables, and the LUT that they are of."""

    lut: Ints
    segments: SegmentTable
    contacts: ContactTable


class SegmentMeasures:
    """Measures the segments of a run at any LUT.

    Parameters
    ----------
    fragment_table : ndarray, shape (n_fragments, 11)
        Columns as in `napari_cad.core.region_graph.FRAGMENT_COLUMNS`.
    graph : EdgeTable
        Edges between the fragments.
    voxel_size : tuple of float or None
        (z, y, x) in nm.

    Attributes
    ----------
    exact : bool
        Whether areas are exact. They are not where voxels are not square inside a section and the
        graph, made by an older version, does not tell how faces are turned: then half of those
        inside a section count as turned either way.

    Raises
    ------
    ShapeError
        If the table has other columns.
    """

    def __init__(
        self,
        fragment_table: npt.NDArray[np.floating[Any]],
        graph: EdgeTable,
        voxel_size: VoxelSize | None,
    ) -> None:
        if fragment_table.ndim != 2 or fragment_table.shape[1] != len(FRAGMENT_COLUMNS):
            raise ShapeError(
                f"expected a fragment table of {len(FRAGMENT_COLUMNS)} columns, got "
                f"{fragment_table.shape}"
            )
        self._table = fragment_table
        self._id = fragment_table[:, 0].astype(np.intp)
        self._u, self._v = graph.u.astype(np.intp), graph.v.astype(np.intp)
        self._faces = graph.area.astype(np.int64)
        self._position = graph.position
        z_of = np.zeros(int(self._id.max(initial=0)) + 1)
        z_of[self._id] = fragment_table[:, 2]
        z, y, x = (np.nan,) * 3 if voxel_size is None else (n / _NM_PER_UM for n in voxel_size)
        inside = z_of[self._u] == z_of[self._v]
        along_y = self._faces / 2 if graph.along_y is None else graph.along_y.astype(np.float64)
        self.exact = graph.along_y is not None or y == x or voxel_size is None
        # a face between neighbours along y lies along z and x
        area_inside = along_y * z * x + (self._faces - along_y) * z * y
        self._area = np.where(inside, area_inside, self._faces * y * x)
        self._voxel_volume = z * y * x

    def measure(self, lut: Ints, before: Measured | None = None) -> Measured:
        """Measure the segments of a LUT.

        Parameters
        ----------
        lut : ndarray, shape (n_fragments + 1,), integer
            Fragment to segment; segment 0 is nothing.
        before : Measured, optional
            Of another LUT of the same run: what did not change is taken from it.

        Returns
        -------
        Measured

        Raises
        ------
        ShapeError
            If the LUT is too short.
        """
        highest = int(self._id.max(initial=0))
        if lut.ndim != 1 or len(lut) <= highest:
            raise ShapeError(f"expected a LUT for fragments up to {highest}, got {lut.shape}")
        if before is None or before.lut.shape != lut.shape:
            changed = np.ones(int(lut.max(initial=0)) + 1, np.bool_)
        else:
            differing = before.lut != lut
            changed = np.zeros(
                int(max(lut.max(initial=0), before.lut.max(initial=0))) + 1, np.bool_
            )
            changed[lut[differing]] = True
            changed[before.lut[differing]] = True
        contacts = self._contacts(lut, changed)
        segments = self._segments(lut, changed)
        if before is not None and before.lut.shape == lut.shape:
            kept = ~changed[before.contacts.u] & ~changed[before.contacts.v]
            contacts = _merged(before.contacts, kept, contacts)
            segments = _merged(before.segments, ~changed[before.segments.id], segments)
        return Measured(lut, _with_contacts(segments, contacts), contacts)

    def _segments(self, lut: Ints, changed: npt.NDArray[np.bool_]) -> SegmentTable:
        """Measure the segments in `changed`; their contacts come later."""
        segment = lut[self._id]
        rows = np.flatnonzero(changed[segment] & (segment != 0))
        order, first = _groups(segment[rows], self._table[rows, 2])
        rows = rows[order]
        table, segment = self._table[rows], segment[rows]
        # sorted by segment, then section: a section begins where either changes
        z = table[:, 2]
        new_section = np.ones(len(rows), np.int64)
        new_section[1:] = (segment[1:] != segment[:-1]) | (z[1:] != z[:-1])
        if not len(rows):
            return _no_segments()
        voxels = np.add.reduceat(table[:, 1], first)
        low = np.minimum.reduceat(table[:, 2:5], first)
        high = np.maximum.reduceat(table[:, 5:8], first)
        centroid = np.add.reduceat(table[:, 8:] * table[:, 1:2], first) / voxels[:, None]
        n = len(first)
        return SegmentTable(
            segment[first].astype(np.uint32),
            np.diff(first, append=len(rows)),
            voxels.astype(np.int64),
            np.add.reduceat(new_section, first),
            np.concatenate([low, high], axis=1).astype(np.int64),
            centroid,
            voxels * self._voxel_volume,
            np.zeros(n),
            np.zeros(n, np.int64),
        )

    def _contacts(self, lut: Ints, changed: npt.NDArray[np.bool_]) -> ContactTable:
        """Find the contacts of which one segment is in `changed`."""
        a, b = lut[self._u], lut[self._v]
        rows = np.flatnonzero((a != b) & (changed[a] | changed[b]))
        a, b = np.minimum(a[rows], b[rows]), np.maximum(a[rows], b[rows])
        order, first = _groups(
            _pairs(a, b), -self._faces[rows]
        )  # of a contact the largest edge first
        if not len(first):
            return _no_contacts()
        a, b, rows = a[order], b[order], rows[order]
        return ContactTable(
            a[first].astype(np.uint32),
            b[first].astype(np.uint32),
            np.add.reduceat(self._faces[rows], first),
            np.add.reduceat(self._area[rows], first),
            self._position[rows[first]].astype(np.float64),
        )


def _groups(*keys: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Sort by the first key, then the next; also where each value of the first begins."""
    order = np.lexsort(keys[::-1])
    first = keys[0][order]
    new = np.ones(len(order), np.bool_)
    np.not_equal(first[1:], first[:-1], out=new[1:])
    return order, np.flatnonzero(new)


def _merged(before: Any, kept: npt.NDArray[np.bool_], new: Any) -> Any:
    """Rows of a table that stay, and new ones, in the table's order."""
    # both are sorted: a place for each new row, instead of sorting all of them again
    place = np.searchsorted(_keys(before)[kept], _keys(new))
    return type(before)(
        **{
            name: np.insert(getattr(before, name)[kept], place, getattr(new, name), axis=0)
            for name in type(before).__dataclass_fields__
        }
    )


def _keys(table: SegmentTable | ContactTable) -> npt.NDArray[np.unsignedinteger[Any]]:
    if isinstance(table, SegmentTable):
        return table.id
    return _pairs(table.u, table.v)


def _pairs(u: Ints, v: Ints) -> npt.NDArray[np.uint64]:
    """Both ids in one number, which sorts as (u, v)."""
    return (u.astype(np.uint64) << np.uint64(32)) | v.astype(np.uint64)


def _with_contacts(segments: SegmentTable, contacts: ContactTable) -> SegmentTable:
    """Fill in what follows from the contacts: their number, and the surface."""
    n = len(segments)
    named = contacts.u != 0
    u, v = np.searchsorted(segments.id, contacts.u[named]), np.searchsorted(segments.id, contacts.v)
    number = np.bincount(u, minlength=n) + np.bincount(v[named], minlength=n)
    surface = np.bincount(u, contacts.area[named], n) + np.bincount(v, contacts.area, n)
    columns = {name: getattr(segments, name) for name in SegmentTable.__dataclass_fields__}
    # adding nothing keeps what is not known unknown
    columns |= {"contacts": number, "surface": surface + 0.0 * segments.volume}
    return SegmentTable(**columns)


def _no_segments() -> SegmentTable:
    none = np.zeros(0, np.int64)
    return SegmentTable(
        none.astype(np.uint32),
        none,
        none,
        none,
        np.zeros((0, 6), np.int64),
        np.zeros((0, 3)),
        np.zeros(0),
        np.zeros(0),
        none,
    )


def _no_contacts() -> ContactTable:
    none = np.zeros(0, np.int64)
    ids = none.astype(np.uint32)
    return ContactTable(ids, ids, none, np.zeros(0), np.zeros((0, 3)))
