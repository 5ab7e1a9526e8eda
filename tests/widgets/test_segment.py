from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from napari.layers import Labels
from qtpy.QtCore import QElapsedTimer, QTimer
from qtpy.QtWidgets import QMessageBox

from napari_cad.core.checkpoint import save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.network import StudentNetwork
from napari_cad.core.readers import open_volume
from napari_cad.core.store import SegmentationStore
from napari_cad.viewer.layers import find_layer
from napari_cad.viewer.placement import voxel_size_of
from napari_cad.viewer.state import state_of

PATIENCE = 60_000
SHAPE = (6, 32, 40)
NM = {"scale": (30, 6, 7), "translate": (60, 12, 14), "units": ("nm",) * 3}


def jobs_alive():
    """The job processes of this process that still live."""
    alive = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() != psutil.STATUS_ZOMBIE and "_job_child" in " ".join(child.cmdline()):
                alive.append(child)
        except psutil.NoSuchProcess:
            continue
    return alive


def layer_of(viewer, widget, role):
    return find_layer(viewer, role, str(widget.output.value()))


def wait_for_end(qtbot, widget):
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    qtbot.waitUntil(lambda: not widget._turns.busy, timeout=PATIENCE)  # the last layers


@pytest.fixture
def ready(docked, pretended, raw):
    """A stack in the viewer and the widget beside it."""
    viewer, widget = docked()
    viewer.add_image(raw, **NM, name="stack", axis_labels=("z", "y", "x"))
    return viewer, widget


def test_a_real_run_from_the_form_to_the_layers(docked, raw, qtbot, tmp_path):
    """The whole way once, with a network of random weights."""
    torch.manual_seed(0)
    checkpoint = tmp_path / "tiny.safetensors"
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=3, training_data="nothing", licence="none"
    )
    save_checkpoint(checkpoint, StudentNetwork(2, 3), metadata)
    viewer, widget = docked()
    viewer.add_image(raw, **NM, name="stack", axis_labels=("z", "y", "x"))
    widget.checkpoint.choose(str(checkpoint))
    widget.device.set_values(device="cpu")
    finished, shown = [], []
    state_of(viewer).run_finished.connect(finished.append)
    state_of(viewer).run_finished.connect(
        lambda run: shown.append(find_layer(viewer, "segments", run).data.lut is not None)
    )
    widget.run()
    assert widget.status.line.text() == "Starting…"
    wait_for_end(qtbot, widget)
    assert " fragment" in widget.status.line.text(), widget.status.details.toPlainText()
    run = str(widget.output.value())
    assert finished == [run]
    assert shown == [True]  # the layer had become that of the segments by then
    assert run.endswith("stack_tiny.zarr")
    store = SegmentationStore.open(run)
    image = viewer.layers["stack"]
    affinities, segments = (layer_of(viewer, widget, r) for r in ("affinities", "segments"))
    assert affinities.name == "stack affinities"
    assert affinities.rgb
    assert not affinities.visible
    assert segments.name == "stack segments"
    assert isinstance(segments, Labels)
    assert not segments.editable
    for layer in (affinities, segments):
        np.testing.assert_allclose(layer.scale, image.scale)
        np.testing.assert_allclose(layer.translate, image.translate)
        assert layer.units == image.units
        assert layer.axis_labels == image.axis_labels
    np.testing.assert_array_equal(
        np.asarray(segments.data), store.lut()[np.asarray(store.fragments)]
    )
    np.testing.assert_array_equal(affinities.data[2], np.moveaxis(store.read_affinities(2), 0, -1))
    assert store.voxel_size == (30, 6, 7)
    assert store.origin == (60, 12, 14)


