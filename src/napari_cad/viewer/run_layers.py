"""Showing a run while it goes on: affinities and fragments as they come, then the segments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_cad.core.events import Event, Finished, SectionDone, StageStarted
from napari_cad.core.store import SegmentationStore
from napari_cad.viewer.layer_data import ChannelsLast, LutLabels
from napari_cad.viewer.layers import Role, add_or_update, find_layer, redraw, shown_section
from napari_cad.viewer.live_labels import segments_of_run
from napari_cad.viewer.turns import in_turn

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_cad.viewer.placement import Placement
    from napari_cad.viewer.turns import Turns

#: Which layer shows what a stage writes.
_ROLE_OF_STAGE: dict[str, Role] = {"affinities": "affinities", "fragments": "segments"}


class RunLayers:
    """The layers of one run. A person may remove, rename or move them at any time.

    Parameters
    ----------
    viewer : ViewerModel
        Where they are shown.
    run : str
        Path of the store.
    placement : Placement
        Of the image; it may be gone by the time a layer is made.
    name : str
        Of the image.
    turns : Turns, optional
        In which layers are made; without it, all at once.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        run: str,
        placement: Placement,
        name: str,
        turns: Turns | None = None,
    ) -> None:
        self._viewer = viewer
        self._run = run
        self._placement = placement
        self._name = name
        self._turns = turns
        self._store: SegmentationStore | None = None

    def show(self, event: Event) -> None:
        """Show what an event of the run tells of."""
        if isinstance(event, StageStarted) and self._store is None:
            self._begin()
        elif isinstance(event, SectionDone):
            self._refresh(event)
        elif isinstance(event, Finished):
            self._show_segments()

    def _begin(self) -> None:
        """Add both layers, empty as they are: a run that goes on has something in them."""
        store = self._store = SegmentationStore.open(self._run)
        affinities, fragments = ChannelsLast(store.affinities), LutLabels(store.fragments)
        in_turn(self._turns, lambda: self._add("affinities", affinities, "affinities", rgb=True))
        # whatever LUT an earlier run has left does not fit what is written now
        in_turn(self._turns, lambda: self._add("segments", fragments, "fragments", opacity=0.5))

    def _refresh(self, event: SectionDone) -> None:
        """Redraw the layer of a stage if the section is on screen."""
        role = _ROLE_OF_STAGE.get(event.stage)
        layer = None if role is None else find_layer(self._viewer, role, self._run)
        if layer is not None and layer.visible and shown_section(self._viewer, layer) == event.z:
            redraw(layer)

    def _show_segments(self) -> None:
        """Turn the fragments into segments, and let the image be seen through them."""
        if self._store is None:
            self._begin()
        segments = segments_of_run(SegmentationStore.open(self._run))  # as it is now
        in_turn(self._turns, lambda: self._add("segments", segments, "segments", opacity=0.5))
        in_turn(self._turns, self._hide_affinities)

    def _hide_affinities(self) -> None:
        affinities = find_layer(self._viewer, "affinities", self._run)
        if affinities is not None:
            affinities.visible = False

    def _add(self, role: Role, data: Any, what: str, **settings: Any) -> None:
        add_or_update(
            self._viewer,
            role,
            data,
            run=self._run,
            placement=self._placement,
            name=f"{self._name} {what}",
            turns=self._turns,
            **settings,
        )
