#!/usr/bin/env python3
"""Make the pictures of docs/fit.md: the real window, with the synthetic sample made foreign.

    python scripts/picture_fit.py [--output docs/images]

The sample is given another contrast and noise, so that the embedded checkpoint does not know it any
more. fit-before.png: the checkpoint as it is. fit.png: what Suggest has come to, and is used.
Without a display it runs itself on a virtual screen. It takes two or three minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from make_pictures import ROOT, need_a_screen
from picture_evaluate import picture, wait

WINDOW = (1400, 960)
SECTION = 8
BLACK, WHITE, NOISE = 90, 200, 14.0
ONLY_IMAGE = 2


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
        for path in make_pictures(output):
            print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def foreign_sample() -> tuple[Any, dict[str, Any]]:
    """Give the sample another contrast and more noise: the image, and how to show it."""
    import numpy as np

    from napari_cad.viewer.samples import synthetic_sample

    raw, settings, _ = synthetic_sample()[0]
    noise = np.random.default_rng(0).normal(0, NOISE, raw.shape)
    mapped = BLACK + raw * ((WHITE - BLACK) / 255) + noise
    return np.clip(mapped, 0, 255).astype(np.uint8), settings | {"name": "foreign EM"}


def make_pictures(folder: Path) -> list[Path]:
    """Look at the checkpoint as it is, let it be fitted, look again."""
    import napari

    viewer = napari.Viewer()
    viewer.window.resize(*WINDOW)
    raw, settings = foreign_sample()
    viewer.add_image(raw, **settings)
    viewer.dims.set_current_step(0, SECTION)
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Fit to the stack")
    widget.device.set_values(device="cpu")
    widget.preview.picture.setCurrentIndex(ONLY_IMAGE)
    widget.preview.live_button.click()
    wait(lambda: widget.preview.line.text().endswith("fragments"))
    made = [picture(viewer, folder / "fit-before.png")]
    widget.suggestions.suggest()
    wait(lambda: not widget.suggestions.runner.running)
    if not widget.suggestions.results:
        sys.exit(f"Suggesting failed: {widget.suggestions.status.line.text()}")
    wait(lambda: widget.preview.line.text().endswith("fragments"))
    # what depends on this machine: how long it took
    text = f"{len(widget.suggestions.results)} settings; the best is in the preview."
    widget.suggestions.status.ended(text)
    widget.use_button.click()
    widget.preview.live_button.click()  # that has ended it
    wait(lambda: widget.preview.line.text().endswith("fragments"))
    made.append(picture(viewer, folder / "fit.png"))
    viewer.close()
    return made


if __name__ == "__main__":
    main()
