"""The outside of a dock widget: parts below each other, scrolled where there is no room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFormLayout, QFrame, QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from qtpy.QtGui import QShowEvent

#: Pixels left for a vertical scroll bar.
_SCROLL_BAR = 16


class Column(QWidget):
    """A widget whose parts stand below each other, with the labels of all forms in one column."""

    def fill(self, *parts: QWidget | tuple[QWidget, ...]) -> None:
        """Lay out the parts; those of a tuple stand side by side."""
        inside = QWidget()
        column = QVBoxLayout(inside)
        for part in parts:
            if isinstance(part, QWidget):
                column.addWidget(part)
                continue
            row = QHBoxLayout()
            for widget in part:
                row.addWidget(widget)
            column.addLayout(row)
        column.addStretch()
        self._area = QScrollArea()
        self._area.setWidget(inside)
        self._area.setWidgetResizable(True)
        self._area.setFrameShape(QFrame.Shape.NoFrame)
        self._area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self._area)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Fit the labels and the width, which are known now that the viewer's style applies."""
        super().showEvent(event)
        labels = [
            item.widget()
            for form in self.findChildren(QFormLayout)
            for row in range(form.rowCount())
            if (item := form.itemAt(row, QFormLayout.ItemRole.LabelRole)) is not None
        ]
        known = [label for label in labels if label is not None]
        width = max((label.sizeHint().width() for label in known), default=0)
        for label in known:
            label.setMinimumWidth(width)
        content = self._area.widget()
        if content is not None:  # never narrower, since there is no horizontal scroll bar
            self._area.setMinimumWidth(content.minimumSizeHint().width() + _SCROLL_BAR)
