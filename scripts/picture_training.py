#!/usr/bin/env python3
"""Make the picture of docs/training.md: the real window, with the synthetic sample.

    python scripts/picture_training.py [--output docs/images] [--steps 20]

The embedded checkpoint is fine-tuned on the labels of a synthetic stack, of which the last fifth
is kept out. Without a display it runs itself on a virtual screen. It takes some minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from make_pictures import ROOT, need_a_screen

WINDOW = (1500, 950)
SHAPE, SEED = (10, 192, 192), 3
TIMEOUT = 1800.0


def main() -> None:
    """Parse the command line and make the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    output = options.output.absolute()
    need_a_screen()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # napari as it comes, not as this person has set it up
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        path = picture(Path(folder), output, options.steps)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def picture(folder: Path, output: Path, steps: int) -> Path:
    """Fine-tune on the sample and photograph the window."""
    import napari
    import numpy as np
    from qtpy.QtWidgets import QApplication

    from napari_cad.core.synthetic import synthetic_em

    sample = synthetic_em(SHAPE, seed=SEED)
    place = {
        "scale": sample.voxel_size, "units": ("nm",) * 3, "axis_labels": ("z", "y", "x"),
    }  # fmt: skip
    viewer = napari.Viewer()
    viewer.window.resize(*WINDOW)
    viewer.add_image(sample.raw, name="synthetic EM", **place)
    labels = sample.labels.astype(np.uint16)
    viewer.add_labels(labels, name="labels", opacity=0.4, **place)
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Train")
    widget.settings.set_values(steps=steps)
    widget.advanced.set_values(patch=64, batch=2, every=max(1, steps // 2))
    run = str(folder / "synthetic-EM_default")
    widget.output.path.setText(run)
    widget.output.path.textEdited.emit(run)

    def pump(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            QApplication.processEvents()
            time.sleep(0.01)

    pump(1)
    viewer.reset_view()
    widget.train_button.click()
    begun = time.monotonic()
    while widget.runner.running and time.monotonic() - begun < TIMEOUT:
        pump(0.2)
    if widget.runner.running or not widget.plot.losses:
        sys.exit(f"Training did not end: {widget.status.line.text()}")
    pump(0.5)
    path = output / "training.png"
    viewer.screenshot(str(path), canvas_only=False, flash=False)
    viewer.close()
    return path


if __name__ == "__main__":
    main()
