"""Questions of a queue, whether an edge joins what belongs together, and their answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.proofreading.cutting import preview_between
from napari_cad.proofreading.edits import GiveAnswer, LinkFragments
from napari_cad.proofreading.operations import Plan, new_links, plan_merge, plan_separate
from napari_cad.proofreading.partition import components

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.proofreading.cut import CutPreview
    from napari_cad.proofreading.decisions import Answer
    from napari_cad.proofreading.events import Outcome
    from napari_cad.proofreading.session import ProofreadingSession


def sides(
    session: ProofreadingSession, edge: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find the fragments on both sides of the question that an edge asks.

    Parameters
    ----------
    session : ProofreadingSession
        Only looked at.
    edge : int
        Number of an edge between living fragments.

    Returns
    -------
    u_side, v_side : ndarray, int64
        Of an edge between two segments, the segments. Inside a segment, the two parts of it that
        come together at the edge's join score; the two fragments alone where something else than
        edges of that score holds the parts together.
    """
    u, v = _ends(session, edge)
    a, b = session.segment_of(u), session.segment_of(v)
    if a != b:
        return session.fragments_of(a), session.fragments_of(b)
    members = session.fragments_of(a)
    # a threshold joins what has a score below it, so at the join score the two are still apart
    part = components(session.decisions, members, float(session.graph.join[edge]))
    of_u, of_v = part[np.searchsorted(members, [u, v])]
    if of_u == of_v:
        return np.array([u]), np.array([v])
    return members[part == of_u], members[part == of_v]


def preview_reject(session: ProofreadingSession, edge: int) -> CutPreview:
    """Work out the cut that `reject` makes of an edge inside a segment."""
    return preview_between(session, *sides(session, edge))


def accept(session: ProofreadingSession, edge: int, *, force: bool = False) -> Outcome:
    """Answer that the two fragments of an edge belong together, at any threshold.

    Raises
    ------
    ConflictError
        If a segment is locked, or (forceable) they were cut apart by hand.
    """
    u, v = _ends(session, edge)
    a, b = session.segment_of(u), session.segment_of(v)
    if a != b:
        plan = plan_merge(session, (a, b), keep=None, pairs=[(u, v)])
    else:
        changes = (LinkFragments(new_links(session, [(u, v)])),)
        plan = Plan("accept", changes, session.revision, segments=(a,))
    return session.commit(_answering(session, plan, edge, "accept"), force=force)


def reject(session: ProofreadingSession, edge: int, *, force: bool = False) -> Outcome:
    """Answer that the two sides of an edge do not belong together, at any threshold.

    Between segments all their contacts are cut, so that no higher threshold joins them directly;
    inside a segment the minimum cut between the two sides is made.

    Raises
    ------
    ConflictError
        If the segment is locked, or (forceable) the sides were merged by hand.
    """
    u, v = _ends(session, edge)
    a, b = session.segment_of(u), session.segment_of(v)
    plan = plan_separate(session, a, b) if a != b else preview_reject(session, edge).plan
    return session.commit(_answering(session, plan, edge, "reject"), force=force)


def reject_by(
    session: ProofreadingSession, edge: int, preview: CutPreview, *, force: bool = False
) -> Outcome:
    """Answer with a cut of the person's own making that the two sides do not belong together.

    Raises
    ------
    StalePlanError, ConflictError
        As for `ProofreadingSession.apply_cut`.
    """
    return session.commit(_answering(session, preview.plan, edge, "reject"), force=force)


def postpone(session: ProofreadingSession, edge: int) -> Outcome:
    """Answer later: the question comes last."""
    plan = Plan("later", (), session.revision)
    return session.commit(_answering(session, plan, edge, "later"))


def _answering(session: ProofreadingSession, plan: Plan, edge: int, answer: Answer) -> Plan:
    """Make a plan the answer to a question."""
    u, v = _ends(session, edge)
    segments = tuple(dict.fromkeys((session.segment_of(u), session.segment_of(v))))
    edge = int(edge)
    change = GiveAnswer(edge, session.decisions.answers.get(edge), answer)
    return replace(
        plan,
        kind=answer,
        changes=(*plan.changes, change),
        segments=plan.segments or segments,
        details={**plan.details, "edge": [u, v]},
    )


def _ends(session: ProofreadingSession, edge: int) -> tuple[int, int]:
    return int(session.graph.u[edge]), int(session.graph.v[edge])
