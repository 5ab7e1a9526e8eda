"""Choosing labels: which of the viewer's labels layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicgui.widgets import ComboBox
from napari.layers import Labels
from psygnal import Signal
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_cad.core.errors import VolumeError
from napari_cad.viewer.layers import role_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.components import ViewerModel


class LabelsChooser(QWidget):
    """A list of the viewer's labels layers of three axes.

    Parameters
    ----------
    viewer : ViewerModel
        Whose layers are offered.
    prefer, avoid : sequence of str
        Roles of layers that are, and are not, proposed before others.

    Attributes
    ----------
    changed : Signal
        (), when another layer is chosen, or the one that was chosen has gone.
    """

    changed = Signal()

    def __init__(
        self, viewer: ViewerModel, prefer: Sequence[str] = (), avoid: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._prefer, self._avoid = tuple(prefer), tuple(avoid)
        self._shown: Labels | None = None
        self._chosen: Labels | None = None  # by the person
        self.combo = ComboBox(name="labels", choices=self._choices)
        # a long name must not make the dock wider
        self.combo.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.combo.native)
        self.setFocusProxy(self.combo.native)
        for event in (
            viewer.layers.events.inserted,
            viewer.layers.events.removed,
            viewer.layers.events.reordered,
        ):
            event.connect(self._on_layers)
        self.combo.changed.connect(self._on_layer)
        self.combo.native.activated.connect(self._on_activated)
        self._on_layers()

    @property
    def layer(self) -> Labels | None:
        """The layer that is chosen."""
        layer: Labels | None = self.combo.value
        return layer

    def required(self) -> Labels:
        """Give the layer that is chosen.

        Raises
        ------
        VolumeError
            If there is none; the message says what to do.
        """
        if self.layer is None:
            raise VolumeError(
                "Open a segmentation first: there is no labels layer of three axes (z, y, x)."
            )
        return self.layer

    def choose(self, layer: Labels) -> None:
        """Choose a layer as the person would."""
        self._chosen = layer
        self.combo.value = layer

    def _choices(self, _widget: object) -> list[tuple[str, Labels]]:
        return [
            (layer.name, layer)
            for layer in self._viewer.layers
            if isinstance(layer, Labels) and layer.ndim == 3
        ]

    def _fit(self, layer: Labels) -> tuple[bool, bool]:
        role = role_of(layer)
        return role not in self._avoid, role in self._prefer

    def _on_layers(self) -> None:
        self.combo.reset_choices()
        # until the person has chosen, a layer that fits better replaces the one that was there
        if self._chosen not in self.combo.choices and self.combo.choices:
            self._chosen = None
            self.combo.value = max(self.combo.choices, key=self._fit)
        self._on_layer()

    def _on_activated(self) -> None:
        self._chosen = self.layer

    def _on_layer(self) -> None:
        if self.layer is not self._shown:
            self._shown = self.layer
            self.changed.emit()
