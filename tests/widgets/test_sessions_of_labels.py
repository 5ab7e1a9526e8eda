from __future__ import annotations

import importlib

import numpy as np
import pytest
from qtpy.QtCore import QTimer

from napari_cad.widgets.proofread import ProofreadWidget


@pytest.fixture
def widget(make_napari_viewer, cache):
    """Labels without a run, with an image, in a viewer."""
    labels = np.zeros((3, 12, 16), np.uint16)
    labels[:, 1:5, 1:15] = 7
    labels[:, 7:11, 1:15] = 9
    viewer = make_napari_viewer()
    viewer.add_image(np.where(labels > 0, 200, 20).astype(np.uint8), name="image")
    viewer.add_labels(labels, name="bars")
    widget = ProofreadWidget(viewer)
    viewer.window.add_dock_widget(widget)

    def run(function, arguments):
        module, _, name = function.partition(":")
        for event in getattr(importlib.import_module(module), name)(**arguments):
            widget.starter.runner.reported.emit(event)
        widget.starter.runner.finished.emit()

    def start(function, arguments, _description):
        QTimer.singleShot(0, lambda: run(function, arguments))

    widget.starter.runner.start = start  # in this process, which is quicker
    return widget


def edited(widget, qtbot):
    """Merge the two labels and end the session."""
    widget.start_button.click()
    qtbot.waitUntil(lambda: widget.proofreader is not None)
    proofreader = widget.proofreader
    proofreader.session.merge([1, 2])
    folder = proofreader.layers.key  # of the session
    proofreader.end()
    return folder


def test_the_session_is_that_of_the_labels_not_of_their_name(widget, qtbot):
    folder = edited(widget, qtbot)
    widget._viewer.layers["bars"].name = "bars [1]"
    widget.start_button.click()
    qtbot.waitUntil(lambda: widget.proofreader is not None)
    assert widget.proofreader.layers.key == folder
    lut = widget.proofreader.session.lut
    assert lut[1] == lut[2]


def test_another_image_is_refused_and_not_a_new_session(widget, qtbot):
    folder = edited(widget, qtbot)
    other = np.random.default_rng(0).integers(0, 255, (3, 12, 16), dtype=np.uint8)
    widget._viewer.layers["image"].data = other
    widget.start_button.click()
    said = "with another image beside them"
    qtbot.waitUntil(lambda: said in widget.status.line.text())
    assert widget.proofreader is None
    assert folder in widget.status.line.text()
