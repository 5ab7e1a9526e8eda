from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from qtpy.QtCore import Qt

from napari_cad.core.checkpoint import save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import FitConfig
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.network import StudentNetwork
from napari_cad.core.store import SegmentationStore
from napari_cad.viewer.embedding_layers import camera_of
from napari_cad.viewer.fits import ChosenFit
from napari_cad.viewer.layers import find_layer
from napari_cad.viewer.state import state_of

HERE = Path(__file__).parent
PATIENCE = 180_000  # a busy machine
NM = {"scale": (30, 6, 7), "translate": (60, 12, 14), "units": ("nm",) * 3}
KEY = "fit stack"


@pytest.fixture
def docked(make_napari_viewer_proxy, cache, raw, monkeypatch):
    """A stack in a viewer, and the widget as napari makes it."""
    viewer = make_napari_viewer_proxy()
    viewer.add_image(raw, **NM, name="stack", axis_labels=("z", "y", "x"))
    viewer.dims.set_current_step(0, 2)
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Fit to the stack")
    return viewer, widget


@pytest.fixture
def pretended(docked, monkeypatch):
    """Jobs that answer at once, without a network."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr("napari_cad.widgets._fit_preview.SERVE_PREVIEWS", "example_fit:serve")
    monkeypatch.setattr("napari_cad.widgets._suggest.SUGGEST", "example_fit:suggest")
    return docked


def shown(viewer, key=KEY):
    """What the pretended affinities tell: section, 100 × adapt, 10 × smooth."""
    layer = find_layer(viewer, "fit_affinities", key)
    return None if layer is None else np.asarray(layer.data)[..., 0, 0, :].ravel().tolist()


def wait_for(qtbot, viewer, told, key=KEY):
    """Wait for a preview; the fragments are the last of its layers."""
    qtbot.waitUntil(
        lambda: shown(viewer, key) == told and find_layer(viewer, "fit_fragments", key) is not None,
        timeout=PATIENCE,
    )


def go_live(qtbot, viewer, widget):
    widget.preview.live_button.click()
    wait_for(qtbot, viewer, [2, 0, 0])


# ---------------------------------------------------------------------- the preview


def test_the_preview_follows_the_settings_and_the_section(pretended, qtbot):
    viewer, widget = pretended
    go_live(qtbot, viewer, widget)
    assert widget.preview.line.text() == "Section 2, 32 × 40 voxels: 2 fragments"
    widget.form.smooth.setValue(1.5)
    wait_for(qtbot, viewer, [2, 0, 15])
    viewer.dims.set_current_step(0, 5)
    wait_for(qtbot, viewer, [5, 0, 15])
    roles = ("fit_affinities", "fit_rgb", "fit_fragments")
    affinities, rgb, fragments = (find_layer(viewer, role, KEY) for role in roles)
    image = viewer.layers["stack"]
    for layer in (affinities, rgb, fragments):
        np.testing.assert_allclose(layer.scale, image.scale)
        np.testing.assert_allclose(layer.translate, (60 + 5 * 30, 12, 14))
        assert layer.units == image.units
    assert (affinities.visible, rgb.visible, fragments.visible) == (True, False, True)
    assert fragments.contour == 1
    assert not fragments.editable
    assert viewer.layers.selection.active == image
    widget.preview.picture.setCurrentIndex(1)
    widget.preview.outlines.setChecked(False)
    assert (affinities.visible, rgb.visible, fragments.visible) == (False, True, False)
    widget.preview.live_button.click()
    assert list(viewer.layers) == [image]
    assert not widget.preview.server.running


def test_an_adapted_preview_is_rough_first(pretended, qtbot):
    viewer, widget = pretended
    go_live(qtbot, viewer, widget)
    seen = []
    widget.preview.server.reported.connect(
        lambda _: seen.append((shown(viewer), "follow" in widget.preview.line.text()))
    )
    widget.form.adapt.setValue(1)
    qtbot.waitUntil(lambda: len(seen) == 2, timeout=PATIENCE)
    assert seen == [([1, 50, 0], True), ([2, 100, 0], False)]


def test_late_answers_are_dropped(pretended, qtbot):
    viewer, widget = pretended
    go_live(qtbot, viewer, widget)
    answers = []
    widget.preview.server.reported.connect(answers.append)
    widget.form.smooth.setValue(1)
    wait_for(qtbot, viewer, [2, 0, 10])
    widget.form.smooth.setValue(2)
    widget.preview._on_answer(answers[0])
    wait_for(qtbot, viewer, [2, 0, 20])
    widget.preview._on_answer(answers[0])
    assert shown(viewer) == [2, 0, 20]


def test_the_crop_lies_around_the_centre_of_the_view_and_follows_it(pretended, qtbot):
    viewer, widget = pretended
    image = viewer.add_image(np.zeros((6, 900, 1200), np.uint8), **NM, name="large")
    widget.image.combo.value = image
    widget.preview.live_button.click()
    wait_for(qtbot, viewer, [2, 0, 0], key="fit large")
    layer = find_layer(viewer, "fit_affinities", "fit large")

    def start():
        return tuple(np.rint(image.world_to_data(layer.translate)).astype(int).tolist())

    assert layer.data.shape == (1, 512, 512, 3)
    camera_of(viewer).center = image.data_to_world((2, 400, 500))
    qtbot.waitUntil(lambda: start() == (2, 144, 244), timeout=PATIENCE)
    camera_of(viewer).center = image.data_to_world((2, 450, 550))  # still in its middle
    qtbot.wait(400)
    assert start() == (2, 144, 244)
    camera_of(viewer).center = image.data_to_world((2, 900, 1100))
    qtbot.waitUntil(lambda: start() == (2, 388, 688), timeout=PATIENCE)
    widget.form.rescale.setValue(2)  # the network sees as much as before
    qtbot.waitUntil(lambda: layer.data.shape == (1, 256, 256, 3), timeout=PATIENCE)


def test_the_crop_may_be_drawn(pretended, qtbot):
    viewer, widget = pretended
    go_live(qtbot, viewer, widget)
    widget.preview.where.setCurrentIndex(1)
    assert widget.preview.line.text() == "Draw a rectangle over the image."
    box = find_layer(viewer, "fit_box", None)
    assert box.mode == "add_rectangle"
    box.add_rectangles([[2, 4, 10], [2, 4, 29], [2, 20, 29], [2, 20, 10]])
    layer = find_layer(viewer, "fit_affinities", KEY)
    qtbot.waitUntil(lambda: layer.data.shape == (1, 17, 20, 3), timeout=PATIENCE)
    np.testing.assert_allclose(layer.translate, (60 + 2 * 30, 12 + 4 * 6, 14 + 10 * 7))


def test_an_image_of_one_section(pretended, qtbot, raw):
    viewer, widget = pretended
    viewer.layers.clear()
    viewer.add_image(raw[0], name="flat", scale=(6, 7))
    widget.preview.live_button.click()
    wait_for(qtbot, viewer, [0, 0, 0], key="fit flat")
    assert find_layer(viewer, "fit_fragments", "fit flat").data.shape == (32, 40)


def test_a_setting_that_fails_is_said_and_the_preview_goes_on(pretended, qtbot):
    viewer, widget = pretended
    go_live(qtbot, viewer, widget)
    widget.checkpoint.choose("fails.safetensors")
    qtbot.waitUntil(lambda: widget.preview.line.text() == "no such checkpoint", timeout=PATIENCE)
    widget.checkpoint.choose("good.safetensors")
    qtbot.waitUntil(lambda: "fragments" in widget.preview.line.text(), timeout=PATIENCE)


def test_a_job_that_fails_ends_the_preview(pretended, qtbot):
    viewer, widget = pretended
    viewer.layers["stack"].name = "broken"
    widget.preview.live_button.click()
    qtbot.waitUntil(lambda: not widget.preview.live_button.isChecked(), timeout=PATIENCE)
    assert widget.status.line.text() == "no such device"


def test_no_section_on_screen_and_no_image_are_said(pretended):
    viewer, widget = pretended
    viewer.dims.ndisplay = 3
    widget.preview.live_button.click()
    assert widget.preview.line.text() == "No section of the image is on screen."
    viewer.layers.clear()
    assert not widget.preview.live_button.isChecked()
    widget.preview.live_button.click()
    assert "Open an image first" in widget.status.line.text()
    widget.use_button.click()
    assert "Open an image first" in widget.status.line.text()


def test_closing_the_widget_ends_its_jobs(pretended, qtbot, no_jobs_left):
    viewer, widget = pretended
    go_live(qtbot, viewer, widget)
    widget.checkpoint.choose("slow.safetensors")
    widget.suggestions.suggest()
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    no_jobs_left()
    viewer.dims.set_current_step(0, 4)  # nobody listens any more


def test_the_factor_is_suggested_where_the_voxel_sizes_are_known(docked):
    viewer, widget = docked
    widget.checkpoint.choose("wafer4")  # 8 nm
    assert widget.form.suggested.text() == "Suggested: 0.812"
    widget.form.suggested.click()
    assert widget.form.value().fit.rescale == pytest.approx(0.812)
    viewer.layers["stack"].units = ("pixel",) * 3
    widget.checkpoint.choose("AC34")
    assert not widget.form.suggested.isVisibleTo(widget)


def test_a_preview_with_a_real_network(docked, qtbot, tmp_path):
    torch.manual_seed(0)
    checkpoint = tmp_path / "tiny.safetensors"
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=4, training_data="nothing", licence="none"
    )
    save_checkpoint(checkpoint, StudentNetwork(2, 4), metadata)
    viewer, widget = docked
    widget.device.set_values(device="cpu")
    widget.checkpoint.choose(str(checkpoint))
    widget.form.adapt.setValue(1)
    widget.preview.live_button.click()
    qtbot.waitUntil(
        lambda: (
            widget.preview.line.text().endswith("fragments")
            or not widget.preview.live_button.isChecked()
        ),
        timeout=PATIENCE,
    )
    assert widget.preview.live_button.isChecked(), widget.status.line.text()
    rgb = find_layer(viewer, "fit_rgb", KEY).data
    assert np.ptp(rgb, axis=(0, 1, 2)).min() > 100


# ---------------------------------------------------------------------- suggestions


def suggest(qtbot, widget):
    widget.suggestions.suggest_button.click()
    qtbot.waitUntil(lambda: not widget.suggestions.runner.running, timeout=PATIENCE)


def test_suggestions_are_ranked_and_the_best_is_shown(pretended, qtbot):
    viewer, widget = pretended
    widget.checkpoint.choose("one.safetensors")
    widget.suggestions.add_checkpoint("two.safetensors")
    suggest(qtbot, widget)
    table = widget.suggestions.table
    assert table.model.rowCount() == 8
    assert table.model.data(table.model.index(0, 0)) == "0.800"
    assert table.model.data(table.model.index(0, 5)) == "two"
    assert "8 settings" in widget.suggestions.status.line.text()
    assert widget.checkpoint.value() == "two.safetensors"
    assert widget.form.value() == ChosenFit(FitConfig(adapt=1.0))
    wait_for(qtbot, viewer, [2, 100, 0])  # the preview has come up


def test_a_click_on_a_row_shows_its_setting(pretended, qtbot):
    viewer, widget = pretended
    widget.checkpoint.choose("one.safetensors")
    suggest(qtbot, widget)
    wait_for(qtbot, viewer, [2, 100, 0])
    table = widget.suggestions.table
    table.view.sortByColumn(2, Qt.SortOrder.DescendingOrder)  # the smoothest first
    table.view.selectRow(0)
    assert widget.form.value().fit == FitConfig(adapt=1.0, smooth=2.0)
    wait_for(qtbot, viewer, [2, 100, 20])


def test_suggesting_can_be_cancelled_in_the_middle(pretended, qtbot, no_jobs_left):
    _, widget = pretended
    widget.checkpoint.choose("slow.safetensors")
    widget.suggestions.suggest_button.click()
    assert not widget.suggestions.suggest_button.isEnabled()
    qtbot.waitUntil(lambda: bool(widget.suggestions.results), timeout=PATIENCE)
    assert "of 4 settings" in widget.suggestions.status.line.text()
    assert "left" in widget.suggestions.status.line.text()
    widget.suggestions.cancel_button.click()
    assert widget.suggestions.status.line.text().startswith("Stopped after")
    assert widget.suggestions.table.model.rowCount() == len(widget.suggestions.results)
    assert widget.suggestions.suggest_button.isEnabled()
    no_jobs_left()


# ---------------------------------------------------------------------- handing it on


@pytest.fixture
def beside(pretended, monkeypatch):
    """The widget Segment neurons in the same viewer, whose runs are pretended."""
    viewer, widget = pretended
    monkeypatch.syspath_prepend(str(HERE.parent / "viewer"))
    monkeypatch.setattr("napari_cad.widgets.segment.SEGMENT", "example_runs:segment")
    _, segment = viewer.window.add_plugin_dock_widget("napari-cad", "Segment neurons")
    return viewer, widget, segment


def run(qtbot, segment):
    segment.run()
    qtbot.waitUntil(lambda: not segment.runner.running, timeout=PATIENCE)
    assert " fragment" in segment.status.line.text(), segment.status.line.text()
    return SegmentationStore.open(segment.output.value()).config


def test_a_chosen_fit_is_used_for_segmentation(beside, qtbot):
    _, widget, segment = beside
    assert segment.fit.line.text() == "as it is"
    before = segment.output.value()
    widget.checkpoint.choose("good.safetensors")
    widget.form.adapt.setValue(0.5)
    widget.form.smooth.setValue(1)
    widget.form.intensity.set_value(IntensityMapping("limits", 10, 200, invert=True))
    widget.use_button.click()
    text = "adapt 0.5, smooth 1, intensity 10 to 200, inverted"
    assert segment.fit.line.text() == text
    assert text in state_of(widget._viewer).report_of("fit").text
    assert segment.checkpoint.value() == "good.safetensors"
    assert segment.output.value() != before  # a store of its own
    config = run(qtbot, segment)
    assert (config.fit.adapt, config.fit.smooth, config.fit.rescale) == (0.5, 1, 1)
    assert (config.intensity.low, config.intensity.high, config.intensity.invert) == (10, 200, True)


def test_a_fit_belongs_to_its_checkpoint_and_image(beside, qtbot, raw):
    viewer, widget, segment = beside
    widget.checkpoint.choose("good.safetensors")
    widget.form.adapt.setValue(1)
    widget.use_button.click()
    segment.checkpoint.choose("default")
    assert segment.fit.value() is None
    segment.checkpoint.choose("good.safetensors")
    assert segment.fit.line.text() == "adapt 1"
    other = viewer.add_image(raw, name="other")
    state_of(viewer).choose_image(other)
    assert segment.fit.value() is None
    state_of(viewer).choose_image(viewer.layers["stack"])
    assert segment.fit.value().fit.adapt == 1
    segment.fit.without.click()
    assert segment.fit.line.text() == "as it is"
    assert run(qtbot, segment).fit == FitConfig()


def test_as_it_is_is_no_fit(beside):
    _, widget, segment = beside
    widget.form.adapt.setValue(1)
    widget.use_button.click()
    assert segment.fit.value() is not None
    widget.reset_button.click()
    widget.use_button.click()
    assert segment.fit.value() is None


def test_one_click_leads_from_the_warning_of_a_run_to_fitting(
    make_napari_viewer_proxy, cache, raw, monkeypatch, qtbot
):
    viewer = make_napari_viewer_proxy()
    viewer.add_image(raw, name="other")
    image = viewer.add_image(raw, name="stack")
    monkeypatch.syspath_prepend(str(HERE.parent / "viewer"))
    monkeypatch.setattr("napari_cad.widgets.segment.SEGMENT", "example_runs:segment")
    _, segment = viewer.window.add_plugin_dock_widget("napari-cad", "Segment neurons")
    segment.volume.image.combo.value = image
    segment.checkpoint.choose("foreign.safetensors")
    assert not segment.fit_button.isVisibleTo(segment)
    run(qtbot, segment)
    assert "does not fit" in segment.status.warnings.text()
    assert segment.fit_button.isVisibleTo(segment)
    segment.fit_button.click()
    shown = []
    state_of(viewer).fit_wanted.emit(shown)
    (widget,) = shown
    assert widget.image.layer.name == "stack"
    assert widget.checkpoint.value() == "foreign.safetensors"
    segment.checkpoint.choose("good.safetensors")
    segment.output.overwrite.setChecked(True)
    run(qtbot, segment)
    assert not segment.fit_button.isVisibleTo(segment)
