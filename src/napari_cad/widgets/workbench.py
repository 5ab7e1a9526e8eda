"""The dock widget "Workbench": all steps of the work below each other, one of them open."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.compat import isalive
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QTabWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel

from napari_cad.viewer.jobs import JobsEndWith
from napari_cad.viewer.state import state_of
from napari_cad.widgets._column import Column, ScrolledColumn
from napari_cad.widgets._form import tooltip
from napari_cad.widgets._steps import STEPS

if TYPE_CHECKING:
    import napari.viewer
    from qtpy.QtGui import QMouseEvent

    from napari_cad.viewer.state import StepReport
    from napari_cad.widgets._steps import Part, Step

_HEADER = "QFrame#step { background: rgba(128, 128, 128, 40); border-radius: 4px; }"
_RUNNING = "color: #539bf5"
#: Pixels of a header: about what the widest widget takes.
_NARROWEST = 370


class Workbench(QWidget):
    """The steps as panels, in the order of work; a panel's widget is made when it is first opened.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer that it is docked in.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.panels = [StepPanel(viewer, number, step) for number, step in enumerate(STEPS, 1)]
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(4, 4, 4, 4)
        self._column.setSpacing(4)
        for panel, after in zip(self.panels, [*self.panels[1:], None], strict=True):
            self._column.addWidget(panel)
            panel.toggled.connect(self._on_toggled)
            if after is not None:
                panel.lead_on(after)
        self._column.addStretch()
        self._running: set[str] = set()  # steps that a job is said to be at
        JobsEndWith(self)
        viewer.layers.events.inserted.connect(self._on_layer)
        viewer.layers.events.removed.connect(self.update_lines)
        for layer in viewer.layers:
            layer.events.data.connect(self.update_lines)
        state = state_of(viewer)
        state.image_chosen.connect(self.update_lines)
        state.step_reported.connect(self._on_report)
        state.fit_wanted.connect(self._on_fit_wanted)
        for panel in self.panels:
            for name in panel.step.reports:
                said = state.report_of(name)
                if said is not None:
                    panel.remember(name, said)
        self.update_lines()
        self.panels[0].expand()

    def update_lines(self) -> None:
        """Say of every step how far it is."""
        for panel in self.panels:
            panel.update_line()

    def _on_fit_wanted(self, shown: list[object]) -> None:
        """Open the panel with the widget for fitting."""
        if isalive(self) and self.isVisible():  # type: ignore[no-untyped-call]
            shown.append(self)
            self.panels[0].show_part(1)

    def _on_report(self, name: str) -> None:
        report = state_of(self._viewer).report_of(name)
        if report is None:
            return
        begun = report.running and name not in self._running
        (self._running.add if report.running else self._running.discard)(name)
        for panel in self.panels:
            panel.remember(name, report)
            # the beginning of one step may have others wait, its end lets them begin
            if name in panel.step.reports or begun or not report.running:
                panel.update_line()

    def _on_layer(self, event: Any) -> None:
        event.value.events.data.connect(self.update_lines)
        self.update_lines()

    def _on_toggled(self, chosen: StepPanel) -> None:
        """Leave one panel open, with all the room that there is."""
        for panel in self.panels:
            if panel is not chosen and chosen.is_open:
                panel.expand(False)
            self._column.setStretchFactor(panel, int(panel.is_open))


