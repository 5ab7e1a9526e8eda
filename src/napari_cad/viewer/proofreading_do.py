"""What every action of a proofreading session does; what it refuses, it raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QInputDialog

from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.questions import reject_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_cad.proofreading.events import Outcome
    from napari_cad.viewer.proofreading import Proofreader


class Actions:
    """The actions of `ACTIONS`, by their names.

    Parameters
    ----------
    proofreader : Proofreader
        Whose session they are about.

    Attributes
    ----------
    force : bool
        Whether to go against earlier decisions, because the person has said so.
    ask : callable
        ``ask(question)`` gives a line of text, or None.
    """

    def __init__(self, proofreader: Proofreader) -> None:
        self._owner = proofreader
        self.force = False
        self.ask: Callable[[str], str | None] = _ask

    # ------------------------------------------------------------------ segments

    def merge(self) -> None:
        """Make one segment of the selected ones."""
        owner = self._owner
        if len(owner.selection) < 2:
            raise ProofreadingError(
                "select two segments to merge: click one and Shift-click others, or Control-click "
                "what belongs to the selected one"
            )
        keep = owner.selection[0]
        outcome = owner.session.merge(owner.selection, keep=keep, force=self.force)
        owner.select([keep])
        owner.report(outcome)

    def detach(self) -> None:
        """Cut the fragment that was clicked off the rest of its segment."""
        self._owner.report(self._owner.session.detach(self._fragment(), force=self.force))

    def separate(self) -> None:
        """Cut the fragment that was clicked off all its neighbours."""
        self._owner.report(self._owner.session.isolate(self._fragment(), force=self.force))

    def lock(self) -> None:
        """Lock the selected segments, or set them free if all of them are locked."""
        session, chosen = self._owner.session, self._selected()
        free = [segment for segment in chosen if not session.is_locked(segment)]
        self._owner.report(session.lock(free) if free else session.unlock(chosen))

    # ------------------------------------------------------------------ cut

    def split(self) -> None:
        """Begin a cut, or leave it."""
        owner = self._owner
        if owner.split_mode.active:
            self.cancel()
            return
        self._leave_place()
        owner.split_mode.start(self._selected()[0])
        owner.redraw()

    def toggle_preview(self) -> None:
        """Show or hide the sides of the cut."""
        self._owner.split_mode.toggle()
        self._owner.redraw()

    def apply(self) -> None:
        """Make the cut, or keep what was painted."""
        owner = self._owner
        if owner.scribbles.active:
            owner.scribbles.apply()
            return
        mode = owner.split_mode
        if not mode.active:
            raise ProofreadingError("there is nothing to apply: begin a cut first")
        preview = mode.preview
        if preview is None:
            mode.work_out()  # given up before, or it has failed
            return
        session, edge = owner.session, owner.walk.edge
        answers = edge is not None and owner.walk.answered_by(preview)
        mode.active = False  # so that nothing follows the edit that ends it
        try:
            outcome = (
                reject_by(session, edge, preview, force=self.force)
                if answers and edge is not None
                else session.apply_cut(preview, force=self.force)
            )
        except BaseException:
            mode.active = True
            raise
        mode.leave()
        if answers:
            owner.walk.leave()
        owner.select(outcome.segments)
        owner.report(outcome)

    def cancel(self) -> None:
        """Leave what was begun, or select nothing."""
        owner = self._owner
        if owner.patience.cancel():
            owner.say("Given up; nothing was changed.")
        elif owner.scribbles.active:
            owner.scribbles.leave()
            owner.say("Nothing was changed.")
        elif owner.split_mode.active:
            owner.split_mode.leave()
            owner.say("Nothing was cut.")
        elif owner.walk.current is not None:
            owner.walk.leave()
            owner.say("")
        else:
            owner.select(())
            return
        owner.redraw()

    # ------------------------------------------------------------------ look

    def isolate(self) -> None:
        """Show the selected segments only, or all again."""
        shown = self._owner.layers.segments
        shown.isolated = None if shown.isolated is not None else set(self._selected())
        self._show()

    def hide(self) -> None:
        """Hide the selected segments."""
        self._owner.layers.segments.hidden |= set(self._selected())
        self._owner.select(())
        self._show()

    def show_all(self) -> None:
        """Show all segments again."""
        shown = self._owner.layers.segments
        shown.hidden.clear()
        shown.isolated = None
        self._show()

    def contacts(self) -> None:
        """Show the contacts of the selected segment, or no more."""
        self._owner.contacts.want(not self._owner.contacts.wanted)

    def meshes(self) -> None:
        """Show the selected segments as surfaces in 3D, or go back to the sections."""
        owner = self._owner
        surface = owner.meshes.surface
        in_3d = owner.viewer.dims.ndisplay == 3
        if in_3d and surface is not None and set(owner.meshes.ids) == set(owner.selection):
            owner.viewer.dims.ndisplay = 2
            return
        layer = owner.layers.layer
        if layer is not None:
            owner.meshes.show(layer, self._selected())
            owner.say("Making meshes …")

    # ------------------------------------------------------------------ questions

    def next_question(self) -> None:
        """Go to the next uncertain place."""
        self._leave_place()
        self._owner.walk.step(forward=True)

    def previous_question(self) -> None:
        """Go to the uncertain place before."""
        self._leave_place()
        self._owner.walk.step(forward=False)

    def accept(self) -> None:
        """Answer that both sides belong together."""
        self._answer("accept")

    def reject(self) -> None:
        """Answer that the sides do not belong together."""
        self._answer("reject")

    def later(self) -> None:
        """Ask again when all else is answered."""
        self._answer("later")

    # ------------------------------------------------------------------ history, notes, voxels

    def undo(self) -> None:
        """Take the latest edit back, or the latest seed."""
        owner, history = self._owner, self._owner.session.history
        if owner.split_mode.active and owner.split_mode.take_back():
            return
        edit = history.edits.get(history.current)
        if owner.session.undo() and edit is not None:
            owner.say(f"Undone: {edit.id}. {edit.describe()}"[:160])
        else:
            owner.say("There is nothing to undo.")

    def redo(self) -> None:
        """Make again what was undone."""
        owner, history = self._owner, self._owner.session.history
        if owner.session.redo():
            edit = history.edits[history.current]
            owner.say(f"Made again: {edit.id}. {edit.describe()}"[:160])
        else:
            owner.say("There is nothing to make again.")

    def note(self) -> None:
        """Write a note on the selected segment, or on the place in the middle."""
        self._owner.notes.write(self.ask)

    def scribble(self) -> None:
        """Begin to paint, or keep what was painted."""
        owner = self._owner
        if owner.scribbles.active:
            owner.scribbles.apply()
            return
        self._leave_place()
        owner.scribbles.start()

    # ------------------------------------------------------------------ shared

    def _selected(self) -> list[int]:
        chosen = self._owner.living(self._owner.selection)
        if not chosen:
            raise ProofreadingError("click a segment first")
        return chosen

    def _fragment(self) -> int:
        picked, session = self._owner.picked, self._owner.session
        if picked is None or not picked.fragment or not session.graph.alive[picked.fragment]:
            raise ProofreadingError("click the fragment first")
        return picked.fragment

    def _answer(self, answer: str) -> None:
        owner = self._owner
        if owner.walk.current is not None:
            self._leave_place()
        outcome: Outcome = owner.walk.answer(answer, force=self.force)
        owner.report(outcome)
        if not outcome.warnings:
            owner.walk.step(forward=True)

    def _leave_place(self) -> None:
        """Leave what was begun here, unless seeds or paint would be lost by it.

        Raises
        ------
        ProofreadingError
            If there are any.
        """
        owner = self._owner
        if owner.scribbles.active:
            raise ProofreadingError("apply or cancel what is painted first")
        if any(owner.split_mode.seeds.values()):
            raise ProofreadingError("apply or cancel the cut first")
        if owner.split_mode.active:
            owner.split_mode.leave()

    def _show(self) -> None:
        self._owner.layers.segments.rebuild()
        self._owner.layers.refresh_segments()


def _ask(question: str) -> str | None:
    text, agreed = QInputDialog.getText(None, "Proofread", question)
    return str(text) if agreed else None
