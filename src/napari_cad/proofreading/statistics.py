"""How much work was done, and how much is verified."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_cad.proofreading.session import ProofreadingSession

#: A longer time between two edits is a pause, and counts as nothing.
PAUSE_SECONDS = 120.0


@dataclass(frozen=True)
class Statistics:
    """The work of a session.

    Attributes
    ----------
    edits : dict
        Kind of edit → how many are in force.
    undone : int
        Edits that are not in force: undone, or on other branches.
    active_seconds : float
        Time between consecutive edits of one user, pauses of more than two minutes left out.
    seconds_by_user : dict
        The same for each user.
    verified_segments : int
        Locked segments.
    verified_voxels, voxels : int
        Voxels of locked segments, and of all.
    verified_volume : float or None
        Of the locked segments, in µm³; None where the voxel size is not known.
    """

    edits: dict[str, int]
    undone: int
    active_seconds: float
    seconds_by_user: dict[str, float]
    verified_segments: int
    verified_voxels: int
    voxels: int
    verified_volume: float | None

    @property
    def verified_fraction(self) -> float:
        """Part of the segmented voxels that is verified, 0 … 1."""
        return self.verified_voxels / self.voxels if self.voxels else 0.0


def statistics(session: ProofreadingSession) -> Statistics:
    """Count the work of a session; edits of all branches for the time, those in force else."""
    history = session.history
    in_force = history.path()
    graph = session.graph
    locked = session.decisions.lock != 0
    verified = int(graph.size[locked].sum())
    voxel_size = session.source.voxel_size
    by_user = _active_seconds(session)
    return Statistics(
        edits=dict(Counter(history.edits[i].kind for i in in_force)),
        undone=len(history.edits) - len(in_force),
        active_seconds=sum(by_user.values()),
        seconds_by_user=by_user,
        verified_segments=len(session.decisions.locks),
        verified_voxels=verified,
        voxels=int(graph.size[graph.alive].sum()),
        verified_volume=None if voxel_size is None else verified * float(np.prod(voxel_size)) / 1e9,
    )


def _active_seconds(session: ProofreadingSession) -> dict[str, float]:
    times: dict[str, list[float]] = {}
    for edit in session.history.edits.values():
        times.setdefault(edit.user, []).append(datetime.fromisoformat(edit.time).timestamp())
    return {
        user: sum(b - a for a, b in pairwise(sorted(t)) if b - a <= PAUSE_SECONDS)
        for user, t in times.items()
    }
