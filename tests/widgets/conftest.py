"""A viewer with the widget docked, and runs that are only pretended."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from napari_cad.core.segmentation_job import SegmentationOptions
from napari_cad.core.store import SegmentationStore
from napari_cad.core.volume import EMVolume
from napari_cad.viewer.reader import read_store

VIEWER_TESTS = Path(__file__).parents[1] / "viewer"
SHAPE = (6, 32, 40)
VOXEL = (30.0, 6.0, 7.0)
ORIGIN = (60.0, 12.0, 14.0)


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
    """A cache and a data folder of our own, so that nothing is written into the person's."""
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr("platformdirs.user_data_path", lambda name, **_: tmp_path / "data" / name)
    return tmp_path / "cache"


@pytest.fixture
def docked(make_napari_viewer_proxy, cache):
    """The widget in a viewer, as napari makes it."""
    viewer = make_napari_viewer_proxy()

    def _dock():
        _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Segment neurons")
        return viewer, widget

    return _dock


@pytest.fixture
def run(tmp_path, raw, pretended):
    """A run of four columns, one per quadrant of the sections, in voxels of (30, 6, 7) nm."""
    sys.modules.pop("example_runs", None)
    import example_runs

    volume = EMVolume.from_array(raw, voxel_size=VOXEL, origin=ORIGIN, name="stack")
    path = tmp_path / "run.zarr"
    list(example_runs.segment(volume, "good.safetensors", str(path), SegmentationOptions()))
    return SegmentationStore.open(path)


@pytest.fixture
def show_run(run):
    """Show the run in a viewer."""

    def _show(viewer):
        for data, settings, kind in read_store(run.path):
            getattr(viewer, f"add_{kind}")(data, **settings)
        return viewer.layers["stack segments"]

    return _show


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


@pytest.fixture
def no_jobs_left(qtbot):
    """Wait until no job process lives any more."""
    return lambda: qtbot.waitUntil(lambda: not jobs_alive(), timeout=5000)
