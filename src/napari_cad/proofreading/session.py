"""The proofreading session: what a viewer, a script and the tests talk to.

Opening a session replays its log, and there is nothing to save: every edit is on the disk before it
is shown. What an edit comes down to is worked out in `operations`, `cutting` and `painting`; what
segments follow from it, in `state` and `partition`; where it is kept, in `folder`.
"""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from psygnal import Signal

from napari_cad.proofreading import cutting, operations
from napari_cad.proofreading.decisions import Note
from napari_cad.proofreading.edits import AddNote, ApplyPatch, Edit, SetThreshold
from napari_cad.proofreading.errors import ConflictError, ProofreadingError, StalePlanError
from napari_cad.proofreading.events import Outcome, SegmentsChanged
from napari_cad.proofreading.folder import MemoryFolder, SessionFolder
from napari_cad.proofreading.operations import Plan
from napari_cad.proofreading.state import SessionState, Staged
from napari_cad.proofreading.view import SessionView, edge_score
from napari_cad.proofreading.voxels import SessionVoxels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import numpy.typing as npt

    from napari_cad.proofreading.cut import CutPreview
    from napari_cad.proofreading.source import ProofreadingSource

    Seed = int | tuple[int, int, int]


class ProofreadingSession(SessionView):
    """Corrections of a segmentation, unlimited and reversible, on the disk before they are shown.

    Parameters
    ----------
    source : ProofreadingSource
        The segmentation to correct.
    folder : path, optional
        The folder of the session, made if it is not there, replayed if it is. Without one,
        everything is kept in memory and lost at the end.
    user : str, optional
        Name to write into the log; by default the one the system knows.
    read_only : bool
        Only look. A session that another process edits is read-only whatever this says.
    take_over : bool
        Edit although another process holds the session, for a lock that a computer left behind.

    Attributes
    ----------
    voxels : SessionVoxels
        Which fragment is where.
    messages : list of str
        What the person should know from opening it: that it is read-only and why, what was
        repaired, what the source lacks.

    Raises
    ------
    SessionMismatchError
        If the session was begun on another segmentation.
    SessionError
        If the folder cannot be read or written, or its log is damaged.

    Notes
    -----
    For one thread: calls from others need a lock around them.
    """

    #: Emitted with a `SegmentsChanged` after every change of segments, when it is on the disk.
    segments_changed: ClassVar[Signal] = Signal(object)
    #: Emitted after every edit, undo and redo, also of those that change no segment.
    history_changed: ClassVar[Signal] = Signal()

    def __init__(
        self,
        source: ProofreadingSource,
        folder: str | Path | None = None,
        *,
        user: str | None = None,
        read_only: bool = False,
        take_over: bool = False,
    ) -> None:
        self.source = source
        self.user = _user_name() if user is None else user
        if folder is None:
            self._folder = MemoryFolder(source, read_only=read_only)
        else:
            self._folder = SessionFolder(
                Path(folder), source, read_only=read_only, take_over=take_over
            )
        self.messages = [*source.notes, *self._folder.messages]
        self._state = SessionState(source, self._folder.threshold)
        self.voxels = SessionVoxels(self._state, self._folder)
        try:
            self._replay(self._folder.records)
            self._folder.records.clear()
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------- edits

    def merge(
        self, segments: Sequence[int], *, keep: int | None = None, force: bool = False
    ) -> Outcome:
        """Make one segment of several.

        Parameters
        ----------
        segments : sequence of int
            Ids of at least two segments. They need not touch.
        keep : int, optional
            The one whose id stays, such as the one clicked first; by default the largest.
        force : bool
            Also where a cut by hand lies between them, which is taken back.

        Raises
        ------
        ConflictError
            If one is locked, or (forceable) they were cut apart by hand.
        ProofreadingError
            If one does not exist, or there are fewer than two.
        """
        return self.commit(operations.plan_merge(self, segments, keep=keep), force=force)

    def preview_cut(
        self,
        red: Sequence[Seed],
        blue: Sequence[Seed],
        *,
        keep: Literal["red", "blue"] | None = None,
    ) -> CutPreview:
        """Work out the minimum cut between seeds of two colours; nothing changes.

        The weight of an edge is its mean affinity × its contact area. What was merged by hand
        stays together if any cut leaves it so. A fragment with seeds of both colours is divided
        by a watershed on its affinities.

        Parameters
        ----------
        red, blue : sequence of int or (z, y, x)
            Fragments or voxels of one segment, at least one of each colour, in any section.
        keep : {"red", "blue"}, optional
            The side that keeps the segment's id; by default the larger one.

        Raises
        ------
        ConflictError
            If the segment is locked.
        ProofreadingError
            If the seeds do not fit.
        """
        return cutting.preview_cut(self, red, blue, keep=keep)

    def apply_cut(self, preview: CutPreview, *, force: bool = False) -> Outcome:
        """Make a cut that was previewed.

        Parameters
        ----------
        preview : CutPreview
            Made since the latest edit.
        force : bool
            Also where it takes apart what was merged by hand.

        Raises
        ------
        StalePlanError
            If there was an edit since.
        ConflictError
            If `preview.links` is not empty (forceable).
        """
        return self.commit(preview.plan, force=force)

    def detach(self, fragment: int, *, force: bool = False) -> Outcome:
        """Cut a fragment off the rest of its segment.

        Raises
        ------
        ConflictError
            If the segment is locked, or (forceable) the fragment was merged to it by hand.
        ProofreadingError
            If it is a segment of its own already.
        """
        return self.commit(operations.plan_detach(self, fragment, everywhere=False), force=force)

    def isolate(self, fragment: int, *, force: bool = False) -> Outcome:
        """Cut a fragment off all its neighbours: it stays alone at any threshold.

        Raises
        ------
        ConflictError, ProofreadingError
            As for `detach`.
        """
        return self.commit(operations.plan_detach(self, fragment, everywhere=True), force=force)

    def lock(self, segments: Iterable[int]) -> Outcome:
        """Lock segments, as verified: threshold, merges and cuts pass them by."""
        return self.commit(operations.plan_lock(self, segments, lock=True))

    def unlock(self, segments: Iterable[int]) -> Outcome:
        """Set locked segments free; they become what the threshold makes of them now."""
        return self.commit(operations.plan_lock(self, segments, lock=False))

    def set_threshold(self, threshold: float) -> Outcome:
        """Move the threshold. Links, cuts and locks stay in force.

        Returns
        -------
        Outcome
            With a conflict for each segment in which the sides of a cut meet again.
        """
        old = self.lut.copy()
        change = SetThreshold(self.threshold, edge_score(threshold))
        details = {"old": change.old, "new": change.new}
        outcome = self.commit(Plan("threshold", (change,), self.revision, details=details))
        conflicts = operations.reunited(self, old, self.lut)
        return Outcome(outcome.edit, (), outcome.warnings, conflicts)

    def relabel(
        self,
        corner: tuple[int, int, int],
        mask: npt.NDArray[np.bool_],
        segment: int | None = None,
        *,
        erase: bool = False,
    ) -> Outcome:
        """Give painted voxels to a segment, to a new one, or to the background.

        The fragments under the paint are divided along it. What is painted becomes fragments of
        its own, tied to each other and to `segment` and cut off everything else; what remains of a
        fragment stays with what it touches of its segment, in several fragments if the paint
        divides it.

        Parameters
        ----------
        corner : tuple of int
            (z, y, x) of the first voxel of `mask`.
        mask : ndarray, shape (Z, Y, X), bool
            The painted voxels.
        segment : int, optional
            Where they belong; None = to a new segment.
        erase : bool
            Make them background instead.

        Raises
        ------
        ConflictError
            If a segment under the paint, or `segment`, is locked.
        ProofreadingError
            If nothing would change, or there are no voxels.
        """
        # only here: a session that never divides a fragment need not load scikit-image
        from napari_cad.proofreading.painting import plan_relabel

        segment = None if segment is None else int(segment)  # it stands in the log
        return self.commit(plan_relabel(self, corner, mask, segment, erase=erase))

    def add_note(
        self,
        text: str,
        *,
        position: tuple[float, float, float] | None = None,
        segment: int | None = None,
    ) -> Outcome:
        """Write a note on a place, (z, y, x) in voxels, or on a segment."""
        edits = self.history.edits.values()
        written = (c for e in edits for c in e.changes if isinstance(c, AddNote) and not c.reverse)
        number = sum(1 for _ in written) + 1
        fragment = None if segment is None else int(self.fragments_of(segment)[0])
        note = Note(number, text, position, fragment)
        segments = () if segment is None else (int(segment),)
        details = {"text": text}
        return self.commit(
            Plan("note", (AddNote(note),), self.revision, segments=segments, details=details)
        )

    def remove_note(self, number: int) -> Outcome:
        """Take a note away; undoing brings it back.

        Raises
        ------
        ProofreadingError
            If there is none of this number.
        """
        note = self.decisions.notes.get(number)
        if note is None:
            raise ProofreadingError(f"there is no note {number}")
        changes = (AddNote(note).inverse(),)
        return self.commit(Plan("remove note", changes, self.revision, details={"text": note.text}))

    # ---------------------------------------------------------------- history

    def undo(self) -> bool:
        """Go to before the current edit; false if there is none."""
        target = self.history.undo_target()
        if target is not None:
            self.go_to(target)
        return target is not None

    def redo(self) -> bool:
        """Go to the edit that was undone last; false if there is none."""
        target = self.history.redo_target()
        if target is not None:
            self.go_to(target)
        return target is not None

    def go_to(self, edit_id: int) -> None:
        """Go to the state after any edit, of any branch; 0 = the beginning.

        Raises
        ------
        ProofreadingError
            If there is no such edit.
        """
        self._folder.check_writable()
        undo, redo = self.history.route(edit_id)
        if not undo and not redo:
            return
        staged = self._state.stage_route(undo, redo)
        try:
            self._folder.append({"move": edit_id, "time": _now()})
        except BaseException:
            self._state.withdraw(staged)
            raise
        self.history.go_to(edit_id)
        self._show(staged)

    # ---------------------------------------------------------------- how it is done

    def close(self) -> None:
        """Let others edit. Nothing is left to be written."""
        self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def commit(self, plan: Plan, *, force: bool = False) -> Outcome:
        """Make an edit that was planned: apply it, write it to the disk, show it.

        The methods above do this; it is public for whoever plans edits of a new kind.

        Parameters
        ----------
        plan : Plan
            Made since the latest edit.
        force : bool
            Give it precedence over the earlier decisions that it goes against.

        Raises
        ------
        StalePlanError
            If there was an edit since.
        ConflictError
            If it goes against earlier decisions, and is not forced to.
        ReadOnlyError, SessionError
            If it cannot be written, in which case nothing has changed.
        """
        self._folder.check_writable()
        if plan.revision != self.revision:
            raise StalePlanError(
                f"there was an edit since this {plan.kind} was worked out: nothing was changed, do "
                "it once more"
            )
        if plan.conflicts and not force:
            raise ConflictError(plan.conflicts)
        division = plan.division
        staged = self._state.stage_new(
            plan.changes, plan.keep, None if division is None else division.patch
        )
        before, after = staged.before, staged.after
        if not before and not after:
            before = after = plan.segments
        edit = Edit(
            id=self.history.next_id,
            parent=self.history.current,
            kind=plan.kind,
            changes=staged.changes,
            before=before,
            after=after,
            details=plan.details,
            time=_now(),
            user=self.user,
        )
        try:
            if division is not None:
                self._folder.save_patch(division.patch.number, division.voxels)
            self._folder.append(edit.to_json())
        except BaseException:
            self._state.withdraw(staged)
            raise
        self.history.add(edit)
        self._show(staged)
        return Outcome(edit, after, plan.warnings)

    def _replay(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            if "move" in record:
                self.history.go_to(record["move"])
                continue
            edit = Edit.from_json(record)
            self.history.add(edit)
            for change in edit.changes:
                if isinstance(change, ApplyPatch):
                    self._state.register(change.patch)
        self._state.replay(self.history.path())

    def _show(self, staged: Staged) -> None:
        changed = self._state.finish(staged)
        boxes = tuple(c.patch.box for c in staged.changes if isinstance(c, ApplyPatch))
        if len(changed) or boxes:
            segments = tuple(sorted({*staged.before, *staged.after}))
            self.segments_changed.emit(SegmentsChanged(segments, changed, boxes))
        self.history_changed.emit()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user: containers, Windows services
        return ""