class StepPanel(QWidget):
    """One step: a header with its state in one line, and its widgets below when it is open.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer that the widgets work in.
    number : int
        Its place in the order of work, from 1.
    step : Step
        What it is.

    Attributes
    ----------
    toggled : Signal
        (StepPanel), when it has been opened or closed.
    """

    toggled = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, number: int, step: Step) -> None:
        super().__init__()
        self._viewer = viewer
        self.step = step
        self.button = QToolButton()
        self.button.setText(f"{number}  {step.title}")
        self.button.setCheckable(True)
        self.button.setAutoRaise(True)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.setArrowType(Qt.ArrowType.RightArrow)
        self.button.setStyleSheet("font-weight: bold; background: transparent")
        self.line = QElidingLabel()
        self._content = QWidget()
        self._content.setVisible(False)
        # without a parent it would be a window of its own, before it is laid out
        self.next_button = QPushButton(self._content)
        self.next_button.setToolTip("Go on with the next step.")
        self.next_button.setVisible(False)
        self._earlier: StepReport | None = None
        self._parts: list[QWidget | None] = [None] * len(step.parts)
        self._tabs: QTabWidget | None = None
        self._next: StepPanel | None = None
        self._lay_out()
        self.button.clicked.connect(self.expand)

    def _lay_out(self) -> None:
        header = _Header(self.button)
        header.setMinimumWidth(_NARROWEST)
        header.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        column = QVBoxLayout(header)
        column.setContentsMargins(2, 2, 2, 2)
        column.setSpacing(0)
        column.addWidget(self.button)
        below = QHBoxLayout()  # margins of the label itself would not count when it is elided
        below.setContentsMargins(22, 0, 4, 2)
        below.addWidget(self.line)
        column.addLayout(below)
        self._inside = QVBoxLayout(self._content)
        self._inside.setContentsMargins(0, 0, 0, 0)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(header)
        layout.addWidget(self._content, 1)
        layout.addStretch()

    @property
    def is_open(self) -> bool:
        """Whether its widgets are shown."""
        return self.button.isChecked()

    @property
    def widgets(self) -> list[QWidget | None]:
        """The widgets of its parts; None where one has not been opened yet."""
        return list(self._parts)

    def lead_on(self, following: StepPanel) -> None:
        """Offer the step that comes after this one at the end of the panel."""
        self._next = following
        self.next_button.setText(f"Next: {following.step.title}")
        self.next_button.setVisible(True)
        self.next_button.clicked.connect(self._on_next)

    def expand(self, shown: bool = True) -> None:
        """Open or close it."""
        was = not self._content.isHidden()
        self.button.setChecked(shown)
        self.button.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        if shown and self._inside.isEmpty():
            self._fill()
        self._content.setVisible(shown)
        self.update_line()
        if shown != was:
            self.toggled.emit(self)

    def show_part(self, index: int) -> QWidget | None:
        """Open it at one of its parts, and give the widget."""
        self.expand()
        if self._tabs is not None:
            self._tabs.setCurrentIndex(index)
        return self._parts[index]

    def remember(self, name: str, report: StepReport) -> None:
        """Keep what is said of a step, for when its widget has no more to say."""
        if name in self.step.reports:
            if report.text and not report.running:
                self._earlier = report
            return
        anew = report.run if name == "segment" and report.running else None
        if anew is not None and self._earlier is not None and self._earlier.run == anew:
            self._earlier = None

    def update_line(self) -> None:
        """Say how far the step is, and let it be opened when there is what it needs."""
        text, running = self.step.state(self._viewer, self._earlier)
        lacking = self.step.lacking(self._viewer)
        self.line.setText(text)
        self.line.setToolTip(tooltip(text))
        self.line.setStyleSheet(_RUNNING if running else "")
        self.line.setEnabled(not lacking or running)
        # what is open stays usable: a job may go on without the layer that it began with
        self.button.setEnabled(self.is_open or not lacking)
        self.button.setToolTip(tooltip(_sentence(lacking) or "Open or close it."))
        if self._next is not None:
            lacking = self._next.step.lacking(self._viewer)
            self.next_button.setEnabled(not lacking)
            self.next_button.setToolTip(tooltip(_sentence(lacking) or "Go on with the next step."))

    def _fill(self) -> None:
        if len(self.step.parts) == 1:
            self._inside.addWidget(self._build(0))
        else:
            self._tabs = QTabWidget()
            for index, part in enumerate(self.step.parts):
                page = QWidget()
                QVBoxLayout(page).setContentsMargins(0, 0, 0, 0)
                self._tabs.addTab(page, part.title)
                self._tabs.setTabToolTip(index, part.about)
            self._tabs.currentChanged.connect(self._on_tab)
            self._on_tab(0)
            self._inside.addWidget(self._tabs)
        row = QHBoxLayout()
        row.addStretch()
        row.addWidget(self.next_button)
        self._inside.addLayout(row)

    def _on_tab(self, index: int) -> None:
        if self._tabs is not None and self._parts[index] is None:
            page = self._tabs.widget(index)
            layout = None if page is None else page.layout()
            if layout is not None:
                layout.addWidget(self._build(index))

    def _build(self, index: int) -> QWidget:
        """Make the widget of a part; scrolled, unless it scrolls by itself."""
        widget = self._parts[index] = _make(self.step.parts[index], self._viewer)
        return widget if isinstance(widget, Column) else ScrolledColumn(widget)

    def _on_next(self) -> None:
        if self._next is not None:
            self._next.expand()


class _Header(QFrame):
    """Behaves as its button, wherever it is clicked."""

    def __init__(self, button: QToolButton) -> None:
        super().__init__()
        self._button = button
        self.setObjectName("step")
        self.setStyleSheet(_HEADER)

    def mouseReleaseEvent(self, event: QMouseEvent | None) -> None:
        """Press the button."""
        super().mouseReleaseEvent(event)
        self._button.click()


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _make(part: Part, viewer: napari.viewer.Viewer) -> QWidget:
    module, _, name = part.python_name.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        return QLabel(f"{part.title} is not there in this version.")
    widget: QWidget = getattr(found, name)(viewer)
    return widget
