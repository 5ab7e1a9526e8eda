"""The history of edits: a tree, in which nothing that was done is ever lost.

Undoing moves to the parent of the current edit, redoing to the child that was left last. An edit
made after undoing begins a branch beside the undone one, which stays reachable: `route` leads from
any edit to any other. (A flat list in which undone edits are pushed back, as in funtracks, keeps
everything too, but time travel in it repeats work, and a person cannot see what belongs to what.)
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from napari_cad.proofreading.errors import ProofreadingError

if TYPE_CHECKING:
    from napari_cad.proofreading.edits import Edit

#: The state before the first edit.
BEGINNING = 0


class EditHistory:
    """A tree of edits and the place in it where the session is.

    Attributes
    ----------
    edits : dict
        Id → edit, of all branches, in the order of making.
    current : int
        Id of the edit whose state is shown; `BEGINNING` before the first.
    """

    def __init__(self) -> None:
        self.edits: dict[int, Edit] = {}
        self.current = BEGINNING
        self._children: defaultdict[int, list[int]] = defaultdict(list)
        self._next: dict[int, int] = {}  # the child that redo goes to

    @property
    def next_id(self) -> int:
        """Id of the edit to be made next."""
        return len(self.edits) + 1

    def add(self, edit: Edit) -> None:
        """Append an edit to its parent and go there.

        Raises
        ------
        ProofreadingError
            If its id is not the next one, or its parent is unknown.
        """
        if edit.id != self.next_id or (edit.parent != BEGINNING and edit.parent not in self.edits):
            raise ProofreadingError(
                f"edit {edit.id} after edit {edit.parent} does not continue a history of "
                f"{len(self.edits)} edits"
            )
        self.edits[edit.id] = edit
        self._children[edit.parent].append(edit.id)
        self._next[edit.parent] = edit.id
        self.current = edit.id

    def go_to(self, edit_id: int) -> None:
        """Make another edit the current one, and redo lead back to where the session was.

        Raises
        ------
        ProofreadingError
            If there is no such edit.
        """
        self._check(edit_id)
        # undoing leaves the way back as it is: redo already leads along the current path
        if edit_id != self.undo_target():
            path = self.path(edit_id) if self.redo_target() != edit_id else [edit_id]
            for child in path:
                self._next[self.edits[child].parent] = child
        self.current = edit_id

    def path(self, edit_id: int | None = None) -> list[int]:
        """Edits from the beginning to one of them (by default the current one), in order."""
        if edit_id is None:
            edit_id = self.current
        path = []
        while edit_id != BEGINNING:
            path.append(edit_id)
            edit_id = self.edits[edit_id].parent
        return path[::-1]

    def route(self, edit_id: int) -> tuple[list[int], list[int]]:
        """How to get from the current edit to another.

        Returns
        -------
        undo, redo : list of int
            Edits to undo, the latest first, and then edits to make again, in order.

        Raises
        ------
        ProofreadingError
            If there is no such edit.
        """
        self._check(edit_id)
        here, there = self.path(), self.path(edit_id)
        common = 0
        while common < min(len(here), len(there)) and here[common] == there[common]:
            common += 1
        return here[common:][::-1], there[common:]

    def undo_target(self) -> int | None:
        """Where undo leads; None at the beginning."""
        return None if self.current == BEGINNING else self.edits[self.current].parent

    def redo_target(self) -> int | None:
        """Where redo leads; None at the tip of a branch."""
        return self._next.get(self.current)

    def branches(self, edit_id: int | None = None) -> tuple[int, ...]:
        """Edits made directly after one of them (by default the current one)."""
        return tuple(self._children.get(self.current if edit_id is None else edit_id, ()))

    def lineage(self, segment: int) -> list[Edit]:
        """Edits of the current branch that made a segment what it is, in order.

        Ids are followed backwards through what each edit made of what. Moves of the threshold
        belong to every lineage; what they did to this segment is not followed.
        """
        ids = {segment}
        found = []
        for edit_id in reversed(self.path()):
            edit = self.edits[edit_id]
            if edit.kind == "threshold":
                found.append(edit)
            elif ids.intersection(edit.after):
                found.append(edit)
                ids = ids.difference(edit.after).union(edit.before)
        return found[::-1]

    def _check(self, edit_id: int) -> None:
        if edit_id != BEGINNING and edit_id not in self.edits:
            raise ProofreadingError(
                f"there is no edit {edit_id}: the last one is {len(self.edits)}"
            )
