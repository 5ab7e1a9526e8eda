"""The settings by which a student is fitted to a stack: a form for `FitConfig` and intensity."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDoubleSpinBox, QHBoxLayout, QPushButton, QVBoxLayout, QWidget
from superqt import QLabeledDoubleSlider

from napari_cad.core.config import FitConfig
from napari_cad.viewer.fits import ChosenFit
from napari_cad.widgets._form import Collapsible, form_layout, tooltip
from napari_cad.widgets._intensity import IntensityForm

if TYPE_CHECKING:
    from collections.abc import Callable

_FIELDS = {field.name: field for field in fields(FitConfig)}

#: Highest standard deviation on the slider, in voxels; the command line takes more.
_MOST_SMOOTHING = 4.0


class FitForm(QWidget):
    """Adaptation, smoothing, rescaling, contrast and polarity.

    Parameters
    ----------
    contrast_limits : callable
        () → the contrast limits of the image that is chosen, or None.

    Attributes
    ----------
    changed : Signal
        (), when a setting has changed.
    """

    changed = Signal()

    def __init__(self, contrast_limits: Callable[[], tuple[float, float] | None]) -> None:
        super().__init__()
        self.adapt = _slider("adapt", 1.0, 0.05, 2)
        self.smooth = _slider("smooth", _MOST_SMOOTHING, 0.1, 1)
        self.rescale = QDoubleSpinBox()
        metadata = _FIELDS["rescale"].metadata
        self.rescale.setRange(metadata["min"], metadata["max"])
        self.rescale.setDecimals(3)
        self.rescale.setSingleStep(0.05)
        self.rescale.setValue(1)
        self.rescale.setToolTip(tooltip(metadata["help"]))
        self.suggested = QPushButton()
        self.intensity = IntensityForm(contrast_limits)
        self._collapsible = Collapsible("Intensity", self.intensity)
        self._collapsible.button.setToolTip("Contrast and polarity.")
        rescaling = QWidget()
        row = QHBoxLayout(rescaling)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.rescale, 1)
        row.addWidget(self.suggested)
        sliders = QWidget()
        form = form_layout(sliders)
        form.addRow("Adapt", self.adapt)
        form.addRow("Smooth", self.smooth)
        form.addRow("Rescale", rescaling)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(sliders)
        layout.addWidget(self._collapsible)
        self._by_us = False
        self.suggest_rescale(None)
        for box in (self.adapt, self.smooth, self.rescale):
            box.valueChanged.connect(self._on_changed)
        self.intensity.changed.connect(self._on_changed)
        self.suggested.clicked.connect(self._on_suggested)

    def value(self) -> ChosenFit:
        """Give what is set.

        Raises
        ------
        ConfigError
            If the numbers of the intensity make no range.
        """
        fit = FitConfig(
            adapt=round(self.adapt.value(), 2),
            smooth=round(self.smooth.value(), 2),
            rescale=round(self.rescale.value(), 3),
        )
        return ChosenFit(fit, self.intensity.value())

    def set_value(self, chosen: ChosenFit) -> None:
        """Show settings; says so once."""
        self._by_us = True
        self.adapt.setValue(chosen.fit.adapt)
        self.smooth.setValue(chosen.fit.smooth)
        self.rescale.setValue(chosen.fit.rescale)
        self.intensity.set_value(chosen.intensity)
        self._collapsible.expand(chosen.intensity is not None)
        self._by_us = False
        self.changed.emit()

    def suggest_rescale(self, factor: float | None) -> None:
        """Offer the factor that gives the stack the checkpoint's voxel size; None: not known."""
        self._factor = None if factor is None else round(factor, 3)
        self.suggested.setEnabled(factor is not None)
        self.suggested.setText("" if factor is None else f"Suggested: {self._factor:g}")
        self.suggested.setVisible(factor is not None)
        self.suggested.setToolTip(
            tooltip(
                "Voxel size of the image over that of the checkpoint's training data: neurites "
                "become as large as the network knows them. Try 1 too."
            )
        )

    def _on_suggested(self) -> None:
        if self._factor is not None:
            self.rescale.setValue(self._factor)

    def _on_changed(self, _value: Any = None) -> None:
        if not self._by_us:
            self.changed.emit()


def _slider(name: str, highest: float, step: float, decimals: int) -> QLabeledDoubleSlider:
    slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
    slider.setRange(0, highest)
    slider.setSingleStep(step)  # type: ignore[arg-type]
    slider.setDecimals(decimals)
    slider.setValue(_FIELDS[name].default)
    unit = _FIELDS[name].metadata.get("unit")
    text = _FIELDS[name].metadata["help"]
    slider.setToolTip(tooltip(f"{text} In {unit}." if unit else text))
    return slider
