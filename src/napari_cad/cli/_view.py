"""`napari-cad view`."""

from __future__ import annotations

import os
from typing import Annotated

import typer


def view(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Stores and volumes, opened as layers, lazily."),
    ],
) -> None:
    """Open stores and volumes in napari, with the Segment neurons widget docked."""
    from napari_cad.core.errors import NapariCadError, VolumeError

    try:
        import napari
        from napari.layers import Layer

        from napari_cad.viewer.reader import get_reader
    except ImportError as error:
        raise NapariCadError(
            "napari or its window toolkit is not installed: pip install 'napari-cad[all]'"
        ) from error
    # not through viewer.open, which knows no reader of ours for what napari reads too (TIFF, .npy)
    layers = []
    # widgets know a run by its absolute path, and so find the layers of one that is opened here
    for path in (text if "://" in text else os.path.abspath(text) for text in paths):
        reader = get_reader(path)
        if reader is None:
            raise VolumeError(f"expected a volume or a store, got {path}: see napari-cad info")
        layers += [Layer.create(*layer) for layer in reader(path)]
    viewer = napari.Viewer()
    for layer in layers:
        viewer.add_layer(layer)
    viewer.window.add_plugin_dock_widget("napari-cad", "Segment neurons")
    napari.run()
