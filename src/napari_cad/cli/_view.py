"""`napari-cad view`."""

from __future__ import annotations

from typing import Annotated

import typer


def view(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Stores and volumes, opened as layers, lazily."),
    ],
) -> None:
    """Open stores and volumes in napari, with the Segment neurons widget docked."""
    from napari_cad.core.errors import NapariCadError

    try:
        import napari
    except ImportError as error:
        raise NapariCadError(
            "napari or its window toolkit is not installed: pip install 'napari-cad[all]'"
        ) from error
    viewer = napari.Viewer()
    for path in paths:
        viewer.open(path, plugin="napari-cad")
    viewer.window.add_plugin_dock_widget("napari-cad", "Segment neurons")
    napari.run()
