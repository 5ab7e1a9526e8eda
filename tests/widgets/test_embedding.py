from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from qtpy.QtWidgets import QScrollArea

from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.events import Warned
from napari_cad.core.network import StudentNetwork
from napari_cad.core.segmentation_job import SegmentationOptions
from napari_cad.core.store import SegmentationStore, run_signature
from napari_cad.core.volume import EMVolume
from napari_cad.viewer.layers import find_layer, role_of, tag

HERE = Path(__file__).parent
PATIENCE = 180_000  # a busy machine
SHAPE = (6, 32, 40)
NM = {"scale": (30, 6, 7), "translate": (60, 12, 14), "units": ("nm",) * 3}
LIVE = "live stack"


def colour_of(z, which="embedding", normalised=True):
    """As in example_embeddings."""
    return [10 * z + 5, 100 if which == "embedding" else 200, 50 if normalised else 150]


@pytest.fixture
def docked(make_napari_viewer_proxy, cache, raw):
    """A stack in a viewer, and the widget as napari makes it."""
    viewer = make_napari_viewer_proxy()
    viewer.add_image(raw, **NM, name="stack", axis_labels=("z", "y", "x"))
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Embedding map")
    return viewer, widget


@pytest.fixture
def pretended(docked, monkeypatch):
    """A server that answers at once, without a network; what it is asked for is recorded."""
    viewer, widget = docked
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr("napari_cad.widgets.embedding.SERVE", "example_embeddings:serve")
    monkeypatch.setattr("napari_cad.widgets.embedding.STORE_MAP", "example_embeddings:write_slowly")
    widget.asked = []

    def record(event):
        if isinstance(event, Warned):
            widget.asked.append(event.message)

    widget.server.reported.connect(record)
    viewer.dims.set_current_step(0, 2)
    return viewer, widget


def shown(viewer, role="embedding_rgb", key=LIVE):
    """The colour that is on screen in the layer of a role, in a corner."""
    layer = find_layer(viewer, role, key)
    return None if layer is None else np.asarray(layer._slice.image.raw)[0, 0].tolist()


def wait_for(qtbot, viewer, colour, **where):
    qtbot.waitUntil(lambda: shown(viewer, **where) == colour, timeout=PATIENCE)


def runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# ---------------------------------------------------------------------- the live map


def test_the_map_follows_the_section_on_screen(pretended, qtbot):
    viewer, widget = pretended
    widget.live_button.click()
    wait_for(qtbot, viewer, colour_of(2))
    layer, image = find_layer(viewer, "embedding_rgb", LIVE), viewer.layers["stack"]
    assert layer.rgb
    np.testing.assert_allclose(layer.scale, image.scale)
    np.testing.assert_allclose(layer.translate, image.translate)
    assert layer.units == image.units
    assert "later of (z − 1, z)" in layer.name
    viewer.dims.set_current_step(0, 5)
    wait_for(qtbot, viewer, colour_of(5))
    assert widget.line.text() == "Section 5"
    assert "50 + " in widget.kind.explained.text()
    assert "= 80 %" in widget.kind.explained.text()
    assert sum(role_of(layer) == "embedding_rgb" for layer in viewer.layers) == 1


def test_it_says_that_it_starts_until_there_is_an_answer(pretended, qtbot):
    viewer, widget = pretended
    widget.live_button.click()
    assert widget.status.line.text() == "Starting…"
    assert not widget.status.bar.isHidden()
    wait_for(qtbot, viewer, colour_of(2))
    assert widget.status.line.text() == ""
    assert widget.status.bar.isHidden()
    widget.live_button.click()
    widget.live_button.click()
    widget.live_button.click()  # off before the first answer
    assert widget.status.line.text() == ""
    assert widget.status.bar.isHidden()


def test_the_buttons_stay_in_sight(docked):
    _, widget = docked
    content = widget.findChild(QScrollArea).widget()
    assert content.isAncestorOf(widget.checkpoint)
    for button in (widget.live_button, widget.pick_button, widget.write_button, widget.status):
        assert not content.isAncestorOf(button)


