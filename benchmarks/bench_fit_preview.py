"""How long a person waits for the preview of a fit: from a change until its layers are there.

    python benchmarks/bench_fit_preview.py [--rounds 12] [--stack PATH --voxel-size Z,Y,X]

The real widget in a real window (on a virtual screen where there is no display), the real job, a
crop of 512² voxels, the embedded checkpoint, the CPU. By default the stack is the synthetic sample,
tiled to 768². Medians and the longest of every kind of change, until the layers are updated and
until they are painted (which the CPU does too on a virtual screen); the longest gap of a 20 ms
heartbeat says whether the window froze meanwhile.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SCREEN = "-screen 0 1600x1000x24 +extension GLX"
TIMEOUT = 300.0
BEAT_MS = 20


def main() -> None:
    """Parse the command line, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--stack")
    parser.add_argument("--voxel-size")
    options = parser.parse_args()
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        if shutil.which("xvfb-run") is None:
            sys.exit("There is no display and no xvfb-run: install xvfb, or run it on a desktop.")
        os.execvp("xvfb-run", ["xvfb-run", "-a", "-s", SCREEN, sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        run(options)


def run(options: argparse.Namespace) -> None:
    """Open the widget and change one setting after the other."""
    import napari

    viewer = napari.Viewer()
    viewer.window.resize(1400, 900)
    image, voxel_size = stack(options)
    viewer.add_image(image, name="stack", scale=voxel_size, units=("nm",) * 3)
    viewer.dims.set_current_step(0, len(image) // 2)
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Fit to the stack")
    widget.device.set_values(device="cpu")
    watch = Watch(viewer, widget)
    form, n = widget.form, options.rounds
    watch.first()
    # strengths share what is measured: once that is there, each is exact at once
    watch.take("measure for an adaptation", lambda: form.adapt.setValue(1.0), exact=True)
    for i in range(n):
        watch.take("adapt", lambda i=i: form.adapt.setValue((i + 1) / (n + 2)), exact=True)
    for i in range(n):
        watch.take("smooth, adapted", lambda i=i: form.smooth.setValue((i + 1) / 10))
    form.adapt.setValue(0)
    watch.settle()
    for i in range(n):
        watch.take("smooth", lambda i=i: form.smooth.setValue((i + 2) / 10), exact=True)
    for i in range(n):
        z = (len(image) // 2 + 1 + i) % len(image)
        watch.take("section", lambda z=z: viewer.dims.set_current_step(0, z), exact=True)
    watch.report()
    viewer.close()


def stack(options: argparse.Namespace) -> tuple[Any, tuple[float, ...]]:
    """Give sections in memory, and their voxel size."""
    import numpy as np

    from napari_cad.core.readers import open_volume
    from napari_cad.core.synthetic import sample_em

    if options.stack:
        size = tuple(float(length) for length in options.voxel_size.split(","))
        volume = open_volume(options.stack, voxel_size=size).crop((0, 16))
        return np.stack([volume.section(z) for z in range(volume.n_sections)]), size
    sample = sample_em()
    return np.tile(sample.raw, (1, 2, 2)), sample.voxel_size


class Watch:
    """Times changes of the preview."""

    def __init__(self, viewer: Any, widget: Any) -> None:
        from qtpy.QtCore import QElapsedTimer, QTimer

        self._viewer, self._widget = viewer, widget
        self._times: dict[str, list[float]] = {}
        self._painted: dict[str, list[float]] = {}
        self._in_job: dict[str, list[float]] = {}
        self._answers: list[Any] = []
        self._gaps: list[int] = []
        self._clock = QElapsedTimer()
        self._clock.start()
        self._beat = QTimer()
        self._beat.timeout.connect(lambda: self._gaps.append(self._clock.restart()))
        widget.preview.server.reported.connect(self._answers.append)

    def first(self) -> None:
        """Start the job and wait for the first preview."""
        self._time("first preview", self._widget.preview.live_button.click, exact=True)
        self._gaps.clear()

    def take(self, what: str, change: Callable[[], None], *, exact: bool = False) -> None:
        """Time a change until a preview, or the exact one, is on the screen."""
        self._time(what, change, exact=exact)
        self.settle()

    def settle(self) -> None:
        """Wait until there is nothing more to come."""
        self._wait(exact=True)

    def _time(self, what: str, change: Callable[[], None], *, exact: bool) -> None:
        begun = time.perf_counter()
        change()
        answer = self._wait(exact=exact)
        self._times.setdefault(what, []).append(time.perf_counter() - begun)
        self._beat.stop()  # taking the picture is not the viewer's business
        self._viewer.screenshot(flash=False)
        self._painted.setdefault(what, []).append(time.perf_counter() - begun)
        self._clock.restart()
        self._beat.start(BEAT_MS)
        self._in_job.setdefault(what, []).append(answer.seconds)
        print(f"{what}: {self._times[what][-1]:.2f} s", file=sys.stderr)

    def _wait(self, *, exact: bool) -> Any:
        from qtpy.QtWidgets import QApplication

        preview = self._widget.preview
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            QApplication.processEvents()
            for answer in reversed(self._answers):
                if answer.wanted == preview._last and not (exact and answer.rough):
                    return answer
            time.sleep(0.002)
        sys.exit(f"No preview in time: {preview.line.text()} {self._widget.status.line.text()}")

    def report(self) -> None:
        """Print the table."""
        print("| change | n | layers updated: median | longest | in the job | painted |")
        print("|---|---|---|---|---|---|")
        for what, times in self._times.items():
            in_job, painted = (statistics.median(t[what]) for t in (self._in_job, self._painted))
            print(
                f"| {what} | {len(times)} | {statistics.median(times):.2f} s | {max(times):.2f} s "
                f"| {in_job:.2f} s | {painted:.2f} s |"
            )
        print(f"\nLongest gap of a {BEAT_MS} ms heartbeat: {max(self._gaps)} ms")


if __name__ == "__main__":
    main()
