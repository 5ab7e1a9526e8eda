"""The region graph: which fragments touch, where, over what area and with what affinity.

Two voxels that are neighbours along z, y or x and lie in different fragments are a *contact*. Its
affinity is the one stored at the later voxel of the two; the first row and the first column have
no earlier neighbour, so what is stored there (a reflection) is never used. An edge is the set of
contacts between two fragments. Since a fragment never leaves its section, every edge belongs to
exactly one section: that of its later voxels. So the graph of a volume is the graphs of its
sections, one behind the other, and can be made in any order, on any number of machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from napari_cad.core.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    IdArray = npt.NDArray[np.integer[Any]]

#: Columns of `EdgeTable.to_array`.
EDGE_COLUMNS = ("u", "v", "mean", "max", "area", "z", "y", "x", "along_y")

#: Types of those that are whole numbers; the others are float32.
EDGE_TYPES: dict[str, type[np.generic]] = {"u": np.uint32, "v": np.uint32, "area": np.uint32}

#: Columns of tables that older versions have written: how faces are turned was not kept.
_OLD_COLUMNS = len(EDGE_COLUMNS) - 1

#: Columns of `section_fragment_table`; the bounding box is half-open, z, y, x is the centroid.
FRAGMENT_COLUMNS = (
    "id", "size", "z_start", "y_start", "x_start", "z_stop", "y_stop", "x_stop", "z", "y", "x"
)  # fmt: skip

#: A stored affinity q stands for (q + 0.5) / 256.
_LEVELS = 256

_HIGHEST_ID = np.iinfo(np.uint32).max


@dataclass(frozen=True, eq=False)
class EdgeTable:
    """Edges between fragments, one per row.

    Attributes
    ----------
    u, v : ndarray, shape (n,), uint32
        Ids of the two fragments, u < v, neither 0; no pair stands here twice.
    mean, max : ndarray, shape (n,), float32 in (0, 1)
        Mean and maximum affinity of the contacts, a stored value q read as (q + 0.5) / 256.
    area : ndarray, shape (n,), uint32
        Number of contacts, that is, of voxel faces.
    position : ndarray, shape (n, 3), float32
        Mean (z, y, x) of the later voxels of the contacts, in voxels.
    along_y : ndarray, shape (n,), uint32, or None
        How many of the contacts inside a section are between neighbours along y; the others are
        along x. 0 between sections. None where an older version made the table.
    """

    u: npt.NDArray[np.uint32]
    v: npt.NDArray[np.uint32]
    mean: npt.NDArray[np.float32]
    max: npt.NDArray[np.float32]
    area: npt.NDArray[np.uint32]
    position: npt.NDArray[np.float32]
    along_y: npt.NDArray[np.uint32] | None = None

    def __len__(self) -> int:
        return len(self.u)

    def to_array(self) -> npt.NDArray[np.float64]:
        """Put everything into one array, without rounding.

        Returns
        -------
        ndarray, shape (n, 9), float64
            Columns as in `EDGE_COLUMNS`; the last one is missing where it is not known.
        """
        columns = (self.u, self.v, self.mean, self.max, self.area, *self.position.T)
        known = columns if self.along_y is None else (*columns, self.along_y)
        return np.stack(known, axis=1).astype(np.float64)

    @classmethod
    def from_array(cls, array: npt.NDArray[np.float64]) -> EdgeTable:
        """Make a table from what `to_array` gave.

        Raises
        ------
        ShapeError
            If `array` does not have one column for each of `EDGE_COLUMNS`, the last one
            perhaps excepted.
        """
        if array.ndim != 2 or array.shape[1] not in (_OLD_COLUMNS, len(EDGE_COLUMNS)):
            raise ShapeError(
                f"edges have {len(EDGE_COLUMNS)} columns ({', '.join(EDGE_COLUMNS)}), got an array "
                f"of shape {array.shape}"
            )
        u, v, mean, maximum, area = array.T[:5]
        return EdgeTable(
            u.astype(np.uint32),
            v.astype(np.uint32),
            mean.astype(np.float32),
            maximum.astype(np.float32),
            area.astype(np.uint32),
            array[:, 5:8].astype(np.float32),
            None if array.shape[1] == _OLD_COLUMNS else array[:, 8].astype(np.uint32),
        )


@dataclass(frozen=True, eq=False)
class RegionGraph(EdgeTable):
    """The edges of a volume, and how many fragments there are.

    Attributes
    ----------
    n_fragments : int
        Highest fragment id. A fragment without edges has no other trace here.
    """

    n_fragments: int = 0

    @classmethod
    def concatenate(cls, tables: Iterable[EdgeTable], n_fragments: int | None = None) -> Self:
        """Make the graph of a volume from those of its sections.

        Parameters
        ----------
        tables : iterable of EdgeTable
            One per section. No edge stands in two of them (`section_edges` sees to that), so
            nothing has to be united.
        n_fragments : int, optional
            Highest fragment id of the volume; by default the highest one in an edge, which misses
            a last fragment that touches nothing.

        Returns
        -------
        RegionGraph
            Rows in the order of `tables`.
        """
        tables = list(tables)
        u = _joined([t.u for t in tables], np.uint32)
        v = _joined([t.v for t in tables], np.uint32)
        if n_fragments is None:
            n_fragments = int(v.max(initial=0))
        return cls(
            u,
            v,
            _joined([t.mean for t in tables], np.float32),
            _joined([t.max for t in tables], np.float32),
            _joined([t.area for t in tables], np.uint32),
            np.concatenate([np.zeros((0, 3), np.float32), *(t.position for t in tables)]),
            _joined_if_known([t.along_y for t in tables]),
            n_fragments,
        )


def section_edges(
    fragments: IdArray,
    affinities: npt.NDArray[np.uint8],
    z: int,
    prev_fragments: IdArray | None = None,
) -> EdgeTable:
    """Find the edges inside section z and between the sections z − 1 and z.

    Parameters
    ----------
    fragments : ndarray, shape (Y, X), integer
        Fragments of section z, ids unique over the volume; 0 is background and has no edges.
    affinities : ndarray, shape (3, Y, X), uint8
        Affinities stored at section z, channels z, y, x; q means (q + 0.5) / 256.
    z : int
        Index of the section in its volume.
    prev_fragments : ndarray, shape (Y, X), integer, optional
        Fragments of section z − 1. Without it there are only the edges inside section z.

    Returns
    -------
    EdgeTable
        Sorted by (u, v).

    Raises
    ------
    ShapeError
        If shapes do not fit each other, affinities are not uint8, or an id is negative or does
        not fit into 32 bits.
    """
    fragments = _as_ids(fragments)
    if affinities.shape != (3, *fragments.shape) or affinities.dtype != np.uint8:
        raise ShapeError(
            f"fragments of shape {fragments.shape} need uint8 affinities of shape "
            f"{(3, *fragments.shape)}, got {affinities.dtype} of shape {affinities.shape}"
        )
    contacts = [
        _contacts_inside(fragments, affinities[1], axis=0),
        _contacts_inside(fragments, affinities[2], axis=1),
    ]
    if prev_fragments is not None:
        prev_fragments = _as_ids(prev_fragments)
        if prev_fragments.shape != fragments.shape:
            raise ShapeError(
                f"consecutive sections have one shape, got {prev_fragments.shape} and then "
                f"{fragments.shape}"
            )
        contacts.append(_contacts_between(fragments, prev_fragments, affinities[0]))
    columns = (np.concatenate(column) for column in zip(*contacts, strict=True))
    return _group(_Contacts(*columns), z)


def section_fragment_table(fragments: IdArray, z: int, offset: int = 0) -> npt.NDArray[np.float64]:
    """Measure every fragment of one section.

    Parameters
    ----------
    fragments : ndarray, shape (Y, X), integer
        Fragments of section z; 0 is background and has no row.
    z : int
        Index of the section in its volume.
    offset : int
        Added to every id: that of the section where `fragments` holds ids local to it, 0 where
        they are global already.

    Returns
    -------
    ndarray, shape (n, 11), float64
        Columns as in `FRAGMENT_COLUMNS`, sorted by id: size in voxels, half-open bounding box and
        centroid in voxels of the volume. Ids that do not occur have no row.

    Raises
    ------
    ShapeError
        If `fragments` are not a 2D array of ids.
    """
    fragments = _as_ids(fragments)
    starts, lengths = _runs(fragments)
    y, x = _coordinates(starts, fragments)
    ids = fragments[y, x]
    named = ids != 0
    ids, lengths, y, x = ids[named], lengths[named], y[named], x[named]
    order, first = _group_starts(ids)
    if not len(first):
        return np.zeros((0, len(FRAGMENT_COLUMNS)))
    ids, lengths, y, x = ids[order], lengths[order], y[order], x[order]
    size = np.add.reduceat(lengths, first)
    sum_y = np.add.reduceat(lengths * y, first)
    sum_x = np.add.reduceat(_sum_along_run(x, lengths), first)
    sections = np.full(len(first), float(z))
    columns = (
        ids[first].astype(np.float64) + offset,
        size,
        sections,
        np.minimum.reduceat(y, first),
        np.minimum.reduceat(x, first),
        sections + 1,
        np.maximum.reduceat(y, first) + 1,
        np.maximum.reduceat(x + lengths, first),
        sections,
        sum_y / size,
        sum_x / size,
    )
    return np.stack(columns, axis=1)


class _Contacts(NamedTuple):
    """Sums over contacts of one pair of fragments each; a pair may stand here many times."""

    pair: npt.NDArray[np.uint64]  # both ids in one number
    area: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]  # of the stored affinities
    highest: npt.NDArray[np.uint8]
    sum_y: npt.NDArray[np.int64]  # of the later voxels
    sum_x: npt.NDArray[np.int64]
    along_y: npt.NDArray[np.int64]


def _contacts_inside(
    fragments: npt.NDArray[np.uint32], affinity: npt.NDArray[np.uint8], axis: int
) -> _Contacts:
    """Contacts inside a section along y (axis 0) or x (axis 1), one per row."""
    step = (1, 0) if axis == 0 else (0, 1)
    later = fragments[step[0] :, step[1] :]
    earlier = fragments[: later.shape[0], : later.shape[1]]
    y, x = _coordinates(np.flatnonzero((later != earlier) & (later != 0) & (earlier != 0)), later)
    pair = _pairs(later[y, x], earlier[y, x])
    y, x = y + step[0], x + step[1]
    stored = affinity[y, x]
    each = np.ones(len(y), np.int64)
    along_y = each if axis == 0 else np.zeros_like(each)
    return _Contacts(pair, each, stored.astype(np.int64), stored, y, x, along_y)


def _contacts_between(
    fragments: npt.NDArray[np.uint32],
    prev_fragments: npt.NDArray[np.uint32],
    affinity: npt.NDArray[np.uint8],
) -> _Contacts:
    """Contacts between two sections, summed up along x as far as the pair stays the same.

    Every voxel is one of them, a million in a section of 1024 × 1024, but they come in some 70,000
    runs, and what has to be sorted afterwards is the runs.
    """
    starts, lengths = _runs(fragments, prev_fragments)
    y, x = _coordinates(starts, fragments)
    later, earlier = fragments[y, x], prev_fragments[y, x]
    total = np.add.reduceat(affinity.ravel(), starts, dtype=np.int64)
    highest = np.maximum.reduceat(affinity.ravel(), starts)
    runs = _Contacts(
        _pairs(later, earlier),
        lengths,
        total,
        highest,
        lengths * y,
        _sum_along_run(x, lengths),
        np.zeros_like(lengths),
    )
    contact = (later != earlier) & (later != 0) & (earlier != 0)
    return runs if contact.all() else _Contacts(*(column[contact] for column in runs))


def _pairs(a: npt.NDArray[np.uint32], b: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """Both ids in one number, the smaller one in the higher half: it sorts as (u, v)."""
    return np.minimum(a, b).astype(np.uint64) << np.uint64(32) | np.maximum(a, b)


def _group(contacts: _Contacts, z: int) -> EdgeTable:
    """Unite the contacts of each pair of fragments."""
    order, first = _group_starts(contacts.pair)
    if not len(first):
        return EdgeTable.from_array(np.zeros((0, len(EDGE_COLUMNS))))
    area, total, sum_y, sum_x, along_y = (
        np.add.reduceat(column[order], first)
        for column in (
            contacts.area, contacts.total, contacts.sum_y, contacts.sum_x, contacts.along_y,
        )
    )  # fmt: skip
    highest = np.maximum.reduceat(contacts.highest[order], first)
    pair = contacts.pair[order[first]]
    # quotients of integers in float64, rounded once, to float32: the order of sums cannot matter
    position = np.stack([np.full(len(area), float(z)), sum_y / area, sum_x / area], axis=1)
    return EdgeTable(
        u=(pair >> np.uint64(32)).astype(np.uint32),
        v=(pair & np.uint64(_HIGHEST_ID)).astype(np.uint32),
        mean=((total / area + 0.5) / _LEVELS).astype(np.float32),
        max=((highest + 0.5) / _LEVELS).astype(np.float32),
        area=area.astype(np.uint32),
        position=position.astype(np.float32),
        along_y=along_y.astype(np.uint32),
    )


def _coordinates(
    flat: npt.NDArray[np.int64], image: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row and column of flat indices."""
    return np.divmod(flat, max(image.shape[1], 1))


