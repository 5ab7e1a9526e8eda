"""The widget "Evaluate", driven as a person would."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtCore import Qt, QTimer

from napari_cad.core.errors import ShapeError
from napari_cad.viewer.embedding_layers import camera_of
from napari_cad.viewer.error_layers import aligned_truth, go_to
from napari_cad.viewer.layer_data import LutLabels
from napari_cad.viewer.layers import find_layer, tag
from napari_cad.viewer.placement import Placement

PATIENCE = 60_000
SHAPE = (6, 32, 40)
VOXEL = (30.0, 6.0, 7.0)
ORIGIN = (60.0, 12.0, 14.0)


@pytest.fixture
def truth():
    """The upper quadrants are one neurite; the lower left one is two, one above the other."""
    labels = np.zeros(SHAPE, np.uint16)
    labels[:, :16] = 10
    labels[:3, 16:, :20], labels[3:, 16:, :20] = 20, 30
    labels[:, 16:, 20:] = 40
    return labels


@pytest.fixture
def docked_evaluate(make_napari_viewer_proxy, cache):
    viewer = make_napari_viewer_proxy()
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Evaluate")
    return viewer, widget


@pytest.fixture
def ready(docked_evaluate, show_run, truth):
    """A run and its truth in a viewer, with the widget docked."""
    viewer, widget = docked_evaluate
    show_run(viewer)
    viewer.add_labels(
        truth,
        name="truth",
        metadata=tag("truth"),
        **Placement.of_volume(VOXEL, ORIGIN).for_axes(3),
    )
    return viewer, widget


def evaluate(widget, qtbot):
    widget.least_voxels.setValue(10)
    widget.evaluate_button.click()
    assert widget.runner.running, widget.status.line.text()
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    assert not widget.status.details.toPlainText(), widget.status.details.toPlainText()
    wait_for_layers(widget, qtbot)


def wait_for_layers(widget, qtbot):
    qtbot.waitUntil(lambda: not widget._turns.busy, timeout=PATIENCE)


def test_from_the_form_to_tables_and_arrows(ready, qtbot, run):
    viewer, widget = ready
    assert widget.segmentation.layer.name == "stack segments"
    assert widget.truth.layer.name == "truth"
    evaluate(widget, qtbot)
    assert "VOI 1.000" in widget.scores.text() or "VOI 0.750" in widget.scores.text()
    model = widget.tables.errors.model
    assert model.rowCount() == 2
    cells = [[model.data(model.index(row, column)) for column in range(8)] for row in range(2)]
    assert {row[1] for row in cells} == {"split", "merge"}
    split, merge = sorted(cells, key=lambda row: row[1], reverse=True)
    assert split[4] == "10"
    assert set(split[5].split(" | ")) == {"1", "2"}
    assert set(merge[4].split(" | ")) == {"20", "30"}
    assert merge[5] == "3"
    assert merge[6].startswith("3 ")  # the contact between sections 2 and 3
    assert widget.tables.neurites.model.rowCount() == 1
    assert widget.tables.segments.model.rowCount() == 1
    arrows = find_layer(viewer, "error_arrows", str(run.path))
    places = find_layer(viewer, "error_places", str(run.path))
    segments = viewer.layers["stack segments"]
    for layer in (arrows, places):
        assert layer.scale[0] == segments.scale[0]  # the viewer steps by section
        np.testing.assert_allclose(layer.translate, segments.translate)
        assert layer.units == segments.units
        assert layer.axis_labels == segments.axis_labels
        assert list(layer.features["number"]) == [1, 2]
        assert set(layer.features["error"]) == {"split", "merge"}
    np.testing.assert_allclose(
        [places.data_to_world(place) for place in places.data],
        [segments.data_to_world(error.position) for error in widget.shown.report.errors],
    )
    np.testing.assert_allclose(arrows.data[:, 0, 0], places.data[:, 0])
    assert (arrows.data[:, 1, 0] == 0).all()  # within their section
    # and within the stack, for another extent has napari read all other layers again
    assert (arrows.extent.world[0] >= segments.extent.world[0]).all()
    assert (arrows.extent.world[1] <= segments.extent.world[1]).all()
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2


def test_arrows_are_seen_in_3d(ready, qtbot, run):
    viewer, widget = ready
    evaluate(widget, qtbot)
    sliders = viewer.dims.range
    viewer.dims.set_current_step(0, 4)
    widget.mesh_button.click()
    qtbot.waitUntil(lambda: viewer.dims.ndisplay == 3, timeout=PATIENCE)
    assert widget.status.line.text() == "3 segments in 3D."
    layers = widget.shown.layers
    qtbot.waitUntil(lambda: layers.places.visible, timeout=PATIENCE)
    wait_for_layers(widget, qtbot)
    order = [find_layer(viewer, "meshes", str(run.path)), layers.arrows, layers.places]
    assert list(viewer.layers)[-3:] == order  # drawn after the surfaces, and through them
    assert layers.arrows.blending == layers.places.blending == "translucent_no_depth"
    viewer.dims.ndisplay = 2
    assert viewer.dims.range == sliders
    assert viewer.dims.current_step[0] == 4


def test_proofread_segments_are_proposed(ready, qtbot, truth):
    viewer, widget = ready
    evaluate(widget, qtbot)
    for role in ("proofread_marks", "proofread"):
        viewer.add_labels(truth, name=role, metadata=tag(role, "session"))
    assert widget.segmentation.layer.name == "proofread"
    assert widget.truth.layer.name == "truth"
    assert widget.status.line.text() == "proofread has not been evaluated."
    viewer.layers.remove("truth")
    assert widget.truth.layer.name not in ("proofread", "proofread_marks")
    widget.segmentation.choose(viewer.layers["stack segments"])
    assert widget.status.line.text() == ""


def test_a_click_on_a_row_goes_there(ready, qtbot):
    viewer, widget = ready
    evaluate(widget, qtbot)
    errors = widget.shown.report.errors
    for row, error in enumerate(errors):
        widget.tables.errors.view.selectRow(row)
        world = np.array(ORIGIN) + np.array(error.position) * VOXEL
        assert viewer.dims.point[0] == world[0]
        np.testing.assert_allclose(camera_of(viewer).center[-2:], world[1:])
        qtbot.waitUntil(lambda: not widget._going.busy, timeout=PATIENCE)
        assert widget.segmentation.layer.selected_label == error.segments[1]
        assert widget.truth.layer.selected_label == error.truth[1]
    viewer.dims.ndisplay = 3
    widget.tables.errors.view.selectRow(0)
    world = np.array(ORIGIN) + np.array(errors[0].position) * VOXEL
    np.testing.assert_allclose(camera_of(viewer).center, world)


def test_a_click_on_a_neurite_or_a_segment_goes_to_its_worst_error(ready, qtbot):
    _viewer, widget = ready
    evaluate(widget, qtbot)
    for table, kind in ((widget.tables.neurites, "split"), (widget.tables.segments, "merge")):
        table.view.selectRow(0)
        (row,) = widget.tables.errors.selected()
        assert widget.shown.report.errors[row].kind == kind


def test_a_click_on_an_arrow_marks_its_row(ready, qtbot):
    _viewer, widget = ready
    evaluate(widget, qtbot)
    places = widget.shown.layers.places
    widget.go_to_error(1)
    for where, rows in ((places.data[1], [1]), (places.data[1] + [0, 0, 3], [1])):
        event = SimpleNamespace(
            position=places.data_to_world(where), view_direction=None, dims_displayed=[1, 2]
        )
        for callback in places.mouse_drag_callbacks:
            callback(places, event)
        assert widget.tables.errors.selected() == rows
    assert len(places.mouse_drag_callbacks) == 1


def test_tables_are_sorted_by_a_click_and_still_go_there(ready, qtbot):
    viewer, widget = ready
    evaluate(widget, qtbot)
    table = widget.tables.errors
    table.view.sortByColumn(1, Qt.SortOrder.DescendingOrder)
    assert table.model.data(table.model.index(0, 1)) == "split"
    table.view.selectRow(0)
    split = next(e for e in widget.shown.report.errors if e.kind == "split")
    np.testing.assert_allclose(
        camera_of(viewer).center[-2:],
        np.array(ORIGIN[1:]) + np.array(split.position[1:]) * VOXEL[1:],
    )
    table.view.sortByColumn(1, Qt.SortOrder.AscendingOrder)
    assert table.model.data(table.model.index(0, 1)) == "merge"


def test_which_arrows_are_shown(ready, qtbot):
    viewer, widget = ready
    evaluate(widget, qtbot)
    layers = widget.shown.layers
    widget.arrows.kinds["merge"].setChecked(False)
    assert list(layers.arrows.features["error"]) == ["split"]
    widget.arrows.number.setValue(0)
    assert len(layers.arrows.data) == len(layers.places.data) == 0
    widget.arrows.number.setValue(50)
    widget.arrows.kinds["merge"].setChecked(True)
    assert len(layers.arrows.data) == 2
    n_layers = len(viewer.layers)
    viewer.layers.remove(layers.arrows)
    widget.arrows.number.setValue(51)
    wait_for_layers(widget, qtbot)
    assert len(viewer.layers) == n_layers


def test_another_threshold_is_evaluated_again_without_counting_again(ready, qtbot, run):
    viewer, widget = ready
    evaluate(widget, qtbot)
    table = widget.shown.table
    layer = viewer.layers["stack segments"]
    layer.data.set_lut(run.lut(0.1))  # nothing is joined
    layer.refresh()
    qtbot.waitUntil(lambda: widget.runner.running, timeout=PATIENCE)
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    assert widget.shown.table is table
    assert {error.kind for error in widget.shown.report.errors} == {"split"}
    widget.follow.setChecked(False)
    layer.data.set_lut(run.lut(0.5))
    layer.refresh()
    qtbot.wait(600)
    assert not widget.runner.running


def test_labels_from_elsewhere(ready, qtbot, run):
    """The same segmentation as plain labels, beside the run's, has the same scores."""
    viewer, widget = ready
    evaluate(widget, qtbot)
    scores = widget.shown.report.scores
    plain = viewer.add_labels(
        run.lut()[np.asarray(run.fragments)],
        name="plain",
        **Placement.of_volume(VOXEL, ORIGIN).for_axes(3),
    )
    widget.segmentation.choose(plain)
    assert widget.tables.errors.model.rowCount() == 0
    assert widget.scores.text() == ""
    evaluate(widget, qtbot)
    assert widget.shown.report.scores == scores
    assert widget.tables.errors.model.rowCount() == 2
    assert find_layer(viewer, "error_arrows", "plain") is not None
    assert find_layer(viewer, "error_arrows", str(run.path)) is not None
    widget.segmentation.choose(viewer.layers["stack segments"])
    assert widget.tables.errors.model.rowCount() == 2


