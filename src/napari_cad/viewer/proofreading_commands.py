"""The actions of proofreading as commands, for napari's command palette.

One function per action of `proofreading_actions.ACTIONS`, named as the action is; napari gives
them the viewer. The widget has to have begun a session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.utils.notifications import show_info

from napari_cad.viewer.proofreading_actions import BY_NAME
from napari_cad.viewer.state import state_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari.viewer


def run_action(name: str, viewer: napari.viewer.Viewer) -> None:
    """Do an action in the session of a viewer; say so if there is none."""
    proofreader = state_of(viewer).proofreader
    if proofreader is None:
        show_info("Begin a session in the widget “Proofread” first.")
    else:
        proofreader.run(name)


def _command(name: str) -> Callable[[napari.viewer.Viewer], None]:
    def command(viewer: napari.viewer.Viewer) -> None:
        run_action(name, viewer)

    command.__name__ = name
    command.__doc__ = BY_NAME[name].help
    return command


merge = _command("merge")
detach = _command("detach")
separate = _command("separate")
lock = _command("lock")
split = _command("split")
toggle_preview = _command("toggle_preview")
apply = _command("apply")
cancel = _command("cancel")
isolate = _command("isolate")
hide = _command("hide")
show_all = _command("show_all")
contacts = _command("contacts")
meshes = _command("meshes")
next_question = _command("next_question")
previous_question = _command("previous_question")
accept = _command("accept")
reject = _command("reject")
later = _command("later")
undo = _command("undo")
redo = _command("redo")
note = _command("note")
scribble = _command("scribble")
