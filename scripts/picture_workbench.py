#!/usr/bin/env python3
"""Make the pictures of the workbench and of the widgets for segmenting: real windows, the sample.

    python scripts/picture_workbench.py [--folder docs/images]

Everything in them comes from the package: the sample from its seed, the segmentation from the
embedded checkpoint, run in the workbench; the 3D network has random weights. Without a display it
runs itself on a virtual screen (xvfb-run). It takes two minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from make_pictures import ROOT, TIMEOUT, need_a_screen

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = (1280, 800)
SECTION = 8
#: Section that is on screen while the run goes on.
EARLY = 2
THRESHOLD = 0.45


def main() -> None:
    """Parse the command line and make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "images")
    folder = parser.parse_args().folder.absolute()
    need_a_screen()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        # napari as it comes, not as this person has set it up
        os.environ["NAPARI_CONFIG"] = str(Path(temporary) / "settings.yaml")
        make_pictures(folder, Path(temporary))


def make_pictures(folder: Path, temporary: Path) -> None:
    """Go through the steps in the workbench, with a picture at each."""
    import napari
    from qtpy.QtWidgets import QApplication

    def wait(ready: Callable[[], Any]) -> None:
        end = time.monotonic() + TIMEOUT
        while not ready():
            if time.monotonic() > end:
                sys.exit("It did not end in time.")
            QApplication.processEvents()
            time.sleep(0.01)

    def picture(name: str) -> None:
        end = time.monotonic() + 2
        wait(lambda: time.monotonic() > end)
        viewer.screenshot(str(folder / name), canvas_only=False, flash=False)
        print(folder / name)

    viewer = napari.Viewer()
    viewer.window.resize(*WINDOW)
    _, workbench = viewer.window.add_plugin_dock_widget("napari-cad", "Workbench")
    workbench.panels[0].show_part(0).open_sample()
    wait(lambda: len(viewer.layers) == 2)
    segment = workbench.panels[1].show_part(0)
    segment.device.set_values(device="cpu")
    segment.output.path.setText(str(temporary / "synthetic-EM_default.zarr"))
    viewer.dims.set_current_step(0, EARLY)
    segment.run()
    wait(lambda: segment.runner.running and segment.runner.progress.done > 2 * EARLY + 4)
    segment.output.path.setText("synthetic-EM_default.zarr")  # not where it is on this machine
    picture("segment.png")
    wait(lambda: not segment.runner.running)
    viewer.dims.set_current_step(0, SECTION)
    agglomerate = workbench.panels[2].show_part(0)
    wait(agglomerate.threshold.isEnabled)
    agglomerate.score()
    wait(lambda: not agglomerate.scorer.running)
    agglomerate.threshold.setValue(THRESHOLD)
    picture("agglomerate.png")
    evaluate = workbench.panels[4].show_part(0)
    evaluate.evaluate()
    wait(lambda: not evaluate.runner.running)
    workbench.panels[0].show_part(0)
    for layer in viewer.layers:
        if "error" in layer.name:
            layer.visible = False
    picture("workbench.png")
    export = workbench.panels[4].show_part(3)
    export.path.setText(str(temporary / "labels.zarr"))
    export.export()
    wait(lambda: not export.runner.running)
    export.path.setText("labels.zarr")  # not where it is on this machine
    export.status.ended("Written: labels.zarr")
    picture("export.png")
    seams_picture(viewer, workbench, temporary, wait)
    picture("seams.png")
    viewer.close()


def seams_picture(
    viewer: Any, workbench: Any, temporary: Path, wait: Callable[[Callable[[], Any]], None]
) -> None:
    """Compare the student with a 3D network that has learnt nothing: only its windows matter."""
    import torch

    from napari_cad.core.teacher import TeacherMetadata, TeacherNetwork, save_teacher

    torch.manual_seed(0)
    path = temporary / "random.safetensors"
    widths = (4, 8, 8)
    save_teacher(
        path,
        TeacherNetwork(widths, 8).eval(),
        TeacherMetadata(name="random weights", widths=widths, embedding_dim=8),
    )
    seams = workbench.panels[1].show_part(2)
    seams.teacher.setText(str(path))
    seams.windows.set_values(depth=4, size=64, stride=64, region=256, blending="none")
    seams.compare()
    wait(lambda: not seams.runner.running)
    seams.teacher.setText(path.name)


if __name__ == "__main__":
    main()