def test_a_quick_look_lies_over_the_image(docked, raw, qtbot, tmp_path):
    """At half the resolution, rotated image and all, and in a store of its own."""
    torch.manual_seed(0)
    checkpoint = tmp_path / "tiny.safetensors"
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=3, training_data="nothing", licence="none"
    )
    save_checkpoint(checkpoint, StudentNetwork(2, 3), metadata)
    viewer, widget = docked()
    image = viewer.add_image(raw, **NM, rotate=20, name="stack")
    widget.checkpoint.choose(str(checkpoint))
    widget.device.set_values(device="cpu")
    full = widget.output.value()
    widget.quick.setChecked(True)
    widget.volume.sections[0].setValue(1)
    assert widget.output.value().name == "stack_tiny-bin2.zarr"
    widget.run()
    wait_for_end(qtbot, widget)
    assert " fragment" in widget.status.line.text(), widget.status.details.toPlainText()
    store = SegmentationStore.open(widget.output.value())
    assert store.shape == (5, 16, 20)
    assert store.voxel_size == (30, 12, 14)
    segments, affinities = (layer_of(viewer, widget, r) for r in ("segments", "affinities"))
    assert segments.name == "stack (bin 2) segments"
    for layer in (segments, affinities):
        # the middle of four voxels of the image, and the first section that was chosen
        np.testing.assert_allclose(
            layer.data_to_world((3, 5, 7)), image.data_to_world((4, 10.5, 14.5))
        )
    widget.quick.setChecked(False)
    assert widget.output.value() == full


def test_layers_come_while_it_runs_and_stay_responsive(ready, qtbot):
    viewer, widget = ready
    widget.checkpoint.choose("slow.safetensors")
    viewer.dims.set_current_step(0, 1)
    gaps, clock = [], QElapsedTimer()
    heartbeat = QTimer()
    heartbeat.timeout.connect(lambda: gaps.append(clock.restart()))
    clock.start()
    heartbeat.start(20)
    widget.run()
    qtbot.waitUntil(lambda: layer_of(viewer, widget, "affinities") is not None, timeout=PATIENCE)
    affinities = layer_of(viewer, widget, "affinities")
    qtbot.waitUntil(lambda: layer_of(viewer, widget, "segments") is not None, timeout=PATIENCE)
    segments = layer_of(viewer, widget, "segments")
    qtbot.waitUntil(lambda: affinities.visible and segments.visible, timeout=PATIENCE)
    assert segments.name == "stack fragments"
    on_screen = (60 + 30 * 1, 12 + 6 * 20, 14 + 7 * 30)
    qtbot.waitUntil(
        lambda: bool(segments.get_value(on_screen, world=True) == 8), timeout=PATIENCE
    )  # the fragments of section 1 have been drawn, although the run goes on
    assert widget.runner.running
    assert "of 6 sections" in widget.status.line.text()
    assert widget.status.bar.maximum() == 12
    wait_for_end(qtbot, widget)
    heartbeat.stop()
    # recorded for people (pytest -rP); machines differ too much to assert it
    print(f"longest gap of a 20 ms heartbeat: {max(gaps)} ms")  # noqa: T201
    segments = layer_of(viewer, widget, "segments")
    assert segments.get_value(on_screen, world=True) == 4  # joined with section 0
    assert segments.name == "stack segments"


def test_the_form_becomes_the_config(ready, qtbot):
    viewer, widget = ready
    widget.agglomeration.set_values(merge_function="quantile75", threshold=0.35)
    widget.intensity.method.setCurrentIndex(3)
    viewer.layers["stack"].contrast_limits = (20, 200)
    widget.intensity.from_layer.click()
    widget.intensity.invert.setChecked(True)
    widget.inference.set_values(tile=512, batch=2)
    widget.run()
    wait_for_end(qtbot, widget)
    config = SegmentationStore.open(widget.output.value()).config
    assert (config.agglomeration.merge_function, config.agglomeration.threshold) == (
        "quantile75",
        0.35,
    )
    assert (config.intensity.low, config.intensity.high, config.intensity.invert) == (20, 200, True)
    assert (config.inference.tile, config.inference.batch) == (512, 2)
    assert config.inference.device == "auto"


