"""What a person asks for, worked out into changes. Nothing here changes anything.

Every function looks at a session and gives a `Plan`, or raises `ConflictError` where a segment is
locked. Cutting by seeds and painting have modules of their own (`napari_cad.proofreading.cutting`,
`napari_cad.proofreading.painting`).
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

from napari_cad.proofreading.edits import Change, CutEdges, LinkFragments, LockSegment
from napari_cad.proofreading.errors import Conflict, ConflictError, ProofreadingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from napari_cad.proofreading.patch import Division
    from napari_cad.proofreading.session import ProofreadingSession

    Pair = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """An edit to be made, in the state of the session that it was planned for and in no other.

    Attributes
    ----------
    kind : str
        As in `Edit`.
    changes : tuple of Change
        In the order of applying.
    revision : int
        State of the session that it was planned for; where that is looked at for long, as it was
        at first.
    keep : int or None
        A fragment of the segment, or side, that keeps the id; None = the largest does.
    segments : tuple of int
        Segments that it is about although they do not change, such as one that is locked.
    division : Division or None
        The patch among the changes, which has to be saved before.
    details : dict
        For the log; JSON-able.
    warnings : tuple of str
        For the person; nothing that needs a decision.
    conflicts : tuple of Conflict
        Earlier decisions that it goes against: it is made only if the person says so.
    """

    kind: str
    changes: tuple[Change, ...]
    revision: int
    _: KW_ONLY
    keep: int | None = None
    segments: tuple[int, ...] = ()
    division: Division | None = None
    details: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()


def plan_merge(
    session: ProofreadingSession,
    segments: Sequence[int],
    *,
    keep: int | None,
    pairs: Sequence[Pair] = (),
) -> Plan:
    """Link segments with each other.

    Parameters
    ----------
    session : ProofreadingSession
        Only looked at.
    segments : sequence of int
        At least two.
    keep : int, optional
        The segment whose id stays.
    pairs : sequence of (int, int)
        Fragments to link; by default the strongest contact between the segments, and the nearest
        fragments of those that do not touch.

    Returns
    -------
    Plan
        With a conflict where a cut by hand lies between them, which it takes back.
    """
    segments = tuple(dict.fromkeys(map(int, segments)))
    if len(segments) < 2:
        raise ProofreadingError(f"choose two segments to merge, got {list(segments)}")
    refuse_locked(session, segments, "merged")
    members = {segment: session.fragments_of(segment) for segment in segments}
    edges = session.graph.edges_within(np.sort(np.concatenate(list(members.values()))))
    lut, graph = session.lut, session.graph
    edges = edges[lut[graph.u[edges]] != lut[graph.v[edges]]]
    cut = edges[session.decisions.cut[edges]]
    warnings: tuple[str, ...] = ()
    if not pairs:
        found, warnings = _linking_pairs(session, members, edges)
        pairs = found
    changes: list[Change] = [LinkFragments(new_links(session, pairs))]
    conflicts: tuple[Conflict, ...] = ()
    if len(cut):
        changes.append(CutEdges(tuple(cut.tolist())).inverse())
        conflicts = (_conflict_with_cut(session, cut),)
    return Plan(
        "merge",
        tuple(changes),
        session.revision,
        keep=None if keep is None else int(members[keep][0]),
        details={"links": [list(pair) for pair in pairs]},
        warnings=warnings,
        conflicts=conflicts,
    )


def plan_detach(session: ProofreadingSession, fragment: int, *, everywhere: bool) -> Plan:
    """Cut all edges between a fragment and the rest of its segment, or `everywhere` it has any."""
    fragment = int(fragment)
    segment = session.segment_of(fragment)
    refuse_locked(session, (segment,), "cut")
    graph = session.graph
    edges = graph.edges_around(np.array([fragment]))
    if not everywhere:
        same = session.lut[graph.u[edges]] == session.lut[graph.v[edges]]
        edges = edges[same]
    edges = edges[~session.decisions.cut[edges]]
    links = [pair for pair in session.decisions.links if fragment in pair]
    if not len(edges) and not links:
        raise ProofreadingError(
            f"fragment {fragment} is alone: nothing holds it to any other fragment"
            if everywhere
            else f"fragment {fragment} is a segment of its own already"
        )
    changes: list[Change] = [CutEdges(tuple(edges.tolist()))]
    conflicts: tuple[Conflict, ...] = ()
    if links:
        changes.append(LinkFragments(tuple(links)).inverse())
        conflicts = (conflict_with_links(session, segment, links),)
    return Plan(
        "isolate" if everywhere else "detach",
        tuple(changes),
        session.revision,
        segments=(segment,),
        details={"fragment": fragment},
        conflicts=conflicts,
    )


def plan_separate(session: ProofreadingSession, a: int, b: int) -> Plan:
    """Cut all contacts between two segments, so that no threshold joins them directly."""
    edges = session.graph.edges_between(session.fragments_of(a), session.fragments_of(b))
    edges = edges[~session.decisions.cut[edges]]
    changes = (CutEdges(tuple(edges.tolist())),)
    return Plan("separate", changes, session.revision, segments=(a, b))


def plan_lock(session: ProofreadingSession, segments: Iterable[int], *, lock: bool) -> Plan:
    """Lock segments, or set them free."""
    segments = tuple(dict.fromkeys(map(int, segments)))
    changes: list[Change] = []
    locks = session.decisions.locks
    for segment in segments:
        if lock and segment not in locks:
            fragments = session.fragments_of(segment)
            changes.append(LockSegment(segment, tuple(fragments.tolist())))
        elif not lock and segment in locks:
            changes.append(LockSegment(segment, locks[segment]).inverse())
    if not changes:
        state = "locked" if lock else "not locked"
        raise ProofreadingError(f"nothing to do: {list(segments)} are {state} already")
    kind = "lock" if lock else "unlock"
    return Plan(kind, tuple(changes), session.revision, segments=segments)


def refuse_locked(session: ProofreadingSession, segments: Iterable[int], what: str) -> None:
    """Raise `ConflictError` if any of the segments is locked."""
    locked = tuple(segment for segment in segments if segment in session.decisions.locks)
    if not locked:
        return
    edits = session.find_edits(
        lambda change: isinstance(change, LockSegment) and change.segment in locked
    )
    which = " and ".join(str(segment) for segment in locked)
    message = f"segment {which} is locked and cannot be {what}: unlock it first"
    raise ConflictError((Conflict("locked", locked, edits, message),))


def conflict_with_links(
    session: ProofreadingSession, segment: int, links: Sequence[Pair]
) -> Conflict:
    """Describe a cut through fragments that were merged by hand."""
    wanted = set(links)
    edits = session.find_edits(
        lambda change: isinstance(change, LinkFragments) and not wanted.isdisjoint(change.pairs)
    )
    return Conflict(
        "linked",
        (segment,),
        edits,
        f"the cut takes apart what was merged by hand in {_numbers(edits)} "
        f"({len(links)} link{'s' * (len(links) > 1)} in segment {segment})",
    )


def new_links(session: ProofreadingSession, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Pairs in order (u < v), each once, without those that are linked already."""
    ordered = dict.fromkeys((min(a, b), max(a, b)) for a, b in pairs)
    return tuple(pair for pair in ordered if pair not in session.decisions.links)


