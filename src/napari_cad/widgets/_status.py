"""How a run is doing: a bar, a line, warnings, and details of a failure when asked for."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QProgressBar,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

_FAILED = "color: #e5534b"
_WARNED = "color: #d4a72c"


class RunStatus(QWidget):
    """Shows one run at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(8)
        self.line = _text()
        self.details_button = QToolButton()
        self.details_button.setText("Details")
        self.details_button.setCheckable(True)
        self.details_button.setToolTip("Show all that is known of the failure, to report it.")
        self.details = QPlainTextEdit()
        self.details.setReadOnly(True)
        self.details.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.details.setMinimumHeight(140)
        self.warnings = _text()
        self.warnings.setStyleSheet(_WARNED)
        row = QHBoxLayout()
        row.addWidget(self.line, 1)
        row.addWidget(self.details_button, 0, Qt.AlignmentFlag.AlignTop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.bar)
        layout.addLayout(row)
        layout.addWidget(self.warnings)
        layout.addWidget(self.details)
        self.details_button.toggled.connect(self.details.setVisible)
        self.clear()

    def clear(self) -> None:
        """Forget the last run."""
        self._warned: list[str] = []
        self.warnings.setVisible(False)
        self._say("")
        self.bar.setVisible(False)

    def running(self, text: str, done: int = 0, total: int = 0) -> None:
        """Show that it goes on; without a total the bar only moves."""
        self._say(text)
        self.bar.setVisible(True)
        # Qt would paint the whole window at once, and not when there is time for it
        self.bar.setUpdatesEnabled(False)
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        self.bar.setUpdatesEnabled(True)

    def ended(self, text: str) -> None:
        """Show how it ended, if not by a failure."""
        self._say(text)
        self.bar.setVisible(False)

    def failed(self, text: str, details: str = "") -> None:
        """Show a failure in one line that a person understands, the rest on request."""
        self._say(text, _FAILED)
        self.bar.setVisible(False)
        self.details.setPlainText(details)
        self.details_button.setVisible(bool(details))

    def warn(self, message: str) -> None:
        """Add a warning; the run goes on."""
        if message not in self._warned:
            self._warned.append(message)
        self.warnings.setText("\n".join(f"⚠ {text}" for text in self._warned))
        self.warnings.setVisible(True)

    def _say(self, text: str, style: str = "") -> None:
        self.line.setText(text)
        self.line.setStyleSheet(style)
        self.details_button.setChecked(False)
        self.details_button.setVisible(False)
        self.details.setVisible(False)


def _text() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label
