"""How long the viewer stands still at most, while the widgets work on a real stack.

    xvfb-run -a -s "-screen 0 1600x1000x24 +extension GLX" \
        python benchmarks/bench_heartbeat.py STACK TRUTH [--sections 20] [--predicted 6] [--run RUN]

The real widgets are docked in a real napari window and driven as a person would. A timer of Qt
beats every 20 ms in the viewer's process; printed per phase is the longest time between two beats,
and what the main thread did in it, by the samples of another thread: the frames that were met
most often. RUN is a finished run of the same sections; without it one is made first.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication

from napari_cad.core.readers import open_volume
from napari_cad.core.segmentation_job import SegmentationOptions, segmentation_job
from napari_cad.viewer.layers import Placement, find_layer, tag
from napari_cad.viewer.reader import read_store
from napari_cad.widgets.agglomerate import AgglomerateWidget
from napari_cad.widgets.embedding import EmbeddingWidget
from napari_cad.widgets.evaluate import EvaluateWidget
from napari_cad.widgets.measure import MeasureWidget
from napari_cad.widgets.meshes import MeshWidget
from napari_cad.widgets.segment import SegmentWidget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_cad.core.volume import EMVolume

#: Milliseconds between two beats, and the longest gap that is wanted.
_BEAT, _TARGET = 20, 150
#: Seconds after a beat from which on the main thread is looked at, and between two looks.
_LATE, _LOOK = 0.04, 0.004
#: Seconds without any thread running that count as a process that was stopped (SIGSTOP).
_STOPPED = 0.3
_PATIENCE = 900.0


class Heart:
    """Beats in the main thread, and is watched from another."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._last = time.perf_counter()
        self.gaps: list[tuple[float, Counter[str]]] = []
        self._seen: Counter[str] = Counter()
        self._suspended = False
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._beat)
        self._timer.start(_BEAT)
        threading.Thread(target=self._watch, daemon=True).start()

    def _beat(self) -> None:
        now = time.perf_counter()
        if not self._suspended:
            self.gaps.append((now - self._last, self._seen))
        self._last, self._seen, self._suspended = now, Counter(), False

    def _watch(self) -> None:
        looked, worked = time.perf_counter(), time.process_time()
        while True:
            time.sleep(_LOOK)
            before, busy = looked, worked
            looked, worked = time.perf_counter(), time.process_time()
            if looked - before > _STOPPED and worked - busy < 0.2 * (looked - before):
                # neither thread ran, and neither computed: somebody has stopped the process
                self._suspended = True
            if time.perf_counter() - self._last > _LATE:
                frame = sys._current_frames().get(self._main)
                self._seen[" < ".join(_names(frame))] += 1

    def forget(self) -> None:
        """Begin a phase."""
        self._beat()
        self.gaps.clear()


def _names(frame: Any) -> Iterator[str]:
    """Where the main thread is: the innermost frames, and the innermost ones of this package."""
    names = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        names.append((path, f"{path.stem}.{frame.f_code.co_name}:{frame.f_lineno}"))
        frame = frame.f_back
    inner = [name for _, name in names[:3]]
    ours = [name for path, name in names if "napari_cad" in path.parts][:2]
    return iter(dict.fromkeys(inner + ours))


class Phases:
    """Runs phases, and prints a line for each."""

    def __init__(self, frames: int) -> None:
        self._heart = Heart()
        self._frames = frames
        print(f"{'phase':34}{'seconds':>9}{'beats':>7}{'longest gap':>13}{'next':>6}   ms")

    def run(self, name: str, act: Callable[[], Any], done: Callable[[], bool]) -> None:
        """Do something and let the viewer work until it is done."""
        wait(0.3)
        self._heart.forget()
        began = time.perf_counter()
        act()
        wait_until(done)
        wait(0.4)  # what comes of it
        gaps = sorted(self._heart.gaps, key=lambda gap: -gap[0])
        seconds = time.perf_counter() - began
        longest = [round(1e3 * gap) for gap, _ in gaps[:4]] or [0]
        missed = "  missed" if longest[0] > _TARGET else ""
        print(
            f"{name:34}{seconds:9.1f}{len(gaps):7}{longest[0]:13}"
            f"{', '.join(map(str, longest[1:])):>16}{missed}"
        )
        for gap, seen in gaps[:3]:
            if 1e3 * gap > 60 and self._frames:
                print(f"    {1e3 * gap:.0f} ms")
                for where, n in seen.most_common(self._frames):
                    print(f"      {n:4}  {where}")
        sys.stdout.flush()


