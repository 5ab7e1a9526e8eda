"""Walking through the uncertain places of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.proofreading import questions
from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.queue import Question, UncertaintyQueue
from napari_cad.proofreading.suspects import End, confirm_end, ends_inside
from napari_cad.viewer.proofreading_labels import ONE_SIDE, OTHER_SIDE

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy.typing as npt

    from napari_cad.proofreading.cut import CutPreview
    from napari_cad.proofreading.events import Outcome
    from napari_cad.viewer.proofreading import Proofreader

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
        self._queue: UncertaintyQueue | None = None
        self._threshold = 0.0  # that the queue was made for
        self._ends: list[End] = []
        self._at = -1
        self._confirmed = 0

    @property
    def edge(self) -> int | None:
        """The edge that is asked about, if it is an edge."""
        return self.current.edge if isinstance(self.current, Question) else None

    def choose(self, kind: str) -> None:
        """Walk through places of another kind."""
        self.kind = kind
        self._queue, self._ends, self._at, self._confirmed = None, [], -1, 0
        self.current = self.progress = None
        self._owner.redraw()

    def leave(self) -> None:
        """Ask nothing for now."""
        self.current = None
        self._owner.forget_contacts()

    def step(self, forward: bool) -> None:
        """Go to the next place, or to the one before."""
        self._owner.patience.run(
            lambda: self._find(forward), lambda future: self._on_found(future, forward),
            "Looking for uncertain places",
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
            self._confirmed += 1
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
        """Fragments to be marked: both sides, or the segment that ends."""
        session, current = self._owner.session, self.current
        if isinstance(current, End):
            return {ONE_SIDE: session.fragments_of(session.segment_of(current.fragment))}
        if current is None:
            return {}
        one, other = questions.sides(session, current.edge)
        return {ONE_SIDE: one, OTHER_SIDE: other}

    def follow(self) -> None:
        """Follow an edit: what is asked may have gone with its fragments."""
        current, alive = self.current, self._owner.session.graph.alive
        fragments = (
            (current.fragment,) if isinstance(current, End) else
            () if current is None else current.fragments
        )  # fmt: skip
        if not alive[list(fragments)].all():
            self.current = None

    def count(self) -> None:
        """Count what is left."""
        if self.kind == "ends":
            if self._at >= 0:
                left = len(self._ends) - self._confirmed
                self.progress = (max(0, left), len(self._ends))
        elif self._queue is not None:
            if self._threshold != self._owner.session.threshold:
                # made anew, in a thread, when somebody asks for the next question
                self._queue, self.progress = None, None
            else:
                self.progress = self._queue.progress()

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

    def _find(self, forward: bool) -> Question | End | None:
        session = self._owner.session
        if self.kind == "ends":
            if not self._ends:
                self._ends = ends_inside(session)
            at = self._at + (1 if forward else -1)
            if not 0 <= at < len(self._ends):
                return None
            self._at = at
            return self._ends[at]
        if self._queue is None or self._threshold != session.threshold:
            self._threshold = session.threshold
            self._queue = UncertaintyQueue(session, kind=self.kind)
        return self._queue.next() if forward else self._queue.previous()

    def _on_found(self, future: Future[Any], forward: bool) -> None:
        owner = self._owner
        with owner.reporting("next_question"):
            found: Question | End | None = future.result()
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
            owner.show_contacts(np.array([place], np.float32), one, one.astype(np.uint32))
            owner.say(self.line())
            if self.progress is None:
                owner.recount()

    def _place(self, found: Question | End) -> tuple[float, ...]:
        """Where it is; parts of a label that do not touch have no place, but a middle."""
        if np.isfinite(found.position).all():
            return found.position
        fragments = np.array(
            [found.fragment] if isinstance(found, End) else list(found.fragments), np.int64
        )
        centres = self._owner.session.voxels.centres(fragments)
        if centres is None:
            raise ProofreadingError("where this is, is not known")
        z, y, x = centres[0].tolist()
        return z, y, x
