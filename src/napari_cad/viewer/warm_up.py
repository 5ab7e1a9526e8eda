"""Doing ahead, in idle turns, what napari does slowly the first time.

Its first layer of each kind takes it a tenth of a second to a second and a half: pandas is
imported, the colouring of labels is compiled, and so are the programs of the graphics card; of
text, every glyph is worked out. All that is better done while a person fills in a form.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.components import Dims
from napari.layers import Image, Labels, Points, Surface, Vectors

from napari_cad.viewer.state import state_of
from napari_cad.viewer.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari.components import ViewerModel
    from napari.layers import Layer
    from qtpy.QtCore import QObject

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
    """Do one thing per step, of a tenth of a second or less but for the first, which is slow once.

    Not in another thread: napari's units are made at first use and not by two threads at once, and
    a collection of garbage there would end objects of Qt.
    """
    for dtype in (np.uint16, np.uint32):
        Labels(np.zeros((1, 2, 2), dtype))  # has pandas imported, and the colouring compiled
        yield
    importlib.import_module("napari_cad.core.registry")  # brings the download library
    yield
    try:
        yield from _on_canvas(viewer)
    except (AttributeError, ImportError, TypeError) as error:
        # nothing public leads to napari's canvas: in another version things are slow once
        logging.getLogger(__name__).info("nothing more is done ahead: %s", error)
    state_of(viewer).warm = True


def _on_canvas(viewer: ViewerModel) -> Iterator[None]:
    if not hasattr(viewer, "window"):
        return  # a viewer without a window draws nothing
    yield
    canvas = viewer.window._qt_viewer.canvas
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
    yield Vectors(np.zeros((1, 2, 2)), vector_style="arrow", opacity=0.0)
    text = {"string": {"constant": "0"}, "color": "transparent"}
    yield Points(np.zeros((1, 2)), text=text, opacity=0.0)
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
        drawn.node.parent = None
        drawn.close()
