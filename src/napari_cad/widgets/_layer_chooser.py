"""A list of layers of a viewer, to choose one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from magicgui.widgets import ComboBox
from psygnal import Signal
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer
    from napari.utils.events import Event

Chosen = TypeVar("Chosen", bound="Layer")


class LayerChooser(QWidget, Generic[Chosen]):
    """The layers that a subclass offers, as the viewer has them now.

    Parameters
    ----------
    viewer : ViewerModel
        Whose layers are offered.

    Attributes
    ----------
    changed : Signal
        (), when another layer is chosen, or the one that was chosen has gone.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self._shown: Chosen | None = None
        self.combo = ComboBox(choices=self._choices)
        # a long name must not make the dock wider
        self.combo.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.combo.native)
        self.setFocusProxy(self.combo.native)
        events = viewer.layers.events
        events.inserted.connect(self._on_inserted)
        for event in (events.removed, events.reordered):
            event.connect(self._on_layers)
        for layer in viewer.layers:
            layer.events.name.connect(self._on_layers)
        self.combo.changed.connect(self._on_layer)
        self.combo.native.activated.connect(self._on_activated)

    @property
    def layer(self) -> Chosen | None:
        """The layer that is chosen."""
        layer: Chosen | None = self.combo.value
        return layer

    def _offered(self) -> list[Chosen]:
        """Give the layers to choose from."""
        raise NotImplementedError

    def _propose(self) -> None:
        """Choose by itself, after the layers have changed."""

    def _on_activated(self) -> None:
        """Take note that the person has chosen."""

    def _choices(self, _widget: object) -> list[tuple[str, Chosen]]:
        return [(layer.name, layer) for layer in self._offered()]

    def _on_inserted(self, event: Event) -> None:
        event.value.events.name.connect(self._on_layers)
        self._on_layers()

    def _on_layers(self) -> None:
        shown = self._shown
        with self.combo.changed.blocked():
            self.combo.reset_choices()
            # the list itself goes by names, and takes its first entry for a layer that was renamed
            if shown is not None and any(shown is layer for layer in self.combo.choices):
                self.combo.value = shown
        self._propose()
        self._on_layer()

    def _on_layer(self) -> None:
        if self.layer is not self._shown:
            self._shown = self.layer
            self.changed.emit()
