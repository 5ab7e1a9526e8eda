from __future__ import annotations

import gc
import threading

import numpy as np
from qtpy.compat import isalive
from qtpy.QtWidgets import QWidget

from napari_cad.viewer import warm_up as module
from napari_cad.viewer.state import state_of
from napari_cad.viewer.turns import Turns
from napari_cad.viewer.warm_up import warm_up

PATIENCE = 30_000


def test_what_is_done_ahead_leaves_nothing_behind(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    viewer.add_image(np.arange(64).reshape(8, 8))
    scene = viewer.window._qt_viewer.canvas.view.scene
    qtbot.wait(300)  # until the window has its size
    before, seen = list(scene.children), viewer.screenshot(flash=False)
    owner = QWidget()
    qtbot.addWidget(owner)
    drawn = []
    frames = viewer.window._qt_viewer.canvas._scene_canvas.events.draw
    frames.connect(lambda _event: drawn.append(len(scene.children)))
    warm_up(viewer, owner)
    qtbot.waitUntil(lambda: state_of(viewer).warm, timeout=PATIENCE)
    assert max(drawn) == len(before) + 1  # one after the other
    assert list(scene.children) == before
    assert len(viewer.layers) == 1
    np.testing.assert_array_equal(viewer.screenshot(flash=False), seen)
    glyphs = viewer.window._qt_viewer.canvas.font_info().font_manager._fonts
    assert any("7" in font._glyphs for font in glyphs.values())


def test_it_ends_with_the_window(make_napari_viewer, qtbot, monkeypatch):
    """Whoever asked for it may live on for a while, and so may the queue."""
    monkeypatch.setattr(module, "_GLYPHS", "0")
    viewer = make_napari_viewer(show=True)
    native = viewer.window._qt_viewer.canvas.native
    steps = module._on_canvas(viewer)
    for _ in range(5):  # a layer is on the canvas
        next(steps)
    viewer.close()
    qtbot.waitUntil(lambda: not isalive(native), timeout=PATIENCE)
    assert not list(steps)


def test_no_garbage_is_collected_while_libraries_are_imported(
    make_napari_viewer, qtbot, monkeypatch
):
    seen, go_on = [], threading.Event()
    monkeypatch.setattr(module, "_LIBRARIES", ())
    monkeypatch.setattr(
        module, "_compile_colouring", lambda: (seen.append(gc.isenabled()), go_on.wait(20))
    )
    module._preparation.cache_clear()
    owner = QWidget()
    qtbot.addWidget(owner)
    assert gc.isenabled()
    warm_up(make_napari_viewer(), owner)
    qtbot.waitUntil(lambda: bool(seen), timeout=PATIENCE)
    owner.deleteLater()  # nobody is left to wait for it
    go_on.set()
    qtbot.waitUntil(gc.isenabled, timeout=PATIENCE)
    assert seen == [False]


def test_another_owner_does_it_where_one_has_gone(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    first, second = QWidget(), QWidget()
    qtbot.addWidget(second)
    warm_up(viewer, first)
    first.deleteLater()
    del first
    qtbot.wait(100)
    assert not state_of(viewer).warm
    warm_up(viewer, second)
    qtbot.waitUntil(lambda: state_of(viewer).warm, timeout=PATIENCE)
    warm_up(viewer, second)
    assert not second.findChildren(Turns)[-1].busy
    assert len(second.findChildren(Turns)) == 1  # there is nothing left to do
