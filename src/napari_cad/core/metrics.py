"""How well a segmentation agrees with the truth.

Every score comes from one sparse table that counts the voxels of each pair of a true neurite and
a segment. Such a table is small, is made section by section, and of fragments it is enough to
score the segmentation at any threshold without looking at a voxel again.

Voxels where the truth is 0, membrane or unlabelled, are left out. Label 0 of the segmentation is a
segment like any other: what a segmentation leaves empty inside a neurite counts against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from scipy.sparse import coo_array

from napari_cad.core.errors import ShapeError, VolumeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    import numpy.typing as npt

    Ids = npt.NDArray[np.uint64]
    Counts = npt.NDArray[np.int64]

_Int = TypeVar("_Int", bound=np.generic)


class LabelVolume(Protocol):
    """What `volume_contingency` needs of a volume: numpy, zarr and `EMVolume.data` have it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sections, height, width."""
        ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True)
class ContingencyTable:
    """Voxels per pair of a true neurite and a segment.

    Tables of parts of a volume add up to the table of the whole.

    Attributes
    ----------
    truth, segmentation : ndarray, shape (pairs,), uint64
        The ids of each pair; sorted by truth, then segmentation, and no pair twice.
    count : ndarray, shape (pairs,), int64
        Voxels, at least 1.
    """

    truth: Ids
    segmentation: Ids
    count: Counts

    @classmethod
    def empty(cls) -> ContingencyTable:
        """Return the table of no voxels."""
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64))

    @classmethod
    def total(cls, tables: Iterable[ContingencyTable]) -> ContingencyTable:
        """Add up tables; faster than adding them one by one."""
        parts = list(tables)
        if not parts:
            return cls.empty()
        columns = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("truth", "segmentation", "count")
        )
        return cls(*_add_up(*columns))

    def __add__(self, other: ContingencyTable) -> ContingencyTable:
        return self.total((self, other))

    @property
    def n_voxels(self) -> int:
        """Voxels counted."""
        return int(self.count.sum())

    def relabelled(self, lut: npt.NDArray[np.integer[Any]]) -> ContingencyTable:
        """Return the table after the segmentation went through a LUT.

        Parameters
        ----------
        lut : ndarray, shape (largest segmentation id + 1,) or longer, integer
            Fragment id to segment id.

        Raises
        ------
        ShapeError
            If the LUT is too short for the table's ids.
        """
        segment = self._looked_up(lut)
        return ContingencyTable(*_add_up(self.truth, segment.astype(np.uint64), self.count))

    def _looked_up(self, lut: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.intp]:
        highest = int(self.segmentation.max(initial=0))
        if lut.ndim != 1 or len(lut) <= highest:
            raise ShapeError(
                f"expected a LUT for ids up to {highest}, got shape {lut.shape}: "
                "table and LUT are of different fragments"
            )
        return lut[self.segmentation.astype(np.intp)].astype(np.intp)


@dataclass(frozen=True)
class Scores:
    """Agreement of a segmentation with the truth; 0 is perfect.

    Attributes
    ----------
    voi_split : float
        H(segmentation | truth) in bits: what false splits cost.
    voi_merge : float
        H(truth | segmentation) in bits: what false merges cost.
    arand : float
        Adapted Rand error, 0 to 1.
    """

    voi_split: float
    voi_merge: float
    arand: float

    @property
    def voi(self) -> float:
        """Variation of information in bits: split and merge together."""
        return self.voi_split + self.voi_merge

    @classmethod
    def of(cls, table: ContingencyTable) -> Scores:
        """Score a table; raises VolumeError if it counts no voxel."""
        return cls(*voi(table), arand(table))

    def to_json(self) -> dict[str, float]:
        """Return the four numbers as a dictionary that `json` can write."""
        return {
            "voi_split": self.voi_split,
            "voi_merge": self.voi_merge,
            "voi": self.voi,
            "arand": self.arand,
        }


def contingency(
    truth: npt.ArrayLike, segmentation: npt.ArrayLike, ignore: Collection[int] = (0,)
) -> ContingencyTable:
    """Count the voxels of every pair of a true neurite and a segment.

    Parameters
    ----------
    truth, segmentation : array, the same shape, integer and not negative
        Labels of a section or a volume.
    ignore : collection of int
        Labels of the truth that are left out.

    Returns
    -------
    ContingencyTable

    Raises
    ------
    ShapeError
        If the shapes differ.
    VolumeError
        If an array does not hold integers, or holds negative ones.
    """
    true, found = _labels("truth", truth), _labels("segmentation", segmentation)
    _check_shapes(true.shape, found.shape)
    true, found = true.ravel(), found.ravel()
    if true.size == 0:
        return ContingencyTable.empty()
    # labels come in runs along x: counting runs sorts some twenty times less
    change = (true[1:] != true[:-1]) | (found[1:] != found[:-1])
    starts = np.concatenate([[0], np.flatnonzero(change) + 1])
    length = np.diff(starts, append=true.size)
    true, found = true[starts].astype(np.uint64), found[starts].astype(np.uint64)
    for label in ignore:
        keep = true != label
        true, found, length = true[keep], found[keep], length[keep]
    return ContingencyTable(*_add_up(true, found, length))


def volume_contingency(
    truth: LabelVolume,
    segmentation: LabelVolume,
    ignore: Collection[int] = (0,),
    sections: Iterable[int] | None = None,
) -> ContingencyTable:
    """Count as `contingency` does, reading one section at a time.

    Parameters
    ----------
    truth, segmentation : array-like, shape (Z, Y, X), integer and not negative
        May be lazy.
    ignore : collection of int
        Labels of the truth that are left out.
    sections : iterable of int, optional
        Which sections to count; all of them by default.

    Returns
    -------
    ContingencyTable

    Raises
    ------
    ShapeError
        If the shapes differ.
    VolumeError
        If an array does not hold integers, or holds negative ones.
    """
    _check_shapes(tuple(truth.shape), tuple(segmentation.shape))
    chosen = range(truth.shape[0]) if sections is None else sections
    return ContingencyTable.total(
        contingency(np.asarray(truth[z]), np.asarray(segmentation[z]), ignore) for z in chosen
    )


def voi(table: ContingencyTable) -> tuple[float, float]:
    """Variation of information, in its two parts.

    Meilă, "Comparing clusterings: an information based distance", J. Multivar. Anal. 98 (2007),
    doi:10.1016/j.jmva.2006.11.013.

    Returns
    -------
    voi_split, voi_merge : float
        H(segmentation | truth) and H(truth | segmentation), in bits. A neurite cut into two equal
        halves costs 1 bit of split per voxel of it, two equal neurites made one cost 1 bit of
        merge.

    Raises
    ------
    VolumeError
        If the table counts no voxel.
    """
    _check_not_empty(table)
    neurites, neurite = _sums(table.truth, table.count)
    segments, segment = _sums(table.segmentation, table.count)
    return _voi(table.count, neurites[neurite], segments[segment])


def arand(table: ContingencyTable) -> float:
    """Adapted Rand error: 1 − the F-score of pairs of voxels that lie together.

    Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
    connectomics", Front. Neuroanat. 9:142 (2015), doi:10.3389/fnana.2015.00142. Pairs of a voxel
    with itself are not counted, as in scikit-image.

    Returns
    -------
    float
        0 (the same partition) to 1.

    Raises
    ------
    VolumeError
        If the table counts no voxel.
    """
    _check_not_empty(table)
    neurites, _ = _sums(table.truth, table.count)
    segments, _ = _sums(table.segmentation, table.count)
    return _arand(table.count, neurites, segments)


def threshold_curve(
    table: ContingencyTable,
    lut_at: Callable[[float], npt.NDArray[np.integer[Any]]],
    thresholds: Iterable[float],
) -> list[Scores]:
    """Score the segmentations at several thresholds from the table of the fragments.

    Parameters
    ----------
    table : ContingencyTable
        Of fragments and truth.
    lut_at : callable
        Gives the LUT from fragment to segment at a threshold; see `ContingencyTable.relabelled`.
    thresholds : iterable of float
        What `lut_at` is asked for.

    Returns
    -------
    list of Scores
        In the order of the thresholds; the same as scoring the relabelled volume at each.

    Raises
    ------
    VolumeError
        If the table counts no voxel.
    ShapeError
        If a LUT is too short for the table's ids.
    """
    _check_not_empty(table)
    neurites, neurite = _sums(table.truth, table.count)
    curve = []
    for threshold in thresholds:
        segment = table._looked_up(lut_at(threshold))
        if segment.max() > 4 * len(segment):  # ids that are no places in a list
            segment = np.unique(segment, return_inverse=True)[1]
        segments = _bincount(segment, table.count)
        # a sparse matrix adds up pairs without sorting them
        shape = (len(neurites), len(segments))
        joint = coo_array((table.count, (neurite, segment)), shape=shape).tocsr()
        of_neurite = np.repeat(neurites, np.diff(joint.indptr))
        curve.append(
            Scores(
                *_voi(joint.data, of_neurite, segments[joint.indices]),
                _arand(joint.data, neurites, segments),
            )
        )
    return curve


def _voi(pairs: Counts, neurites: Counts, segments: Counts) -> tuple[float, float]:
    """Both conditional entropies from the size of each pair, its neurite and its segment."""
    n = float(pairs.sum())
    split, merge = (float(np.sum(pairs * np.log2(of / pairs))) / n for of in (neurites, segments))
    return split, merge


def _arand(pairs: Counts, neurites: Counts, segments: Counts) -> float:
    together, true, found = (_ordered_pairs(c) for c in (pairs, neurites, segments))
    if true + found == 0:  # every voxel alone on both sides
        return 0.0
    return 1.0 - 2.0 * together / (true + found)


def _ordered_pairs(counts: Counts) -> float:
    """Ordered pairs of two different voxels in the same set."""
    sizes = counts.astype(np.float64)  # squares of large volumes overflow integers
    # no `@`: for so little, waking BLAS's threads takes longer than the sum
    return float(np.sum(sizes * (sizes - 1.0)))


def _sums(ids: npt.NDArray[_Int], count: Counts) -> tuple[Counts, npt.NDArray[np.intp]]:
    """Sum the counts of every id; also return the place of each id's sum."""
    _, place = np.unique(ids, return_inverse=True)
    return _bincount(place, count), place


