"""A proofreading session in a viewer: selection, layers, keys, and how all of it follows edits.

Read in this order::

    proofreading_start      from a labels layer to a `Proofreader`
    proofreading            selection, layers, keys, and how all of it follows edits
    proofreading_requests   what is done once, refused while it is busy, forced if asked once more
    proofreading_actions    the table of actions: keys, titles, helps
    proofreading_do         what each action does
    proofreading_pointer    clicks and the status bar
    proofreading_picking    what lies under the pointer
    proofreading_split, proofreading_walk, proofreading_paint    what takes several clicks
    proofreading_contacts, proofreading_notes    what is drawn over the segments
    proofreading_meshes     surfaces that follow edits
    proofreading_layers     the layers
    proofreading_labels     the arrays behind them, whose tables are changed in place
    proofreading_keys       keys that are bound while a session lasts
    proofreading_patience   what takes long, in a thread
    proofreading_commands   the actions in napari's command palette
    proofreading_tasks      what runs in child processes
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_cad.viewer.error_layers import go_to_world
from napari_cad.viewer.in_3d import In3D
from napari_cad.viewer.jobs import EndsWithDock
from napari_cad.viewer.layers import shown_section
from napari_cad.viewer.proofreading_contacts import SessionContacts
from napari_cad.viewer.proofreading_do import Actions
from napari_cad.viewer.proofreading_keys import SessionKeys
from napari_cad.viewer.proofreading_labels import SELECTED
from napari_cad.viewer.proofreading_layers import SessionLayers
from napari_cad.viewer.proofreading_meshes import SessionMeshes
from napari_cad.viewer.proofreading_notes import SessionNotes
from napari_cad.viewer.proofreading_paint import Scribbles
from napari_cad.viewer.proofreading_patience import Patience
from napari_cad.viewer.proofreading_picking import Picked, Picker
from napari_cad.viewer.proofreading_pointer import Pointer
from napari_cad.viewer.proofreading_requests import Requests
from napari_cad.viewer.proofreading_split import SplitMode
from napari_cad.viewer.proofreading_walk import QuestionWalk
from napari_cad.viewer.state import state_of
from napari_cad.viewer.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt
    from napari.components import ViewerModel
    from napari.layers import Layer
    from qtpy.QtWidgets import QWidget

    from napari_cad.proofreading.events import Outcome, SegmentsChanged
    from napari_cad.proofreading.session import ProofreadingSession
    from napari_cad.viewer.placement import Placement

#: Milliseconds after which what is not urgent follows an edit: contacts, counts, the dock.
_LATER = 30
#: Milliseconds of rest after which the questions that are left are counted.
_AT_REST = 250


class Proofreader(EndsWithDock):
    """A session that is worked on in a viewer.

    Parameters
    ----------
    viewer : ViewerModel
        Where it is shown.
    session : ProofreadingSession
        With fragments; it is closed at the end.
    placement : Placement
        Of the segmentation.
    name : str
        Of the segmentation.
    key : str
        By which its layers are found again.
    parent : QWidget
        Its owner; the session ends with it.
    run_path : str, optional
        Path of the store, where it is about a run.

    Attributes
    ----------
    said : Signal
        (str, str), a line for the person, and how grave it is: "info", "warning" or "error".
    changed : Signal
        (), a moment after anything that a panel may show has changed.
    ended : Signal
        (str), when the session has ended, with the reason if the person did not ask for it.
    selection : list of int
        Selected segments, in the order of the clicks.
    picked : Picked or None
        What was clicked last of the selected segments.
    """

    said = Signal(str, str)
    changed = Signal()
    ended = Signal(str)

    def __init__(
        self,
        viewer: ViewerModel,
        session: ProofreadingSession,
        placement: Placement,
        name: str,
        key: str,
        parent: QWidget,
        *,
        run_path: str | None = None,
    ) -> None:
        super().__init__(parent)
        # plugins are given a proxy; keys and clicks are those of the viewer itself
        self.viewer: ViewerModel = getattr(viewer, "__wrapped__", viewer)
        self.session, self.name, self.run_path = session, name, run_path
        self.guard = threading.RLock()  # napari asks for the status bar in another thread
        self.selection: list[int] = []
        self.picked: Picked | None = None
        self._is_over = False
        self._dirty = False
        self.keys = SessionKeys(self.run)
        self.patience = Patience(parent)
        self.requests = Requests(self)
        self.layers = SessionLayers(self.viewer, key, session, placement, name, self.bind)
        self.picker = Picker(session, self.layers.fragments, self.layers.segments)
        self.pointer = Pointer(self)
        self.split_mode = SplitMode(self)
        self.walk = QuestionWalk(self)
        self.scribbles = Scribbles(self)
        self.contacts = SessionContacts(self)
        self.notes = SessionNotes(self)
        self.meshes = SessionMeshes(self.viewer, parent, self)
        self.actions = Actions(self)
        self._in_3d = In3D(self.viewer, self)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_LATER)
        self._later.timeout.connect(self._follow_later)
        self._counting = QTimer(self)
        self._counting.setSingleShot(True)
        self._counting.setInterval(_AT_REST)
        self._counting.timeout.connect(self._count)
        self.destroyed.connect(_Closing(session, self.patience))

        self.keys.bind(self.viewer)
        self.layers.show(self.pointer.describe)
        self.redraw()
        self.notes.follow()
        self.pointer.begin()
        self._turns = Turns(self)
        # the first seed shall not have to wait for a layer
        self._turns.then(lambda: self.layers.points("proofread_seeds"))
        self._turns.then(lambda: self.layers.points("proofread_contacts"))
        self.viewer.layers.events.removed.connect(self._on_layer_removed)
        session.segments_changed.connect(self._on_segments)
        session.history_changed.connect(self._on_history)
        self.patience.changed.connect(self.follow_soon)
        state_of(self.viewer).proofreader = self

    # ------------------------------------------------------------------ what is done and said

    def run(self, name: str) -> None:
        """Do an action by its name; what goes wrong is said in a line."""
        self.requests.run(name)

    def say(self, text: str, level: str = "info") -> None:
        """Tell the person something, in one line."""
        self.said.emit(text, level)

    def report(self, outcome: Outcome) -> None:
        """Tell what came of an edit; a warning, if there is one, instead of the edit itself."""
        warnings = (*outcome.warnings, *(conflict.message for conflict in outcome.conflicts))
        text = f"Edit {outcome.edit.id}: {short(outcome.edit.describe())}"
        if warnings:
            self.say(f"{text}. {'; '.join(warnings)}.", "warning")
        else:
            self.say(text)

    # ------------------------------------------------------------------ selection

    def select(self, segments: Iterable[int]) -> None:
        """Select these segments, in this order, and no others."""
        self.selection = list(dict.fromkeys(int(segment) for segment in segments if segment))
        picked = self.picked
        if picked is not None and self.session.lut[picked.fragment] not in self.selection:
            self.picked = None  # so that nothing is detached that lies somewhere else
        self.contacts.follow()
        self.redraw()

    def living(self, segments: Sequence[int]) -> list[int]:
        """Give those of some segments that there are now."""
        return self.session.living(segments)

    def section(self) -> int | None:
        """Which section is on screen; None in 3D, or beyond the volume."""
        layer = self.layers.layer
        return None if layer is None else shown_section(self.viewer, layer)

    def line(self) -> str:
        """Give the state of the session in one line: edits, questions left, what is verified."""
        n = len(self.session.history.path())
        parts = [f"{n:,} edit{'s' * (n != 1)}"]
        if self.walk.progress is not None:
            left, total = self.walk.progress
            parts.append(f"{left:,} of {total:,} questions left")
        locked = len(self.session.decisions.locks)
        if locked:
            parts.append(f"{locked:,} verified")
        if self.session.read_only:
            parts.append("read-only")
        return " · ".join(parts)

    # ------------------------------------------------------------------ what follows

    def bind(self, layer: Layer, leave: Sequence[str] = ()) -> None:
        """Bind the keys on a layer of the session."""
        if layer is not self.layers.find("proofread_scribbles") or leave:
            self.keys.bind(layer, leave)

    def redraw(self) -> None:
        """Mark what is selected, cut or asked about."""
        if self.requests.open:
            self._dirty = True
            return
        self._dirty = False
        if self._is_over:
            return
        marks: dict[int, npt.NDArray[np.int64]] = {}
        preview = None
        if self.split_mode.active:
            marks = self.split_mode.marks()
            preview = self.split_mode.preview if marks else None
        else:
            self.selection = self.living(self.selection)
            members = [self.session.fragments_of(segment) for segment in self.selection]
            if members:
                marks[SELECTED] = np.concatenate(members)
            marks |= self.walk.marks()
        self.layers.mark(marks, preview)
        self.follow_soon()

    def catch_up(self) -> None:
        """Redraw what has changed while a request was being done."""
        if self._dirty:
            self.redraw()

    def follow_soon(self) -> None:
        """Let follow, in a moment, what is not urgent: contacts and the dock."""
        self._later.start()

    def recount(self) -> None:
        """Count what is left to be asked, in a moment."""
        self._counting.start()

    def try_threshold(self, threshold: float) -> None:
        """Show the segments of another threshold for a while."""
        with self.requests.reporting("undo"):
            self.layers.segments.show(self.session.preview_threshold(threshold))
            self.layers.refresh_segments()

    def set_threshold(self, threshold: float) -> None:
        """Move the threshold, which is an edit; what is cut and comes together is reported."""
        if threshold != self.session.threshold and not self.requests.refuse_while_busy():
            with self.requests.reporting("undo"):
                self.report(self.session.set_threshold(threshold))
        if self.layers.segments.is_tried:  # refused, or as it was, or no segment has changed
            self.layers.segments.rebuild()
            self.layers.refresh_segments()

    def show_in_3d(self) -> None:
        """Turn to 3D for the surfaces, without the volumes around them."""
        self._in_3d.enter()

    def go_to(self, position: Sequence[float]) -> None:
        """Show a place, (z, y, x) in voxels of the segmentation."""
        layer = self.layers.layer
        if layer is not None:
            go_to_world(self.viewer, layer.data_to_world(position), self.layers.placement)

    def _on_segments(self, event: SegmentsChanged) -> None:
        self.layers.follow(event)
        self.contacts.follow()
        self.meshes.follow(event)

    def _on_history(self) -> None:
        """Follow an edit, once the segments have followed it."""
        self._counting.start()
        self.walk.follow()
        self.split_mode.follow()
        self.notes.follow()
        self.redraw()

    def _count(self) -> None:
        if self.patience.busy:
            self._counting.start()
            return
        self.walk.count()
        self.follow_soon()

    def _follow_later(self) -> None:
        if self._is_over:
            return
        self.contacts.draw()
        state_of(self.viewer).report("proofread", self.line(), run=self.run_path)
        self.changed.emit()

    def _on_layer_removed(self, event: object) -> None:
        layer = getattr(event, "value", None)
        self.keys.unbind(layer)
        if not self._is_over and self.layers.layer is None:
            self.end(
                reason="The layer of the session was removed. Nothing is lost: every edit is on "
                "the disk. Start again to go on."
            )

    # ------------------------------------------------------------------ the end

    def leave(self) -> None:
        """End the session with the dock that its buttons are in; the segments stay."""
        self.end(keep=True)

    def end(self, *, keep: bool = False, reason: str = "") -> None:
        """End the session; every edit is on the disk already.

        Parameters
        ----------
        keep : bool
            Leave the segments as they are in the viewer.
        reason : str
            If the person did not ask for it.
        """
        if self._is_over:
            return
        self._is_over = True
        self._turns.forget()
        self._later.stop()
        self._counting.stop()
        self.viewer.layers.events.removed.disconnect(self._on_layer_removed)
        self.session.segments_changed.disconnect(self._on_segments)
        self.session.history_changed.disconnect(self._on_history)
        self.pointer.end()
        self.keys.unbind()
        self.patience.close()
        self.meshes.clear()
        self.layers.end(keep=keep)
        self.session.close()
        state = state_of(self.viewer)
        if state.proofreader is self:
            state.proofreader = None
            state.report("proofread", "")
        self.ended.emit(reason)
        for part in (self.meshes.runner, self.meshes, self.patience, self):
            part.deleteLater()  # a million fragments are too many to be kept


class _Closing:
    """Closes a session whose widget is no more, with its thread; knows no Qt."""

    def __init__(self, session: ProofreadingSession, patience: Patience) -> None:
        self._session, self._shutdown = session, patience.shutdown

    def __call__(self) -> None:
        self._shutdown()
        self._session.close()


def short(text: str, most: int = 120) -> str:
    """Cut a long line."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
