"""The widget "Segments and contacts", driven as a person would."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from qtpy.QtCore import QItemSelectionModel, Qt

from napari_cad.viewer.embedding_layers import camera_of
from napari_cad.viewer.layers import find_layer

PATIENCE = 60_000
VOXEL = (30.0, 6.0, 7.0)
ORIGIN = (60.0, 12.0, 14.0)


@pytest.fixture
def docked_measure(make_napari_viewer_proxy, cache):
    viewer = make_napari_viewer_proxy()
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Segments and contacts")
    return viewer, widget


def measure(widget, qtbot):
    widget.measure_button.click()
    assert widget.runner.running, widget.status.line.text()
    qtbot.waitUntil(widget.measure_button.isEnabled, timeout=PATIENCE)
    assert "segments" in widget.status.line.text(), widget.status.details.toPlainText()


def cells(table):
    model = table.model
    return [
        [model.data(model.index(row, column)) for column in range(model.columnCount())]
        for row in range(model.rowCount())
    ]


def test_segments_contacts_meshes_and_files(docked_measure, show_run, run, qtbot, tmp_path):
    viewer, widget = docked_measure
    segments = show_run(viewer)
    assert not widget.save_button.isEnabled()
    measure(widget, qtbot)
    # a quadrant of 16 × 20 voxels through six sections, in contact with the two beside it
    volume = 6 * 16 * 20 * 0.03 * 0.006 * 0.007
    rows = cells(widget.segments)
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0][1:] == [f"{volume:.3g}", "6", "2", rows[0][4], "1,920", "6", "0 0 0", "5 15 19"]
    # a click goes there, and asks for the contacts
    widget.segments.view.selectRow(3)
    qtbot.waitUntil(lambda: segments.selected_label == 4, timeout=PATIENCE)
    world = np.array(ORIGIN) + np.round([2.5, 23.5, 29.5]) * VOXEL
    np.testing.assert_allclose(viewer.dims.point, world)
    qtbot.waitUntil(lambda: widget.contacts.model.rowCount() > 0, timeout=PATIENCE)
    assert {row[0] for row in cells(widget.contacts)} == {"2", "3"}
    assert widget.contacts_title.text() == "Contacts of segment 4"
    widget.contacts.view.selectRow(0)
    assert camera_of(viewer).center[-1] != world[-1]
    # sorted
    widget.segments.view.sortByColumn(0, Qt.SortOrder.DescendingOrder)
    assert cells(widget.segments)[0][0] == "4"
    # files
    widget.save(str(tmp_path / "segments.csv"))
    widget.save(str(tmp_path / "contacts.graphml"), contacts=True)
    qtbot.waitUntil(lambda: "graphml" in widget.status.line.text(), timeout=PATIENCE)
    with (tmp_path / "segments.csv").open() as stream:
        assert [row["segment"] for row in csv.DictReader(stream)] == ["1", "2", "3", "4"]
    assert "graphml" in (tmp_path / "contacts.graphml").read_text()
    # another threshold, by itself
    segments.visible = False
    segments.data.set_lut(run.lut(0.1))
    qtbot.waitUntil(lambda: widget.segments.model.rowCount() == 24, timeout=PATIENCE)
    # surfaces
    flag = QItemSelectionModel.SelectionFlag
    for line in (0, 1):
        index = widget.segments.model.index(line, 0)
        widget.segments._selection.select(index, flag.Select | flag.Rows)
    chosen = [widget._segments.id[row] for row in widget.segments.selected()]
    widget.mesh_button.click()
    qtbot.waitUntil(lambda: widget.meshes.surface is not None, timeout=PATIENCE)
    assert widget.meshes.ids == tuple(chosen)
    qtbot.waitUntil(lambda: viewer.dims.ndisplay == 3, timeout=PATIENCE)
    viewer.layers.remove(segments)
    assert widget.segments.model.rowCount() == 0
    assert not widget.runner.running


def test_labels_from_elsewhere(docked_measure, qtbot):
    viewer, widget = docked_measure
    labels = np.zeros((3, 10, 12), np.uint64)
    labels[:, 2:8, 2:6], labels[:, 2:8, 6:9] = 2**40, 7
    viewer.add_labels(labels, scale=(2, 1, 1), units=("um",) * 3)
    measure(widget, qtbot)
    rows = cells(widget.segments)
    assert [row[0] for row in rows] == ["7", str(2**40)]
    assert float(rows[0][1]) == 3 * 6 * 3 * 2
    assert rows[0][3] == "1"
    # to the other one, and to the background
    assert float(rows[0][4]) == 3 * (6 + 6 + 3 + 3) * 2
    widget.segments.view.selectRow(0)
    qtbot.waitUntil(lambda: widget.contacts.model.rowCount() == 1, timeout=PATIENCE)
    assert cells(widget.contacts)[0][:3] == [str(2**40), "36", "18"]


def test_what_cannot_be_measured_is_said(docked_measure, no_jobs_left):
    viewer, widget = docked_measure
    widget.measure()
    assert "no labels layer" in widget.status.line.text()
    viewer.add_labels(np.ones((3, 4, 5), int))
    widget.show_meshes()
    assert "Select segments" in widget.status.line.text()
    widget.measure()
    widget.cancel_button.click()
    assert widget.status.line.text() == "Stopped."
    assert widget.measure_button.isEnabled()
    no_jobs_left()


def test_closing_the_viewer_ends_the_job(make_napari_viewer, cache, no_jobs_left):
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Segments and contacts")
    viewer.add_labels(np.ones((3, 4, 5), int))
    widget.measure()
    viewer.close()
    no_jobs_left()


def test_meshes_follow_what_changes(docked_measure, show_run, run, qtbot):
    """Only what changed is made again."""
    viewer, widget = docked_measure
    segments = show_run(viewer)
    lut = run.lut()
    widget.meshes.show(segments, [1, 2])
    qtbot.waitUntil(lambda: widget.meshes.surface is not None, timeout=PATIENCE)
    cache = widget.meshes._cache
    first = dict(widget.meshes._meshes.items())
    assert len(cache.keys()) == 2
    lut = lut.copy()
    lut[lut == 4] = 2  # quadrant 4 goes to quadrant 2
    segments.data.set_lut(lut)
    qtbot.waitUntil(lambda: len(cache.keys()) == 3, timeout=PATIENCE)
    qtbot.waitUntil(lambda: not widget.meshes.runner.running, timeout=PATIENCE)
    assert widget.meshes._meshes[1] is first[1]
    assert widget.meshes._meshes[2].volume() > 1.8 * first[2].volume()
    surface = find_layer(viewer, "meshes", str(run.path))
    # where the segment is in the world, in the colour that it has in the labels layer
    corners = [
        surface.data_to_world(corner) for corner in (surface.data[0].min(0), surface.data[0].max(0))
    ]
    low = segments.data_to_world((-0.5, -0.5, -0.5))
    high = segments.data_to_world((5.5, 31.5, 39.5))
    np.testing.assert_allclose(corners, [low, high], atol=30)
    assert {tuple(c) for c in surface.vertex_colors.round(3)} == {
        tuple(np.float32(segments.get_color(i)).round(3)) for i in (1, 2)
    }