def test_what_cannot_be_compared_is_said(docked_evaluate, truth, qtbot):
    viewer, widget = docked_evaluate
    widget.evaluate()
    assert "Two labels layers" in widget.status.line.text()
    viewer.add_labels(truth, name="a")
    viewer.add_labels(truth[:, :20], name="b", metadata=tag("truth"))
    widget.evaluate()
    assert "does not cover" in widget.status.line.text()
    viewer.layers.remove("b")
    viewer.add_labels(np.zeros_like(truth), name="empty", metadata=tag("truth"))
    widget.evaluate()
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    assert "labelled voxels" in widget.status.line.text()
    assert widget.evaluate_button.isEnabled()


def test_cancel_in_the_middle_and_removed_layers(ready, qtbot, no_jobs_left):
    viewer, widget = ready
    widget.evaluate_button.click()
    assert widget.cancel_button.isEnabled()
    widget.cancel_button.click()
    assert widget.status.line.text() == "Stopped."
    assert widget.evaluate_button.isEnabled()
    no_jobs_left()
    widget.evaluate_button.click()
    viewer.layers.clear()
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    assert widget.shown is None


def test_closing_the_viewer_ends_the_job(make_napari_viewer, cache, truth, no_jobs_left):
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Evaluate")
    viewer.add_labels(truth, name="a")
    viewer.add_labels(truth, name="b", metadata=tag("truth"))
    widget.evaluate()
    assert widget.runner.running
    viewer.close()
    no_jobs_left()


