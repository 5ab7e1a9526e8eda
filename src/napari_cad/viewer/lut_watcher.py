"""Noticing that a run's segments have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtCore import QObject, QTimer

from napari_cad.viewer.error_layers import shown_lut
from napari_cad.viewer.live_labels import LiveLabels

if TYPE_CHECKING:
    from napari.layers import Labels
    from qtpy.QtWidgets import QWidget

#: Milliseconds between two looks; a change counts when it has lasted from one to the next.
_INTERVAL = 300


class LutWatcher(QObject):
    """Tells when a layer shows another LUT, after it has come to rest.

    A layer that is hidden says nothing when its data change, and while a slider is dragged one
    LUT follows the other; so it is looked at, which costs nothing, instead of listened to.

    Parameters
    ----------
    parent : QWidget
        Its owner.

    Attributes
    ----------
    changed : Signal
        (), when there is another LUT than when it was last told, or than when watching began.
    """

    changed = Signal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._layer: Labels | None = None
        self._told: object = None
        self._seen: object = None
        self._timer = QTimer(self)
        self._timer.setInterval(_INTERVAL)
        self._timer.timeout.connect(self.look)

    def watch(self, layer: Labels | None) -> None:
        """Watch a layer from now on, and no other; None watches nothing."""
        self._layer = layer
        self._told = self._seen = None if layer is None else _shown(layer)
        if self._told is None:
            self._timer.stop()
        else:
            self._timer.start()

    def look(self) -> None:
        """Look at the layer now."""
        shown = None if self._layer is None else _shown(self._layer)
        at_rest, self._seen = shown is self._seen, shown
        if shown is not None and at_rest and shown is not self._told:
            self._told = shown
            self.changed.emit()


def _shown(layer: Labels) -> object:
    """Give what stands for what a layer shows, without making a LUT for that."""
    return layer.data.shown if isinstance(layer.data, LiveLabels) else shown_lut(layer)
