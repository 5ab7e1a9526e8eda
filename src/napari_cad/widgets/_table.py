"""Tables of columns: sorted by a click on a heading, a row chosen by a click on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from psygnal import Signal
from qtpy.QtCore import QAbstractTableModel, QItemSelectionModel, QModelIndex, Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QVBoxLayout, QWidget

from napari_cad.widgets._form import tooltip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

_NUMBER = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
_TEXT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter

#: Rows that are looked at to find the width of a column.
_LOOKED_AT = 50


class ColumnsModel(QAbstractTableModel):
    """Columns of one length; what is not on screen costs nothing, so a million rows are fine.

    Parameters
    ----------
    headings : mapping of str to str
        Name of each column → its tooltip.
    formats : mapping of str to callable, optional
        Name of a column → how its values are written.
    """

    def __init__(
        self, headings: Mapping[str, str], formats: Mapping[str, Callable[[Any], str]]
    ) -> None:
        super().__init__()
        self._names, self._tooltips = list(headings), list(headings.values())
        self._formats = formats
        self._columns: list[npt.NDArray[Any]] = [np.zeros(0) for _ in headings]
        self._order = np.zeros(0, np.intp)
        self._sorted_by: tuple[int, Qt.SortOrder] | None = None

    def set_columns(self, columns: Sequence[npt.NDArray[Any]]) -> None:
        """Show other columns, in the order of the headings, sorted as the person has chosen."""
        self.beginResetModel()
        self._columns = list(columns)
        self._order = np.arange(len(columns[0]))
        if self._sorted_by is not None:
            self._sort(*self._sorted_by)
        self.endResetModel()

    def row_of(self, index: int) -> int:
        """Which row of the columns stands in this line."""
        return int(self._order[index])

    def line_of(self, row: int) -> int:
        """In which line this row of the columns stands."""
        return int(np.flatnonzero(self._order == row)[0])

    # Qt asks for the following by these names

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Lines."""
        return len(self._order)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        """Columns."""
        return len(self._columns)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Text or alignment of a cell."""
        column = self._columns[index.column()]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _NUMBER if column.dtype.kind in "iuf" else _TEXT
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        name = self._names[index.column()]
        value = column[self._order[index.row()]]
        return self._formats[name](value) if name in self._formats else _text(value)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Heading of a column, or its tooltip."""
        if orientation == Qt.Orientation.Horizontal and section < len(self._names):
            if role == Qt.ItemDataRole.DisplayRole:
                return self._names[section]
            if role == Qt.ItemDataRole.ToolTipRole:
                return tooltip(self._tooltips[section])
        return None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort the lines; equal ones keep the order of the rows."""
        self.layoutAboutToBeChanged.emit()
        before, rows = self.persistentIndexList(), self._order
        self._sorted_by = (column, order)
        self._sort(column, order)
        # what is marked goes along to its new line
        line_of = np.empty(len(rows), np.intp)
        line_of[self._order] = np.arange(len(rows))
        after = [self.index(int(line_of[rows[i.row()]]), i.column()) for i in before]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()

    def _sort(self, column: int, order: Qt.SortOrder) -> None:
        if not 0 <= column < len(self._columns):
            self._order = np.arange(len(self._order))
            return
        values = self._columns[column]
        if values.dtype.kind == "O":
            values = values.astype(str)
        _, rank = np.unique(values, return_inverse=True)
        descending = order == Qt.SortOrder.DescendingOrder
        self._order = np.argsort(-rank if descending else rank, kind="stable")


class ColumnsTable(QWidget):
    """A table of `ColumnsModel`.

    Parameters
    ----------
    headings, formats
        See `ColumnsModel`.

    Attributes
    ----------
    chosen : Signal
        (int), the row of the columns that the person has clicked on or gone to by the keys.
    """

    chosen = Signal(int)

    def __init__(
        self,
        headings: Mapping[str, str],
        formats: Mapping[str, Callable[[Any], str]] | None = None,
    ) -> None:
        super().__init__()
        self.model = ColumnsModel(headings, formats or {})
        self.view = QTableView()
        self.view.setModel(self.model)
        self.view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.view.setShowGrid(False)
        self.view.setWordWrap(False)
        self.view.setSortingEnabled(True)
        headings_, lines = self.view.horizontalHeader(), self.view.verticalHeader()
        if headings_ is not None and lines is not None:
            headings_.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
            headings_.setStretchLastSection(True)
            headings_.setResizeContentsPrecision(_LOOKED_AT)
            lines.setVisible(False)
            lines.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
            lines.setDefaultSectionSize(lines.fontMetrics().height() + 6)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.view)
        self._selection = cast("QItemSelectionModel", self.view.selectionModel())
        self._selection.currentRowChanged.connect(self._on_current)
        self._by_us = False

    def set_columns(self, columns: Sequence[npt.NDArray[Any]]) -> None:
        """Show other columns, in the order of the headings."""
        self.model.set_columns(columns)
        self.view.resizeColumnsToContents()

    def choose(self, row: int) -> None:
        """Mark a row without saying so."""
        self._by_us = True
        self.view.selectRow(self.model.line_of(row))
        self._by_us = False

    def selected(self) -> list[int]:
        """Rows of the columns that are marked, in the order of the lines."""
        lines = sorted(index.row() for index in self._selection.selectedRows())
        return [self.model.row_of(line) for line in lines]

    def _on_current(self, current: QModelIndex, _previous: QModelIndex) -> None:
        if current.isValid() and not self._by_us:
            self.chosen.emit(self.model.row_of(current.row()))


def _text(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return "" if np.isnan(value) else f"{value:.3g}"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    return str(value)