def test_neighbours_come_without_being_asked_for_and_nothing_comes_twice(pretended, qtbot):
    viewer, widget = pretended
    widget.live_button.click()
    qtbot.waitUntil(lambda: widget._layers.missing(range(1, 5), "embedding", True) == ())
    assert widget.asked == ["(2, 3, 1, 4)"]
    wait_for(qtbot, viewer, colour_of(2))  # the layer is on screen
    viewer.dims.set_current_step(0, 3)
    assert shown(viewer) == colour_of(3)  # at once
    qtbot.waitUntil(lambda: len(widget.asked) == 2, timeout=PATIENCE)
    assert widget.asked[1] == "(5,)"  # two ahead in the direction of the last step
    qtbot.waitUntil(lambda: widget._layers.missing((5,), "embedding", True) == ())
    viewer.dims.set_current_step(0, 2)
    qtbot.waitUntil(lambda: len(widget.asked) == 3, timeout=PATIENCE)
    assert widget.asked[2] == "(0,)"


def test_the_two_embeddings_never_share_a_layer(pretended, qtbot):
    viewer, widget = pretended
    widget.live_button.click()
    wait_for(qtbot, viewer, colour_of(2))
    widget.kind.which.setCurrentIndex(1)
    wait_for(qtbot, viewer, colour_of(2, "embedding_prev"), role="embedding_prev_rgb")
    assert shown(viewer) == colour_of(2)
    assert "earlier of (z, z + 1)" in find_layer(viewer, "embedding_prev_rgb", LIVE).name
    qtbot.waitUntil(lambda: "40 + " in widget.kind.explained.text().replace("</span>", ""))
    widget.kind.normalised.setChecked(False)
    wait_for(qtbot, viewer, colour_of(2, "embedding_prev", False), role="embedding_prev_rgb")
    widget.kind.normalised.setChecked(True)
    assert shown(viewer, "embedding_prev_rgb") == colour_of(2, "embedding_prev")  # at once


def test_no_section_is_asked_for_where_none_is_on_screen(pretended, qtbot):
    viewer, widget = pretended
    viewer.dims.ndisplay = 3
    widget.live_button.click()
    assert widget.line.text() == "No section of the image is on screen."
    viewer.dims.ndisplay = 2
    wait_for(qtbot, viewer, colour_of(2))
    asked = len(widget.asked)
    viewer.dims.order = (1, 0, 2)  # sections seen from the side
    assert widget.line.text() == "No section of the image is on screen."
    qtbot.wait(200)
    assert len(widget.asked) == asked


def test_an_image_of_one_section(pretended, qtbot, raw):
    viewer, widget = pretended
    viewer.layers.clear()
    viewer.add_image(raw[0], name="flat", scale=(6, 7))
    widget.live_button.click()
    wait_for(qtbot, viewer, colour_of(0), key="live flat")
    assert widget.asked == ["(0,)"]


def test_a_failure_is_said_and_the_button_comes_up_again(pretended, qtbot):
    _, widget = pretended
    widget.checkpoint.choose("fails.safetensors")
    widget.live_button.click()
    qtbot.waitUntil(lambda: not widget.live_button.isChecked(), timeout=PATIENCE)
    assert widget.status.line.text() == "no such checkpoint"
    assert not widget.pick_button.isEnabled()


def test_no_image_is_said(pretended):
    viewer, widget = pretended
    viewer.layers.clear()
    widget.live_button.click()
    assert "Open an image first" in widget.status.line.text()
    assert not widget.live_button.isChecked()


def test_removing_the_image_ends_it(pretended, qtbot):
    viewer, widget = pretended
    widget.live_button.click()
    wait_for(qtbot, viewer, colour_of(2))
    viewer.layers.remove("stack")
    assert not widget.live_button.isChecked()
    assert not widget.server.running


def test_another_checkpoint_is_taken_over_while_it_is_live(pretended, qtbot):
    viewer, widget = pretended
    widget.live_button.click()
    wait_for(qtbot, viewer, colour_of(2))
    pid = widget.server._job.pid
    widget.checkpoint.choose("another.safetensors")
    qtbot.waitUntil(lambda: len(widget.asked) == 2, timeout=PATIENCE)
    assert widget.server._job.pid != pid
    qtbot.waitUntil(lambda: not runs(pid), timeout=5000)


