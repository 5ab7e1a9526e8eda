"""Doing ahead, while a person fills in a form, what is slow the first time.

napari's first layer of each kind takes it a tenth of a second to a second and a half: libraries are
imported, the colouring of labels is compiled, and so are the programs of the graphics card; of
text, every glyph is worked out. Libraries and the colouring are made ready in a thread, the rest
needs the viewer's own and is done in idle turns.
"""

from __future__ import annotations

import gc
import importlib
import logging
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.components import Dims
from napari.layers import Image, Labels, Points, Surface, Vectors
from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication

from napari_cad.viewer.state import state_of
from napari_cad.viewer.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari.components import ViewerModel
    from napari.layers import Layer
    from qtpy.QtCore import QObject

#: What napari and we import at first use: for tables of features, thumbnails, the camera in 3D,
#: runs, and the list of checkpoints.
_LIBRARIES = (
    "pandas",
    "scipy.ndimage",
    "scipy.spatial.transform",
    "napari_cad.core.store",
    "napari_cad.core.live_segmentation",
    "napari_cad.core.registry",
)

_LOG = logging.getLogger(__name__)

#: What text visuals measure a font by, and what we write.
_GLYPHS = "ÅÉÑŐjgpqy0123456789"


def warm_up(viewer: ViewerModel, owner: QObject) -> None:
    """Do ahead what a viewer will need, unless that has been done.

    Parameters
    ----------
    viewer : ViewerModel
        Whose layers are to come faster.
    owner : QObject
        When that goes, nothing more is done; the next one that asks begins anew.
    """
    if not state_of(viewer).warm:
        Turns(owner).each(_steps(getattr(viewer, "__wrapped__", viewer)))


def _steps(viewer: ViewerModel) -> Iterator[None]:
    """Do one thing per step, of a tenth of a second or less."""
    yield from _until_ended(_preparation())
    for dtype in (np.uint16, np.uint32):
        Labels(np.zeros((1, 2, 2), dtype))
        yield
    import zarr

    zarr.zeros((1, 1, 1))[...]  # it starts a thread when it first reads
    yield
    try:
        yield from _on_canvas(viewer)
    except (AttributeError, ImportError, TypeError) as error:
        # nothing public leads to napari's canvas: in another version things are slow once
        _LOG.info("nothing more is done ahead: %s", error)
    state_of(viewer).warm = True


@cache
def _preparation() -> threading.Thread:
    """Begin to import and compile in a thread, once in a process."""
    thread = threading.Thread(target=_prepare, name="napari-cad-warm-up")
    app = QCoreApplication.instance()
    if app is not None and gc.isenabled():
        gc.disable()  # a collection of garbage in that thread would end objects of Qt there
        # by the main thread, for the first thing after it is a collection; whatever owner goes
        Turns(app).each(_collecting_again(thread))
    thread.start()
    return thread


def _collecting_again(thread: threading.Thread) -> Iterator[None]:
    yield from _until_ended(thread)
    gc.enable()


def _until_ended(thread: threading.Thread) -> Iterator[None]:
    while thread.is_alive():
        yield


def _prepare() -> None:
    """Import and compile; no layers, whose units must not be made by two threads at once."""
    try:
        for name in _LIBRARIES:
            importlib.import_module(name)
        _compile_colouring()
    except (AttributeError, ImportError, TypeError) as error:
        _LOG.info("nothing more is made ready: %s", error)


def _compile_colouring() -> None:
    """Compile what makes a texture of labels of 32 bits; in a thread it must not be run."""
    import numba
    from napari.utils.colormaps import _accelerated_cmap

    compiled = _accelerated_cmap._zero_preserving_modulo_inner_loop
    for n_axes in (1, 2):
        labels = numba.types.Array(numba.uint32, n_axes, "C")
        texture = numba.types.Array(numba.uint8, n_axes, "C")
        compiled.compile((labels, numba.int64, numba.int64, texture))


def _on_canvas(viewer: ViewerModel) -> Iterator[None]:
    if not hasattr(viewer, "window"):
        return  # a viewer without a window draws nothing
    yield
    canvas = viewer.window._qt_viewer.canvas
    steps = _drawn_ahead(canvas)
    # the window may be closed meanwhile
    while isalive(canvas.native) and next(steps, steps) is not steps:  # type: ignore[no-untyped-call]
        yield


def _drawn_ahead(canvas: Any) -> Iterator[None]:
    font = canvas.font_info().font_manager.get_font(canvas.font_info().face)
    for glyph in _GLYPHS:
        font[glyph]
        yield
    for layer in _layers():
        yield
        yield from _drawn(canvas, layer)


def _layers() -> Iterator[Layer]:
    """One layer of each kind and type that we show, of nothing that could be seen."""
    for dtype in (np.uint16, np.uint32):
        yield Labels(np.zeros((2, 2), dtype))
    yield Image(np.zeros((2, 2, 3), np.uint8), rgb=True, opacity=0.0)
    on_top: dict[str, Any] = {"blending": "translucent_no_depth", "opacity": 0.0}
    yield Vectors(np.zeros((1, 2, 2)), vector_style="arrow", **on_top)
    text = {"string": {"constant": "0"}, "color": "transparent", "blending": on_top["blending"]}
    yield Points(np.zeros((1, 2)), text=text, **on_top)
    surface = Surface((np.eye(3), np.array([[0, 1, 2]])), shading="smooth", opacity=0.0)
    surface._slice_dims(Dims(ndim=3, ndisplay=3))
    yield surface


def _drawn(canvas: Any, layer: Layer) -> Iterator[None]:
    """Have a layer drawn without adding it to the viewer."""
    from napari._vispy.utils.visual import create_vispy_layer

    drawn = create_vispy_layer(layer, font_info=canvas.font_info())
    yield
    drawn.node.parent = canvas.view.scene
    canvas.native.update()
    try:
        yield  # Qt paints before the next turn
    finally:
        if isalive(canvas.native):  # type: ignore[no-untyped-call]
            drawn.node.parent = None
            drawn.close()