def test_napari_goes_on_meanwhile(ready, qtbot):
    _viewer, widget = ready
    beats = []
    heartbeat = QTimer()
    heartbeat.timeout.connect(lambda: beats.append(widget.runner.running))
    heartbeat.start(20)
    evaluate(widget, qtbot)
    heartbeat.stop()
    # how long it stands still is measured by benchmarks/bench_heartbeat.py
    assert sum(beats) > 3


def test_saving(ready, qtbot, tmp_path):
    _viewer, widget = ready
    evaluate(widget, qtbot)
    widget.save(str(tmp_path / "errors.csv"))
    with (tmp_path / "errors.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["error"] for row in rows] == [e.kind for e in widget.shown.report.errors]
    assert [float(row["z"]) for row in rows] == [e.position[0] for e in widget.shown.report.errors]
    widget.save(str(tmp_path / "errors.json"))
    assert len(json.loads((tmp_path / "errors.json").read_text())["errors"]) == 2
    widget.save(str(tmp_path / "no" / "errors.csv"))
    assert "cannot be written" in widget.status.line.text()


# ---------------------------------------------------------------------- what lies where


def test_the_truth_of_a_larger_stack_is_cropped(ready, run, truth):
    viewer, _ = ready
    whole = np.zeros((10, 40, 60), np.uint16)
    whole[2:8, 5:37, 15:55] = truth
    larger = viewer.add_labels(
        whole,
        scale=VOXEL,
        translate=np.array(ORIGIN) - np.array((2, 5, 15)) * VOXEL,
        units=("nm",) * 3,
    )
    segments = viewer.layers["stack segments"]
    np.testing.assert_array_equal(aligned_truth(segments, larger).data[:], truth)
    assert aligned_truth(segments, viewer.layers["truth"]).shape == SHAPE


def test_the_truth_of_a_binned_run_has_the_full_resolution(ready, truth):
    viewer, _ = ready
    finest = np.array(VOXEL) / (1, 2, 2)
    whole = np.zeros((10, 80, 100), np.uint16)
    fine = truth.repeat(2, 1).repeat(2, 2)[:, :, :-1]  # the last column of an odd number
    whole[2:8, 11:75, 20:99] = fine
    placed = {"scale": finest, "units": ("nm",) * 3}
    first = np.array(ORIGIN) - np.array((0, 0.5, 0.5)) * finest  # the run's is the centre of four
    larger = viewer.add_labels(
        whole, translate=first - np.array((2, 11, 20)) * finest, name="larger", **placed
    )
    alone = viewer.add_labels(fine, translate=first, name="alone", **placed)
    segments = viewer.layers["stack segments"]
    np.testing.assert_array_equal(aligned_truth(segments, larger).data[:, :, :-1], fine)
    np.testing.assert_array_equal(aligned_truth(segments, alone).data[:], fine)
    other = viewer.add_labels(fine, translate=first + 20 * finest, name="elsewhere", **placed)
    with pytest.raises(ShapeError, match="does not cover"):
        aligned_truth(segments, other)
    plain = viewer.add_labels(np.asarray(segments.data), scale=VOXEL, translate=ORIGIN)
    with pytest.raises(ShapeError, match="does not cover"):  # these labels are no run
        aligned_truth(plain, larger)


@pytest.mark.parametrize("ndisplay", [2, 3])
def test_going_to_a_place_in_a_viewer_of_four_axes(make_napari_viewer_proxy, ndisplay):
    viewer = make_napari_viewer_proxy()
    viewer.add_image(np.zeros((2, 3, 8, 8)))
    viewer.dims.set_point(0, 1)
    viewer.dims.ndisplay = ndisplay
    go_to(viewer, Placement.of_volume((2.0, 1.0, 1.0)), (1, 5, 6))
    assert viewer.dims.point[:2] == (1.0, 2.0)
    assert tuple(camera_of(viewer).center)[-2:] == (5.0, 6.0)


def test_lazy_labels_without_a_run(docked_evaluate, truth, qtbot):
    viewer, widget = docked_evaluate
    fragments = np.where(truth == 10, 1, 2).astype(np.uint32)
    viewer.add_labels(LutLabels(fragments, np.array([0, 5, 6])), name="lazy")
    viewer.add_labels(truth, name="truth", metadata=tag("truth"))
    widget.segmentation.choose(viewer.layers["lazy"])
    evaluate(widget, qtbot)
    assert {error.segments for error in widget.shown.report.errors} == {(6, 6)}


def test_two_segmentations_side_by_side_in_3d(ready, qtbot, run):
    viewer, widget = ready
    evaluate(widget, qtbot)
    widget.beside_button.click()
    assert "two segmentations" in widget.status.line.text()
    assert not widget.beside_button.isChecked()
    joined = np.array([0, *([1] * run.n_fragments)], np.uint32)
    segments = viewer.layers["stack segments"]
    other = viewer.add_labels(
        LutLabels(run.fragments, joined),
        name="other",
        **Placement.of_layer(segments).for_axes(3),
    )
    widget.segmentation.choose(other)
    evaluate(widget, qtbot)
    before = {layer: layer.visible for layer in viewer.layers}
    widget.beside_button.click()
    grid = viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid
    assert grid.enabled
    cells = [list(viewer.layers)[i : i + grid.stride] for i in (0, grid.stride)]
    assert [segments in cells[0], other in cells[1]] == [True, True]
    assert all(find_layer(viewer, "error_arrows", str(run.path)) in cell for cell in cells[:1])
    assert find_layer(viewer, "error_arrows", "other") in cells[1]
    assert not viewer.layers["truth"].visible
    widget.mesh_button.click()
    qtbot.waitUntil(lambda: viewer.dims.ndisplay == 3, timeout=PATIENCE)
    qtbot.waitUntil(
        lambda: all(find_layer(viewer, "meshes", key) for key in (str(run.path), "other")),
        timeout=PATIENCE,
    )

    def surfaces_are_in_their_cells():
        cells = [list(viewer.layers)[i : i + grid.stride] for i in (0, grid.stride)]
        keys = (str(run.path), "other")
        return all(find_layer(viewer, "meshes", k) in c for k, c in zip(keys, cells, strict=True))

    qtbot.waitUntil(surfaces_are_in_their_cells, timeout=PATIENCE)
    widget.beside_button.click()
    assert not grid.enabled
    assert {layer: layer.visible for layer in before} == before
    assert "·" not in " ".join(layer.name for layer in viewer.layers)
    assert not any("beside" in layer.name for layer in viewer.layers)
