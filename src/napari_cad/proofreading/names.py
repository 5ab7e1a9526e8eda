"""Which segment keeps which id when an edit takes segments apart or puts them together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_cad.proofreading.edits import Rename

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.proofreading.decisions import Decisions


def keep_ids(
    decisions: Decisions,
    region: npt.NDArray[np.int64],
    old: npt.NDArray[np.uint32],
    new: npt.NDArray[np.uint32],
    *,
    keep: int | None,
    rank: int,
) -> tuple[Rename | None, npt.NDArray[np.uint32]]:
    """Let segments keep their ids where they can.

    An id stays with the part that holds the fragment `keep`, otherwise with the largest part in
    voxels; where several segments became one, it takes the id of the one that held `keep`,
    otherwise of the largest. Of equals the smaller id wins.

    Parameters
    ----------
    decisions : Decisions
        Not changed.
    region : ndarray, shape (n,), int64
        Sorted fragments of all segments in question, retired ones included.
    old : ndarray, shape (n,), uint32
        Segment of each before the edit; of a new fragment that of its parent; 0 = none.
    new : ndarray, shape (n,), uint32
        Segment of each now, as the names stand; 0 = retired.
    keep : int, optional
        A fragment of the segment, or side of a segment, that was clicked.
    rank : int
        Higher than every rank given before.

    Returns
    -------
    rename : Rename or None
        The change of names that brings it about; None if all is well.
    ids : ndarray, shape (n,), uint32
        Segment of each with the change; 0 = retired.
    """
    names = decisions.name[region].copy()
    ranks = decisions.rank[region].copy()
    ids = new.copy()
    parts = {part: np.flatnonzero(new == part) for part in np.unique(new[new > 0]).tolist()}
    for part, wanted in _wanted(decisions, region, old, new, keep).items():
        members = parts[part]
        best = _best(names, ranks, members)
        if names[best] == wanted:
            continue
        holder = int(np.flatnonzero(names == wanted)[0])
        if new[holder] != part:
            names[holder], names[best] = names[best], names[holder]
            holder = best
        ranks[holder] = rank
    for members in parts.values():
        ids[members] = names[_best(names, ranks, members)]
    differs = (names != decisions.name[region]) | (ranks != decisions.rank[region])
    if not differs.any():
        return None, ids
    fragments = region[differs]
    before = zip(
        decisions.name[fragments].tolist(), decisions.rank[fragments].tolist(), strict=True
    )
    now = zip(names[differs].tolist(), ranks[differs].tolist(), strict=True)
    return Rename(tuple(fragments.tolist()), tuple(before), tuple(now)), ids


def _best(
    names: npt.NDArray[np.uint32], ranks: npt.NDArray[np.int32], members: npt.NDArray[np.int64]
) -> int:
    """Of some fragments the one whose name is the id of their segment."""
    highest = members[ranks[members] == ranks[members].max()]
    return int(highest[np.argmin(names[highest])])


def _wanted(
    decisions: Decisions,
    region: npt.NDArray[np.int64],
    old: npt.NDArray[np.uint32],
    new: npt.NDArray[np.uint32],
    keep: int | None,
) -> dict[int, int]:
    """Find the old id that each part should have, for those that should have one."""
    both = (old > 0) & (new > 0)
    pairs, inverse = np.unique(
        np.stack([old[both], new[both]]).astype(np.int64), axis=1, return_inverse=True
    )
    size = np.bincount(inverse, weights=decisions.graph.size[region[both]])
    kept = np.zeros(pairs.shape[1], np.bool_)
    if keep is not None:
        kept[inverse[region[both] == keep]] = True
    before, now = pairs
    # what is wanted most comes first, and the first one wins: once per old id, then once per part
    order = np.lexsort((now, before, -size, ~kept))
    order = order[np.sort(np.unique(before[order], return_index=True)[1])]
    order = order[np.sort(np.unique(now[order], return_index=True)[1])]
    return dict(zip(now[order].tolist(), before[order].tolist(), strict=True))
