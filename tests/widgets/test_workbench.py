"""The workbench, the export in it, preferences, and what widgets of a viewer share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import napari.settings
import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtWidgets import QApplication

from napari_cad.core.agglomerations import AGGLOMERATIONS
from napari_cad.core.config import DEVICES, PRECISIONS
from napari_cad.core.live_segmentation import size_histogram
from napari_cad.core.readers import open_volume
from napari_cad.viewer.layer_data import LutLabels
from napari_cad.viewer.layers import find_layer
from napari_cad.viewer.preferences import AS_CHECKPOINT, PLUGIN, Preferences, preferences
from napari_cad.viewer.state import state_of
from napari_cad.widgets._checkpoint import CheckpointChooser
from napari_cad.widgets._image import ImageChooser
from napari_cad.widgets._plots import SizeHistogram
from napari_cad.widgets._steps import STEPS
from napari_cad.widgets.export import ExportWidget
from napari_cad.widgets.segment import SegmentWidget
from napari_cad.widgets.workbench import Workbench

PATIENCE = 120_000  # a busy machine
GREY = np.random.default_rng(0).integers(0, 256, (6, 32, 40), dtype=np.uint8)
NM = {"scale": (30, 6, 7), "units": ("nm",) * 3}


@pytest.fixture
def model(qtbot, cache):
    """A viewer without a window."""
    return ViewerModel()


@pytest.fixture
def workbench(model, qtbot):
    widget = Workbench(model)
    qtbot.addWidget(widget)
    return widget


def lines(workbench):
    return [panel.line.text() for panel in workbench.panels]


def enabled(workbench):
    return [panel.button.isEnabled() for panel in workbench.panels]


def test_the_lines_and_what_can_be_opened_follow_the_viewer(workbench, model, show_run):
    assert lines(workbench)[:2] == ["no image open", "open an image first"]
    assert enabled(workbench) == [True, False, False, False, False, True]
    model.add_image(GREY, name="stack", **NM)
    assert lines(workbench)[:2] == ["stack · 6 sections · 30 × 6 × 7 nm", "ready"]
    assert enabled(workbench) == [True, True, False, False, False, True]
    assert lines(workbench)[5] == "needs an image with labels, or a folder of them"
    segments = show_run(model)
    assert lines(workbench)[2] == "4 segments at 0.50"
    assert enabled(workbench) == [True] * 6
    assert lines(workbench)[5] == "ready; learns from what was proofread"
    state_of(model).report(
        "agglomerate", "7 segments at 0.10", run=segments.metadata["napari_cad"]["run"]
    )
    state_of(model).report("evaluate", "VOI 0.71")
    assert (lines(workbench)[2], lines(workbench)[4]) == ("7 segments at 0.10", "VOI 0.71")
    state_of(model).report("export", "1 of 6 sections", running=True)
    assert lines(workbench)[4] == "1 of 6 sections"  # what runs goes first
    state_of(model).report("export", "labels.tif written")
    assert lines(workbench)[4] == "VOI 0.71"
    model.layers.clear()
    assert lines(workbench)[2] == "segment an image, or open a run, first"
    assert enabled(workbench) == [True, False, False, False, False, True]


def test_a_run_that_goes_on_can_be_neither_agglomerated_nor_proofread(
    workbench, model, show_run, run
):
    segments = show_run(model)
    state_of(model).report("segment", "starting…", running=True, run=str(run.path))
    assert lines(workbench)[2:5] == ["finish the run first"] * 3
    assert enabled(workbench)[2:5] == [False] * 3
    state_of(model).report("segment", "24 fragments", run=str(run.path))
    assert lines(workbench)[2:4] == ["4 segments at 0.50", "ready"]
    segments.data = LutLabels(run.fragments, run.lut(0.0))
    assert lines(workbench)[2] == "24 segments at 0.50"


def test_fragments_of_a_run_that_was_stopped_are_not_ready(workbench, model, show_run, run):
    segments = show_run(model)
    segments.data = LutLabels(run.fragments)  # as while it goes on, and when it is stopped
    state_of(model).report("segment", "stopped · 2 of 6 sections", run=str(run.path))
    assert lines(workbench)[2:5] == ["finish the run first"] * 3
    assert enabled(workbench)[2:5] == [False] * 3
    model.add_labels(np.ones(GREY.shape, np.uint8), name="painted")  # other labels can be used
    assert lines(workbench)[2:4] == ["finish the run first", "ready"]


def test_any_other_labels_are_a_truth(workbench, model, show_run):
    show_run(model)
    assert lines(workbench)[4] == "ready; scores need a truth layer"
    truth = model.add_labels(np.ones(GREY.shape, np.uint8), name="mine")
    assert lines(workbench)[4] == "ready"
    evaluate = workbench.panels[4].show_part(0)
    assert evaluate.truth.layer is truth
    model.layers.remove("stack segments")
    assert lines(workbench)[4] == "ready; scores need a segmentation, and its truth"


def test_the_edits_of_a_session_are_told_after_its_end(workbench, model, show_run, run):
    segments, state = show_run(model), state_of(model)
    path = segments.metadata["napari_cad"]["run"]
    state.report("proofread", "4 edits", run=path)
    state.report("proofread", "")  # as a session that ends
    assert lines(workbench)[3] == "4 edits"
    state.report("proofread", "5 edits")  # of labels that come without a run
    state.report("proofread", "")
    state.report("export", "1 of 6 sections", running=True)
    assert lines(workbench)[3] == "5 edits"
    state.report("proofread", "4 edits", run=path)
    state.report("proofread", "")
    state.report("segment", "starting…", running=True, run=path)
    state.report("segment", "24 fragments", run=path)
    assert lines(workbench)[3] == "ready"  # they were of the former run


@pytest.mark.parametrize(
    ("sizes", "end"),
    [([], ""), ([150_000], "200,000 voxels"), ([1], "2 voxels"), ([9_999], "10,000 voxels")],
)
def test_the_axis_of_sizes_ends_in_a_plain_number(qtbot, sizes, end):
    histogram = SizeHistogram()
    qtbot.addWidget(histogram)
    histogram.show_counts(size_histogram(np.array(sizes, np.int64)))
    assert histogram.right_end() == end
    histogram.grab()


def test_one_is_said_in_the_singular(workbench, model, show_run, run):
    segments = show_run(model)
    segments.data = LutLabels(run.fragments, np.minimum(run.lut(), 1))
    assert lines(workbench)[2] == "1 segment at 0.50"
    model.add_image(GREY[:1], name="one", **NM)
    state_of(model).choose_image(model.layers["one"])
    assert lines(workbench)[0].startswith("one · 1 section ·")


def test_no_window_opens_beside_the_workbench(workbench, model, show_run):
    """One that is left open keeps napari from ending."""
    model.add_image(GREY, name="stack", **NM)
    show_run(model)
    for panel in workbench.panels:
        for index in range(len(panel.step.parts)):
            panel.show_part(index)
    open_windows = [widget for widget in QApplication.topLevelWidgets() if widget.isVisible()]
    assert open_windows == []
    buttons = [panel.next_button for panel in workbench.panels]
    assert [button.isHidden() for button in buttons] == [False] * 5 + [True]


def test_widgets_are_made_when_they_are_first_opened(workbench, model):
    model.add_image(GREY, name="stack")
    made = [sum(widget is not None for widget in panel.widgets) for panel in workbench.panels]
    assert made == [1, 0, 0, 0, 0, 0]
    first = workbench.panels[0]
    assert first.is_open
    first.next_button.click()
    assert [panel.is_open for panel in workbench.panels] == [i == 1 for i in range(6)]
    widget = workbench.panels[1].widgets[0]
    assert isinstance(widget, SegmentWidget)
    workbench.panels[1].button.click()
    assert not any(panel.is_open for panel in workbench.panels)
    assert workbench.panels[1].show_part(0) is widget  # as it was left
    assert not workbench.panels[1].next_button.isEnabled()


def test_it_opens_without_what_takes_long_to_import():
    code = (
        "import sys, napari_cad.widgets.workbench, napari_cad.widgets._input\n"
        "print(*{'torch', 'zarr', 'waterz', 'napari_cad.widgets.segment'} "
        "& set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == []


def test_the_sample_is_made_by_a_job_and_files_are_opened(workbench, model, qtbot, tmp_path):
    panel = workbench.panels[0].show_part(0)
    panel.sample_button.click()
    assert not panel.sample_button.isEnabled()
    qtbot.waitUntil(panel.sample_button.isEnabled, timeout=PATIENCE)
    assert [layer.name for layer in model.layers] == ["synthetic EM", "truth"]
    assert "16 sections of 384 × 384 voxels" in panel.about.text()
    np.save(tmp_path / "mine.npy", GREY)
    panel.open([str(tmp_path / "mine.npy")])
    assert model.layers["mine"].data.shape == GREY.shape
    panel.open([str(tmp_path / "nothing.xyz")])
    assert "no image, stack or run" in panel.status.line.text()


def test_every_part_exists(workbench, model, show_run):
    model.add_image(GREY, name="stack")
    show_run(model)
    for panel, step in zip(workbench.panels, STEPS, strict=True):
        for index, part in enumerate(step.parts):
            widget = panel.show_part(index)
            assert type(widget).__name__ == part.python_name.partition(":")[2]


def test_another_widget_may_ask_for_fitting(workbench, model, qtbot):
    model.add_image(GREY, name="stack")
    workbench.show()
    panel = workbench.panels[1]
    segment = panel.show_part(0)
    segment.fit.open_button.click()
    assert workbench.panels[0].is_open
    assert type(workbench.panels[0].widgets[1]).__name__ == "FitWidget"


def test_a_run_is_told_of_while_it_goes_on(workbench, model, pretended, qtbot):
    model.add_image(GREY, name="stack", **NM)
    segment = workbench.panels[1].show_part(0)
    segment.checkpoint.choose("slow.safetensors")
    segment.run()
    assert lines(workbench)[1] == "slow.safetensors · starting…"
    qtbot.waitUntil(
        lambda: lines(workbench)[1].startswith("slow.safetensors · 2 of 6 sections"),
        timeout=PATIENCE,
    )
    assert lines(workbench)[2:5] == ["finish the run first"] * 3
    segment.cancel_button.click()
    assert lines(workbench)[1] == "slow.safetensors · stopped · 2 of 6 sections"
    assert lines(workbench)[2:5] == ["finish the run first"] * 3
    segment.checkpoint.choose("good.safetensors")
    segment.output.overwrite.setChecked(True)
    segment.run()
    qtbot.waitUntil(lambda: not segment.runner.running, timeout=PATIENCE)
    assert lines(workbench)[1] == "good.safetensors · 24 fragments"
    # the layer of segments is made in a turn of its own
    qtbot.waitUntil(lambda: lines(workbench)[2].startswith("4 segments at "), timeout=PATIENCE)


def test_after_another_run_its_segments_are_told_of(workbench, model, pretended, qtbot):
    model.add_image(GREY, name="stack", **NM)
    segment = workbench.panels[1].show_part(0)
    for name in ("first", "second"):
        segment.checkpoint.choose(f"{name}.safetensors")
        segment.run()
        qtbot.waitUntil(lambda: not segment.runner.running, timeout=PATIENCE)
        qtbot.waitUntil(lambda: " at 0." in lines(workbench)[2], timeout=PATIENCE)
        if name == "first":
            run = find_layer(model, "segments", str(segment.output.value())).metadata
            state_of(model).report(
                "agglomerate", "99 segments at 0.60", run=run["napari_cad"]["run"]
            )
            assert lines(workbench)[2] == "99 segments at 0.60"
    qtbot.waitUntil(
        lambda: lines(workbench)[2].startswith("stack_second.safetensors · 4 segments at "),
        timeout=PATIENCE,
    )


# ---------------------------------------------------------------------- what is shared


def test_widgets_of_a_viewer_share_image_and_checkpoint_and_viewers_do_not(model, qtbot):
    other = ViewerModel()
    for viewer in (model, other):
        for name in ("a", "b"):
            viewer.add_image(GREY, name=name)
    here, there = [ImageChooser(model), ImageChooser(model)], ImageChooser(other)
    ours, theirs = [CheckpointChooser(model), CheckpointChooser(model)], CheckpointChooser(other)
    for widget in (*here, there, *ours, theirs):
        qtbot.addWidget(widget)
    here[0].combo.native.setCurrentIndex(1)
    here[0].combo.native.activated.emit(1)  # as a click does
    ours[1].choose("AC34")
    assert [chooser.layer.name for chooser in (*here, there)] == ["b", "b", "a"]
    assert [chooser.value() for chooser in (*ours, theirs)] == ["AC34", "AC34", "default"]
    # and those that are opened later
    late = (ImageChooser(model), CheckpointChooser(model), ImageChooser(other))
    for widget in late:
        qtbot.addWidget(widget)
    assert (late[0].layer.name, late[1].value(), late[2].layer.name) == ("b", "AC34", "a")
    assert state_of(model) is not state_of(other)


# ---------------------------------------------------------------------- preferences


@pytest.fixture
def settings():
    """The plugin's preferences, put back afterwards."""
    try:
        settings = napari.settings.get_plugin_settings(PLUGIN)
    except AttributeError:
        pytest.skip("napari before 0.9 has no preferences of plugins")
    yield settings
    settings.reset()


