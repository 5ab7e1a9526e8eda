"""Choosing labels: which of the viewer's labels layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Labels

from napari_cad.core.errors import VolumeError
from napari_cad.viewer.layers import role_of
from napari_cad.widgets._layer_chooser import LayerChooser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.components import ViewerModel


#: What a proofreading session draws over its segments: labels of nothing that can be worked on.
_DRAWN = ("proofread_marks", "proofread_contacts", "proofread_scribbles")


def segmentation_chooser(viewer: ViewerModel) -> LabelsChooser:
    """Make a list that proposes a result: corrected segments before those of a run."""
    return LabelsChooser(viewer, prefer=("proofread", "segments"), avoid=("truth", *_DRAWN))


def truth_chooser(viewer: ViewerModel) -> LabelsChooser:
    """Make a list that proposes labels to score a result by."""
    return LabelsChooser(viewer, prefer=("truth",), avoid=("segments", "proofread", *_DRAWN))


def training_labels_chooser(viewer: ViewerModel) -> LabelsChooser:
    """Make a list that proposes labels to learn from: what a network has made comes last."""
    prefer = ("truth", "labels", "proofread")
    return LabelsChooser(viewer, prefer=prefer, avoid=("segments", *_DRAWN))


class LabelsChooser(LayerChooser[Labels]):
    """A list of the viewer's labels layers of three axes.

    Parameters
    ----------
    viewer : ViewerModel
        Whose layers are offered.
    prefer : sequence of str
        Roles of layers that are proposed before others, the first of them before the second.
    avoid : sequence of str
        Roles of layers that are proposed after all others.
    """

    def __init__(
        self, viewer: ViewerModel, prefer: Sequence[str] = (), avoid: Sequence[str] = ()
    ) -> None:
        super().__init__(viewer)
        self._prefer, self._avoid = tuple(prefer), tuple(avoid)
        self._chosen: Labels | None = None  # by the person
        self._on_layers()

    def required(self) -> Labels:
        """Give the layer that is chosen.

        Raises
        ------
        VolumeError
            If there is none; the message says what to do.
        """
        if self.layer is None:
            raise VolumeError(
                "Open a segmentation first: there is no labels layer of three axes (z, y, x)."
            )
        return self.layer

    def choose(self, layer: Labels) -> None:
        """Choose a layer as the person would."""
        self._chosen = layer
        self.combo.value = layer

    def _offered(self) -> list[Labels]:
        return [
            layer for layer in self._viewer.layers if isinstance(layer, Labels) and layer.ndim == 3
        ]

    def _fit(self, layer: Labels) -> tuple[bool, int]:
        role = role_of(layer)
        order = -self._prefer.index(role) if role in self._prefer else -len(self._prefer)
        return role not in self._avoid, order

    def _propose(self) -> None:
        # until the person has chosen, a layer that fits better replaces the one that was there
        if self._chosen not in self.combo.choices and self.combo.choices:
            self._chosen = None
            self.combo.value = max(self.combo.choices, key=self._fit)

    def _on_activated(self) -> None:
        self._chosen = self.layer