def test_some_of_the_sections(ready, qtbot, raw):
    viewer, widget = ready
    assert [box.value() for box in widget.volume.sections] == [0, 5]
    widget.volume.sections[0].setValue(2)
    widget.volume.sections[1].setValue(4)
    widget.run()
    wait_for_end(qtbot, widget)
    store = SegmentationStore.open(widget.output.value())
    np.testing.assert_array_equal(store.read_affinities(0)[0], raw[2] // 2)
    assert store.shape[0] == 3
    assert store.origin == (60 + 2 * 30, 12, 14)
    segments = layer_of(viewer, widget, "segments")
    np.testing.assert_allclose(segments.translate, (120, 12, 14))
    widget.volume.sections[1].setValue(1)
    widget.run()
    assert "lies before the first" in widget.status.line.text()


def test_cancel_in_the_middle_keeps_what_is_done(ready, qtbot):
    viewer, widget = ready
    widget.checkpoint.choose("endless.safetensors")
    widget.run()
    assert not widget.run_button.isEnabled()
    qtbot.waitUntil(lambda: layer_of(viewer, widget, "segments") is not None, timeout=PATIENCE)
    store = SegmentationStore.open(widget.output.value())
    qtbot.waitUntil(lambda: store.is_done("affinities", 0), timeout=PATIENCE)
    widget.cancel_button.click()
    assert widget.status.line.text().startswith("Stopped")
    assert widget.run_button.isEnabled()
    assert not widget.cancel_button.isEnabled()
    qtbot.waitUntil(lambda: not jobs_alive(), timeout=PATIENCE)
    assert SegmentationStore.open(widget.output.value()).is_done("affinities", 0)
    assert len(viewer.layers) == 3


def test_a_failure_is_one_line_and_details_are_there_on_request(ready, qtbot):
    viewer, widget = ready
    widget.checkpoint.choose("fails.safetensors")
    widget.run()
    wait_for_end(qtbot, widget)
    assert widget.status.line.text() == "expected dark membranes, got bright ones: set invert"
    assert not widget.status.details.isVisibleTo(widget)
    widget.status.details_button.click()
    assert widget.status.details.isVisibleTo(widget)
    assert "VolumeError" in widget.status.details.toPlainText()
    assert widget.run_button.isEnabled()
    assert len(viewer.layers) == 1
    widget.checkpoint.choose("default")
    widget.run()  # the next run begins with a clean sheet
    assert not widget.status.details.isVisibleTo(widget)
    wait_for_end(qtbot, widget)


def test_a_crash_leaves_the_viewer_alive(ready, qtbot):
    viewer, widget = ready
    widget.checkpoint.choose("crashes.safetensors")
    widget.run()
    wait_for_end(qtbot, widget)
    assert "exit code 9" in widget.status.line.text()
    assert layer_of(viewer, widget, "affinities") is not None


def test_warnings_are_shown_and_stay(ready, qtbot):
    _, widget = ready
    widget.checkpoint.choose("warns.safetensors")
    widget.run()
    wait_for_end(qtbot, widget)
    assert widget.status.warnings.text() == "⚠ the affinities look wrong"
    assert widget.status.warnings.isVisibleTo(widget)
    assert " fragment" in widget.status.line.text()


def test_layers_may_be_removed_and_renamed_while_it_runs(ready, qtbot):
    viewer, widget = ready
    widget.checkpoint.choose("slow.safetensors")
    widget.run()
    qtbot.waitUntil(lambda: layer_of(viewer, widget, "segments") is not None, timeout=PATIENCE)
    run = str(widget.output.value())
    viewer.layers.remove("stack")
    viewer.layers.remove(find_layer(viewer, "affinities", run))
    find_layer(viewer, "segments", run).name = "mine"
    wait_for_end(qtbot, widget)
    assert " fragment" in widget.status.line.text()
    (segments,) = viewer.layers
    np.testing.assert_allclose(segments.scale, (30, 6, 7))
    np.testing.assert_allclose(segments.translate, (60, 12, 14))


def test_segments_come_back_where_their_layer_was_removed(ready, qtbot):
    viewer, widget = ready
    widget.checkpoint.choose("slow.safetensors")
    widget.run()
    qtbot.waitUntil(lambda: layer_of(viewer, widget, "segments") is not None, timeout=PATIENCE)
    viewer.layers.remove(layer_of(viewer, widget, "segments"))
    wait_for_end(qtbot, widget)
    assert layer_of(viewer, widget, "segments") is not None


def test_a_second_run_updates_the_layers_of_the_first(ready, qtbot):
    viewer, widget = ready
    for threshold in (0.5, 0.1):
        widget.output.overwrite.setChecked(True)
        widget.agglomeration.set_values(threshold=threshold)
        widget.run()
        assert not widget.output.overwrite.isChecked()  # for one run only
        wait_for_end(qtbot, widget)
        assert len(viewer.layers) == 3
    segments = layer_of(viewer, widget, "segments")
    assert segments.data.lut.max() == 24  # nothing joined at 0.1
    widget.run()  # a store is in the way now
    wait_for_end(qtbot, widget)
    assert "store" in widget.status.line.text()


def test_closing_the_viewer_ends_the_job(make_napari_viewer, pretended, cache, raw, qtbot):
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Segment neurons")
    viewer.add_image(raw, name="stack")
    widget.checkpoint.choose("endless.safetensors")
    widget.run()
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=PATIENCE)
    assert jobs_alive()
    viewer.close()
    qtbot.waitUntil(lambda: not jobs_alive(), timeout=2000)


