"""Corrections that no edit of the graph expresses: voxels are painted, and fragments follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_cad.proofreading.cutting import patch_changes
from napari_cad.proofreading.edits import Change, CutEdges, LinkFragments
from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.fragment_split import split_by_mask
from napari_cad.proofreading.operations import Plan, new_links, refuse_locked
from napari_cad.proofreading.patch import divide

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.proofreading.patch import Division
    from napari_cad.proofreading.session import ProofreadingSession


def plan_relabel(
    session: ProofreadingSession,
    corner: tuple[int, int, int],
    mask: npt.NDArray[np.bool_],
    segment: int | None,
    *,
    erase: bool,
) -> Plan:
    """Work out a painted correction; see `ProofreadingSession.relabel`."""
    revision = session.revision
    ids = session.voxels.read(corner, mask.shape)
    old = session.lut[ids]
    mask = mask & ((ids != 0) if erase else (old != segment) if segment is not None else True)
    if not mask.any():
        raise ProofreadingError("nothing to change: the painted voxels are what they shall be")
    touched = np.unique(ids[mask])
    segments = np.unique(session.lut[touched[touched > 0]]).tolist()
    refuse_locked(session, segments if segment is None else [*segments, segment], "painted over")

    stop = tuple(c + n for c, n in zip(corner, mask.shape, strict=True))
    wide_corner, before, affinities = session.voxels.around(
        touched[touched > 0].tolist(), (*corner, *stop)
    )
    wide = np.zeros(before.shape, np.bool_)
    inside = tuple(
        slice(c - w, c - w + n) for c, w, n in zip(corner, wide_corner, mask.shape, strict=True)
    )
    wide[inside] = mask
    parts, is_painted = split_by_mask(before, wide, erase=erase)
    number = session.next_patch
    division = divide(session.graph, number, wide_corner, before, parts, affinities, is_painted)
    painted = np.array(division.patch.fragments, np.int64)[is_painted]
    changes = patch_changes(session, division, frozenset(painted.tolist()))
    if not erase:
        changes += _make_one(session, division, painted, segment)
    voxels = int(mask.sum())
    details = {"voxels": voxels, "to": "background" if erase else (segment or "a new segment")}
    return Plan(
        "relabel",
        tuple(changes),
        revision,
        keep=None if segment is None else int(session.fragments_of(segment)[0]),
        segments=tuple(segments),
        division=division,
        details=details,
    )


def _make_one(
    session: ProofreadingSession,
    division: Division,
    painted: npt.NDArray[np.int64],
    segment: int | None,
) -> list[Change]:
    """Tie the painted fragments to each other and to `segment`, and to nothing else."""
    patch = division.patch
    u, v, area = (np.array(column, np.int64) for column in (patch.u, patch.v, patch.area))
    lut = np.concatenate([session.lut, np.zeros(len(patch.parents), np.uint32)])
    from_painted = np.isin(u, painted), np.isin(v, painted)
    one_end = from_painted[0] != from_painted[1]
    other = np.where(from_painted[0], v, u)
    parents = np.array(patch.parents, np.int64)
    new = other >= patch.first_fragment
    before = other.copy()
    before[new] = parents[other[new] - patch.first_fragment]
    to_segment = np.zeros(len(u), np.bool_) if segment is None else lut[before] == segment
    leaving = one_end & ~to_segment
    pairs = [(int(painted[0]), int(other)) for other in painted[1:]]
    if segment is not None:
        wanted = np.flatnonzero(one_end & to_segment)
        if len(wanted):
            best = wanted[np.argmax(area[wanted])]
            pairs.append((int(u[best]), int(v[best])))
        else:  # it does not touch the segment: the person said that it belongs there all the same
            pairs.append((int(painted[0]), int(session.fragments_of(segment)[0])))
    changes: list[Change] = []
    if leaving.any():
        changes.append(CutEdges(tuple(np.array(patch.edges)[leaving].tolist())))
    if pairs:
        changes.append(LinkFragments(new_links(session, pairs)))
    return changes
