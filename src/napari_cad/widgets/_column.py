"""The outside of a dock widget: parts below each other, scrolled where there is no room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFormLayout, QFrame, QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from qtpy.QtGui import QShowEvent

#: Pixels left for a vertical scroll bar.
_SCROLL_BAR = 16


class ScrolledColumn(QScrollArea):
    """Scrolls one widget up and down, and is never narrower than it needs."""

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self.setWidget(content)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Fit the width, which is known now that the viewer's style applies."""
        super().showEvent(event)
        content = self.widget()
        if content is not None:
            self.setMinimumWidth(content.minimumSizeHint().width() + _SCROLL_BAR)


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
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(ScrolledColumn(inside))

    def showEvent(self, event: QShowEvent | None) -> None:
        """Fit the labels, whose width is known now that the viewer's style applies."""
        super().showEvent(event)
        align_labels(self)


def align_labels(widget: QWidget) -> None:
    """Give the labels of all forms inside one width, so that the fields stand in one column."""
    items = [
        form.itemAt(row, QFormLayout.ItemRole.LabelRole)
        for form in widget.findChildren(QFormLayout)
        for row in range(form.rowCount())
    ]
    labels = [label for item in items if item is not None and (label := item.widget()) is not None]
    width = max((label.sizeHint().width() for label in labels), default=0)
    for label in labels:
        label.setMinimumWidth(width)
