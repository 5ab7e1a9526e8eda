"""Walking through the uncertain places of a session."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.proofreading import questions
from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.queue import Question, UncertaintyQueue
from napari_cad.proofreading.suspects import End, EndQueue, confirm_end
from napari_cad.viewer.proofreading_labels import ONE_SIDE, OTHER_SIDE

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy.typing as npt

    from napari_cad.proofreading.cut import CutPreview
    from napari_cad.proofreading.events import Outcome
    from napari_cad.viewer.proofreading import Proofreader

#: What takes long, for the person.
_LOOKING = "Looking for uncertain places"

#: What can be walked through → how it is called.
KINDS = {
    "all": "Uncertain joins",
    "joined": "Suspected merge errors",
    "separate": "Suspected split errors",
    "ends": "Ends inside the volume",
}


class QuestionWalk:
    """Where a person is among the uncertain places.

    Parameters
    ----------
    proofreader : Proofreader
        Whose session it is.

    Attributes
    ----------
    kind : str
        A key of `KINDS`.
    current : Question or End or None
        What is being asked.
    progress : (int, int) or None
        How many are left, and of how many; None before the first was asked.
    """

    def __init__(self, proofreader: Proofreader) -> None:
        self._owner = proofreader
        self.kind = "all"
        self.current: Question | End | None = None
        self.progress: tuple[int, int] | None = None
        self._queue: UncertaintyQueue | EndQueue | None = None

    @property
    def edge(self) -> int | None:
        """The edge that is asked about, if it is an edge."""
        return self.current.edge if isinstance(self.current, Question) else None

    def choose(self, kind: str) -> None:
        """Walk through places of another kind; while one is looked for, look among those."""
        owner = self._owner
        self.kind = kind
        self._queue = self.current = self.progress = None
        owner.redraw()
        if owner.patience.what == _LOOKING:
            self.step(forward=True)

    def leave(self) -> None:
        """Ask nothing for now."""
        self.current = None
        self._owner.contacts.forget()

    def step(self, forward: bool) -> None:
        """Go to the next place, or to the one before."""
        kind, queue = self.kind, self._queue
        self._owner.patience.run(
            lambda: self._look(kind, queue), lambda future: self._on_found(future, forward),
            _LOOKING,
        )  # fmt: skip

    def answer(self, answer: str, *, force: bool) -> Outcome:
        """Answer "accept", "reject" or "later".

        Raises
        ------
        ProofreadingError
            If nothing was asked, or the edit cannot be made.
        """
        session, current = self._owner.session, self.current
        if current is None:
            raise ProofreadingError("nothing was asked: go to the next uncertain place first")
        if isinstance(current, End):
            if answer != "accept":
                raise ProofreadingError(
                    "merge the segment with what continues it, or accept that it ends here"
                )
            return confirm_end(session, current.fragment)
        if answer == "accept":
            return questions.accept(session, current.edge, force=force)
        if answer == "reject":
            return questions.reject(session, current.edge, force=force)
        return questions.postpone(session, current.edge)

    def answered_by(self, preview: CutPreview) -> bool:
        """Whether a cut takes apart what is asked about."""
        current = self.current
        if not isinstance(current, Question) or not current.joined:
            return False
        in_red = np.isin(current.fragments, preview.red)
        in_blue = np.isin(current.fragments, preview.blue)
        return bool(in_red.any() and in_blue.any())

    def marks(self) -> dict[int, npt.NDArray[np.int64]]:
        """Fragments to be marked: both sides, or the segment that ends; none that are gone."""
        session, current = self._owner.session, self.current
        if current is None or not self._is_there(current):
            return {}
        if isinstance(current, End):
            return {ONE_SIDE: session.fragments_of(session.segment_of(current.fragment))}
        one, other = questions.sides(session, current.edge)
        return {ONE_SIDE: one, OTHER_SIDE: other}

    def follow(self) -> None:
        """Follow an edit: what is asked may have gone with its fragments, or be of others now."""
        current, session = self.current, self._owner.session
        if current is None:
            return
        if not self._is_there(current):
            self.current = None
        elif isinstance(current, End):
            self.current = replace(current, segment=session.segment_of(current.fragment))
        else:
            a, b = (session.segment_of(fragment) for fragment in current.fragments)
            self.current = replace(current, segments=(a, b), joined=a == b)

    def count(self) -> None:
        """Count what is left."""
        queue = self._queue
        if isinstance(queue, UncertaintyQueue) and queue.is_stale:
            # made anew, in a thread, when somebody asks for the next question
            self.progress = None
        elif queue is not None:
            self.progress = queue.progress()

    def line(self) -> str:
        """Say what is asked."""
        current = self.current
        if current is None:
            return ""
        if isinstance(current, End):
            return (
                f"Segment {current.segment} ends here with {current.cross_section:,} voxels: does "
                "it? Merge it with what continues it, or accept."
            )
        a, b = current.segments
        what = (
            f"Are both sides of segment {a} one?" if current.joined
            else f"Do segments {a} and {b} belong together?"
        )  # fmt: skip
        return (
            f"{what} Join score {current.join_score:.2f} at threshold "
            f"{self._owner.session.threshold:.2f}, affinity {current.affinity:.2f} over "
            f"{current.area:,} contacts, smaller side {current.smaller_side:,} voxels."
            + (" Asked before." if current.postponed else "")
        )

    def _look(
        self, kind: str, queue: UncertaintyQueue | EndQueue | None
    ) -> UncertaintyQueue | EndQueue:
        """Find the places as they are now; in a thread, so that nothing is changed by it."""
        session = self._owner.session
        if queue is not None and not queue.is_stale:
            return queue
        if kind == "ends":
            return EndQueue(session, after=queue if isinstance(queue, EndQueue) else None)
        after = queue if isinstance(queue, UncertaintyQueue) else None
        return UncertaintyQueue(session, kind=kind, after=after)

    def _on_found(self, future: Future[Any], forward: bool) -> None:
        owner = self._owner
        with owner.requests.reporting("next_question"):
            queue: UncertaintyQueue | EndQueue = future.result()
            if queue is not self._queue or self.progress is None:
                self._queue = queue
                owner.recount()
            # only now, so that nothing is asked that an edit has taken away meanwhile
            found = queue.next() if forward else queue.previous()
            if found is None:
                owner.say("That was the last one." if forward else "This was the first one.")
                if forward:
                    self.current = None
                owner.redraw()
                return
            self.current = found
            segments = (
                (owner.session.segment_of(found.fragment),) if isinstance(found, End)
                else dict.fromkeys(found.segments)
            )  # fmt: skip
            owner.select(segments)
            place = self._place(found)
            owner.go_to(place)
            one = np.ones(1, np.float32)
            owner.contacts.show(np.array([place], np.float32), one, one.astype(np.uint32))
            owner.say(self.line())

    def _place(self, found: Question | End) -> tuple[float, ...]:
        """Where it is; parts of a label that do not touch have no place, but a middle."""
        if np.isfinite(found.position).all():
            return found.position
        centres = self._owner.session.voxels.centres(_fragments(found))
        if centres is None:
            raise ProofreadingError("where this is, is not known")
        z, y, x = centres[0].tolist()
        return z, y, x

    def _is_there(self, place: Question | End) -> bool:
        """Whether the fragments that a place is about still exist."""
        return bool(self._owner.session.graph.alive[_fragments(place)].all())


def _fragments(place: Question | End) -> npt.NDArray[np.int64]:
    return np.array([place.fragment] if isinstance(place, End) else place.fragments, np.int64)