def _runs(*images: IdArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Start (in the flattened image) and length of the runs along x in which nothing changes."""
    change = np.empty(images[0].shape, np.bool_)
    change[:, :1] = True
    np.not_equal(images[0][:, 1:], images[0][:, :-1], out=change[:, 1:])
    for image in images[1:]:
        change[:, 1:] |= image[:, 1:] != image[:, :-1]
    starts = np.flatnonzero(change)
    return starts, np.diff(starts, append=change.size)


def _sum_along_run(
    first: npt.NDArray[np.int64], length: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Sum first + (first + 1) + … over `length` terms."""
    result: npt.NDArray[np.int64] = length * (2 * first + length - 1) // 2
    return result


def _group_starts(
    keys: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Order that sorts the keys, and where in it each key begins."""
    order = np.argsort(keys)
    ordered = keys[order]
    new = np.ones(len(keys), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return order, np.flatnonzero(new)


def _as_ids(fragments: IdArray) -> npt.NDArray[np.uint32]:
    if fragments.ndim != 2 or fragments.dtype.kind not in "iu" or not fragments.size:
        raise ShapeError(
            f"fragments of one section are integers of shape (height, width), got "
            f"{fragments.dtype} of shape {fragments.shape}"
        )
    lowest, highest = (0, 0) if fragments.dtype == np.uint32 else _range(fragments)
    if lowest < 0 or highest > _HIGHEST_ID:
        raise ShapeError(
            f"fragment ids lie between 0 and {_HIGHEST_ID}, got {lowest} to {highest}: renumber "
            "them first"
        )
    return fragments.astype(np.uint32, copy=False)


def _range(fragments: IdArray) -> tuple[int, int]:
    return int(fragments.min()), int(fragments.max())


def _joined_if_known(
    columns: list[npt.NDArray[np.uint32] | None],
) -> npt.NDArray[np.uint32] | None:
    known = [column for column in columns if column is not None]
    return _joined(known, np.uint32) if len(known) == len(columns) else None


def _joined(columns: list[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *columns])
