"""The outside of a dock widget: parts below each other, scrolled where there is no room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QFormLayout, QFrame, QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

from napari_cad.viewer.jobs import JobsEndWith

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qtpy.QtCore import QObject
    from qtpy.QtGui import QShowEvent

#: Pixels left for a vertical scroll bar.
_SCROLL_BAR = 16

#: After these a widget may need another width.
_FITTING = (QEvent.Type.Show, QEvent.Type.LayoutRequest, QEvent.Type.StyleChange)


class ScrolledColumn(QScrollArea):
    """Scrolls one widget up and down, and is never narrower than it needs."""

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self.setWidget(content)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Fit the width when the content changes, or is told the viewer's style."""
        if event is not None and event.type() in _FITTING and watched is self.widget():
            content = self.widget()
            if content is not None:
                self.setMinimumWidth(content.minimumSizeHint().width() + _SCROLL_BAR)
        return super().eventFilter(watched, event)


class Column(QWidget):
    """A widget whose parts stand below each other, with the labels of all forms in one column."""

    def fill(
        self,
        *parts: QWidget | tuple[QWidget, ...],
        below: Sequence[QWidget | tuple[QWidget, ...]] = (),
    ) -> None:
        """Lay out the parts; those of a tuple stand side by side, those below stay in sight."""
        inside = QWidget()
        column = QVBoxLayout(inside)
        _add(column, parts)
        column.addStretch()
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(ScrolledColumn(inside))
        JobsEndWith(self)
        if below:
            pinned = QVBoxLayout()
            pinned.setContentsMargins(*_margins(column))
            _add(pinned, below)
            outer.addLayout(pinned)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Fit the labels, whose width is known now that the viewer's style applies."""
        super().showEvent(event)
        align_labels(self)


def _add(column: QVBoxLayout, parts: Sequence[QWidget | tuple[QWidget, ...]]) -> None:
    for part in parts:
        if isinstance(part, QWidget):
            column.addWidget(part)
            continue
        row = QHBoxLayout()
        for widget in part:
            row.addWidget(widget)
        column.addLayout(row)


def _margins(column: QVBoxLayout) -> tuple[int, int, int, int]:
    """Those of a column, but for the top, where the scrolled part ends."""
    margins = column.contentsMargins()
    return margins.left(), 0, margins.right(), margins.bottom()


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