def _conflict_with_cut(session: ProofreadingSession, cut: npt.NDArray[np.int64]) -> Conflict:
    graph, lut = session.graph, session.lut
    ends = np.concatenate([graph.u[cut], graph.v[cut]])
    segments = tuple(np.unique(lut[ends]).tolist())
    edits = edits_that_cut(session, cut)
    return Conflict(
        "cut",
        segments,
        edits,
        f"segments {' and '.join(map(str, segments))} were cut apart by hand in {_numbers(edits)} "
        f"({len(cut)} edge{'s' * (len(cut) > 1)})",
    )


def reunited(
    session: ProofreadingSession, old: npt.NDArray[np.uint32], new: npt.NDArray[np.uint32]
) -> tuple[Conflict, ...]:
    """Find what was cut apart by hand and comes together from one LUT to another.

    Cut edges stay cut at every threshold, but at a higher one the two sides may meet by way of a
    third segment. One conflict for each segment in which that happens.
    """
    graph = session.graph
    cut = np.flatnonzero(session.decisions.cut)
    u, v = graph.u[cut], graph.v[cut]
    met = (new[u] == new[v]) & (old[u] != old[v]) & (new[u] != 0)
    conflicts = []
    for segment in np.unique(new[u[met]]).tolist():
        edits = edits_that_cut(session, cut[met & (new[u] == segment)])
        message = (
            f"what was cut apart by hand in {_numbers(edits)} meets again in segment {segment}, by "
            "way of other segments: lock one side, or cut again at this threshold"
        )
        conflicts.append(Conflict("cut", (segment,), edits, message))
    return tuple(conflicts)


def edits_that_cut(session: ProofreadingSession, edges: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Edits of the current branch that cut any of the edges, the latest first."""
    wanted = set(edges.tolist())
    return session.find_edits(
        lambda change: (
            isinstance(change, CutEdges)
            and not change.reverse
            and not wanted.isdisjoint(change.edges)
        )
    )


def _linking_pairs(
    session: ProofreadingSession,
    members: dict[int, npt.NDArray[np.int64]],
    edges: npt.NDArray[np.int64],
) -> tuple[list[Pair], tuple[str, ...]]:
    """As few pairs as tie the segments together, over the strongest contacts there are."""
    graph, lut = session.graph, session.lut
    group = {segment: segment for segment in members}  # which of them are tied together so far
    pairs: list[Pair] = []
    strongest_first = edges[np.argsort(-graph.capacity(edges), kind="stable")]
    ends = (graph.u[strongest_first], graph.v[strongest_first])
    for u, v in zip(*(column.tolist() for column in ends), strict=True):
        a, b = group[int(lut[u])], group[int(lut[v])]
        if a != b:
            pairs.append((u, v))
            group = {segment: a if g == b else g for segment, g in group.items()}
            if len(set(group.values())) == 1:
                break
    warnings = []
    first = next(iter(members))
    for segment in members:
        if group[segment] != group[first]:
            pair, distance = _nearest(session, members[first], members[segment])
            pairs.append(pair)
            far = group[segment]
            group = {s: group[first] if g == far else g for s, g in group.items()}
            warnings.append(
                f"segments {first} and {segment} do not touch"
                + ("" if distance is None else f": they are {distance} apart")
            )
    return pairs, tuple(warnings)


def _nearest(
    session: ProofreadingSession, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]
) -> tuple[Pair, str | None]:
    """Find the two fragments whose centres are nearest, and how far that is."""
    centres = session.voxels.centres(a), session.voxels.centres(b)
    if centres[0] is None or centres[1] is None:
        return (int(a[0]), int(b[0])), None
    size = session.source.voxel_size
    scale = np.array(size or (1.0, 1.0, 1.0))
    distance, index = cKDTree(centres[0] * scale).query(centres[1] * scale)
    nearest = int(np.argmin(distance))
    unit = "voxels" if size is None else "nm"
    pair = (int(a[index[nearest]]), int(b[nearest]))
    return pair, f"{distance[nearest]:.0f} {unit}"


def _numbers(edits: Sequence[int]) -> str:
    if not edits:
        return "an earlier edit"
    return f"edit{'s' * (len(edits) > 1)} {', '.join(map(str, edits))}"
