"""The widget "Meshes", driven as a person would."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QStyle, QStyleOptionComboBox

from napari_cad.viewer.layers import tag

PATIENCE = 60_000


@pytest.fixture
def docked_meshes(make_napari_viewer_proxy, cache):
    viewer = make_napari_viewer_proxy()
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Meshes")
    return viewer, widget


def test_show_clear_and_export(docked_meshes, show_run, qtbot, tmp_path):
    viewer, widget = docked_meshes
    segments = show_run(viewer)
    viewer.dims.set_current_step(0, 1)
    sliders = viewer.dims.range
    widget.ids.setText("1")
    segments.selected_label = 3
    widget.add_button.click()
    widget.add_button.click()
    assert widget.ids.text() == "1, 3"
    widget.ids.setText("1, 3 99")
    widget.show_button.click()
    assert not widget.show_button.isEnabled()
    qtbot.waitUntil(widget.show_button.isEnabled, timeout=PATIENCE)
    assert widget.status.line.text() == (
        "2 segments in 3D, 1 is not there or too small for this detail."
    )
    qtbot.waitUntil(lambda: viewer.dims.ndisplay == 3, timeout=PATIENCE)
    assert not segments.visible  # it would have been read as a whole
    qtbot.waitUntil(lambda: widget.meshes.surface.visible, timeout=PATIENCE)
    viewer.dims.ndisplay = 2
    assert viewer.dims.current_step[0] == 1
    assert viewer.dims.range == sliders
    assert segments.visible
    assert not widget.meshes.surface.visible  # of which single triangles would be seen
    assert widget.meshes.surface.name == "stack segments meshes"
    widget.clear_button.click()
    assert widget.meshes.surface is None
    assert widget.ids.text() == ""
    widget.ids.setText("2;4")
    widget.format.setCurrentText("STL")
    widget.export(str(tmp_path / "meshes"))
    qtbot.waitUntil(widget.export_button.isEnabled, timeout=PATIENCE)
    assert widget.status.line.text() == "2 files written."
    assert sorted(path.name for path in (tmp_path / "meshes").iterdir()) == ["2.stl", "4.stl"]
    widget.ids.setText("2")
    widget.export(str(tmp_path / "meshes"))
    qtbot.waitUntil(widget.export_button.isEnabled, timeout=PATIENCE)
    assert widget.status.line.text() == "1 file written."


def test_proofread_segments_are_proposed(docked_meshes):
    viewer, widget = docked_meshes
    labels = np.ones((3, 6, 6), np.uint8)
    for role in ("segments", "proofread", "proofread_marks", "truth"):
        viewer.add_labels(labels, name=role, metadata=tag(role))
    assert widget.segmentation.layer.name == "proofread"


def test_the_kinds_of_detail_can_be_read(docked_meshes):
    _viewer, widget = docked_meshes
    box = widget.detail
    box.resize(220, box.sizeHint().height())  # in a dock of 320 pixels, beside the name of the row
    option = QStyleOptionComboBox()
    box.initStyleOption(option)
    room = box.style().subControlRect(
        QStyle.ComplexControl.CC_ComboBox, option, QStyle.SubControl.SC_ComboBoxEditField, box
    )
    for i in range(box.count()):
        assert box.fontMetrics().horizontalAdvance(box.itemText(i)) <= room.width()
        assert box.itemData(i, Qt.ItemDataRole.ToolTipRole)


def test_what_cannot_be_made_is_said(docked_meshes, qtbot, tmp_path, no_jobs_left):
    viewer, widget = docked_meshes
    widget.show_meshes()
    assert "no labels layer" in widget.status.line.text()
    viewer.add_labels(np.ones((3, 6, 6), int))
    widget.show_meshes()
    assert "Choose segments" in widget.status.line.text()
    widget.export(str(tmp_path))
    assert "Name the segments" in widget.status.line.text()
    assert widget.show_button.isEnabled()
    (tmp_path / "file").write_text("")
    widget.ids.setText("1")
    widget.export(str(tmp_path / "file"))
    qtbot.waitUntil(widget.export_button.isEnabled, timeout=PATIENCE)
    assert "cannot be made" in widget.status.line.text()
    widget.show_meshes()
    widget.cancel_button.click()
    assert widget.status.line.text() == "Stopped."
    no_jobs_left()
