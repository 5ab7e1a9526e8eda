"""Which errors have an arrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QSpinBox, QWidget

from napari_cad.widgets._form import tooltip

if TYPE_CHECKING:
    from napari_cad.core.error_report import ErrorReport


class ArrowChoice(QWidget):
    """How many errors, the worst first, and of which kinds.

    Attributes
    ----------
    changed : Signal
        (), when another choice is made.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.number = QSpinBox()
        self.number.setRange(0, 1000)
        self.number.setValue(50)
        self.number.setStyleSheet("min-width: 40px")  # napari's style asks for more than there is
        self.number.setButtonSymbols(QSpinBox.ButtonSymbols.NoButtons)
        self.number.setToolTip(tooltip("So many of the errors that cost most have an arrow."))
        self.kinds = {kind: QCheckBox(f"{kind}s") for kind in ("split", "merge")}
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QLabel("Arrows at the worst"))
        row.addWidget(self.number)
        self.number.valueChanged.connect(self._on_changed)
        for kind, box in self.kinds.items():
            box.setToolTip(f"Arrows at {kind} errors")
            box.setChecked(True)
            box.toggled.connect(self._on_changed)
            row.addWidget(box)
        row.addStretch()

    def of(self, report: ErrorReport) -> list[int]:
        """Give the numbers, from 1, of the errors of a report that have an arrow."""
        kinds = [kind for kind, box in self.kinds.items() if box.isChecked()]
        numbers = [n for n, error in enumerate(report.errors, 1) if error.kind in kinds]
        return numbers[: self.number.value()]

    def _on_changed(self) -> None:
        self.changed.emit()
