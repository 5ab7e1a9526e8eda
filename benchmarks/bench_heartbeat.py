"""How long the viewer stands still at most, while the widgets work on a real stack.

    xvfb-run -a -s "-screen 0 1600x1000x24 +extension GLX" \
        python benchmarks/bench_heartbeat.py STACK TRUTH [--sections 20] [--predicted 6] [--run RUN]

The real widgets are docked in a real napari window and driven as a person would. A timer of Qt
beats every 20 ms in the viewer's process; printed per phase are the longest times between two
beats, and what the main thread did in them, by the samples of another thread: the frames that were
met most often. RUN is a finished run of the same sections; without it one is made first.

On Linux it is also told what of a gap is ours: "own" is the longest gap less the time for which the
main thread could have gone on and no core was free, as the kernel counts it, and "cpu" is the
longest time that it computed in one gap. Where other programs compete for the cores, the truth lies
in between: the rest of "own" is waiting, for files, the screen, other threads, and the start of a
child, which get no core either. With --first (which needs the right to it) the threads of the
viewer and an Xvfb go before all other programs, but no child does.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication

from napari_cad.core.readers import open_volume
from napari_cad.core.segmentation_job import SegmentationOptions, segmentation_job
from napari_cad.viewer.layers import find_layer, tag
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.read_ahead import ReadAhead
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


@dataclass(frozen=True)
class Gap:
    """Between two beats: seconds in all, computing, without a core, collecting garbage; frames."""

    seconds: float
    computing: float
    without_core: float
    collecting: float
    seen: Counter[str]

    @property
    def own(self) -> float:
        """Seconds that other programs have no part in."""
        return max(0.0, self.seconds - self.without_core)


class Heart:
    """Beats in the main thread, and is watched from another."""

    def __init__(self, first: bool) -> None:
        self._first = first
        self._main = threading.get_ident()
        self._last, self._counts = time.perf_counter(), counts_of_kernel()
        self.gaps: list[Gap] = []
        self._seen: Counter[str] = Counter()
        self._collecting, self._collection = 0.0, 0.0
        gc.callbacks.append(self._on_garbage)
        self._suspended = False
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._beat)
        self._timer.start(_BEAT)
        threading.Thread(target=self._watch, daemon=True).start()

    def _beat(self) -> None:
        now, counts = time.perf_counter(), counts_of_kernel()
        if not self._suspended:
            computing, waiting = (b - a for a, b in zip(self._counts, counts, strict=True))
            gap = Gap(now - self._last, computing, waiting, self._collecting, self._seen)
            self.gaps.append(gap)
        self._last, self._counts, self._collecting = now, counts, 0.0
        self._seen, self._suspended = Counter(), False

    def _on_garbage(self, phase: str, _about: dict[str, int]) -> None:
        if phase == "start":
            self._collection = time.perf_counter()
        else:
            self._collecting += time.perf_counter() - self._collection

    def _watch(self) -> None:
        looked, worked = time.perf_counter(), time.process_time()
        known: set[int] = set()
        while True:
            time.sleep(_LOOK)
            if self._first:
                go_first(known)
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


def counts_of_kernel() -> tuple[float, float]:
    """Seconds that this thread has computed, and could have computed but for other programs."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as counts:
            computed, waited = counts.read().split()[:2]
    except (OSError, ValueError):
        return time.thread_time(), 0.0  # not Linux, or a kernel that does not count
    return int(computed) / 1e9, int(waited) / 1e9


def go_first(known: set[int]) -> None:
    """Let new threads of this process, and an Xvfb, run before all other programs, but no job."""
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    threads = {int(path.name) for path in Path("/proc/self/task").iterdir()}
    if not known:
        display = os.environ.get("DISPLAY", "").partition(".")[0].removeprefix(":")
        lock = Path(f"/tmp/.X{display}-lock")
        threads |= set(map(int, lock.read_text().split())) if lock.exists() else set()
    for thread in threads - known:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setscheduler(thread, policy, os.sched_param(1))
    known |= threads


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

    def __init__(self, frames: int, first: bool) -> None:
        self._heart = Heart(first)
        self._frames = frames
        print(
            f"{'phase':34}{'seconds':>9}{'beats':>7}{'longest':>9}{'own':>6}{'cpu':>6}   next, ms"
        )

    def run(self, name: str, act: Callable[[], Any], done: Callable[[], bool]) -> None:
        """Do something and let the viewer work until it is done."""
        wait(0.3)
        self._heart.forget()
        began = time.perf_counter()
        act()
        wait_until(done)
        wait(0.4)  # what comes of it
        gaps = sorted(self._heart.gaps, key=lambda gap: -gap.seconds)
        seconds = time.perf_counter() - began
        longest = [round(1e3 * gap.seconds) for gap in gaps[:4]] or [0]
        own = round(1e3 * max((gap.own for gap in gaps), default=0))
        cpu = round(1e3 * max((gap.computing for gap in gaps), default=0))
        missed = "  missed" if own > _TARGET else ""
        print(
            f"{name:34}{seconds:9.1f}{len(gaps):7}{longest[0]:9}{own:6}{cpu:6}"
            f"{', '.join(map(str, longest[1:])):>16}{missed}"
        )
        for gap in sorted(gaps, key=lambda gap: -gap.own)[:3]:
            if 1e3 * gap.own > 60 and self._frames:
                parts = {"own": gap.own, "cpu": gap.computing, "garbage": gap.collecting}
                text = ", ".join(f"{name} {1e3 * part:.0f}" for name, part in parts.items())
                print(f"    {1e3 * gap.seconds:.0f} ms, {text}")
                for where, n in gap.seen.most_common(self._frames):
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
    parser.add_argument("--first", action="store_true", help="go before all other programs")
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
    began = time.thread_time()
    for _ in range(5_000_000):
        pass
    print(f"5 million steps of an empty loop: {time.thread_time() - began:.2f} s")
    phases = Phases(options.frames, options.first)
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
            ReadAhead(stack.data),  # as the reader does
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
            ReadAhead(truth.data),
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
        return layers is not None and not layers.missing((z,), *embedding.kind.value())

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
