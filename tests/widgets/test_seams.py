from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from napari_cad.core.checkpoint import save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.network import StudentNetwork
from napari_cad.core.teacher import TeacherMetadata, TeacherNetwork, save_teacher
from napari_cad.viewer.embedding_layers import camera_of, grid_of
from napari_cad.viewer.layers import find_layer

HERE = Path(__file__).parent
PATIENCE = 180_000  # a busy machine
NM = {"scale": (30, 6, 7), "translate": (60, 12, 14), "units": ("nm",) * 3}
KEY = "compared stack"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("networks")
    save_checkpoint(
        folder / "student.safetensors",
        StudentNetwork(2, 5),
        CheckpointMetadata(
            name="tiny", width=2, embedding_dim=5, training_data="nothing", licence="none"
        ),
    )
    metadata = TeacherMetadata(name="tiny teacher", widths=(2, 3), embedding_dim=4)
    save_teacher(folder / "teacher.safetensors", TeacherNetwork((2, 3), 4), metadata)
    return str(folder / "student.safetensors"), str(folder / "teacher.safetensors")


@pytest.fixture
def docked(make_napari_viewer_proxy, cache, raw, files):
    viewer = make_napari_viewer_proxy()
    viewer.add_image(raw, **NM, name="stack", axis_labels=("z", "y", "x"))
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "2D against sliding-window 3D")
    widget.checkpoint.choose(files[0])
    widget.teacher.setText(files[1])
    widget.device.set_values(device="cpu")
    widget.windows.set_values(depth=3, size=16, stride=8)
    viewer.dims.set_current_step(0, 2)
    return viewer, widget


def wait_for_end(qtbot, widget):
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)


def test_the_whole_way_once_with_real_networks(docked, qtbot):
    viewer, widget = docked
    widget.windows.set_values(blending="both", region=32)
    assert widget.plot.isHidden()
    widget.compare_button.click()
    assert not widget.compare_button.isEnabled()
    wait_for_end(qtbot, widget)
    assert widget.status.line.text() == "Done.", widget.status.details.toPlainText()
    roles = ("student_rgb", "teacher_unblended_rgb", "teacher_rgb")
    maps = [find_layer(viewer, role, KEY) for role in roles]
    image = viewer.layers["stack"]
    for layer in maps:
        assert layer.data.shape == (1, 32, 32, 3)
        np.testing.assert_allclose(layer.scale, image.scale)
        # the region lies around the middle of the view, which is that of the section
        np.testing.assert_allclose(layer.translate, (60 + 30 * 2, 12, 14 + 7 * 4))
    # side by side: nothing but the maps, student first, one camera, linked
    assert widget.grid.isChecked()
    grid = grid_of(viewer)
    assert grid.enabled
    assert not image.visible
    np.testing.assert_allclose(camera_of(viewer).center[-2:], (12 + 6 * 15.5, 14 + 7 * 19.5))
    places = [grid.position(viewer.layers.index(layer), viewer.layers) for layer in maps]
    assert places == [(0, 0), (0, 1), (0, 2)]
    maps[0].opacity = 0.5
    assert [layer.opacity for layer in maps] == [0.5] * 3
    widget.grid.setChecked(False)
    assert not grid.enabled
    assert image.visible
    # scores of both ways of blending
    assert [widget.shown.itemText(i) for i in range(2)] == [
        "without blending",
        "with gaussian blending",
    ]
    assert widget.scores.text().count("seam score") == 2
    texts = set()
    for blending in range(2):
        for axis in range(2):
            widget.shown.setCurrentIndex(blending)
            widget.axis.setCurrentIndex(axis)
            texts.add(widget.scores.text())
    assert len(texts) == 4
    assert not widget.plot.isHidden()
    assert not widget.plot.grab().isNull()  # it draws


def test_a_second_comparison_replaces_the_first(docked, qtbot):
    viewer, widget = docked
    for z in (2, 4):
        viewer.dims.set_current_step(0, z)
        widget.windows.set_values(region=None)
        widget.compare_button.click()
        wait_for_end(qtbot, widget)
    layers = [layer for layer in viewer.layers if layer.name != "stack"]
    assert len(layers) == 2
    for layer in layers:
        np.testing.assert_allclose(layer.translate, (60 + 30 * 4, 12, 14))
    assert viewer.layers["stack"] in viewer.layers
    widget.grid.setChecked(False)
    assert viewer.layers["stack"].visible


def test_what_is_missing_is_said(docked):
    viewer, widget = docked
    widget.windows.set_values(size=16, stride=20)
    widget.compare()
    assert "stride of 20" in widget.status.line.text()
    widget.windows.set_values(stride=8)
    viewer.dims.ndisplay = 3
    widget.compare()
    assert "No section" in widget.status.line.text()
    widget.teacher.clear()
    widget.compare()
    assert "Choose the file" in widget.status.line.text()
    viewer.layers.clear()
    widget.compare()
    assert "Open an image" in widget.status.line.text()
    assert not widget.runner.running


def test_a_file_that_is_no_teacher_is_a_message(docked, files, qtbot):
    _, widget = docked
    widget.teacher.setText(files[0])
    widget.compare_button.click()
    wait_for_end(qtbot, widget)
    assert "no 3D teacher" in widget.status.line.text()
    assert widget.compare_button.isEnabled()


def test_cancel_in_the_middle_keeps_what_is_there(docked, qtbot, monkeypatch):
    viewer, widget = docked
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr("napari_cad.widgets.seams.COMPARE", "example_seams:endless")
    widget.compare_button.click()
    qtbot.waitUntil(lambda: "3 of 12 windows" in widget.status.line.text(), timeout=PATIENCE)
    assert widget.status.bar.value() == 3
    widget.cancel_button.click()
    assert widget.status.line.text() == "Stopped."
    assert find_layer(viewer, "student_rgb", KEY) is not None
    assert widget.compare_button.isEnabled()
