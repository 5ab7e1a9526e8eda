"""A viewer with the widget docked, and runs that are only pretended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

VIEWER_TESTS = Path(__file__).parents[1] / "viewer"
SHAPE = (6, 32, 40)


@pytest.fixture
def raw():
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def pretended(monkeypatch):
    """Runs go as the name of the checkpoint says; no network."""
    monkeypatch.syspath_prepend(str(VIEWER_TESTS))
    monkeypatch.setattr("napari_cad.widgets.segment.SEGMENT", "example_runs:segment")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A cache of our own, so that nothing is written into the person's."""
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache"


@pytest.fixture
def docked(make_napari_viewer_proxy, cache):
    """The widget in a viewer, as napari makes it."""
    viewer = make_napari_viewer_proxy()

    def _dock():
        _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Segment neurons")
        return viewer, widget

    return _dock
