"""Cutting a segment by seeds: red on one side, blue on the other, and a look at the cut before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.operations import refuse_locked
from napari_cad.viewer.proofreading_labels import BLUE, RED

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy.typing as npt

    from napari_cad.proofreading.cut import CutPreview
    from napari_cad.viewer.proofreading import Proofreader
    from napari_cad.viewer.proofreading_picking import Picked

Colour = Literal["red", "blue"]


class SplitMode:
    """The cut that a person is making.

    Parameters
    ----------
    proofreader : Proofreader
        Whose session it is.

    Attributes
    ----------
    active : bool
        Whether clicks put seeds.
    segment : int
        The one to be cut.
    preview : CutPreview or None
        The cut as it would be made.
    """

    def __init__(self, proofreader: Proofreader) -> None:
        self._owner = proofreader
        self.active = False
        self.segment = 0
        self.preview: CutPreview | None = None
        self._seeds: list[tuple[Colour, tuple[int, int, int]]] = []
        self._shown = True

    @property
    def seeds(self) -> dict[Colour, list[tuple[int, int, int]]]:
        """Voxels (z, y, x) of each colour, in the order of the clicks."""
        return {
            colour: [voxel for c, voxel in self._seeds if c == colour] for colour in ("red", "blue")
        }

    def start(self, segment: int) -> None:
        """Begin to cut a segment.

        Raises
        ------
        ConflictError
            If it is locked.
        """
        session = self._owner.session
        refuse_locked(session, (segment,), "cut")
        self.active, self.segment, self._shown = True, segment, True
        self._owner.layers.show_borders(session.fragments_of(segment))
        self._owner.say(
            f"Cutting segment {segment}: click = red seed, Shift-click or right click = blue seed."
        )

    def leave(self) -> None:
        """Take seeds and preview away."""
        self.active, self.segment, self.preview = False, 0, None
        self._seeds.clear()
        layers = self._owner.layers
        layers.show_borders(np.zeros(0, np.int64))
        layers.show_seeds({})
        self._owner.contacts.forget()

    def add(self, colour: Colour, picked: Picked | None) -> None:
        """Put a seed.

        Raises
        ------
        ProofreadingError
            If it does not lie in the segment.
        """
        if picked is None or picked.segment != self.segment or not picked.fragment:
            what = "nothing" if picked is None or not picked.segment else f"{picked.segment}"
            raise ProofreadingError(
                f"seeds lie in segment {self.segment}, which is being cut; here is {what}"
            )
        if any(voxel == picked.voxel for _, voxel in self._seeds):
            raise ProofreadingError("there is a seed on this voxel already")
        self._seeds.append((colour, picked.voxel))
        self._update()

    def take_back(self) -> bool:
        """Take the latest seed away; false if there is none."""
        if not self._seeds:
            return False
        self._seeds.pop()
        self._update()
        return True

    def toggle(self) -> None:
        """Show or hide the sides."""
        self._shown = not self._shown

    def marks(self) -> dict[int, npt.NDArray[np.int64]]:
        """Fragments to be marked."""
        if self.preview is None or not self._shown:
            return {}
        return {RED: self.preview.red, BLUE: self.preview.blue}

    def work_out(self) -> None:
        """Work the cut out for the seeds as they are.

        Raises
        ------
        ProofreadingError
            If there are none of one colour.
        """
        session, seeds = self._owner.session, self.seeds
        red, blue = seeds["red"], seeds["blue"]
        if not (red and blue):
            raise ProofreadingError("a cut needs a red and a blue seed")
        self._owner.patience.run(
            lambda: session.preview_cut(red, blue), self._on_preview, "Working out the cut"
        )

    def follow(self) -> None:
        """Follow an edit that was made meanwhile: a preview is good for one state only."""
        if not self.active:
            return
        if not self._owner.living([self.segment]):
            self.leave()
            return
        self._owner.layers.show_borders(self._owner.session.fragments_of(self.segment))
        self._update()

    def line(self) -> str:
        """Say what the cut would do."""
        preview = self.preview
        if not self.active:
            return ""
        if preview is None:
            n_red, n_blue = (len(seeds) for seeds in self.seeds.values())
            return f"Segment {self.segment}: {n_red} red and {n_blue} blue seeds."
        text = f"{preview.n_contacts:,} contacts are cut"
        if preview.n_contacts:
            text += f", mean affinity {preview.affinity:.2f}"
        sides = (f"red {self._size(preview.red):,}", f"blue {self._size(preview.blue):,} voxels")
        text += f"; {', '.join(sides)}."
        if preview.plan.division is not None:
            n = len(preview.plan.division.patch.removed)
            text += f" {n} fragment{'s' * (n > 1)} would be divided."
        if preview.links:
            text += f" {len(preview.links)} merges by hand would be undone."
        return text

    def _update(self) -> None:
        """Show the seeds, and the cut between them as soon as it is known."""
        owner, seeds = self._owner, self.seeds
        self.preview = None
        owner.layers.show_seeds(seeds)
        if seeds["red"] and seeds["blue"]:
            self.work_out()
        else:
            owner.patience.cancel()
            owner.contacts.forget()
            owner.redraw()

    def _size(self, fragments: npt.NDArray[np.int64]) -> int:
        size = self._owner.session.graph.size
        total = int(size[fragments[fragments < len(size)]].sum())
        division = self.preview.plan.division if self.preview is not None else None
        if division is not None:
            new = dict(zip(division.patch.fragments, division.patch.sizes, strict=True))
            total += sum(new.get(fragment, 0) for fragment in fragments.tolist())
        return total

    def _on_preview(self, future: Future[Any]) -> None:
        if not self.active:
            return
        with self._owner.requests.reporting("split"):
            try:
                preview: CutPreview = future.result()
            except ProofreadingError:
                self._owner.contacts.forget()
                raise
            self.preview = preview
            area = np.ones(len(preview.edges), np.uint32)
            self._owner.contacts.show(preview.position, area.astype(np.float32), area)
            self._owner.say(self.line())
        self._owner.redraw()