def test_preferences_are_the_defaults_of_the_widgets(settings, model, qtbot, tmp_path):
    assert preferences() == Preferences()
    (tmp_path / "mine.safetensors").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    settings.segmentation.device = "cpu"
    settings.segmentation.precision = "float32"
    settings.segmentation.merge_function = "quantile75"
    settings.segmentation.threshold = 0.35
    settings.segmentation.workers = 3
    settings.folders.checkpoints = str(tmp_path)
    settings.folders.stores = str(tmp_path / "stores")
    assert preferences().workers == 3
    model.add_image(GREY, name="stack")
    widget = SegmentWidget(model)
    qtbot.addWidget(widget)
    assert widget.device.values() == {"device": "cpu"}
    assert widget.inference.values()["precision"] == "float32"
    assert widget.agglomeration.values()["merge_function"] == "quantile75"
    assert widget.agglomeration.values()["threshold"] == 0.35
    assert widget.output.value().parent == tmp_path / "stores"
    combo = widget.checkpoint.combo
    assert combo.findData(str(tmp_path / "mine.safetensors")) > 0
    assert combo.findText("notes.txt") < 0
    assert widget._read_form().arguments["options"].workers == 3


def test_an_older_napari_has_no_preferences(monkeypatch):
    monkeypatch.delattr(napari.settings, "get_plugin_settings", raising=False)
    assert preferences() == Preferences()


