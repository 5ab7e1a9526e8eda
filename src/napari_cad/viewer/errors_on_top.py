"""Arrows at errors stay above the layers that are added after them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_cad.viewer.embedding_layers import grid_of
from napari_cad.viewer.layers import role_of

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_cad.viewer.turns import Turns

_ROLES = ("error_arrows", "error_places")


class ErrorsOnTop:
    """Moves arrows and their numbers up when another layer is laid upon them.

    What is above is drawn later: proofread segments would tint them, and surfaces hide them. Where
    a person has moved them below another layer, they stay there.

    Parameters
    ----------
    viewer : ViewerModel
        Whose layers they are.
    turns : Turns
        In which they are moved: napari has not drawn a layer yet when it tells of it.
    """

    def __init__(self, viewer: ViewerModel, turns: Turns) -> None:
        self._viewer = viewer
        self._turns = turns
        viewer.layers.events.inserted.connect(self._on_inserted)

    def _on_inserted(self, event: Any) -> None:
        below = self._viewer.layers[: event.index]
        if below and role_of(below[-1]) in _ROLES and role_of(event.value) not in _ROLES:
            self._turns.next(self._raise)

    def _raise(self) -> None:
        if grid_of(self._viewer).enabled:
            return  # side by side, where every cell has its own
        layers = self._viewer.layers
        ours = [i for i, layer in enumerate(layers) if role_of(layer) in _ROLES]
        if ours != list(range(len(layers) - len(ours), len(layers))):
            layers.move_multiple(ours, len(layers))
