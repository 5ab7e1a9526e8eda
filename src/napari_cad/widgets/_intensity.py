"""How the numbers of an image become intensities: a form for `IntensityMapping`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QWidget,
)

from napari_cad.core.intensity import IntensityMapping
from napari_cad.widgets._form import form_layout, tooltip

if TYPE_CHECKING:
    from collections.abc import Callable

_TOOLTIP = Qt.ItemDataRole.ToolTipRole

_METHODS = {
    None: ("As the checkpoint says", "For data other than uint8, percentiles of the volume."),
    "dtype": ("Range of the data type", "For uint8, value / 255, as published."),
    "percentiles": ("Percentiles of the volume", "Taken from a few sections."),
    "limits": ("Limits", "The values that count as black and white."),
}


class IntensityForm(QWidget):
    """Method, its numbers, and inversion.

    Parameters
    ----------
    contrast_limits : callable
        () → the contrast limits of the image that is chosen, or None.

    Attributes
    ----------
    changed : Signal
        (), when the mapping may be another one.
    """

    changed = Signal()

    def __init__(self, contrast_limits: Callable[[], tuple[float, float] | None]) -> None:
        super().__init__()
        self._contrast_limits = contrast_limits
        self.method = QComboBox()
        for name, (text, about) in _METHODS.items():
            self.method.addItem(text, name)
            self.method.setItemData(self.method.count() - 1, tooltip(about), _TOOLTIP)
        self.low, self.high = _number(-1e9, 1e9, 0), _number(-1e9, 1e9, 255)
        self.first, self.second = _number(0, 100, 0.1), _number(0, 100, 99.9)
        self.from_layer = QPushButton("Take from the layer")
        self.from_layer.setToolTip("Use the contrast limits with which the image is shown.")
        self.invert = QCheckBox("Bright membranes (invert)")
        self.invert.setToolTip(tooltip("The checkpoints expect membranes darker than cytoplasm."))
        self._limits = _pair(self.low, self.high)
        self._percentiles = _pair(self.first, self.second, QLabel("%"))
        self.method.setToolTip(tooltip("How the values of the image become black to white."))
        self._limits.setToolTip(tooltip("The values that count as black and as white."))
        self._percentiles.setToolTip(
            tooltip("Share of voxels that may be darker than black, and not brighter than white.")
        )
        layout = form_layout(self)
        layout.addRow("Method", self.method)
        layout.addRow("Black, white", self._limits)
        layout.addRow("", self.from_layer)
        layout.addRow("Percentiles", self._percentiles)
        layout.addRow(self.invert)
        self._layout = layout
        self.method.currentIndexChanged.connect(self._on_method)
        for box in (self.low, self.high, self.first, self.second):
            box.valueChanged.connect(self._on_changed)
        self.invert.toggled.connect(self._on_changed)
        self.from_layer.clicked.connect(self._on_from_layer)
        self._on_method()

    def value(self) -> IntensityMapping | None:
        """Give the mapping; None leaves it to the checkpoint.

        Raises
        ------
        ConfigError
            If the numbers make no range.
        """
        method, invert = self.method.currentData(), self.invert.isChecked()
        if method is None:
            return None
        if method == "limits":
            return IntensityMapping("limits", self.low.value(), self.high.value(), invert=invert)
        percentiles = (self.first.value(), self.second.value())
        return IntensityMapping(method, percentiles=percentiles, invert=invert)

    def set_value(self, mapping: IntensityMapping | None) -> None:
        """Show a mapping; None leaves it to the checkpoint."""
        self.blockSignals(True)
        self.method.setCurrentIndex(self.method.findData(mapping and mapping.method))
        if mapping is not None:
            if mapping.low is not None and mapping.high is not None:
                self.low.setValue(mapping.low)
                self.high.setValue(mapping.high)
            self.first.setValue(mapping.percentiles[0])
            self.second.setValue(mapping.percentiles[1])
            self.invert.setChecked(mapping.invert)
        self.blockSignals(False)
        self._on_changed()

    def _on_changed(self) -> None:
        if not self.signalsBlocked():
            self.changed.emit()

    def _on_method(self) -> None:
        method = self.method.currentData()
        for row, shown in (
            (self._limits, method == "limits"),
            (self.from_layer, method == "limits"),
            (self._percentiles, method == "percentiles"),
            (self.invert, method is not None),
        ):
            label = self._layout.labelForField(row)
            row.setVisible(shown)
            if label is not None:
                label.setVisible(shown)
        self._on_changed()

    def _on_from_layer(self) -> None:
        limits = self._contrast_limits()
        if limits is not None:
            self.low.setValue(limits[0])
            self.high.setValue(limits[1])


def _number(low: float, high: float, value: float) -> QDoubleSpinBox:
    box = QDoubleSpinBox()
    box.setDecimals(3)
    box.setRange(low, high)
    box.setValue(value)
    box.setStyleSheet("min-width: 40px")  # napari's style asks for more than there is
    box.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
    return box


def _pair(*widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return row
