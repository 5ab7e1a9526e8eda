"""Notes of a session: written on a segment or a place, shown where they are, gone to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.suspects import End
from napari_cad.viewer.embedding_layers import camera_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_cad.viewer.proofreading import Proofreader

    Place = tuple[float, float, float]


class SessionNotes:
    """The notes of a session.

    Parameters
    ----------
    proofreader : Proofreader
        Whose session it is.
    """

    def __init__(self, proofreader: Proofreader) -> None:
        self._owner = proofreader
        self._shown: list[tuple[Place, str]] = []

    def write(self, ask: Callable[[str], str | None]) -> None:
        """Write a note on the selected segment, or on the place in the middle.

        Parameters
        ----------
        ask : callable
            ``ask(question)`` gives a line of text, or None.

        Raises
        ------
        ProofreadingError
            If there is neither a segment nor a place in the volume.
        """
        owner = self._owner
        segment = owner.selection[0] if owner.selection else None
        position = self._place(segment)
        if segment is None and position is None:
            raise ProofreadingError("click the place that the note is about first")
        text = ask(f"Note on segment {segment}" if segment else "Note on this place")
        if text and text.strip():
            owner.report(owner.session.add_note(text.strip(), position=position, segment=segment))

    def follow(self) -> None:
        """Show the notes that there are now, where they were made."""
        notes = self._owner.session.decisions.notes.values()
        placed = [(note.position, note.text) for note in notes if note.position is not None]
        if placed != self._shown:
            self._shown = placed
            places, texts = [place for place, _ in placed], [text for _, text in placed]
            self._owner.layers.show_notes(places, texts)

    def go_to(self, number: int) -> None:
        """Go to the place of a note, and select the segment that it is about."""
        owner, session = self._owner, self._owner.session
        note = session.decisions.notes[number]
        place = note.position
        if note.fragment is not None and session.graph.alive[note.fragment]:
            owner.select([session.segment_of(note.fragment)])
            if place is None:
                centres = session.voxels.centres(np.array([note.fragment]))
                place = None if centres is None else tuple(centres[0].tolist())
        if place is not None:
            owner.go_to(place)
        owner.say(note.text)

    def _place(self, segment: int | None) -> Place | None:
        """Find what was clicked of a segment, else what is asked, else the middle of the view.

        None where that lies outside of the volume.
        """
        owner, lut = self._owner, self._owner.session.lut
        picked, asked = owner.picked, owner.walk.current
        if segment is not None and picked is not None and lut[picked.fragment] == segment:
            z, y, x = picked.voxel
            return float(z), float(y), float(x)
        if asked is not None and np.isfinite(asked.position).all():
            ends = [asked.fragment] if isinstance(asked, End) else list(asked.fragments)
            if segment is None or segment in lut[ends]:
                return asked.position
        return self._middle()

    def _middle(self) -> Place | None:
        """Find the voxel in the middle of the view."""
        viewer, layer = self._owner.viewer, self._owner.layers.layer
        if layer is None:
            return None
        shown = list(viewer.dims.displayed)
        world = np.array(viewer.dims.point, np.float64)
        world[shown] = camera_of(viewer).center[-len(shown) :]
        voxel = np.rint(layer.world_to_data(world))
        inside = (voxel >= 0).all() and (voxel < layer.data.shape).all()
        z, y, x = voxel.tolist()
        return (z, y, x) if inside else None