def test_the_choices_of_the_preferences_are_those_of_the_package(settings):
    fields = type(settings.segmentation).model_fields
    choices = {name: (field.json_schema_extra or {}).get("enum") for name, field in fields.items()}
    assert choices["device"] == list(DEVICES)
    assert choices["precision"] == list(PRECISIONS)
    assert choices["merge_function"] == [AS_CHECKPOINT, *AGGLOMERATIONS]


# ---------------------------------------------------------------------- export


@pytest.fixture
def export(model, show_run, qtbot, tmp_path):
    segments = show_run(model)
    widget = ExportWidget(model)
    qtbot.addWidget(widget)
    return segments, widget


def test_segments_are_written_as_they_are_shown(export, qtbot, tmp_path, run):
    segments, widget = export
    assert widget.path.text().endswith("run_labels.zarr")
    widget.format.setCurrentIndex(1)
    assert Path(widget.path.text()).name == "run_labels.tif"
    segments.data.set_lut(run.lut(0.0))  # another threshold is on screen
    path = tmp_path / "labels.h5"
    widget.path.setText(str(path))
    widget._on_edited(str(path))
    assert widget.format.currentText() == "HDF5"
    widget.export_button.click()
    assert not widget.export_button.isEnabled()
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    assert widget.status.line.text() == f"Written: {path}"
    written = open_volume(path)
    np.testing.assert_array_equal(written.data[:], np.asarray(segments.data))
    assert written.voxel_size == run.voxel_size
    widget.export_button.click()  # it is in the way now
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    assert "say overwrite" in widget.status.line.text()
    widget.overwrite.setChecked(True)
    widget.export_button.click()
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    assert "Written" in widget.status.line.text()
    assert not widget.overwrite.isChecked()


def test_an_export_that_is_cancelled_leaves_nothing_behind(model, qtbot, tmp_path):
    class Slow:
        """Labels that take a while to read."""

        shape, dtype, ndim = (200, 8, 8), np.dtype(np.uint8), 3

        def __getitem__(self, key):
            qtbot_free.wait(0.02)
            return np.ones(self.shape, np.uint8)[key]

        def __array__(self, dtype=None, copy=None):
            return np.ones(self.shape, np.uint8)

    import threading

    qtbot_free = threading.Event()
    model.add_labels(Slow(), name="slow")
    widget = ExportWidget(model)
    qtbot.addWidget(widget)
    widget.path.setText(str(tmp_path / "labels.tif"))
    widget.export_button.click()
    qtbot.waitUntil(lambda: list(tmp_path.glob(".labels*")) != [], timeout=PATIENCE)
    widget.cancel_button.click()
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    assert widget.status.line.text() == "Stopped. Nothing was written."
    assert not [path for path in tmp_path.iterdir() if path.name.endswith((".part", ".tif"))]
    assert widget.export_button.isEnabled()


def test_segments_of_a_run_are_found_by_the_export(export, model, run):
    segments, widget = export
    assert widget.labels.layer is segments is find_layer(model, "segments", str(run.path))
