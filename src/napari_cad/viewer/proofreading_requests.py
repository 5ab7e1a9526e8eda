"""What a person asks of a session: done once, refused while something takes long, forced if meant.

What goes against an earlier decision is refused with a line that says so. The same request once
more, with nothing done between, gives the new decision precedence.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from napari_cad.core.errors import NapariCadError
from napari_cad.proofreading.errors import ConflictError
from napari_cad.viewer.proofreading_actions import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_cad.viewer.proofreading import Proofreader


class Requests:
    """Does what is asked for, and says what goes wrong.

    Parameters
    ----------
    proofreader : Proofreader
        Whose session it is.
    """

    def __init__(self, proofreader: Proofreader) -> None:
        self._owner = proofreader
        self._depth = 0
        self._refused: tuple[object, ...] | None = None  # the latest, if it can be forced

    @property
    def open(self) -> bool:
        """Whether a request is being done."""
        return self._depth > 0

    def run(self, name: str, gesture: str = "") -> None:
        """Do an action by its name, or by a gesture."""
        if name != "cancel" and self.refuse_while_busy():
            return
        owner = self._owner
        owner.actions.force = self._refused == self._request(name)
        with self.reporting(name, gesture):
            getattr(owner.actions, name)()

    def refuse_while_busy(self) -> bool:
        """Whether nothing can be edited now, because something takes long; if so, it is said."""
        patience = self._owner.patience
        if patience.busy:
            self._owner.say(f"{patience.what} … Escape gives it up.", "warning")
        return patience.busy

    @contextlib.contextmanager
    def reporting(self, name: str, gesture: str = "") -> Iterator[None]:
        """Say what goes wrong inside in a line; redraw once at the end.

        Parameters
        ----------
        name : str
            Of the action.
        gesture : str
            What the person did instead of pressing its key.
        """
        owner = self._owner
        self._refused = None
        self._depth += 1
        try:
            with owner.guard:
                yield
        except ConflictError as error:
            owner.say(f"{error}. {self._how_to_force(error, name, gesture)}".strip(), "warning")
        except (NapariCadError, OSError) as error:
            owner.say(str(error), "error")
        finally:
            self._depth -= 1
            if not self.open:
                owner.catch_up()

    def _how_to_force(self, error: ConflictError, name: str, gesture: str) -> str:
        if not error.forceable:
            return ""
        self._refused = self._request(name)
        key = self._owner.keys.keys.get(name)
        how = gesture or f"“{BY_NAME[name].title}”{f' ({key})' if key else ''}"
        return f"{how} once more does it all the same."

    def _request(self, name: str) -> tuple[object, ...]:
        """All that says what an action is about: with anything else, it is another request."""
        owner = self._owner
        selection = tuple(owner.selection)
        return name, owner.session.revision, selection, owner.picked, owner.walk.edge
