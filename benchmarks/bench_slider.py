"""How long a person waits for the picture while the threshold moves, and after an edit.

    xvfb-run -a -s "-screen 0 1600x1000x24 +extension GLX" \
        python benchmarks/bench_slider.py [--fragments 50000 1000000] [--steps 40] [--absorb 0]

A napari window is opened on a made run (sections of 2048², fragments on a jittered grid, a merge
history of single linkage in blocks within blocks) over an image, with the widget "Agglomerate"
docked. Timed is, in the viewer's process, from the value change to the end of the first repaint of
the canvas that shows the new segments, glFinish included ("canvas"), and until Qt has put the
window together ("window"); and from a merge or an undo of a proofreading session to the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from qtpy.QtWidgets import QApplication
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree
from vispy.gloo import gl

from bench_proofreading import LEVELS
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import SegmentationConfig
from napari_cad.core.merge_tree import MergeHistory
from napari_cad.core.region_graph import EdgeTable, RegionGraph, section_fragment_table
from napari_cad.core.store import SegmentationStore
from napari_cad.core.volume import EMVolume
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource
from napari_cad.viewer.layers import find_layer
from napari_cad.viewer.reader import read_store
from napari_cad.widgets.agglomerate import AgglomerateWidget

if TYPE_CHECKING:
    from collections.abc import Callable

_SIDE = 2048

#: Fragments → sections, and the target of a slider step in milliseconds.
SIZES = {50_000: (10, 50), 1_000_000: (100, 150)}

#: Seconds to wait for a picture before giving up.
_PATIENCE = 60.0


def main() -> None:
    """Print medians and 95th percentiles for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fragments", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--absorb", type=int, default=0, help="voxels; 0 = absorb nothing")
    parser.add_argument("--runs", type=Path, help="where made runs are kept; by default nowhere")
    parser.add_argument("--profile", type=Path, help="write a profile of the slider's steps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for n in options.fragments:
            path = (options.runs or Path(folder)) / f"{n}.zarr"
            if not path.exists():
                make_run(path, n)
            measure(path, options)


def measure(path: Path, options: argparse.Namespace) -> None:
    """Time one run in a window of its own."""
    store = SegmentationStore.open(path)
    viewer = napari.Viewer(show=False)
    viewer.window.resize(1500, 950)
    viewer.show()
    noise = np.random.default_rng(0).integers(0, 256, (1, _SIDE, _SIDE), np.uint8)
    image = np.broadcast_to(noise, store.shape)
    viewer.add_image(image, contrast_limits=(0, 255), scale=store.voxel_size, units="nm")
    for data, settings, kind in read_store(path):
        getattr(viewer, f"add_{kind}")(data, **settings)
    widget = AgglomerateWidget(viewer)
    viewer.window.add_dock_widget(widget)
    viewer.dims.set_current_step(0, store.n_sections // 2)
    wait_until(widget.threshold.isEnabled)
    if options.absorb:
        widget.absorb.setValue(options.absorb)
        wait_until(lambda: widget.threshold.isEnabled() and not widget.loader.running)
    watch = Watch(viewer)
    for _ in range(5):
        QApplication.processEvents()
        time.sleep(0.05)

    rng = np.random.default_rng(0)
    values = rng.uniform(0.2, 0.8, options.steps + 3)
    layer = find_layer(viewer, "segments", str(path))

    def slide(value: float) -> Callable[[], None]:
        return lambda: widget.threshold.setValue(value)

    if options.profile:
        import cProfile

        profile = cProfile.Profile()
        profile.enable()
    steps = [watch.take(slide(value), layer) for value in values][3:]  # the first warm up
    if options.profile:
        profile.disable()
        profile.dump_stats(f"{options.profile}.{path.stem}")

    session = ProofreadingSession(ProofreadingSource.from_store(store))
    layer.data.set_lut(session.lut)
    layer.refresh()
    merges, undos = [], []
    joins = np.flatnonzero(session.graph.join >= session.threshold)
    for edge in rng.choice(joins, options.steps + 3):
        a, b = (session.segment_of(int(f)) for f in (session.graph.u[edge], session.graph.v[edge]))
        if a == b:
            continue

        def merge(a: int = a, b: int = b) -> None:
            session.merge([a, b])
            layer.data.set_lut(session.lut)
            layer.refresh()

        def undo() -> None:
            session.undo()
            layer.data.set_lut(session.lut)
            layer.refresh()

        merges.append(watch.take(merge, layer))
        undos.append(watch.take(undo, layer))
    target = SIZES.get(int(path.stem), (0, 0))[1]
    print(f"\n{store.n_fragments:,} fragments, sections of {_SIDE}², {len(steps)} steps")
    print(f"{'':24}{'canvas':>9}{'95 %':>9}{'window':>9}{'95 %':>9}   target (ms)")
    for name, rows, limit in (
        ("slider step", steps, target),
        ("merge to redraw", merges[3:], 100),
        ("undo to redraw", undos[3:], 100),
    ):
        canvas, window = np.array(rows).T * 1e3
        missed = "  missed" if np.percentile(canvas, 95) > limit else ""
        print(
            f"{name:24}{np.median(canvas):9.1f}{np.percentile(canvas, 95):9.1f}"
            f"{np.median(window):9.1f}{np.percentile(window, 95):9.1f}   {limit}{missed}",
            flush=True,
        )
    viewer.close()
    QApplication.processEvents()


class Watch:
    """Takes the time until the canvas has been repainted with another LUT."""

    def __init__(self, viewer: napari.Viewer) -> None:
        canvas = viewer.window._qt_viewer.canvas._scene_canvas  # nothing public tells of a repaint
        canvas.events.draw.connect(self._on_draw, position="last")
        self._drawn = 0.0

    def _on_draw(self, _event: Any) -> None:
        gl.glFinish()
        self._drawn = time.perf_counter()

    def take(self, act: Callable[[], None], layer: Any) -> tuple[float, float]:
        """Do something that changes the LUT; seconds until it is on canvas, and in the window."""
        before = layer.data.lut
        self._drawn = 0.0
        began = time.perf_counter()
        act()
        while layer.data.lut is before:
            QApplication.processEvents()
            if time.perf_counter() - began > _PATIENCE:
                raise TimeoutError("the LUT did not change")
        # a repaint that was asked for before the change would be one too early; there is none,
        # since everything is painted before the next step
        while not self._drawn:
            QApplication.processEvents()
            if time.perf_counter() - began > _PATIENCE:
                raise TimeoutError("the canvas was not painted")
        seconds = self._drawn - began, time.perf_counter() - began
        # what was put off until after the picture must not count against the next step
        until = time.perf_counter() + 0.5
        while time.perf_counter() < until:
            QApplication.processEvents()
            time.sleep(0.005)
        return seconds


def wait_until(condition: Callable[[], bool], patience: float = _PATIENCE) -> None:
    """Let the viewer work until something holds, for no more than some seconds."""
    until = time.perf_counter() + patience
    while not condition():
        QApplication.processEvents()
        time.sleep(0.01)
        if time.perf_counter() > until:
            raise TimeoutError("the run was not loaded")


def make_run(path: Path, n_fragments: int) -> None:
    """Make a finished run without any network: fragments, graph, a merge history."""
    n_sections = SIZES.get(n_fragments, (50, 0))[0]
    rng = np.random.default_rng(0)
    side = round((n_fragments / n_sections) ** 0.5)
    section = jittered_grid(side, rng)
    n = side * side
    volume = EMVolume.from_array(
        np.lib.stride_tricks.as_strided(
            np.zeros(1, np.uint8), (n_sections, _SIDE, _SIDE), (0, 0, 0)
        ),
        voxel_size=(30.0, 6.0, 6.0),
        name="made",
    )
    store = SegmentationStore.create(
        path,
        volume=volume,
        checkpoint=CheckpointMetadata(name="none", training_data="nothing", licence="none"),
        config=SegmentationConfig(),
        signature={"volume": {}},
    )
    table = section_fragment_table(section, 0)
    inside = grid_edges(side)
    tables = []
    for z in range(n_sections):
        offset = np.uint32(z * n)
        store.write_fragments(z, section + offset, n)
        u, v = (column + offset for column in inside)
        if z:
            own = np.arange(1, n + 1, dtype=np.uint32) + offset
            u, v = np.append(u, own - np.uint32(n)), np.append(v, own)
        order = np.lexsort((v, u))
        u, v = u[order], v[order]
        place = table[(v - 1) % n, 8:].astype(np.float32)
        place[:, 0] = z
        mean = nested_affinities(u - 1, v - 1, (n_sections, side, side), rng)
        edges = EdgeTable(u, v, mean, mean, rng.integers(1, 400, len(u)).astype(np.uint32), place)
        rows = table.copy()
        rows[:, 0] += offset
        rows[:, [2, 8]] = z
        rows[:, 5] = z + 1
        store.write_edges(z, edges, rows)
        store._mark("affinities", z, 1)
        tables.append(edges)
    graph = RegionGraph.concatenate(tables, n_sections * n)
    store.write_agglomeration("median", single_linkage(graph))


def jittered_grid(side: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Fragments 1 … side² of a section: a grid with borders that wander."""
    y, x = np.indices((_SIDE, _SIDE), dtype=np.float32)
    wave = rng.uniform(0, 2 * np.pi, 4)
    y, x = (
        y + 6 * np.sin(x / 23 + wave[0]) + 3 * np.sin(x / 7 + wave[1]),
        x + 6 * np.sin(y / 19 + wave[2]) + 3 * np.sin(y / 9 + wave[3]),
    )
    row, column = (np.clip(a * side / _SIDE, 0, side - 1).astype(np.uint32) for a in (y, x))
    return row * np.uint32(side) + column + np.uint32(1)


def grid_edges(side: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Edges between neighbours on the grid, the diagonals of one direction too."""
    ids = np.arange(1, side * side + 1, dtype=np.uint32).reshape(side, side)
    pairs = [(ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:]), (ids[:-1, :-1], ids[1:, 1:])]
    return (
        np.concatenate([a.ravel() for a, _ in pairs]),
        np.concatenate([b.ravel() for _, b in pairs]),
    )


def nested_affinities(
    a: np.ndarray[Any, Any],
    b: np.ndarray[Any, Any],
    shape: tuple[int, int, int],
    rng: np.random.Generator,
) -> np.ndarray[Any, Any]:
    """Affinities that make blocks within blocks, so that no segment takes everything at once."""
    places = [np.stack(np.unravel_index(i, shape), axis=1) for i in (a, b)]
    affinity = np.full(len(a), 0.1, np.float32)
    for block, score in reversed(LEVELS):
        inside = (places[0] // block == places[1] // block).all(axis=1)
        affinity[inside] = 1 - score
    affinity -= rng.uniform(0, 0.1, len(a)).astype(np.float32)
    return np.clip(affinity, 0.01, 0.99)


def single_linkage(graph: RegionGraph) -> MergeHistory:
    """Merge by the strongest affinity first."""
    order = np.argsort(-graph.max, kind="stable")
    weight = np.arange(1, len(order) + 1, dtype=np.float64)
    n = graph.n_fragments + 1
    matrix = coo_array((weight, (graph.u[order], graph.v[order])), shape=(n, n)).tocsr()
    chosen = order[np.sort(minimum_spanning_tree(matrix).data.astype(np.int64)) - 1]
    return MergeHistory(graph.u[chosen], graph.v[chosen], 1 - graph.max[chosen])


if __name__ == "__main__":
    main()