def test_closing_the_widget_in_the_middle_ends_the_job(pretended, qtbot):
    viewer, widget = pretended
    widget.checkpoint.choose("slow.safetensors")
    widget.live_button.click()
    widget.pick_button.click()
    wait_for(qtbot, viewer, colour_of(2))
    pid = widget.server._job.pid
    before = len(viewer.mouse_drag_callbacks)
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.waitUntil(lambda: not runs(pid), timeout=5000)
    qtbot.waitUntil(lambda: len(viewer.mouse_drag_callbacks) == before - 1, timeout=5000)
    viewer.dims.set_current_step(0, 4)  # nobody listens any more


# ---------------------------------------------------------------------- picking a pixel


def click(widget, position, moved_to=(0, 0), **more):
    """Press and release, as napari would call it."""
    event = SimpleNamespace(
        type="mouse_press", button=1, modifiers=(), pos=(0, 0), position=position, **more
    )
    generator = widget.pick_button.on_mouse(event)
    for kind, pos in (
        ("mouse_press", (0, 0)),
        ("mouse_move", moved_to),
        ("mouse_release", moved_to),
    ):
        event.type, event.pos = kind, pos
        next(generator, None)


def world(z, y, x):
    return tuple(np.asarray(NM["translate"]) + np.multiply(NM["scale"], (z, y, x)))


@pytest.mark.parametrize(("index", "beside"), [(0, 1), (1, 3)])
def test_a_click_shows_the_similarity_in_both_sections_of_the_pair(pretended, qtbot, index, beside):
    viewer, widget = pretended
    widget.kind.which.setCurrentIndex(index)
    widget.live_button.click()
    widget.pick_button.click()
    assert len(viewer.mouse_drag_callbacks) >= 1
    click(widget, world(2, 7, 11))
    qtbot.waitUntil(lambda: find_layer(viewer, "similarity", LIVE) is not None, timeout=PATIENCE)
    layer = find_layer(viewer, "similarity", LIVE)
    assert layer.data[2][7, 11] == 1
    assert layer.data[2][7, 21] == pytest.approx(0.9)
    assert layer.data[beside][7, 11] == pytest.approx(0.5)
    assert not layer.data[5].any()
    np.testing.assert_allclose(layer.scale, NM["scale"])
    assert "(7, 11) of section 2" in widget.line.text()
    assert f"section {beside}" in widget.line.text()
    qtbot.waitUntil(lambda: find_layer(viewer, "picked", LIVE) is not None, timeout=PATIENCE)
    mark = find_layer(viewer, "picked", LIVE)
    qtbot.waitUntil(lambda: mark.visible and layer.visible, timeout=PATIENCE)
    assert mark.data.tolist() == [[2, 7, 11]]
    assert viewer.layers.selection.active == viewer.layers["stack"]
    click(widget, world(2, 0, 0))
    qtbot.waitUntil(lambda: layer.data[2][0, 0] == 1, timeout=PATIENCE)
    assert layer.data[2][7, 11] < 1
    qtbot.waitUntil(lambda: mark.data.tolist() == [[2, 0, 0]], timeout=PATIENCE)


def test_drags_and_clicks_beside_the_image_pick_nothing(pretended, qtbot):
    _, widget = pretended
    sent = []
    widget.live_button.click()
    widget.server.send = sent.append
    widget.pick_button.click()
    click(widget, world(2, 7, 11), moved_to=(30, 0))
    click(widget, world(2, 32, 11))
    click(widget, world(2, 7, -1))
    assert sent == []
    click(widget, world(2, 31, 39), moved_to=(2, -3))
    assert [(p.z, p.y, p.x) for p in sent] == [(2, 31, 39)]


def test_the_tool_is_off_when_the_button_is_up(pretended):
    viewer, widget = pretended
    before = list(viewer.mouse_drag_callbacks)
    widget.live_button.click()
    widget.pick_button.click()
    assert len(viewer.mouse_drag_callbacks) == len(before) + 1
    widget.live_button.click()  # there is nobody to answer
    assert viewer.mouse_drag_callbacks == before
    assert not widget.pick_button.isEnabled()


