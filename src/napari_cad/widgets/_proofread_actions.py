"""The actions of proofreading in the dock: buttons that show their keys, and a table of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QGridLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_cad.viewer.proofreading_actions import ACTIONS, Action
from napari_cad.viewer.proofreading_keys import KeyChoiceError, changed_keys, default_keys
from napari_cad.widgets._form import tooltip

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Buttons beside each other.
_COLUMNS = 2


class ActionButtons(QWidget):
    """Buttons for the actions of some groups, with their keys.

    Parameters
    ----------
    groups : str
        Of `Action`.

    Attributes
    ----------
    pressed : Signal
        (str), the name of an action.
    """

    pressed = Signal(str)

    def __init__(self, *groups: str) -> None:
        super().__init__()
        self.buttons: dict[str, QPushButton] = {}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        row = 0
        for group in groups:
            if len(groups) > 1:
                grid.addWidget(QLabel(group), row, 0, 1, _COLUMNS)
                row += 1
            actions = [action for action in ACTIONS if action.group == group]
            for i, action in enumerate(actions):
                grid.addWidget(self._button(action), row + i // _COLUMNS, i % _COLUMNS)
            row += -(-len(actions) // _COLUMNS)
        for column in range(_COLUMNS):
            grid.setColumnStretch(column, 1)

    def _button(self, action: Action) -> QPushButton:
        button = QPushButton(action.title)
        # keys go on to the viewer after a click, and Enter presses no button
        button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        button.clicked.connect(lambda _=False, name=action.name: self.pressed.emit(name))
        self.buttons[action.name] = button
        return button

    def show_keys(self, keys: Mapping[str, str]) -> None:
        """Write the keys on the buttons."""
        for action in ACTIONS:
            button = self.buttons.get(action.name)
            if button is not None:
                key = keys.get(action.name, "")
                button.setText(f"{action.title}  [{shown(key)}]" if key else action.title)
                button.setToolTip(tooltip(action.help))

    def allow(self, editing: bool, looking: bool) -> None:
        """Let the buttons be pressed that edit, and those that do not."""
        for action in ACTIONS:
            if action.name in self.buttons:
                self.buttons[action.name].setEnabled(editing if action.edits else looking)


class KeyTable(QWidget):
    """All actions with their keys: a cheat sheet whose keys can be written over.

    Attributes
    ----------
    changed : Signal
        (dict), action → key, when the person has given an action another key.
    refused : Signal
        (str), why a key cannot be given.
    """

    changed = Signal(dict)
    refused = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.table = QTableWidget(len(ACTIONS) + len(_MOUSE), 2)
        self.table.setHorizontalHeaderLabels(["Action", "Key"])
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.table.setShowGrid(False)
        headings, lines = self.table.horizontalHeader(), self.table.verticalHeader()
        if headings is not None and lines is not None:
            headings.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
            lines.setVisible(False)
            height = lines.fontMetrics().height() + 6
            lines.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
            lines.setDefaultSectionSize(height)
            self.table.setMinimumHeight(height * 14)
        self.reset_button = QPushButton("Keys as they were made")
        self.reset_button.setToolTip(tooltip("Give every action the key it came with."))
        self.reset_button.clicked.connect(lambda: self._use(default_keys()))
        about = QLabel("Double-click a key to give another one, such as Shift-D or Control-Z.")
        about.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (about, self.table, self.reset_button):
            layout.addWidget(widget)
        self._keys: dict[str, str] = {}
        self.table.itemChanged.connect(self._on_item)

    def show_keys(self, keys: Mapping[str, str]) -> None:
        """Show these keys."""
        self._keys = dict(keys)
        self.table.blockSignals(True)
        for row, (what, key, help_) in enumerate(_MOUSE):
            for column, text in enumerate((what, key)):
                self._put(row, column, text, help_, fixed=True)
        for row, action in enumerate(ACTIONS, len(_MOUSE)):
            self._put(row, 0, action.title, action.help, fixed=True)
            self._put(row, 1, keys.get(action.name, ""), action.help, fixed=False)
        self.table.resizeColumnToContents(1)
        self.table.blockSignals(False)

    def _put(self, row: int, column: int, text: str, help_: str, *, fixed: bool) -> None:
        item = QTableWidgetItem(text)
        item.setToolTip(tooltip(help_))
        flags = Qt.ItemFlag.ItemIsEnabled
        item.setFlags(flags if fixed else flags | Qt.ItemFlag.ItemIsEditable)
        self.table.setItem(row, column, item)

    def _on_item(self, item: QTableWidgetItem) -> None:
        action = ACTIONS[item.row() - len(_MOUSE)]
        try:
            self._use(changed_keys(self._keys, action.name, item.text()))
        except KeyChoiceError as error:
            self.show_keys(self._keys)
            self.refused.emit(str(error))

    def _use(self, keys: dict[str, str]) -> None:
        self.show_keys(keys)
        self.changed.emit(keys)


#: What the mouse does, beside the keys.
_MOUSE = (
    ("Select", "click", "Select the segment, in a section, in the volume in 3D or on a mesh."),
    ("Select more", "Shift-click", "Add a segment to the selection, or take it out."),
    ("Merge with selected", "Control-click", "Merge what is clicked into the selected segment."),
    ("Red seed", "click while cutting", "One side of the cut."),
    ("Blue seed", "right or Shift-click", "The other side of the cut."),
)


def shown(key: str) -> str:
    """Write a key as short as it can be read."""
    return key.replace("Control-", "Ctrl+").replace("Shift-", "⇧").replace("Escape", "Esc")