def wait(seconds: float) -> None:
    """Let the viewer work."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        QApplication.processEvents()
        time.sleep(0.001)


def wait_until(condition: Callable[[], bool]) -> None:
    """Let the viewer work until something holds."""
    until = time.perf_counter() + _PATIENCE
    while not condition():
        wait(0.02)
        if time.perf_counter() > until:
            raise TimeoutError("a phase did not end")


def main() -> None:
    """Drive all widgets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stack")
    parser.add_argument("truth")
    parser.add_argument("--sections", type=int, default=20)
    parser.add_argument("--predicted", type=int, default=6)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--frames", type=int, default=4, help="places printed for a long gap")
    parser.add_argument("--only", nargs="*", help="phases whose names begin so")
    options = parser.parse_args()
    voxel_size = (30.0, 6.0, 6.0)
    stack = open_volume(options.stack, voxel_size=voxel_size).crop((0, options.sections))
    truth = open_volume(options.truth, voxel_size=voxel_size).crop((0, options.sections))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run.zarr"
        if options.run is None:
            for _ in segmentation_job(stack, "default", run, SegmentationOptions()):
                pass
        else:
            shutil.copytree(options.run, run)
        drive(stack, truth, run, options)


def drive(stack: EMVolume, truth: EMVolume, run: Path, options: argparse.Namespace) -> None:
    """Do with every widget what it is for."""
    viewer = napari.Viewer(show=False)
    viewer.window.resize(1500, 950)
    viewer.show()
    wait(1)
    phases = Phases(options.frames)
    widgets: dict[str, Any] = {}
    docks: list[Any] = []
    wanted = options.only

    def phase(name: str, act: Callable[[], Any], done: Callable[[], bool]) -> None:
        if wanted is None or any(name.startswith(start) for start in wanted):
            phases.run(name, act, done)

    def dock(name: str, kind: Any) -> None:
        widgets[name] = kind(viewer)
        for other in docks:
            other.hide()
        docks.append(viewer.window.add_dock_widget(widgets[name], name=name))

    def always() -> bool:
        return True

    def open_stack() -> None:
        viewer.add_image(
            stack.data,
            name="stack",
            contrast_limits=(0, 255),
            metadata=tag("image", source=stack.source.to_json()),
            **Placement.of_volume(stack.voxel_size).for_axes(3),
        )

    phases.run("open the stack", open_stack, always)

    if wanted is None or any(name in "segment predict" for name in wanted):
        phases.run("open Segment", lambda: dock("Segment", SegmentWidget), always)
        segment = widgets["Segment"]
        segment.volume.sections[1].setValue(options.predicted - 1)
        segment.output.path.setText(str(run.parent / "predicted.zarr"))
        phases.run("predict", segment.run, lambda: not segment.runner.running)
        print("   ", segment.status.line.text())
        for layer in viewer.layers:
            layer.visible = layer.name == "stack"

    def open_run() -> None:
        for data, settings, kind in read_store(run)[-2:]:
            getattr(viewer, f"add_{kind}")(data, **settings)

    phases.run("open a run", open_run, always)
    segments = find_layer(viewer, "segments", str(run))

    phases.run("open Agglomerate", lambda: dock("Agglomerate", AgglomerateWidget), always)
    agglomerate = widgets["Agglomerate"]
    wait_until(lambda: agglomerate.threshold.isEnabled())
    phase(
        "agglomerate",
        lambda: agglomerate.merge_function.setCurrentText("quantile75"),
        lambda: not agglomerate.loader.running,
    )
    phase(
        "absorb",
        lambda: agglomerate.absorb.setValue(200),
        lambda: not agglomerate.loader.running,
    )
    agglomerate.absorb.setValue(0)

    def slide() -> None:
        for value in np.linspace(0.3, 0.7, 25):
            agglomerate.threshold.setValue(value)
            wait(0.05)

    phase("slide", slide, always)

    def open_truth() -> None:
        viewer.add_labels(
            truth.data,
            name="truth",
            visible=False,
            metadata=tag("truth", source=truth.source.to_json()),
            **Placement.of_volume(truth.voxel_size).for_axes(3),
        )

    phases.run("open the truth", open_truth, always)
    phase("score over the threshold", agglomerate.score, lambda: not agglomerate.scorer.running)

    phases.run("open Evaluate", lambda: dock("Evaluate", EvaluateWidget), always)
    evaluate = widgets["Evaluate"]
    evaluate.segmentation.choose(segments)
    evaluate.truth.choose(viewer.layers["truth"])
    phase("evaluate", evaluate.evaluate, lambda: not evaluate.runner.running)
    phase(
        "evaluate again",
        lambda: agglomerate.threshold.setValue(0.45),
        lambda: not evaluate.runner.running,
    )

    def errors() -> None:
        for row in range(8):
            evaluate.go_to_error(row)
            wait(0.1)

    if evaluate.shown is not None:
        phase("go to errors", errors, always)

    phases.run("open Segments and contacts", lambda: dock("Segments", MeasureWidget), always)
    measure = widgets["Segments"]
    measure.segmentation.choose(segments)
    phase("measure", measure.measure, lambda: measure.measure_button.isEnabled())

    def rows() -> None:
        for row in range(8):
            measure.go_to_segment(row)
            wait(0.1)

    if measure._segments is not None:
        phase("go to segments", rows, always)
    measure.cancel()

    phases.run("open Meshes", lambda: dock("Meshes", MeshWidget), always)
    meshes = widgets["Meshes"]
    meshes.segmentation.choose(segments)
    ids, counts = np.unique(segments.data[0], return_counts=True)
    largest = ids[np.argsort(-counts)][:31]
    meshes.ids.setText(" ".join(str(i) for i in largest if i))
    phase("mesh", meshes.show_meshes, lambda: not meshes.meshes.runner.running)
    wait(1)
    phase(
        "mesh after a slider step",
        lambda: agglomerate.threshold.setValue(0.5),
        lambda: not meshes.meshes.runner.running,
    )
    meshes.clear()
    viewer.dims.ndisplay = 2
    evaluate.follow.setChecked(False)

    phases.run("open Embedding map", lambda: dock("Embedding", EmbeddingWidget), always)
    embedding = widgets["Embedding"]
    viewer.dims.set_current_step(0, 3)

    def there(z: int) -> bool:
        layers = embedding._layers
        return layers is not None and not layers.missing((z,), *embedding._kind())

    phase("first embedding map", lambda: embedding.live_button.setChecked(True), lambda: there(3))

    def scroll() -> None:
        for z in (4, 5, 6, 9):
            viewer.dims.set_current_step(0, z)
            wait(0.2)

    phase("embedding maps while scrolling", scroll, lambda: there(9))
    scale = segments.scale
    phase(
        "similarity",
        lambda: embedding.pick((9 * scale[0], 500 * scale[1], 500 * scale[2])),
        lambda: find_layer(viewer, "similarity", embedding._layers._key) is not None,
    )
    embedding.live_button.setChecked(False)
    for runner in (embedding.server, measure.runner, meshes.meshes.runner):
        runner.cancel()
    viewer.close()


if __name__ == "__main__":
    main()