def test_a_lazy_stack_is_opened_by_the_job_itself(docked, pretended, raw, qtbot, tmp_path):
    np.save(tmp_path / "stack.npy", raw)
    folder = tmp_path / "sections"
    folder.mkdir()
    viewer, widget = docked()
    volume = open_volume(tmp_path / "stack.npy")
    viewer.add_image(
        volume.data, name="stack", metadata={"napari_cad": {"source": volume.source.to_json()}}
    )
    assert str(widget.output.value()).startswith(str(tmp_path / "stack_"))
    widget.volume.voxel_size.setText("40 x 4 x 4")
    widget.run()
    wait_for_end(qtbot, widget)
    store = SegmentationStore.open(widget.output.value())
    assert store.voxel_size == (40, 4, 4)
    assert store.settings["volume"]["source"]["path"] == str(tmp_path / "stack.npy")
    np.testing.assert_array_equal(store.read_affinities(3)[1], raw[3] // 2)


# ---------------------------------------------------------------------- the form


def test_the_list_of_images_follows_the_viewer(docked, raw):
    viewer, widget = docked()
    assert widget.volume.layer is None
    widget.run()
    assert "Open an image first" in widget.status.line.text()
    viewer.add_image(raw, name="first")
    viewer.add_labels(raw.astype(np.uint32))
    viewer.add_image(np.zeros((5, 40, 40, 3), np.uint8), rgb=True, name="colour")
    viewer.add_image(raw, name="second")
    assert [choice.name for choice in widget.volume.image.combo.choices] == ["first", "second"]
    assert widget.volume.layer.name == "first"
    viewer.layers.remove("first")
    assert widget.volume.layer.name == "second"
    viewer.layers.clear()
    assert widget.volume.layer is None


def test_the_voxel_size_is_the_layers_or_typed(ready):
    viewer, widget = ready
    size = widget.volume.voxel_size
    assert size.text() == "30 × 6 × 7"
    layer = viewer.layers["stack"]
    layer.scale = (40, 4, 4)
    assert size.text() == "40 × 4 × 4"
    layer.units = ("pixel",) * 3
    assert size.text() == ""
    assert widget.volume.volume().voxel_size is None
    size.setText("35, 8")
    size.editingFinished.emit()  # half typed
    assert size.text() == "35, 8"
    widget.run()
    assert "three lengths in nm" in widget.status.line.text()
    size.setText("35, 8.5, 8")
    layer.data = layer.data + 1  # what is typed stays
    assert widget.volume.volume().voxel_size == (35, 8.5, 8)
    size.setText("")
    size.editingFinished.emit()
    assert size.text() == "35 × 8.5 × 8"


def test_a_typed_voxel_size_is_that_of_the_layer_and_of_those_that_lie_over_it(docked, raw):
    viewer, widget = docked()
    image = viewer.add_image(raw, name="stack", translate=(0, 2, 3))
    truth = viewer.add_labels(raw.astype(np.uint32), name="truth", translate=(0, 2, 3))
    apart = viewer.add_image(raw, name="apart", scale=(5, 1, 1), visible=False)
    viewer.dims.set_current_step(0, 2)
    widget.volume.image.combo.value = image
    widget.volume.voxel_size.setText("30, 6, 5")
    widget.volume.voxel_size.editingFinished.emit()
    for layer in (image, truth):
        assert voxel_size_of(layer) == (30, 6, 5)
        np.testing.assert_allclose(layer.translate, (0, 12, 15))
    np.testing.assert_array_equal(apart.scale, (5, 1, 1))
    assert image.world_to_data(viewer.dims.point)[0] == pytest.approx(2)


def test_a_typed_voxel_size_is_of_one_layer_alone(docked, raw):
    viewer, widget = docked()
    section = viewer.add_image(raw[0], name="section")
    size = widget.volume.voxel_size
    size.setText("30, 6, 5")
    size.editingFinished.emit()
    assert widget.volume.volume().voxel_size == (30, 6, 5)
    stack = viewer.add_image(raw, name="stack")
    widget.volume.image.combo.value = stack
    assert size.text() == ""
    assert widget.volume.volume().voxel_size is None
    widget.volume.image.combo.value = section
    assert size.text() == "30, 6, 5"
    viewer.layers.remove("section")
    assert size.text() == ""


def test_the_store_is_proposed_until_it_is_typed(ready, tmp_path, cache):
    _, widget = ready
    proposed = widget.output.value()
    assert proposed.parent == cache.parent / "data" / "napari-cad" / "runs"
    assert proposed.name.startswith("stack_")
    widget.checkpoint.choose("AC34")
    assert widget.output.value().name == "stack_AC34.zarr"
    widget.output.path.setText(str(tmp_path / "mine.zarr"))
    widget.output.path.textEdited.emit(str(tmp_path / "mine.zarr"))
    widget.checkpoint.choose("CremiA")
    assert widget.output.value() == tmp_path / "mine.zarr"
    (tmp_path / "file").write_text("")
    for text, message in (("", "Choose where"), (str(tmp_path / "file"), "is a file")):
        widget.output.path.setText(text)
        widget.run()
        assert message in widget.status.line.text()


@pytest.mark.parametrize(
    "data",
    [np.zeros((2, 2, 8, 8), np.uint8), np.zeros((2, 8, 8), bool)],
    ids=["four axes", "no numbers"],
)
def test_the_store_is_never_called_after_another_image(ready, data):
    viewer, widget = ready
    assert widget.output.value().name == "stack_default.zarr"
    widget.volume.image.combo.value = viewer.add_image(data, name="odd")
    assert widget.output.value().name == "odd_default.zarr"


def test_what_is_said_of_a_run_goes_with_its_image(ready, raw, qtbot):
    viewer, widget = ready
    widget.checkpoint.choose("good.safetensors")
    widget.run()
    wait_for_end(qtbot, widget)
    assert widget.status.line.text().startswith("4 segments of 24 fragments, in")
    widget.volume.image.combo.value = viewer.add_image(raw, name="another")
    assert widget.status.line.text() == ""


def test_a_run_that_is_stopped_at_once_says_so(ready):
    _, widget = ready
    widget.checkpoint.choose("slow.safetensors")
    widget.run()
    widget.cancel_button.click()
    assert widget.status.line.text() == "Stopped. Run goes on from there."


def test_a_published_checkpoint_is_downloaded_only_when_asked_for(
    ready, qtbot, monkeypatch, tmp_path
):
    _, widget = ready
    asked = []

    def answer(parent, title, text):
        asked.append(text)
        return answers.pop(0)

    answers = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(QMessageBox, "question", answer)
    monkeypatch.setattr("napari_cad.widgets.segment.DOWNLOAD", "example_runs:download")
    widget.checkpoint.choose("AC34")
    widget.run()
    assert "Licence: none stated" in asked[0]
    assert "https://" in asked[0]
    assert not widget.runner.running
    widget.run()
    assert widget.runner.running
    wait_for_end(qtbot, widget)
    assert " fragment" in widget.status.line.text()


def test_a_checkpoint_sets_what_it_recommends(ready, tmp_path):
    _, widget = ready
    path = tmp_path / "mine.safetensors"
    metadata = CheckpointMetadata(
        name="mine",
        width=2,
        embedding_dim=3,
        voxel_size=(40, 4, 4),
        merge_function="mean",
        threshold=0.3,
        training_data="CREMI",
        licence="none",
    )
    save_checkpoint(path, StudentNetwork(2, 3), metadata)
    widget.checkpoint.choose(str(path))
    assert widget.agglomeration.values() == {"merge_function": "mean", "threshold": 0.3}
    assert widget.checkpoint.metadata() == metadata
    assert "40 × 4 × 4 nm" in widget.checkpoint._note.text()
    assert widget.output.value().name == "stack_mine.zarr"
    Path(tmp_path / "broken.ckpt").write_bytes(b"PK\x03\x04 broken")
    widget.checkpoint.choose(str(tmp_path / "broken.ckpt"))
    assert widget.checkpoint.metadata() is None
    assert widget.output.value().name == "stack_broken.ckpt.zarr"
