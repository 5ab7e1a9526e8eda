"""Painting what no merge or cut puts right: a small layer of its own, and one edit at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.viewer.layers import tag

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy.typing as npt

    from napari_cad.viewer.proofreading import Proofreader

#: Where what is painted belongs → how it is called.
TARGETS = {
    "selected": "the selected segment",
    "new": "a new segment",
    "background": "the background",
}

_COLOURS = {None: (0, 0, 0, 0), 0: (0, 0, 0, 0), 1: (1.0, 0.9, 0.1, 0.7)}

#: Keys that stay with the layer that is painted in: its own strokes are undone there.
LEFT_TO_PAINTING = ("undo", "redo")


class Scribbles:
    """The layer that a person paints in.

    Parameters
    ----------
    proofreader : Proofreader
        Whose session it is.

    Attributes
    ----------
    target : str
        A key of `TARGETS`: where the painted voxels belong.
    reach : int
        Sections before and after the one on screen that can be painted in.
    """

    def __init__(self, proofreader: Proofreader) -> None:
        self._owner = proofreader
        self.target = "selected"
        self.reach = 0
        self._first = 0
        self._segment: int | None = None

    @property
    def layer(self) -> Labels | None:
        """The layer, while a person paints."""
        layer = self._owner.layers.find("proofread_scribbles")
        return layer if isinstance(layer, Labels) else None

    @property
    def active(self) -> bool:
        """Whether a person paints."""
        return self.layer is not None

    def start(self) -> None:
        """Add the layer, around the section on screen.

        Raises
        ------
        ProofreadingError
            If the view is in 3D.
        """
        owner = self._owner
        z = owner.section()
        if z is None:
            raise ProofreadingError("voxels are painted in a section: go back to 2D first")
        n_sections, height, width = owner.layers.fragments.shape
        self._first = max(0, z - self.reach)
        stop = min(n_sections, z + self.reach + 1)
        self._segment = owner.selection[0] if owner.selection else None
        layer = owner.viewer.add_labels(
            np.zeros((stop - self._first, height, width), np.uint8),
            name=f"{owner.name} paint",
            opacity=1.0,
            colormap=DirectLabelColormap(color_dict=_COLOURS),
            metadata=tag("proofread_scribbles", owner.layers.key),
            **owner.layers.placement.from_section(self._first).for_axes(3),
        )
        layer.selected_label = 1
        layer.brush_size = max(3, width // 60)
        owner.bind(layer, leave=LEFT_TO_PAINTING)
        owner.viewer.layers.selection.active = layer
        layer.mode = "paint"
        where = f"sections {self._first}–{stop - 1}" if stop - self._first > 1 else f"section {z}"
        owner.say(f"Paint in {where} what belongs to {self._called()}; then apply it, or cancel.")

    def leave(self) -> None:
        """Take the layer away, with what was painted."""
        layer, owner = self.layer, self._owner
        if layer is not None:
            owner.viewer.layers.remove(layer)
        segments = owner.layers.layer
        if segments is not None:
            owner.viewer.layers.selection.active = segments

    def apply(self) -> None:
        """Make an edit of what was painted.

        Raises
        ------
        ProofreadingError
            If nothing was painted, or there is no segment for it.
        """
        # only here: a session in which nothing is painted need not load scikit-image
        from napari_cad.proofreading.painting import plan_relabel

        layer, owner = self.layer, self._owner
        if layer is None:
            return
        taken = np.asarray(layer.data) > 0
        corner, mask = self._box(taken)
        segment: int | None = None
        if self.target == "selected":
            segment = owner.selection[0] if owner.selection else self._segment
            if segment is None or not owner.living([segment]):
                raise ProofreadingError(
                    "choose the segment that it belongs to, or paint for a new segment"
                )
        erase, session = self.target == "background", owner.session

        def done(future: Future[Any]) -> None:
            with owner.requests.reporting("scribble"):
                outcome = session.commit(future.result())
                self._take(taken)
                owner.report(outcome)

        owner.patience.run(
            lambda: plan_relabel(session, corner, mask, segment, erase=erase), done,
            "Dividing fragments",
        )  # fmt: skip

    def _take(self, taken: npt.NDArray[np.bool_]) -> None:
        """Take away what an edit was made of; what was painted meanwhile stays."""
        layer = self.layer
        if layer is not None:
            left = np.where(taken, 0, layer.data)
            if left.any():
                layer.data = left
                return
        self.leave()

    def _box(
        self, painted: npt.NDArray[np.bool_]
    ) -> tuple[tuple[int, int, int], npt.NDArray[np.bool_]]:
        """Give the first voxel, (z, y, x) in the volume, and the mask of what is painted."""
        spans = []
        for axis in range(3):
            rest = tuple(i for i in range(3) if i != axis)
            there = np.flatnonzero(painted.any(axis=rest))
            if not len(there):
                raise ProofreadingError("nothing is painted yet")
            spans.append(slice(int(there[0]), int(there[-1]) + 1))
        z, y, x = spans
        return (z.start + self._first, y.start, x.start), painted[z, y, x]

    def _called(self) -> str:
        if self.target == "selected" and self._segment is not None:
            return f"segment {self._segment}"
        return TARGETS[self.target]
