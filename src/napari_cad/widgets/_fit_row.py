"""One line in another widget: how the checkpoint is fitted, and the way to change that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSizePolicy, QToolButton, QWidget

from napari_cad.viewer.fits import ChosenFit
from napari_cad.viewer.state import state_of
from napari_cad.widgets._form import tooltip

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari.viewer
    from napari.layers import Image

#: The title of the widget, as it stands in the manifest.
TITLE = "Fit to the stack"


class FitRow(QWidget):
    """Shows what was chosen in “Fit to the stack” for an image and a checkpoint.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Whose widgets share the choice.
    chosen : callable
        () → (image layer or None, checkpoint), what it is about.

    Attributes
    ----------
    changed : Signal
        (), when another fit holds.
    """

    changed = Signal()

    def __init__(
        self, viewer: napari.viewer.Viewer, chosen: Callable[[], tuple[Image | None, str]]
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._chosen = chosen
        self._fit: ChosenFit | None = None
        self.line = QLabel()
        # a long line must not make the dock wider
        self.line.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.without = QToolButton()
        self.without.setText("✕")
        self.without.setToolTip("Use the checkpoint as it is.")
        self.open_button = QPushButton("Fit…")
        self.open_button.setToolTip(
            tooltip("Fit this checkpoint to this image: adaptation, smoothing, scale, contrast.")
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.line, 1)
        layout.addWidget(self.without)
        layout.addWidget(self.open_button)
        self.without.clicked.connect(self._on_without)
        self.open_button.clicked.connect(self.open)
        state_of(viewer).fit_chosen.connect(self.refresh)
        self._show()

    def value(self) -> ChosenFit | None:
        """Give the fit that holds, if there is one."""
        return self._fit

    def refresh(self) -> None:
        """Look again, after another image or checkpoint was chosen, or another fit."""
        fit = state_of(self._viewer).fit_for(*self._chosen())
        if fit != self._fit:
            self._fit = fit
            self._show()
            self.changed.emit()

    def open(self) -> None:
        """Bring up “Fit to the stack” with this image and this checkpoint."""
        layer, checkpoint = self._chosen()
        state = state_of(self._viewer)
        if layer is not None:
            state.choose_image(layer)
        state.choose_checkpoint(checkpoint)
        shown: list[object] = []
        state.fit_wanted.emit(shown)
        if not shown:
            self._viewer.window.add_plugin_dock_widget("napari-cad", TITLE)

    def _on_without(self) -> None:
        layer, checkpoint = self._chosen()
        if layer is not None:
            state_of(self._viewer).choose_fit(layer, checkpoint, None)

    def _show(self) -> None:
        text = str(self._fit or ChosenFit())
        self.line.setText(text)
        self.line.setToolTip(
            tooltip(f"How the checkpoint is fitted to the image, from “{TITLE}”: {text}.")
        )
        self.without.setVisible(self._fit is not None)
