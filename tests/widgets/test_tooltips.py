"""Every control of every widget says what it does."""

from __future__ import annotations

from pathlib import Path

import pytest
from npe2 import PluginManifest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QHeaderView,
    QLineEdit,
    QScrollBar,
    QTabBar,
    QTableView,
    QWidget,
)

import napari_cad

MANIFEST = PluginManifest.from_file(Path(napari_cad.__file__).parent / "napari.yaml")
TITLES = [widget.display_name for widget in MANIFEST.contributions.widgets]
CONTROLS = (QAbstractButton, QAbstractSlider, QAbstractSpinBox, QComboBox, QLineEdit)


def is_explained(control: QWidget, widget: QWidget) -> bool:
    """Whether it, or what it is a part of, has a tooltip: Qt asks the parents in turn."""
    while control is not None and control is not widget:
        if control.toolTip():
            return True
        control = control.parentWidget()
    return False


def without_tooltip(widget: QWidget) -> list[str]:
    """Name the controls that say nothing."""
    found = []
    for control in widget.findChildren(QWidget):
        if isinstance(control, QTabBar):
            tabs = range(control.count())
            found += [control.tabText(i) for i in tabs if not control.tabToolTip(i)]
        elif isinstance(control, CONTROLS) and not isinstance(control, QScrollBar):
            # scroll buttons of tabs, the corner of a table
            inner = isinstance(control.parentWidget(), (QTabBar, QHeaderView, QTableView))
            if not inner and not is_explained(control, widget):
                text = control.text() if hasattr(control, "text") else ""
                found.append(f"{type(control).__name__} {text!r}")
    return found


@pytest.mark.parametrize("title", TITLES)
def test_every_control_has_a_tooltip(title, make_napari_viewer_proxy, cache):
    viewer = make_napari_viewer_proxy()
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", title)
    if title == "Workbench":  # the widgets in its panels have tests of their own
        assert all(len(panel.widgets) == len(panel.step.parts) for panel in widget.panels)
    assert widget.findChildren(CONTROLS), "a widget without controls"
    assert without_tooltip(widget) == []


def test_a_control_without_one_is_found(qtbot):
    widget = QWidget()
    qtbot.addWidget(widget)
    box = QComboBox(widget)
    assert without_tooltip(widget) == ["QComboBox ''"]
    box.setToolTip("chooses")
    assert without_tooltip(widget) == []
