"""How a finished run, however large, opens in a napari window, and how its threshold slides.

    xvfb-run -a -s "-screen 0 1600x1000x24 +extension GLX" \
        python benchmarks/bench_open_run.py RUN.zarr [VOLUME] [--steps 20] [--screenshot FILE.png]

In one process: seconds until the layers are painted and until the widget "Agglomerate" can be used,
milliseconds from a change of the threshold to the repainted canvas and window (as in
`bench_slider.py`), and to the next section; resident memory before, and at the highest.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

import napari
import numpy as np
import psutil
from qtpy.QtWidgets import QApplication

from bench_slider import Watch, wait_until
from napari_cad.core.store import SegmentationStore
from napari_cad.viewer.layers import find_layer
from napari_cad.viewer.reader import get_reader, read_store
from napari_cad.widgets.agglomerate import AgglomerateWidget


class Memory:
    """The highest resident memory of this process, looked at every 20 ms."""

    def __init__(self) -> None:
        self.highest = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.highest = max(self.highest, process.memory_info().rss)
            time.sleep(0.02)


def main() -> None:
    """Open, slide, look at the next section, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("volume", nargs="?", help="the image, shown below the segments")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--screenshot", type=Path)
    options = parser.parse_args()

    viewer = napari.Viewer(show=False)
    viewer.window.resize(1500, 950)
    viewer.show()
    QApplication.processEvents()
    watch = Watch(viewer)
    before, memory = psutil.Process().memory_info().rss, Memory()

    started = time.perf_counter()
    store = SegmentationStore.open(options.run)
    layers = list(read_store(options.run))
    if options.volume:
        image = get_reader(options.volume)(options.volume)
        layers = [*((data, {**how, "scale": store.voxel_size}, kind) for data, how, kind in image),
                  *layers]  # fmt: skip
    for data, settings, kind in layers:
        getattr(viewer, f"add_{kind}")(data, **settings)
    viewer.dims.set_current_step(0, store.n_sections // 2)
    watch._drawn = 0.0
    wait_until(lambda: watch._drawn > 0)
    painted = time.perf_counter() - started
    widget = AgglomerateWidget(viewer)
    viewer.window.add_dock_widget(widget)
    wait_until(widget.threshold.isEnabled)
    usable = time.perf_counter() - started

    layer = find_layer(viewer, "segments", str(options.run))
    values = np.random.default_rng(0).uniform(0.2, 0.8, options.steps + 3)
    steps = [watch.take(lambda v=v: widget.threshold.setValue(v), layer) for v in values][3:]
    sections = []
    for z in np.random.default_rng(1).choice(store.n_sections, min(options.steps, 20)):
        if z == viewer.dims.current_step[0]:
            continue
        watch._drawn, began = 0.0, time.perf_counter()
        viewer.dims.set_current_step(0, int(z))
        wait_until(lambda: watch._drawn > 0)
        sections.append(watch._drawn - began)
    if options.screenshot:
        widget.threshold.setValue(store.threshold)
        until = time.perf_counter() + 2
        while time.perf_counter() < until:
            QApplication.processEvents()
        viewer.window.screenshot(str(options.screenshot), canvas_only=False)

    canvas, window = np.array(steps).T * 1e3
    moved = np.array(sections) * 1e3
    print(f"{' × '.join(map(str, store.shape))} voxels, {store.n_fragments:,} fragments")
    print(f"painted after {painted:.2f} s, usable after {usable:.2f} s")
    print(f"memory {before / 2**20:.0f} MiB before, {memory.highest / 2**20:.0f} MiB at most")
    for name, taken in (("canvas", canvas), ("window", window), ("another section", moved)):
        print(f"{name:16}{np.median(taken):8.1f} ms, 95 %: {np.percentile(taken, 95):.1f} ms")
    viewer.close()
    QApplication.processEvents()


if __name__ == "__main__":
    main()
