"""History and notes of a proofreading session: every edit of every branch, and the way to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.QtCore import QAbstractListModel, QModelIndex, Qt
from qtpy.QtGui import QColor, QFont
from qtpy.QtWidgets import QCheckBox, QLabel, QListView, QVBoxLayout, QWidget

from napari_cad.widgets._form import tooltip

if TYPE_CHECKING:
    from qtpy.QtGui import QShowEvent

    from napari_cad.proofreading.session import ProofreadingSession

_UNDONE = QColor(128, 128, 128)


class HistoryModel(QAbstractListModel):
    """The beginning, then all edits in the order of making; what is not in force is grey."""

    def __init__(self) -> None:
        super().__init__()
        self._session: ProofreadingSession | None = None
        self._rows: list[int] | None = None  # of some edits only
        self._n = 0
        self._in_force: frozenset[int] = frozenset()

    def show_session(self, session: ProofreadingSession | None) -> None:
        """Show another session."""
        self._session, self._rows = session, None
        self.follow(None)

    def follow(self, segment: int | None) -> None:
        """Follow the edits; with a segment, list those that made it what it is."""
        self.beginResetModel()
        session = self._session
        if session is None:
            self._n, self._rows, self._in_force = 0, None, frozenset()
        else:
            self._in_force = frozenset(session.history.path())
            self._rows = None if segment is None else [edit.id for edit in session.lineage(segment)]
            self._n = len(session.history.edits) + 1 if self._rows is None else len(self._rows)
        self.endResetModel()

    def edit_of(self, row: int) -> int:
        """Give the edit in a row; 0 = the beginning."""
        return row if self._rows is None else self._rows[row]

    def row_of(self, edit_id: int) -> int:
        """Give the row of an edit; −1 if it is not listed."""
        if self._rows is None:
            return edit_id
        return self._rows.index(edit_id) if edit_id in self._rows else -1

    # Qt asks for the following by these names

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Rows."""
        return self._n

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Text, colour or font of a row."""
        if self._session is None or not 0 <= index.row() < self._n:
            return None
        history, edit_id = self._session.history, self.edit_of(index.row())
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(edit_id)
        if role == Qt.ItemDataRole.ForegroundRole and edit_id and edit_id not in self._in_force:
            return _UNDONE
        if role == Qt.ItemDataRole.FontRole and edit_id == history.current:
            font = QFont()
            font.setBold(True)
            return font
        if role == Qt.ItemDataRole.ToolTipRole and edit_id:
            edit = history.edits[edit_id]
            return tooltip(f"{edit.describe()}<br>{edit.user}, {edit.time}")
        return None

    def _text(self, edit_id: int) -> str:
        if self._session is None or not edit_id:
            return "The beginning"
        edit = self._session.history.edits[edit_id]
        # a branch says where it leaves from
        branch = "" if edit.parent == edit_id - 1 else f"   ↳ after {edit.parent}"
        text = edit.describe()
        return f"{edit_id}. {text if len(text) < 90 else text[:89] + '…'}{branch}"


class HistoryPanel(QWidget):
    """Lists edits; a click goes to the state after one of them.

    Attributes
    ----------
    chosen : Signal
        (int), the edit to go to; 0 = the beginning.
    note_chosen : Signal
        (int), the number of a note to go to.
    """

    chosen = Signal(int)
    note_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.model = HistoryModel()
        self.view = QListView()
        self.view.setModel(self.model)
        self.view.setUniformItemSizes(True)
        self.view.setMinimumHeight(130)
        self.view.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # letters are keys of the session
        self.view.setToolTip(
            tooltip("Click an edit to go to the state after it. Grey: undone, and still there.")
        )
        self.lineage = QCheckBox("Only what made the selected segment")
        self.lineage.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.lineage.setToolTip(tooltip("List the lineage of the segment that is selected."))
        self.work = QLabel()
        self.work.setWordWrap(True)
        self.notes = QListView()
        self.note_model = NoteModel()
        self.notes.setModel(self.note_model)
        self.notes.setMinimumHeight(50)
        self.notes.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.notes.setToolTip(tooltip("Notes; click one to go there."))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.lineage, self.view, self.work, self.notes):
            layout.addWidget(widget)
        self._session: ProofreadingSession | None = None
        self._revision = (-1, -1, 0)
        self._segment: int | None = None
        self.view.clicked.connect(self._on_clicked)
        self.notes.clicked.connect(self._on_note)
        self.lineage.toggled.connect(self._on_toggled)

    def show_session(self, session: ProofreadingSession | None) -> None:
        """Show another session, or none."""
        self._session = session
        self._revision = (-1, -1, 0)
        self.model.show_session(session)
        self.note_model.show_session(session)
        self.work.clear()

    def follow(self, selection: list[int]) -> None:
        """Follow the edits and the selection."""
        session = self._session
        self._segment = selection[0] if selection else None
        if session is None or not self.isVisible():
            return
        segment = self._segment if self.lineage.isChecked() else None
        now = (len(session.history.edits), session.history.current, segment or 0)
        if now == self._revision:
            return
        self._revision = now
        self.model.follow(segment)
        self.note_model.show_session(session)
        row = self.model.row_of(session.history.current)
        if row >= 0:
            index = self.model.index(row)
            self.view.setCurrentIndex(index)
            self.view.scrollTo(index)
        self.work.setText(_work(session))

    def showEvent(self, event: QShowEvent | None) -> None:
        """Catch up with what was done while the panel was folded."""
        super().showEvent(event)
        self.follow([] if self._segment is None else [self._segment])

    def _on_clicked(self, index: QModelIndex) -> None:
        self.chosen.emit(self.model.edit_of(index.row()))

    def _on_note(self, index: QModelIndex) -> None:
        self.note_chosen.emit(self.note_model.number_of(index.row()))

    def _on_toggled(self) -> None:
        self._revision = (-1, -1, 0)
        self.follow([] if self._segment is None else [self._segment])


class NoteModel(QAbstractListModel):
    """The notes of a session."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[tuple[int, str]] = []

    def show_session(self, session: ProofreadingSession | None) -> None:
        """Show the notes as they are now."""
        self.beginResetModel()
        notes = () if session is None else session.decisions.notes.values()
        self._texts = [(note.number, note.text) for note in notes]
        self.endResetModel()

    def number_of(self, row: int) -> int:
        """Give the number of the note in a row."""
        return self._texts[row][0]

    # Qt asks for the following by these names

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Rows."""
        return len(self._texts)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Text of a row."""
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            number, text = self._texts[index.row()]
            return f"{number}. {text}"
        return None


def _work(session: ProofreadingSession) -> str:
    """Say how much was done, and how much is verified."""
    from napari_cad.proofreading.statistics import statistics

    now = statistics(session)
    minutes = now.active_seconds / 60
    text = f"{sum(now.edits.values())} edits in {minutes:.0f} min"
    if now.undone:
        text += f", {now.undone} undone"
    if now.verified_segments:
        text += f" · {now.verified_segments} verified ({now.verified_fraction:.1%} of the voxels)"
    return text