# ---------------------------------------------------------------------- a run


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=5, training_data="nothing", licence="none"
    )
    save_checkpoint(path, StudentNetwork(2, 5), metadata)
    return str(path)


@pytest.fixture
def run(tmp_path, raw, checkpoint):
    """The store of a run of the stack that has not even begun."""
    loaded, volume = load_checkpoint(checkpoint), EMVolume.from_array(raw)
    config = SegmentationOptions().config(volume, loaded.metadata)
    store = SegmentationStore.create(
        tmp_path / "run.zarr",
        volume=volume,
        checkpoint=loaded.metadata,
        config=config,
        signature=run_signature(volume, loaded.sha256, config, "float32"),
    )
    return str(store.path)


def open_run(viewer, run):
    store = SegmentationStore.open(run)
    viewer.add_labels(store.fragments, metadata=tag("segments", run), name="segments", **NM)


def test_runs_are_offered_that_fit(docked, run, checkpoint, raw):
    viewer, widget = docked
    assert not widget.write_button.isEnabled()
    open_run(viewer, run)
    assert widget.run.value() is None  # the chosen checkpoint has made another one
    widget.checkpoint.choose(checkpoint)
    assert widget.run.value() == run
    assert widget.write_button.isEnabled()
    assert not widget.intensity.isEnabled()  # the run has its own
    widget.image.combo.value = viewer.add_image(raw[:3], name="part")
    assert widget.run.value() is None
    assert widget.intensity.isEnabled()
    widget.image.combo.value = viewer.layers["stack"]
    assert widget.run.value() == run
    viewer.layers.remove("segments")
    assert widget.run.value() is None


def test_the_whole_way_once_with_a_real_network(docked, run, checkpoint, qtbot):
    """Live map, similarity, all sections into the run, and the same colours from the run."""
    viewer, widget = docked
    widget.device.set_values(device="cpu")
    open_run(viewer, run)
    widget.checkpoint.choose(checkpoint)
    viewer.dims.set_current_step(0, 3)
    widget.live_button.click()
    qtbot.waitUntil(
        lambda: widget.line.text() == "Section 3" or not widget.live_button.isChecked(),
        timeout=PATIENCE,
    )
    assert widget.live_button.isChecked(), widget.status.details.toPlainText()
    live = np.asarray(find_layer(viewer, "embedding_rgb", run).data[3])
    assert np.ptp(live, axis=(0, 1)).min() > 100
    widget.pick(world(3, 4, 5))
    qtbot.waitUntil(lambda: find_layer(viewer, "similarity", run) is not None, timeout=PATIENCE)
    assert find_layer(viewer, "similarity", run).data[3][4, 5] == pytest.approx(1)
    widget.live_button.click()
    widget.write_button.click()
    assert widget.cancel_button.isEnabled()
    qtbot.waitUntil(lambda: not widget.writer.running, timeout=PATIENCE)
    assert widget.status.line.text() == "All sections are in the run."
    stored = SegmentationStore.open(run).embedding_map("embedding")
    assert stored.sections_done().all()
    np.testing.assert_array_equal(stored.read(3), live)
    assert f"{100 * sum(stored.basis.explained):.0f} %" in widget.kind.explained.text()
    layer = find_layer(viewer, "embedding_rgb", run)
    np.testing.assert_array_equal(layer.data[1], stored.read(1))


def test_writing_can_be_cancelled_in_the_middle(pretended, run, checkpoint, qtbot):
    viewer, widget = pretended
    open_run(viewer, run)
    widget.checkpoint.choose(checkpoint)
    widget.write_button.click()
    assert not widget.write_button.isEnabled()
    qtbot.waitUntil(lambda: "of 6 sections" in widget.status.line.text(), timeout=PATIENCE)
    widget.cancel_button.click()
    assert widget.status.line.text().startswith("Stopped")
    assert widget.write_button.isEnabled()
    assert not widget.cancel_button.isEnabled()
