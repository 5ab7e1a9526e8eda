"""How long a person waits for the picture while proofreading in a napari window.

    xvfb-run -a -s "-screen 0 1600x1000x24 +extension GLX" \
        python benchmarks/bench_proofreading_window.py [--fragments 50000 1000000] [--rounds 30]

The made runs of bench_slider.py are proofread with the widget "Proofread": sections of 2048², an
image below, all keys and clicks sent to the canvas as events of Qt. Timed is, in the viewer's
process, from the event to the end of the first repaint of the canvas that shows what came of it,
glFinish included; for the pointer, to the repaint of the status bar. "stall" is the longest time in
the following 0.4 s in which the window heard nothing: what was put off until after the picture. CPU
times of the process up to the picture stand beside: where they are much lower, the machine was busy
with something else.

Segments have some hundred fragments at threshold 0.5, where most is timed, and 20,000 where cuts
are timed.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import re
import shutil
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from qtpy.QtCore import QEvent, QEventLoop, QObject, QPoint, QPointF, Qt, QTimer
from qtpy.QtGui import QEnterEvent, QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget
from vispy.gloo import gl

from bench_slider import SIZES, make_run, wait_until
from napari_cad.core.store import SegmentationStore
from napari_cad.proofreading.folder import session_folder
from napari_cad.viewer.reader import read_store
from napari_cad.widgets.proofread import ProofreadWidget

if TYPE_CHECKING:
    from collections.abc import Callable

#: Targets in milliseconds, for the 95th percentile.
TARGETS = {
    "pointer": 50,
    "select": 50,
    "merge": 100,
    "undo": 100,
    "lock": 100,
    "unlock": 100,
    "next question": 200,
    "begin a cut": 100,
    "red seed": 100,
    "cut preview": 150,
    "apply cut": 200,
    "undo cut": 100,
}

#: Fragments of the segments that are cut.
LARGE = 20_000

#: Rounds that are not counted: shaders, caches.
WARM_UP = 2

#: Milliseconds after a picture in which the window is watched, and between two of its beats.
_REST, _BEAT = 400, 5

#: Seconds to wait for a picture, and for the session, before giving up.
_PATIENCE, _LOADING = 60.0, 300.0

#: Voxels that a pixel of the canvas may be wide.
_MARGIN = 3

CONTROL = Qt.KeyboardModifier.ControlModifier
SHIFT = Qt.KeyboardModifier.ShiftModifier
NO_KEY = Qt.KeyboardModifier.NoModifier


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fragments", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--runs", type=Path, help="where made runs are kept; by default nowhere")
    parser.add_argument("--profile", type=Path, help="folder for a profile of every row")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # napari as it comes, and the keys as they come
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        for n in options.fragments:
            path = (options.runs or Path(folder)) / f"{n}.zarr"
            if not path.exists():
                make_run(path, n)
            shutil.rmtree(session_folder(path), ignore_errors=True)
            measure(path, options)
            shutil.rmtree(session_folder(path), ignore_errors=True)


def measure(path: Path, options: argparse.Namespace) -> None:
    """Time one run in a window of its own."""
    store = SegmentationStore.open(path)
    viewer = napari.Viewer(show=False)
    viewer.window.resize(1500, 950)
    viewer.show()
    noise = np.random.default_rng(0).integers(0, 256, (1, *store.shape[1:]), np.uint8)
    viewer.add_image(
        np.broadcast_to(noise, store.shape), contrast_limits=(0, 255), scale=store.voxel_size,
        units="nm",
    )  # fmt: skip
    for data, settings, kind in read_store(path):
        getattr(viewer, f"add_{kind}")(data, **settings)
    widget = ProofreadWidget(viewer)
    viewer.window.add_dock_widget(widget)
    widget.start_button.click()
    wait_until(lambda: widget.proofreader is not None, _LOADING)
    hand = Hand(viewer, widget, options)
    hand.rest(2000)  # layers come one after the other
    rng = np.random.default_rng(0)
    for i in range(WARM_UP + options.rounds):
        hand.counts = i >= WARM_UP
        small_edits(hand, rng)
    hand.choose_large(rng)
    for i in range(WARM_UP + options.rounds):
        hand.counts = i >= WARM_UP
        cuts(hand, rng)
    print(f"\n{store.n_fragments:,} fragments, sections of {store.shape[1]}², cuts of segments of "
          f"{np.median(hand.sizes):,.0f} fragments, {options.rounds} rounds")  # fmt: skip
    print(f"{'':16}{'median':>9}{'95 %':>9}{'CPU':>9}{'stall':>9}{'95 %':>9}   target (ms)")
    for name, rows in hand.times.items():
        seconds, cpu, stall = np.array(rows).T * 1e3
        late = np.percentile(seconds, 95)
        target = TARGETS[name]
        print(
            f"{name:16}{np.median(seconds):9.1f}{late:9.1f}{np.median(cpu):9.1f}"
            f"{np.median(stall):9.1f}{np.percentile(stall, 95):9.1f}   {target}"
            f"{'  missed' if late > target else ''}",
            flush=True,
        )
    if options.profile:
        hand.keep_profiles(options.profile / path.stem)
    viewer.close()
    QApplication.processEvents()


def small_edits(hand: Hand, rng: np.random.Generator) -> None:
    """Look, select, merge, undo, lock and unlock at a random place, then go to a question."""
    hand.show_section(int(rng.integers(hand.shape[0])))
    at, neighbour = hand.pair(rng)
    session, reader = hand.session, hand.reader
    hand.point("pointer", at)
    segment = hand.segment(at)
    hand.click("select", at, lambda: reader.selection == [segment])
    hand.click(None, neighbour, lambda: len(reader.selection) == 2, SHIFT)
    hand.edit("merge", Qt.Key.Key_G)
    assert hand.segment(neighbour) == segment
    hand.edit("undo", Qt.Key.Key_Z, CONTROL)
    hand.edit("lock", Qt.Key.Key_O)
    assert session.is_locked(segment)
    hand.edit("unlock", Qt.Key.Key_O)
    before = reader.walk.current
    hand.key("next question", Qt.Key.Key_N, lambda: reader.walk.current not in (None, before))
    hand.key(None, Qt.Key.Key_Escape, lambda: reader.walk.current is None)
    hand.viewer.reset_view()


def cuts(hand: Hand, rng: np.random.Generator) -> None:
    """Cut a large segment by a seed on either side, and undo it."""
    reader = hand.reader
    red, blue = hand.seeds(rng)
    segment = hand.segment(red)
    hand.click(None, red, lambda: reader.selection == [segment])
    hand.sizes.append(len(hand.session.fragments_of(segment)))
    hand.key("begin a cut", Qt.Key.Key_S, lambda: reader.split_mode.active)
    hand.click("red seed", red, lambda: bool(reader.split_mode.seeds["red"]))
    hand.click("cut preview", blue, lambda: reader.split_mode.preview is not None, SHIFT)
    hand.edit("apply cut", Qt.Key.Key_Return)
    hand.edit("undo cut", Qt.Key.Key_Z, CONTROL)


class Hand:
    """Presses keys and buttons, and takes the time until the picture has followed."""

    def __init__(
        self, viewer: napari.Viewer, widget: ProofreadWidget, options: argparse.Namespace
    ) -> None:
        self.viewer = viewer
        reader = widget.proofreader
        if reader is None:
            raise RuntimeError(f"no session: {widget.status.line.text()}")
        self.reader, self.session = reader, reader.session
        self.shape = reader.layers.fragments.shape
        self.times: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
        self.counts = False
        self.sizes: list[int] = []
        self._large: set[int] = set()
        # nothing public tells of a repaint, or gives the widget that events go to
        self._window = viewer.window._qt_window
        self._canvas = viewer.window._qt_viewer.canvas
        self._native = self._canvas.native
        self._canvas._scene_canvas.events.draw.connect(self._on_draw, position="last")
        self._paints = _Paints(self._window.statusBar(), self._on_paint)
        self._loop = QEventLoop()
        self._done: Callable[[], bool] | None = None
        self._of_canvas = True
        self._seen = self._cpu = 0.0
        self._beats = QTimer()
        self._beats.setTimerType(Qt.TimerType.PreciseTimer)
        self._beats.setInterval(_BEAT)
        self._beats.timeout.connect(self._on_beat)
        self._last_beat = self._stall = 0.0
        self._profiling = options.profile is not None
        self._profiles: defaultdict[str, cProfile.Profile] = defaultdict(cProfile.Profile)
        for target in (self._window, self._native):
            QApplication.sendEvent(target, QEnterEvent(*(QPointF(500, 500),) * 3))

    # ------------------------------------------------------------------ what a person does

    def key(
        self, name: str | None, key: Any, done: Callable[[], bool], modifiers: Any = NO_KEY
    ) -> None:
        """Press a key."""
        self._take(name, lambda: QTest.keyClick(self._native, key, modifiers), done)

    def edit(self, name: str, key: Any, modifiers: Any = NO_KEY) -> None:
        """Press the key of an edit."""
        before = self.session.revision
        self.key(name, key, lambda: self.session.revision != before, modifiers)

    def click(
        self,
        name: str | None,
        voxel: tuple[int, int, int],
        done: Callable[[], bool],
        modifiers: Any = NO_KEY,
    ) -> None:
        """Click a voxel of the section on screen."""
        pixel, left = self._pixel(voxel), Qt.MouseButton.LeftButton
        self._take(name, lambda: QTest.mouseClick(self._native, left, modifiers, pixel), done)

    def point(self, name: str, voxel: tuple[int, int, int]) -> None:
        """Move the pointer to a voxel; done when the status bar tells about its fragment."""
        place = QPointF(self._pixel(voxel))
        text = re.compile(rf"fragment {self.reader.layers.fragments.at(voxel)}\b")
        event = QMouseEvent(
            QEvent.Type.MouseMove, place, QPointF(self._native.mapToGlobal(place)),
            Qt.MouseButton.NoButton, Qt.MouseButton.NoButton, NO_KEY,
        )  # fmt: skip

        def done() -> bool:
            status = self.viewer.status
            return isinstance(status, dict) and bool(text.search(str(status["coordinates"])))

        self._take(name, lambda: QApplication.sendEvent(self._native, event), done, of_canvas=False)

    def show_section(self, z: int) -> None:
        """Go to a section, and wait until everything is painted."""
        self.viewer.dims.set_current_step(0, z)
        self.rest(300)

    # ------------------------------------------------------------------ places

    def segment(self, voxel: tuple[int, int, int]) -> int:
        """Segment of a voxel."""
        return int(self.session.lut[self.reader.layers.fragments.at(voxel)])

    def pair(self, rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Give two voxels of the section on screen, in segments beside each other."""
        z = self._section()
        section = self.reader.layers.fragments.section(z)
        lut = self.session.lut
        while True:
            y, x = (int(rng.integers(100, n - 100)) for n in self.shape[1:])
            others = np.flatnonzero(lut[section[y, x:-100]] != lut[section[y, x]])
            if len(others):
                other = x + int(others[0]) + 8
                if _inside(section, y, x) and _inside(section, y, other):
                    return (z, y, x), (z, y, other)

    def choose_large(self, rng: np.random.Generator) -> None:
        """Make segments of as many fragments as are to be cut, and go where one is."""
        self.reader.set_threshold(0.7)
        if np.bincount(self.session.lut)[1:].max() < LARGE:
            lut = self.session.lut
            segments, first, counts = np.unique(lut[1:], return_index=True, return_counts=True)
            order = np.argsort(first)
            n = int(np.searchsorted(np.cumsum(counts[order]), LARGE)) + 1
            self.session.merge(segments[order][:n].tolist())
        counts = np.bincount(self.session.lut)
        counts[0] = 0
        self._large = set(np.flatnonzero(counts > 0.8 * LARGE).tolist())
        self.show_section(self.shape[0] // 2)

    def seeds(self, rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Give two voxels far apart in a large segment of the section on screen."""
        z = self._section()
        fragments = self.reader.layers.fragments.section(z)
        section = self.session.lut[fragments]
        there = [int(s) for s in np.unique(section[50:-50, 50:-50]) if int(s) in self._large]
        inside = np.argwhere(section == rng.choice(there))
        inside = inside[((inside > 50) & (inside < np.array(section.shape) - 50)).all(axis=1)]
        ends = []
        for part in (inside[: len(inside) // 10], inside[-len(inside) // 10 :]):
            y, x = part[int(rng.integers(len(part)))].tolist()
            while not _inside(fragments, y, x):
                y, x = part[int(rng.integers(len(part)))].tolist()
            ends.append((z, y, x))
        return ends[0], ends[1]

    def _section(self) -> int:
        z = self.reader.section()
        if z is None:
            raise RuntimeError("no section is on screen")
        return z

    def _pixel(self, voxel: tuple[int, int, int]) -> QPoint:
        layer = self.reader.layers.layer
        y, x = layer.data_to_world(voxel)[-2:]
        mapped = self._canvas.view.scene.transform.map([x, y, 0, 1])
        return QPoint(round(mapped[0] / mapped[3]), round(mapped[1] / mapped[3]))

    # ------------------------------------------------------------------ time

    def _take(
        self,
        name: str | None,
        act: Callable[[], Any],
        done: Callable[[], bool],
        *,
        of_canvas: bool = True,
    ) -> None:
        """Do something in the event loop, and wait until it is seen."""
        self._done, self._of_canvas, self._seen = done, of_canvas, 0.0
        times = [0.0, 0.0]
        profile = self._profiles[name] if self._profiling and name and self.counts else None

        def begin() -> None:
            times[:] = time.perf_counter(), time.process_time()
            if profile is not None:
                profile.enable()
            act()

        guard = QTimer()
        guard.setSingleShot(True)
        guard.timeout.connect(self._loop.quit)
        guard.start(round(_PATIENCE * 1e3))
        QTimer.singleShot(0, begin)
        self._loop.exec()
        if profile is not None:
            profile.disable()
        self._done = None
        guard.stop()
        if not self._seen:
            raise TimeoutError(f"{name} was not seen; the session says: {self.reader.line()}")
        seconds, cpu = self._seen - times[0], self._cpu - times[1]
        stall = self.rest(_REST)
        if name is not None and self.counts:
            self.times[name].append((seconds, cpu, stall))

    def rest(self, milliseconds: int) -> float:
        """Let the window live; seconds of the longest time in which it heard nothing."""
        self._last_beat, self._stall = time.perf_counter(), 0.0
        self._beats.start()
        QTimer.singleShot(milliseconds, self._loop.quit)
        self._loop.exec()
        self._beats.stop()
        self._on_beat()
        return max(0.0, self._stall - _BEAT / 1e3)

    def keep_profiles(self, folder: Path) -> None:
        """Write what was profiled, a file for every row."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, profile in self._profiles.items():
            profile.dump_stats(folder / f"{name.replace(' ', '_')}.prof")

    def _on_beat(self) -> None:
        now = time.perf_counter()
        self._stall = max(self._stall, now - self._last_beat)
        self._last_beat = now

    def _on_draw(self, _event: Any) -> None:
        if self._of_canvas:
            self._look(gl.glFinish)

    def _on_paint(self) -> None:
        if not self._of_canvas:
            self._look(lambda: None)

    def _look(self, finish: Callable[[], Any]) -> None:
        if self._done is not None and not self._seen and self._done():
            finish()
            self._seen, self._cpu = time.perf_counter(), time.process_time()
            self._loop.quit()


def _inside(section: np.ndarray[Any, Any], y: int, x: int) -> bool:
    """Whether a voxel is so far inside its fragment that a click on its pixel hits that."""
    around = section[y - _MARGIN : y + _MARGIN + 1, x - _MARGIN : x + _MARGIN + 1]
    return bool(around[0, 0]) and bool((around == around[0, 0]).all())


class _Paints(QObject):
    """Tells when a widget or a part of it is painted."""

    def __init__(self, widget: QWidget, painted: Callable[[], None]) -> None:
        super().__init__(widget)
        self._painted = painted
        for part in (widget, *widget.findChildren(QWidget)):
            part.installEventFilter(self)

    def eventFilter(self, _watched: QObject | None, event: QEvent | None) -> bool:
        """Look at an event, and let it pass."""
        if event is not None and event.type() == QEvent.Type.Paint:
            self._painted()
        return False


if __name__ == "__main__":
    main()
