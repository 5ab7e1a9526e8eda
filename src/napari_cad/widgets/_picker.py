"""A button while which is on a click into the viewer picks a place."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal
from qtpy.QtWidgets import QPushButton

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari.components import ViewerModel

#: Pixels that a click may slip.
_SLIP = 3


class PlacePicker(QPushButton):
    """Picks where a click ends that has not become a drag, which moves the camera.

    Parameters
    ----------
    text : str
        Of the button.
    viewer : ViewerModel
        Whose clicks count.

    Attributes
    ----------
    picked : Signal
        (tuple of float), the place in world coordinates.
    """

    picked = Signal(object)

    def __init__(self, text: str, viewer: ViewerModel) -> None:
        super().__init__(text)
        self.setCheckable(True)
        self._callbacks = viewer.mouse_drag_callbacks
        self._clicks = _Clicks(self)
        self.toggled.connect(self._on_toggled)
        self.destroyed.connect(_Removal(self._callbacks, self._clicks))

    def on_mouse(self, event: Any) -> Generator[None, None, None]:
        """Follow the mouse from a press to its release, as napari has it."""
        if event.button != 1 or event.modifiers:
            return
        start = np.asarray(event.pos)
        yield
        while event.type == "mouse_move":
            yield
        if np.abs(np.asarray(event.pos) - start).max() <= _SLIP:
            self.picked.emit(event.position)

    def _on_toggled(self, on: bool) -> None:
        if on and self._clicks not in self._callbacks:
            self._callbacks.append(self._clicks)
        elif not on and self._clicks in self._callbacks:
            self._callbacks.remove(self._clicks)


class _Clicks:
    """What the viewer calls at a click; it does not keep the button alive."""

    def __init__(self, button: PlacePicker) -> None:
        self._button = weakref.ref(button)

    def __call__(self, _viewer: Any, event: Any) -> Generator[None, None, None] | None:
        button = self._button()
        return None if button is None else button.on_mouse(event)


class _Removal:
    """Takes the callback of a button that is no more out of its viewer's list."""

    def __init__(self, callbacks: list[Any], callback: Any) -> None:
        self._callbacks = callbacks
        self._callback = callback

    def __call__(self) -> None:
        # where button, viewer and this are garbage together, this may have been emptied already
        callbacks, callback = getattr(self, "_callbacks", []), getattr(self, "_callback", None)
        if callback in callbacks:
            callbacks.remove(callback)
