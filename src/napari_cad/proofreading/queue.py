"""Where a person should look next: questions about edges, the most rewarding ones first.

A question is an edge: do its two sides belong together? What an answer is worth is the probability
that it changes something times what the change is worth. The first is highest where the join score
is close to the threshold, the second grows with the smaller of the two sides; so questions are
ranked by closeness × size.

The probability also depends on the contact itself: two sides that touch with a high affinity mostly
belong together, and two that touch with a low one mostly do not, whatever led to the join score. So
a question between segments weighs more with the mean affinity of the contact, and one inside a
segment with what that lacks to 1.

The scales below were chosen on sections 56–75 of the AC4 stack by how much of the VOI that answers
could gain came early.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.proofreading.candidates import Candidates, inner_candidates, outer_candidates

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.proofreading.session import ProofreadingSession

#: How far from the threshold a join score may be and still be asked about.
BAND = 0.3

#: Distance of the join score from the threshold over which closeness falls to 1/e.
_CLOSENESS_SCALE = 0.15

#: Questions that are kept: nobody answers more, and ranking them anew takes milliseconds.
_LIMIT = 50_000


@dataclass(frozen=True)
class Question:
    """A question: whether the two sides of an edge belong together.

    Attributes
    ----------
    edge : int
        Number of the edge; see `napari_cad.proofreading.questions` for the answers.
    fragments : (int, int)
        Its ends.
    segments : (int, int)
        Segments of its ends; twice the same where the edge is inside a segment.
    joined : bool
        Whether the two sides are one segment now, so that «no» is a cut and «yes» changes nothing.
    join_score, affinity : float
    area : int
        Contacts of the edge, in voxel faces.
    position : (float, float, float)
        (z, y, x) in voxels; not numbers where it is not known.
    smaller_side : int
        Voxels.
    postponed : bool
        Whether the person answered «later» before.
    """

    edge: int
    fragments: tuple[int, int]
    segments: tuple[int, int]
    joined: bool
    join_score: float
    affinity: float
    area: int
    position: tuple[float, float, float]
    smaller_side: int
    postponed: bool


class UncertaintyQueue:
    """The questions of a session, ranked as it stands at the time of asking.

    The candidates are found when the queue is made, and anew when it `is_stale`, in a second or so
    for a million fragments; ranking them after an edit takes milliseconds.

    Parameters
    ----------
    session : ProofreadingSession
    band : float
        Ask about edges whose join score is no further from the threshold than this.
    kind : {"all", "joined", "separate"}
        Ask only about edges inside segments ("joined": suspected merge errors) or only about
        edges between segments ("separate": suspected split errors).
    min_size : int
        Smallest side that is asked about, in voxels.
    after : UncertaintyQueue, optional
        An earlier queue of the session, whose visits count as visits of this one.
    """

    def __init__(
        self,
        session: ProofreadingSession,
        *,
        band: float = BAND,
        kind: str = "all",
        min_size: int = 1,
        after: UncertaintyQueue | None = None,
    ) -> None:
        self._session = session
        self._band = band
        self._kind = kind
        self._min_size = min_size
        self._visited: list[int] = [] if after is None else list(after._visited)
        self._at: int = -1 if after is None else after._at
        self._threshold: float | None = None
        self._made_after = session.history.current
        self._candidates = Candidates.none()
        self.refresh()

    @property
    def is_stale(self) -> bool:
        """Whether the candidates are those of another threshold, or of edits that were undone.

        What was answered, locked or merged when they were found is not among them, so it is
        missing once that is taken back.
        """
        history = self._session.history
        edit = history.current
        while edit > self._made_after:  # an edit has a higher id than those before it
            edit = history.edits[edit].parent
        return self._threshold != self._session.threshold or edit != self._made_after

    def refresh(self) -> None:
        """Find the candidates anew, for the session as it is."""
        session = self._session
        self._threshold = session.threshold
        self._made_after = session.history.current
        parts = [Candidates.none()]
        if self._kind != "separate":
            parts.append(inner_candidates(session, self._band))
        if self._kind != "joined":
            parts.append(outer_candidates(session, self._band))
        self._candidates = Candidates.concatenate(parts)
        self._candidates = self._candidates.take(self._order()[:_LIMIT])

    def ranked(self, n: int | None = None) -> list[Question]:
        """List the `n` questions that come first (by default all), one per pair of sides."""
        self._follow()
        order = self._order()
        if n is not None:
            order = order[: 8 * n + 64]  # several edges may ask the same
        edges = self._candidates.edges[order]
        first = self._distinct(edges)
        return [self._question(int(edges[i]), int(order[i])) for i in first[:n]]

    def any(self, rng: np.random.Generator) -> Question | None:
        """Take any open question that was not postponed: what a ranking has to be better than."""
        self._follow()
        order = self._order()
        edges = self._candidates.edges[order]
        open_edges = [
            i
            for i in self._distinct(edges).tolist()
            if self._session.decisions.answers.get(int(edges[i])) != "later"
        ]
        if not open_edges:
            return None
        chosen = open_edges[int(rng.integers(len(open_edges)))]
        return self._question(int(edges[chosen]), int(order[chosen]))

    def next(self) -> Question | None:
        """Go one question on; None if there is none left.

        What was visited and not answered is not asked again before everything else was, and then
        in the order of the visits; what was postponed comes last.
        """
        self._follow()
        order = self._order()
        valid = set(self._candidates.edges[order].tolist())
        while self._at + 1 < len(self._visited):
            self._at += 1
            if self._visited[self._at] in valid:
                return self._lookup(self._visited[self._at])
        if not len(order):
            return None
        edges = self._candidates.edges[order]
        # the first that was never visited, or else the one whose last visit lies furthest back
        chosen = int(edges[np.argmin(self._last_visits(edges))])
        self._visited.append(chosen)
        self._at = len(self._visited) - 1
        return self._lookup(chosen)

    def previous(self) -> Question | None:
        """Go one question back, to one that is still open; None if there is none."""
        self._follow()
        valid = set(self._candidates.edges[self._order()].tolist())
        while self._at > 0:
            self._at -= 1
            if self._visited[self._at] in valid:
                return self._lookup(self._visited[self._at])
        return None

    def progress(self) -> tuple[int, int]:
        """How many questions are left, and of how many: those and the ones answered."""
        self._follow()
        left = len(self._distinct(self._candidates.edges[self._order()]))
        answers = self._session.decisions.answers.items()
        # a negative number is an end that was confirmed, see `suspects`
        answered = sum(edge >= 0 and answer != "later" for edge, answer in answers)
        return left, left + answered

    # ---------------------------------------------------------------- ranking

    def _order(self) -> npt.NDArray[np.int64]:
        """Rank the candidates that are open, the most rewarding first."""
        session, graph = self._session, self._session.graph
        edges = self._candidates.edges
        u, v = graph.u[edges], graph.v[edges]
        a, b = session.lut[u], session.lut[v]
        lock, decisions = session.decisions.lock, session.decisions
        inside = a == b
        sizes = session.segment_sizes()
        size = np.where(
            inside,
            np.minimum(self._candidates.inner_size, sizes[a]),  # cuts may have made it smaller
            np.minimum(sizes[a], sizes[b]),
        )
        # inside a segment only joins of the forest are asked about, and they have a size
        is_open = (a != 0) & (b != 0) & ~decisions.cut[edges] & (size >= max(self._min_size, 1))
        is_open &= (lock[u] == 0) & (lock[v] == 0)
        answered = [e for e, answer in decisions.answers.items() if answer != "later"]
        is_open &= ~np.isin(edges, answered)
        distance = np.abs(graph.join[edges] - np.float32(session.threshold))
        affinity = self._candidates.affinity
        weight = np.where(inside, 1 - affinity, affinity) ** 2
        priority = np.exp(-distance / _CLOSENESS_SCALE) * weight * size
        later = [e for e, answer in decisions.answers.items() if answer == "later"]
        postponed = np.isin(edges, later)
        chosen = np.flatnonzero(is_open)
        keys = (-graph.capacity(edges[chosen]), -priority[chosen], postponed[chosen])
        result: npt.NDArray[np.int64] = chosen[np.lexsort(keys)]
        return result

    def _sides(self, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Name what an edge asks about by two numbers: segments, or inside one the edge itself."""
        graph, lut = self._session.graph, self._session.lut
        a = lut[graph.u[edges]].astype(np.int64)
        b = lut[graph.v[edges]].astype(np.int64)
        low, high = np.minimum(a, b), np.maximum(a, b)
        return np.stack([np.where(a == b, -1, low), np.where(a == b, edges, high)], axis=1)

    def _distinct(self, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Find the first edge for every question."""
        if not len(edges):
            return np.zeros(0, np.int64)
        return np.sort(np.unique(self._sides(edges), axis=0, return_index=True)[1])

    def _last_visits(self, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Place of the last visit that asked the same as each edge; −1 = it was never asked."""
        n = len(self._visited)
        sides = self._sides(np.concatenate([np.array(self._visited, np.int64), edges]))
        factor = self._session.graph.n_edges + len(self._session.lut) + 2
        _, asked = np.unique(sides[:, 0] * factor + sides[:, 1], return_inverse=True)
        last = np.full(len(asked), -1, np.int64)
        np.maximum.at(last, asked[:n], np.arange(n))
        result: npt.NDArray[np.int64] = last[asked[n:]]
        return result

    def _follow(self) -> None:
        if self.is_stale:
            self.refresh()

    def _lookup(self, edge: int) -> Question:
        return self._question(edge, int(np.flatnonzero(self._candidates.edges == edge)[0]))

    def _question(self, edge: int, index: int) -> Question:
        session, graph = self._session, self._session.graph
        u, v = int(graph.u[edge]), int(graph.v[edge])
        a, b = int(session.lut[u]), int(session.lut[v])
        smaller = (
            int(self._candidates.inner_size[index])
            if a == b
            else min(session.size_of(a), session.size_of(b))
        )
        z, y, x = graph.position[edge].tolist()
        return Question(
            edge=edge,
            fragments=(u, v),
            segments=(a, b),
            joined=a == b,
            join_score=float(graph.join[edge]),
            affinity=float(graph.mean[edge]),
            area=int(graph.area[edge]),
            position=(z, y, x),
            smaller_side=smaller,
            postponed=session.decisions.answers.get(edge) == "later",
        )
