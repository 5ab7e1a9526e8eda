"""The layers of this package in a viewer: found again, added, shown and selected."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from napari.layers import Labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari.components import ViewerModel
    from napari.layers import Layer

    from napari_cad.viewer.placement import Placement
    from napari_cad.viewer.turns import Turns

#: Key of everything that this package writes into a layer's metadata.
METADATA_KEY = "napari_cad"

Role = Literal[
    "image",
    "labels",
    "truth",
    "affinities",
    "segments",
    "embedding_rgb",  # of embeddings as the later section of a pair
    "embedding_prev_rgb",  # as the earlier one
    "similarity",
    "picked",  # the voxel that they are similar to
    "student_rgb",  # of the student and of a 3D network, to be compared
    "teacher_rgb",
    "teacher_unblended_rgb",
    "fit_affinities",  # of a crop of one section, as the student is being fitted
    "fit_rgb",
    "fit_fragments",
    "fit_box",
    "error_arrows",
    "error_places",
    "meshes",
    "proofread",  # the segments of a proofreading session, and what is drawn over them
    "proofread_marks",
    "proofread_contacts",
    "proofread_seeds",
    "proofread_notes",
    "proofread_scribbles",
]


def tag(role: Role, run: str | None = None, **more: Any) -> dict[str, Any]:
    """Metadata by which `find_layer` finds a layer again.

    Parameters
    ----------
    role : str
        What the layer shows.
    run : str, optional
        Path of the store that it belongs to.
    **more
        Plain values to keep beside them.
    """
    return {METADATA_KEY: {"role": role, "run": run, **more}}


def tag_of(layer: Layer) -> dict[str, Any]:
    """Give what `tag` has written into a layer's metadata; nothing where others made it."""
    found = layer.metadata.get(METADATA_KEY)
    return found if isinstance(found, dict) else {}


def role_of(layer: Layer) -> str | None:
    """Tell what a layer shows, if this package made it."""
    return tag_of(layer).get("role")


def run_of(layer: Layer) -> str | None:
    """Tell which run a layer belongs to: the path of its store."""
    return tag_of(layer).get("run")


def find_layer(viewer: ViewerModel, role: Role, run: str | None = None) -> Layer | None:
    """Find a layer by role and run, whatever it is called; the lowest if there are several.

    That is the one that was made for the run: a duplicate, by which a person keeps what it shows,
    comes to lie above it.
    """
    for layer in viewer.layers:
        if role_of(layer) == role and run_of(layer) == run:
            return layer
    return None


def add_or_update(
    viewer: ViewerModel,
    role: Role,
    data: Any,
    *,
    run: str,
    placement: Placement,
    name: str,
    turns: Turns | None = None,
    select: bool = True,
    **settings: Any,
) -> Layer:
    """Show data in the layer of a role and a run, making the layer if it is not there.

    Parameters
    ----------
    viewer : ViewerModel
        Whose layers to look through and add to.
    role : str
        "segments", "truth", "labels" and "fit_fragments" become labels layers that cannot be
        painted in, the rest images.
    data : array_like
        The layer's data.
    run : str
        Path of the store that the data belong to.
    placement : Placement
        Scale, translate, units and axis labels.
    name : str
        Of a new layer, and the new name of an old one.
    turns : Turns, optional
        Where given, a new layer is drawn a turn later than it is added, and selected another
        turn later.
    select : bool
        Whether a new layer becomes the selected one, as napari has it.
    **settings
        More arguments for a new layer.

    Returns
    -------
    Layer
    """
    labels = role in ("segments", "truth", "labels", "fit_fragments")
    layer = find_layer(viewer, role, run)
    if layer is not None:
        layer.data = data
        layer.name = name
        if labels:
            layer.editable = False  # new data have set it
        return layer
    rgb = bool(settings.get("rgb", False))
    arguments = {
        "name": name,
        "metadata": tag(role, run),
        **placement.for_axes(len(data.shape) - rgb),
        **settings,
    }
    visible = arguments.pop("visible", True)
    arguments["visible"] = visible and turns is None
    add = partial(add_labels, viewer) if labels else viewer.add_image
    if select and turns is None:
        layer = add(data, **arguments)
    else:
        with selection_kept(viewer):
            layer = add(data, **arguments)
    if turns is not None and select:
        turns.next(lambda: _select(viewer, layer))
    if turns is not None and visible:
        turns.next(lambda: show_layer(viewer, layer))
    return layer


def add_labels(viewer: ViewerModel, data: Any, **settings: Any) -> Labels:
    """Add a layer of labels that cannot be painted in, without the tools for painting.

    napari makes what its brush and its polygon tool draw together with the layer, which is half
    the time that it takes to add it. Here they are made when such a tool is first used.

    Parameters
    ----------
    viewer : ViewerModel
        What to add it to.
    data : array_like
        The labels.
    **settings
        Arguments of a labels layer.
    """
    layer = Labels(data, **settings)
    layer.editable = False
    for tool in getattr(layer, "_overlays", {}).values():  # nothing public leads to them
        if tool.visible and hasattr(tool.events, "enabled"):
            tool.visible = False
            tool.events.enabled.connect(partial(_show_tool, tool))
    viewer.add_layer(layer)
    return layer


def _show_tool(tool: Any, _event: Any = None) -> None:
    tool.visible = True


@contextmanager
def selection_kept(viewer: ViewerModel) -> Iterator[None]:
    """Keep the selected layers selected while others are added.

    napari selects what is added, and fills the form of its settings, which takes 50 ms: for
    nothing where another layer is to be selected again at once.
    """
    selection = viewer.layers.selection
    active, chosen = selection.active, set(selection)
    with selection.events.blocker_all():
        yield
        selection.active = active
        if active is None:
            selection.update(chosen)


def _select(viewer: ViewerModel, layer: Layer) -> None:
    if layer in viewer.layers:
        viewer.layers.selection.active = layer


def show_layer(viewer: ViewerModel, layer: Layer) -> None:
    """Show a layer, if it is still there."""
    if layer in viewer.layers:
        layer.visible = True


def redraw(layer: Layer) -> None:
    """Show what has changed in the data, and leave out what that does not touch.

    A thumbnail, for one, has napari paint the whole list of layers.
    """
    layer.refresh(thumbnail=False, extent=False, highlight=False)


def select_label(viewer: ViewerModel, layer: Labels | None, label: int) -> None:
    """Select a label of a layer, if that is still there."""
    if layer is not None and layer in viewer.layers:
        layer.selected_label = label


def shown_section(viewer: ViewerModel, layer: Layer) -> int | None:
    """Which section of a (Z, Y, X) layer is on screen; None where all are (3D) or none is."""
    if viewer.dims.ndisplay == 3:
        return None
    z = round(float(layer.world_to_data(viewer.dims.point)[0]))
    return z if 0 <= z < layer.data.shape[0] else None
