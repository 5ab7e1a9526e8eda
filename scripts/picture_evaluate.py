#!/usr/bin/env python3
"""Make the pictures of docs/evaluate.md: the real window, with the synthetic sample.

    python scripts/picture_evaluate.py [--output docs/images]

evaluate.png: the worst error in its section. evaluate-3d.png: the segments of the worst errors at
two thresholds, side by side. segments.png: segments and contacts. The sample comes from its seed,
the segmentation from the embedded checkpoint, the rest from the dock widgets. Without a display it
runs itself on a virtual screen. It takes two or three minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from make_pictures import ROOT, need_a_screen

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = (1400, 800)
THRESHOLD = 0.65  # of the second segmentation
ARROWS = 12
ANGLES = (-25.0, 30.0, 60.0)
TIMEOUT = 900.0


def main() -> None:
    """Parse the command line and make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    output = parser.parse_args().output.absolute()
    need_a_screen()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # napari as it comes, not as this person has set it up
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        run = segmented(Path(folder))
        for path in (*evaluate_pictures(run, output), segments_picture(run, output)):
            print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def segmented(folder: Path) -> Path:
    """Segment the sample."""
    import numpy as np

    from napari_cad.core.readers import open_volume
    from napari_cad.core.segmentation_job import segmentation_job
    from napari_cad.core.synthetic import sample_em

    sample = sample_em()
    np.save(folder / "synthetic EM.npy", sample.raw)
    volume = open_volume(folder / "synthetic EM.npy", voxel_size=sample.voxel_size)
    for _ in segmentation_job(volume, "default", folder / "run.zarr"):
        pass
    return folder / "run.zarr"


def opened(run: Path, title: str) -> tuple[Any, Any]:
    """Open the run and the truth in a viewer with a dock widget."""
    import napari

    from napari_cad.viewer.reader import read_store
    from napari_cad.viewer.samples import synthetic_sample

    viewer = napari.Viewer()
    viewer.window.resize(*WINDOW)
    for data, settings, kind in read_store(run):
        getattr(viewer, f"add_{kind}")(data, **settings)
    (_, (truth, settings, _)) = synthetic_sample()
    viewer.add_labels(truth, **settings)
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", title)
    return viewer, widget


def wait(ready: Callable[[], bool]) -> None:
    """Let the window live until something is there."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + TIMEOUT
    while not ready():
        if time.monotonic() > end:
            sys.exit("It did not end in time.")
        QApplication.processEvents()
        time.sleep(0.01)


def picture(viewer: Any, path: Path) -> Path:
    """Take a picture of the window when it has come to rest."""
    end = time.monotonic() + 2
    wait(lambda: time.monotonic() > end)
    viewer.screenshot(str(path), canvas_only=False, flash=False)
    return path


def evaluate_pictures(run: Path, folder: Path) -> list[Path]:
    """Evaluate two thresholds; the worst error in 2D, both side by side in 3D."""
    from napari_cad.core.store import SegmentationStore
    from napari_cad.viewer.embedding_layers import camera_of
    from napari_cad.viewer.layer_data import LutLabels
    from napari_cad.viewer.placement import Placement

    viewer, widget = opened(run, "Evaluate")
    widget.arrows.number.setValue(ARROWS)
    store = SegmentationStore.open(run)
    layer = widget.segmentation.layer
    other = viewer.add_labels(
        LutLabels(store.fragments, store.lut(THRESHOLD)),
        name=f"threshold {THRESHOLD}",
        opacity=0.5,
        visible=False,
        **Placement.of_layer(layer).for_axes(3),
    )
    for segmentation in (other, layer):
        widget.segmentation.choose(segmentation)
        widget.evaluate()
        wait(lambda: not widget.runner.running)
        if widget.shown is None:
            sys.exit(f"The evaluation failed: {widget.status.line.text()}")
    hidden = widget._evaluations[other.name].layers  # one segmentation at a time
    for arrows in (hidden.arrows, hidden.places):
        arrows.visible = False
    widget.tables.errors.view.selectRow(0)
    made = [picture(viewer, folder / "evaluate.png")]
    for arrows in (hidden.arrows, hidden.places):
        arrows.visible = True
    widget.beside_button.click()
    widget.mesh_button.click()
    wait(lambda: all(viewer_has(viewer, "meshes", key) for key in (str(run), other.name)))
    viewer.reset_view()
    camera_of(viewer).angles = ANGLES
    made.append(picture(viewer, folder / "evaluate-3d.png"))
    viewer.close()
    return made


def viewer_has(viewer: Any, role: Any, key: str) -> bool:
    """Whether a layer is there."""
    from napari_cad.viewer.layers import find_layer

    return find_layer(viewer, role, key) is not None


def segments_picture(run: Path, folder: Path) -> Path:
    """Measure the segments; the largest one and its contacts."""
    from qtpy.QtCore import Qt

    viewer, widget = opened(run, "Segments and contacts")
    widget.measure()
    wait(lambda: widget.segments.model.rowCount() > 0)
    widget.segments.view.sortByColumn(1, Qt.SortOrder.DescendingOrder)
    widget.segments.view.selectRow(0)
    wait(lambda: widget.contacts.model.rowCount() > 0)
    path = picture(viewer, folder / "segments.png")
    widget.cancel()
    viewer.close()
    return path


if __name__ == "__main__":
    main()
