#!/usr/bin/env python3
"""Make the picture of docs/embedding-map.md: the real window, with the synthetic sample.

    python scripts/picture_embedding_map.py [--output docs/images/embedding-map.png]

On the left the similarity to a pixel over the image, on the right the embedding map, made by the
embedded checkpoint through the dock widget. Without a display it runs itself on a virtual screen.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from make_pictures import ROOT, need_a_screen

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = (1400, 680)
SECTION = 8
PIXEL = (190, 285)
TIMEOUT = 900.0


def main() -> None:
    """Parse the command line and make the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "images" / "embedding-map.png"
    )
    output = parser.parse_args().output.absolute()
    need_a_screen()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # napari as it comes, not as this person has set it up
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        make_picture(output)
    print(f"{output}: {output.stat().st_size / 1024:.0f} KiB")


def make_picture(output: Path) -> None:
    """Run the widget on the sample, pick a pixel, and take a picture of the window."""
    import napari
    from qtpy.QtWidgets import QApplication

    from napari_cad.viewer.embedding_layers import grid_of

    def wait(ready: Callable[[], bool]) -> None:
        end = time.monotonic() + TIMEOUT
        while not ready():
            if time.monotonic() > end or not widget.live_button.isChecked():
                sys.exit(f"It failed: {widget.status.line.text()}")
            QApplication.processEvents()
            time.sleep(0.01)

    viewer = napari.Viewer()
    viewer.window.resize(*WINDOW)
    viewer.open_sample("napari-cad", "synthetic_em")
    viewer.layers.remove("truth")
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Embedding map")
    widget.device.set_values(device="cpu")
    viewer.dims.set_current_step(0, SECTION)
    widget.live_button.click()
    wait(lambda: widget.line.text() == f"Section {SECTION}")
    widget.pick_button.click()
    widget.pick(viewer.layers[0].data_to_world((SECTION, *PIXEL)))
    wait(lambda: "Similarity" in widget.line.text())
    viewer.layers.move(1, len(viewer.layers))  # image, similarity and cross, then the map
    grid = grid_of(viewer)
    grid.stride, grid.shape, grid.enabled = 3, (1, 2), True
    viewer.reset_view()
    end = time.monotonic() + 2
    wait(lambda: time.monotonic() > end)
    viewer.screenshot(str(output), canvas_only=False, flash=False)
    widget.live_button.click()
    viewer.close()


if __name__ == "__main__":
    main()
