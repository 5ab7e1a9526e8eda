"""Closing the viewer or a widget, or deleting the layers, while every widget runs a job."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import psutil
import pytest

import napari_cad.viewer.jobs
from napari_cad.core.jobs import JobProcess
from napari_cad.viewer.layers import find_layer, tag
from napari_cad.viewer.placement import Placement

HERE = Path(__file__).parent
PATIENCE = 180_000  # a busy machine
NM = {"scale": (30, 6, 7), "translate": (60, 12, 14), "units": ("nm",) * 3}

#: Title → what a person does to start its job, once everything is chosen.
STARTS = {
    "Fit to the stack": lambda widget: widget.preview.live_button.click(),
    "Segment neurons": lambda widget: widget.run_button.click(),
    "Agglomerate": lambda widget: widget.load(),
    "Embedding map": lambda widget: widget.live_button.click(),
    "2D against sliding-window 3D": lambda widget: widget.compare_button.click(),
    "Proofread": lambda widget: widget.start_button.click(),
    "Evaluate": lambda widget: widget.evaluate_button.click(),
    "Segments and contacts": lambda widget: widget.measure_button.click(),
    "Meshes": lambda widget: widget.show_button.click(),
    "Export labels": lambda widget: widget.export_button.click(),
}


def descendants() -> list[psutil.Process]:
    """All processes that jobs are or have started."""
    alive = []
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and (
                "_job_child" in command or "time.sleep(600)" in command
            ):
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive


@pytest.fixture
def busy(make_napari_viewer, run, show_run, raw, cache, monkeypatch, qtbot, tmp_path):
    """A viewer in which every widget runs a job that never ends."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(
        napari_cad.viewer.jobs,
        "JobProcess",
        lambda _function, arguments: JobProcess("example_endless:forever", arguments),
    )
    viewer = make_napari_viewer()
    viewer.add_image(raw, **NM, name="stack", axis_labels=("z", "y", "x"))
    show_run(viewer)
    viewer.add_labels(
        np.ones(raw.shape, np.uint16),
        name="truth",
        metadata=tag("truth"),
        **Placement.of_layer(viewer.layers["stack"]).for_axes(3),
    )
    widgets = {}
    for title, start in STARTS.items():
        _, widget = viewer.window.add_plugin_dock_widget("napari-cad", title)
        widgets[title] = widget
        if title.startswith("2D"):
            (tmp_path / "teacher.safetensors").write_bytes(b"")
            widget.teacher.setText(str(tmp_path / "teacher.safetensors"))
        elif title == "Meshes":
            widget.ids.setText("1")
        elif title == "Export labels":
            widget.path.setText(str(tmp_path / "labels.tif"))
        start(widget)
    # one child for each, and what each has started
    qtbot.waitUntil(lambda: len(descendants()) >= 2 * len(STARTS), timeout=PATIENCE)
    return viewer, widgets, find_layer(viewer, "segments", str(run.path))


def all_have_gone(qtbot) -> None:
    qtbot.waitUntil(lambda: not descendants(), timeout=10_000)


def test_closing_the_viewer_ends_all_jobs(busy, qtbot):
    viewer, _, _ = busy
    viewer.close()
    all_have_gone(qtbot)


def test_deleting_the_layers_is_survived_and_cancel_still_works(busy, qtbot):
    viewer, widgets, segments = busy
    viewer.layers.remove(segments)
    viewer.layers.clear()
    qtbot.wait(200)  # some events of every job
    assert not widgets["Embedding map"].server.running  # nothing left to colour
    for title in ("Segment neurons", "Evaluate", "Export labels"):
        widgets[title].cancel_button.click()
        assert not widgets[title].cancel_button.isEnabled(), title
    viewer.add_image(np.zeros((2, 16, 16), np.uint8), name="another")
    qtbot.wait(100)
    viewer.close()
    all_have_gone(qtbot)


def test_closing_the_widgets_ends_their_jobs_and_leaves_the_viewer_usable(busy, qtbot):
    viewer, widgets, _ = busy
    widgets.clear()
    viewer.window.remove_dock_widget("all")
    all_have_gone(qtbot)
    gc.collect()
    # nothing answers any more to what happens in the viewer
    viewer.add_image(np.zeros((2, 16, 16), np.uint8), name="another")
    viewer.dims.set_current_step(0, 1)
    viewer.layers.clear()
    qtbot.wait(500)
