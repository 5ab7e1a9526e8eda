#!/usr/bin/env python3
"""Make the README's picture: the real viewer window with the synthetic sample, segmented.

    python scripts/make_pictures.py [--output docs/images/viewer.png] [--all]

Everything in it comes from the package: the sample from its seed, the segmentation from the
embedded checkpoint, run through the dock widget. Without a display it runs itself on a virtual
screen (xvfb-run). It takes a minute or two; with --all the pictures of the other pages are made
too, by the scripts beside this one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WINDOW = (1400, 860)
SCREEN = "-screen 0 1600x1000x24 +extension GLX"
TIMEOUT = 900.0
SECTION = 8


def need_a_screen() -> None:
    """Start this script again on a virtual screen where there is no display."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        if shutil.which("xvfb-run") is None:
            sys.exit("There is no display and no xvfb-run: install xvfb, or run it on a desktop.")
        os.execvp("xvfb-run", ["xvfb-run", "-a", "-s", SCREEN, sys.executable, *sys.argv])


def main() -> None:
    """Parse the command line and make the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "viewer.png")
    parser.add_argument("--all", action="store_true", help="the other pages' pictures too")
    options = parser.parse_args()
    output = options.output.absolute()
    need_a_screen()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # napari as it comes, not as this person has set it up
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        make_picture(output, Path(folder) / "synthetic-EM_default.zarr")
    print(f"{output}: {output.stat().st_size / 1024:.0f} KiB")
    if options.all:
        for script in sorted(Path(__file__).parent.glob("picture_*.py")):
            subprocess.run([sys.executable, str(script)], check=True)


def make_picture(output: Path, store: Path) -> None:
    """Run the widget on the sample and take a picture of the window."""
    import napari
    from qtpy.QtWidgets import QApplication

    def wait(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.01)

    viewer = napari.Viewer()
    viewer.window.resize(*WINDOW)
    viewer.open_sample("napari-cad", "synthetic_em")
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Segment neurons")
    widget.device.set_values(device="cpu")
    widget.output.path.setText(str(store))
    widget.run()
    end = time.monotonic() + TIMEOUT
    while widget.runner.running:
        if time.monotonic() > end:
            sys.exit("The segmentation did not end in time.")
        wait(0.05)
    result = widget.status.line.text()
    if "segments of" not in result:
        sys.exit(f"The segmentation failed: {result}\n{widget.status.details.toPlainText()}")
    # what depends on this machine: where the store is, how long it took
    widget.output.path.setText(store.name)
    widget.status.ended(result.rpartition(", in ")[0] + ".")
    viewer.dims.set_current_step(0, SECTION)
    overlays = viewer.canvas.overlays if hasattr(viewer, "canvas") else viewer  # before napari 0.9
    overlays.scale_bar.visible = True
    viewer.reset_view()
    wait(1.0)
    viewer.screenshot(str(output), canvas_only=False, flash=False)
    viewer.close()


if __name__ == "__main__":
    main()
