"""The pointer in a proofreading session: what a click does, and what the status bar says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from napari_cad.proofreading.errors import ProofreadingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_cad.viewer.proofreading import Proofreader
    from napari_cad.viewer.proofreading_picking import Picked

#: Pixels that a click may move.
_STILL = 4


class Pointer:
    """Turns clicks into selections, merges and seeds.

    Parameters
    ----------
    proofreader : Proofreader
        Whose session it is.
    """

    def __init__(self, proofreader: Proofreader) -> None:
        self._owner = proofreader
        self._known: tuple[int, int, str] = (-1, 0, "")

    def begin(self) -> None:
        """Listen to clicks."""
        self._owner.viewer.mouse_drag_callbacks.append(self._on_press)

    def end(self) -> None:
        """Listen no more."""
        callbacks = self._owner.viewer.mouse_drag_callbacks
        if self._on_press in callbacks:
            callbacks.remove(self._on_press)

    def describe(self, position: npt.NDArray[np.float64]) -> str:
        """Tell in a line what is at a place, (z, y, x) in voxels; from any thread."""
        owner = self._owner
        picked = owner.picker.in_section(position)
        if picked is None or not picked.segment:
            return ""
        text = f"segment {picked.segment} · fragment {picked.fragment}"
        # an edit that is being made comes first
        if not owner.guard.acquire(blocking=False):
            return text
        try:
            return self._described(text, picked.segment)
        finally:
            owner.guard.release()

    def click(self, picked: Picked | None, modifiers: Any = (), *, right: bool = False) -> None:
        """Do what a click does.

        Parameters
        ----------
        picked : Picked or None
            What lies under it.
        modifiers : collection of str
            Keys that are held: "Shift", "Control", "Meta".
        right : bool
            Whether it is the right button.
        """
        owner = self._owner
        shift = "Shift" in modifiers
        if owner.split_mode.active:
            # also while the cut is worked out: a seed that fits has it worked out anew
            with owner.requests.reporting("split"):
                owner.split_mode.add("blue" if shift or right else "red", picked)
            return
        if right:
            return
        segment = 0 if picked is None else picked.segment
        if "Control" in modifiers or "Meta" in modifiers:
            if segment and owner.selection:
                before = list(owner.selection)
                owner.select([*before, segment])
                owner.requests.run("merge", "Control-click")
                if segment not in before and segment in owner.selection:
                    owner.select(before)  # refused: the next merge is not about it
            return
        owner.picked = picked if segment else owner.picked
        if shift:
            if segment in owner.selection:
                owner.select(s for s in owner.selection if s != segment)
            elif segment:
                owner.select([*owner.selection, segment])
        else:
            owner.select([segment])
        if picked is not None and segment:
            with owner.guard:
                text = f"segment {segment} · fragment {picked.fragment}"
                owner.say(self._described(text, segment))

    def _described(self, text: str, segment: int) -> str:
        """Add what is known of a segment; nothing if it has gone since it was picked."""
        try:
            return f"{text} · {self._about(segment)}"
        except ProofreadingError:
            return text

    def _about(self, segment: int) -> str:
        session = self._owner.session
        revision, known, text = self._known
        if (revision, known) == (session.revision, segment):
            return text
        parts = [f"{session.size_of(segment):,} voxels"]
        weakest = session.weakest_join(segment)
        if weakest is not None and np.isfinite(weakest) and weakest >= 0:
            parts.append(f"weakest join {weakest:.2f}")
        if session.is_locked(segment):
            parts.append("verified")
        self._known = (session.revision, segment, " · ".join(parts))
        return self._known[2]

    def _on_press(self, _viewer: Any, event: Any) -> Iterator[None]:
        """Wait for the release of the button: what moves meanwhile is no click."""
        active = self._owner.viewer.layers.selection.active
        if event.button not in (1, 2) or str(getattr(active, "mode", "pan_zoom")) != "pan_zoom":
            return  # a tool of napari is in use
        begun = np.array(event.pos)
        moved = False
        yield
        while event.type == "mouse_move":
            moved |= bool(np.abs(np.array(event.pos) - begun).max() > _STILL)
            yield
        if not moved:
            self.click(self._pick(event), event.modifiers, right=event.button == 2)

    def _pick(self, event: Any) -> Picked | None:
        owner = self._owner
        layer = owner.layers.layer
        if layer is None:
            return None
        if len(event.dims_displayed) == 2:
            return owner.picker.in_section(layer.world_to_data(event.position))
        surface = owner.meshes.on_surface()
        if surface is not None:
            segments, first = owner.meshes.vertices()
            found = owner.picker.on_surface(surface, segments, first, event, owner.meshes.factor())
            if found is not None:
                return found
        visible = isinstance(layer, Labels) and layer.visible
        return owner.picker.along_ray(layer, event) if visible else None
