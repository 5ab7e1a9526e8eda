"""How long a person waits at the beginning: import, opening a widget, the first labels.

    xvfb-run -a -s "-screen 0 1600x1000x24 +extension GLX" \
        python benchmarks/bench_start.py [STACK] [--rounds 3] [--only import open labels]

Every measurement is made in a process of its own. *import* is that of the package. *open* is the
time from asking napari for a widget, in a window that is up and shows a stack of 20 sections of
1024², until it is painted. *labels* is the time from Run (default checkpoint, CPU) until labels are
painted: of the first section, and of the section on screen, which is the one in the middle. STACK
is anything that the readers open; without it the stack is synthetic.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds that are wanted at most.
_TARGETS = {"import": 0.1, "open": 1.0, "labels": 15.0}
_SECTIONS, _VOXEL_SIZE = 20, (30.0, 6.0, 6.0)
_PATIENCE = 120.0


def main() -> None:
    """Measure what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stack", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=tuple(_TARGETS), default=tuple(_TARGETS))
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, *arguments = options.child
        {"import": _import, "open": _open, "labels": _labels, "names": _names}[what](*arguments)
        return
    print(f"{'':44}{'median':>8}{'worst':>8}{'wanted':>8}   s")
    if "import" in options.only:
        _report("import napari_cad", _child("import", rounds=options.rounds), "import")
    if "open" in options.only:
        for name in _child("names")[0]:
            _report(f"open {name}", _child("open", name, rounds=options.rounds), "open")
    if "labels" in options.only:
        stack = [options.stack] if options.stack else []
        rounds = _child("labels", *stack, rounds=options.rounds)
        for i, what in enumerate(("first section", "section on screen")):
            _report(f"labels of the {what}", [[round_[i]] for round_ in rounds], "labels")


def _child(*arguments: str, rounds: int = 1) -> list[list[str]]:
    """Give the last line that a process of its own prints, split at tabs, once per round."""
    command = [sys.executable, __file__, "--child", *arguments]
    outputs = [
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for _ in range(rounds)
    ]
    return [output.strip().splitlines()[-1].split("\t") for output in outputs]


def _report(name: str, rounds: list[list[str]], target: str) -> None:
    seconds = [float(round_[0]) for round_ in rounds]
    wanted = _TARGETS[target]
    missed = "  missed" if max(seconds) > wanted else ""
    print(
        f"{name:44}{statistics.median(seconds):8.3f}{max(seconds):8.3f}{wanted:8.1f}{missed}",
        flush=True,
    )


def _import() -> None:
    began = time.perf_counter()
    import napari_cad  # noqa: F401

    print(time.perf_counter() - began)


def _names() -> None:
    from npe2 import PluginManager

    manager = PluginManager.instance()
    manager.discover()
    widgets = manager.get_manifest("napari-cad").contributions.widgets or []
    print("\t".join(widget.display_name for widget in widgets))


def _open(name: str) -> None:
    import numpy as np

    viewer = _viewer()
    viewer.add_image(np.zeros((_SECTIONS, 1024, 1024), np.uint8), name="stack", scale=_VOXEL_SIZE)
    _until(_seconds_from_now(2))
    began = time.perf_counter()
    viewer.window.add_plugin_dock_widget("napari-cad", name)
    _process_events()
    print(time.perf_counter() - began)
    viewer.close()


def _labels(stack: str | None = None) -> None:
    from napari_cad.core.readers import open_volume
    from napari_cad.viewer.layers import find_layer, shown_section, tag
    from napari_cad.viewer.placement import Placement
    from napari_cad.widgets.segment import SegmentWidget

    viewer = _viewer()
    if stack is None:
        viewer.add_image(_synthetic(), name="stack", scale=_VOXEL_SIZE, units="nm")
    else:
        volume = open_volume(stack, voxel_size=_VOXEL_SIZE).crop((0, _SECTIONS))
        viewer.add_image(
            volume.data,
            name="stack",
            contrast_limits=(0, 255),
            metadata=tag("image", source=volume.source.to_json()),
            **Placement.of_volume(volume.voxel_size).for_axes(3),
        )
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Segment neurons")
    _until(_seconds_from_now(4))  # somebody fills in the form
    widget.device.set_values(device="cpu")
    done: dict[int, float] = {}

    def see(event: Any) -> None:
        if getattr(event, "stage", "") == "fragments" and hasattr(event, "z"):
            done.setdefault(event.z, 0.0)

    widget.runner.reported.connect(see)
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run.zarr")
        widget.output.path.setText(run)
        began = time.perf_counter()
        widget.run()
        image = viewer.layers["stack"]
        on_screen = shown_section(viewer, image)

        def there(z: int) -> bool:
            layer = find_layer(viewer, "segments", run)
            return z in done and layer is not None and layer.visible

        seconds = []
        for z in (0, on_screen):
            _until(lambda z=z: there(z))
            _process_events()  # it is painted
            seconds.append(time.perf_counter() - began)
        segments = find_layer(viewer, "segments", run)
        if not segments._data_view.any():
            raise RuntimeError("no labels are on screen")
        widget.cancel()
        _until(_seconds_from_now(1))
        print("\t".join(map(str, seconds)))
        viewer.close()


def _synthetic() -> Any:
    from napari_cad.core.synthetic import synthetic_em

    return synthetic_em((_SECTIONS, 1024, 1024), seed=0).raw


def _viewer() -> Any:
    import napari

    viewer = napari.Viewer(show=False)
    viewer.window.resize(1500, 950)
    viewer.show()
    _until(_seconds_from_now(1))
    return viewer


def _process_events() -> None:
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()


def _seconds_from_now(seconds: float) -> Callable[[], bool]:
    until = time.perf_counter() + seconds
    return lambda: time.perf_counter() > until


def _until(condition: Callable[[], bool]) -> None:
    until = time.perf_counter() + _PATIENCE
    while not condition():
        _process_events()
        time.sleep(0.002)
        if time.perf_counter() > until:
            raise TimeoutError("it did not come")


if __name__ == "__main__":
    main()