def _bincount(place: npt.NDArray[np.integer[Any]], count: Counts) -> Counts:
    """Sum the counts of every place; exact below 2⁵³ voxels."""
    sums: Counts = np.bincount(place, weights=count).astype(np.int64)
    return sums


def _add_up(truth: Ids, segmentation: Ids, count: Counts) -> tuple[Ids, Ids, Counts]:
    """Sort pairs and sum the counts of equal ones."""
    if len(count) == 0:
        return truth, segmentation, count.astype(np.int64)
    order = np.lexsort((segmentation, truth))
    truth, segmentation, count = truth[order], segmentation[order], count[order]
    new = (truth[1:] != truth[:-1]) | (segmentation[1:] != segmentation[:-1])
    first = np.concatenate([[0], np.flatnonzero(new) + 1])
    return truth[first], segmentation[first], np.add.reduceat(count, first, dtype=np.int64)


def _labels(name: str, labels: npt.ArrayLike) -> npt.NDArray[np.integer[Any]]:
    array = np.asarray(labels)
    if not np.issubdtype(array.dtype, np.integer):
        raise VolumeError(f"expected integer labels as {name}, got {array.dtype}")
    if np.issubdtype(array.dtype, np.signedinteger) and array.min(initial=0) < 0:
        raise VolumeError(
            f"expected labels of 0 and above as {name}, got {array.min()}: relabel them first"
        )
    return array


def _check_shapes(truth: tuple[int, ...], segmentation: tuple[int, ...]) -> None:
    if truth != segmentation:
        raise ShapeError(
            f"expected truth and segmentation of one shape, got {truth} and {segmentation}: "
            "crop one to the sections and the region of the other"
        )


def _check_not_empty(table: ContingencyTable) -> None:
    if len(table.count) == 0:
        raise VolumeError(
            "expected a truth with labelled voxels, got none but ignored ones: "
            "is this the truth, and of these sections?"
        )
