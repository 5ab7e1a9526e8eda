"""What a person can do while proofreading: one table for keys, buttons, commands and the manual."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Action:
    """Something to do in a session.

    Attributes
    ----------
    name : str
        Of the method of `Proofreader`; the command of the manifest is
        ``napari-cad.proofread_NAME``.
    title : str
        On a button, and in the cheat sheet.
    key : str
        To begin with, as napari writes it; empty = none.
    help : str
        What it does, in a sentence.
    group : str
        Heading under which it stands.
    edits : bool
        Whether it changes the segmentation, so that a session that is only read refuses it.
    """

    name: str
    title: str
    key: str
    help: str
    group: str
    edits: bool = True


EDIT, CUT, LOOK, QUESTIONS, HISTORY, VOXELS = (
    "Segments",
    "Cut",
    "Look",
    "Uncertain places",
    "History",
    "Voxels",
)

ACTIONS = (
    Action(
        "merge", "Merge", "G",
        "Make one segment of the selected ones; the one selected first keeps its id.", EDIT,
    ),
    Action(
        "detach", "Detach fragment", "D",
        "Cut the fragment that was clicked off the rest of its segment.", EDIT,
    ),
    Action(
        "separate", "Separate fragment", "Shift-D",
        "Cut the fragment that was clicked off all its neighbours, at any threshold.", EDIT,
    ),
    Action(
        "lock", "Verify", "O",
        "Lock the selected segments as verified, or unlock them: threshold, merges and cuts pass "
        "locked segments by.", EDIT,
    ),
    Action(
        "split", "Cut by seeds", "S",
        "Begin a cut: a click puts a red seed, Shift-click or right click a blue one, in any "
        "section, in 2D or 3D. Once more, or Escape, leaves it.", CUT,
    ),
    Action(
        "toggle_preview", "Show the cut", "T", "Show or hide the sides of the cut.", CUT,
        edits=False,
    ),
    Action(
        "apply", "Apply", "Enter", "Make the cut as it is shown, or keep what was painted.", CUT
    ),
    Action(
        "cancel", "Cancel", "Escape",
        "Leave the cut, the painting or the question, or select nothing.", CUT, edits=False,
    ),
    Action(
        "isolate", "Only these", "I", "Show the selected segments only; once more shows all.", LOOK,
        edits=False,
    ),
    Action("hide", "Hide", "H", "Hide the selected segments.", LOOK, edits=False),
    Action("show_all", "Show all", "Shift-H", "Show all segments again.", LOOK, edits=False),
    Action(
        "contacts", "Contacts", "C",
        "Show where the selected segment touches others: bright = high affinity.", LOOK,
        edits=False,
    ),
    Action(
        "meshes", "Meshes", "K",
        "Show the selected segments as surfaces in 3D, which follow every edit; once more goes "
        "back to the sections.", LOOK, edits=False,
    ),
    Action(
        "next_question", "Next", "N",
        "Go to the next uncertain place: orange and blue are the two sides it is about.",
        QUESTIONS, edits=False,
    ),
    Action(
        "previous_question", "Previous", "Shift-N", "Go back to the uncertain place before.",
        QUESTIONS, edits=False,
    ),
    Action(
        "accept", "Together", "A", "Answer that both sides belong together, and go on.", QUESTIONS
    ),
    Action(
        "reject", "Apart", "Q", "Answer that the sides do not belong together, and go on.",
        QUESTIONS,
    ),
    Action("later", "Later", "W", "Ask again when all else is answered, and go on.", QUESTIONS),
    Action(
        "undo", "Undo", "Control-Z",
        "Take the latest edit back (while cutting: the latest seed). Nothing is lost: see the "
        "history.", HISTORY,
    ),
    Action("redo", "Redo", "Control-Shift-Z", "Make again what was undone.", HISTORY),
    Action(
        "note", "Note", "J", "Write a note on the selected segment, or on the place in the middle.",
        HISTORY,
    ),
    Action(
        "scribble", "Paint", "R",
        "Begin to paint voxels that no merge or cut puts right; once more keeps what was painted, "
        "as one edit.", VOXELS,
    ),
)  # fmt: skip

BY_NAME = {action.name: action for action in ACTIONS}
