"""The layers of a proofreading session. All lie where the segmentation lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_cad.viewer.layers import Role, add_labels, find_layer, redraw, tag
from napari_cad.viewer.proofreading_labels import (
    MARK_COLOURS,
    LookedUp,
    Marks,
    MarkTable,
    RecentSections,
    SegmentTable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt
    from napari.components import ViewerModel
    from napari.layers import Layer, Points

    from napari_cad.proofreading.cut import CutPreview
    from napari_cad.proofreading.events import SegmentsChanged
    from napari_cad.proofreading.session import ProofreadingSession
    from napari_cad.viewer.placement import Placement

#: Contacts that are drawn, those with the largest area.
_MOST_CONTACTS = 2000

#: Segments are looked at in 3D as a volume up to this many voxels; beyond, as meshes.
MOST_VOXELS_IN_3D = 1 << 27

_SEED_COLOURS = {"red": "#ff3030", "blue": "#3070ff"}


class SegmentsLayer(Labels):  # type: ignore[misc]
    """A labels layer whose line in the status bar tells about segment and fragment."""

    describe: Callable[[npt.NDArray[np.float64]], str] | None = None

    @property
    def _type_string(self) -> str:
        return "labels"

    def get_status(self, position: Any = None, **options: Any) -> Any:
        """Give what napari writes into its status bar, with the line of the session."""
        status = super().get_status(position, **options)
        in_section = len(options.get("dims_displayed") or (0, 1)) == 2
        if self.describe is None or position is None or not in_section:
            return status
        at = self.world_to_data(position) if options.get("world") else np.asarray(position)
        about = self.describe(at)
        if about and isinstance(status, dict):
            status["coordinates"] = f"{status.get('coords', '')} {about}"
        return status


class SessionLayers:
    """Shows a session, and everything that is drawn on it.

    Parameters
    ----------
    viewer : ViewerModel
        Where they are shown. A person may remove, rename or move them at any time.
    key : str
        By which they are found again.
    session : ProofreadingSession
        With fragments.
    placement : Placement
        Of the segmentation.
    name : str
        Of the segmentation.
    added : callable
        Is given every layer that is made.

    Attributes
    ----------
    fragments : RecentSections
    segments : SegmentTable
    marks : MarkTable
    """

    def __init__(
        self,
        viewer: ViewerModel,
        key: str,
        session: ProofreadingSession,
        placement: Placement,
        name: str,
        added: Callable[[Layer], None],
    ) -> None:
        if session.fragments is None:
            raise ValueError("a session without fragments cannot be shown")
        self._viewer, self._key, self._session = viewer, key, session
        self._placement, self._name, self._added = placement, name, added
        self.fragments = RecentSections(session.fragments)
        self.segments = SegmentTable(session)
        self.marks = MarkTable(session)
        self._segments = LookedUp(self.fragments, self.segments.values)
        self._marks = Marks(self.fragments, self.marks.values)

    @property
    def key(self) -> str:
        """By which the layers are found."""
        return self._key

    @property
    def placement(self) -> Placement:
        """Where they lie."""
        return self._placement

    @property
    def layer(self) -> SegmentsLayer | None:
        """The layer of the segments, if it is there."""
        layer = self.find("proofread")
        return layer if isinstance(layer, SegmentsLayer) else None

    def find(self, role: Role) -> Layer | None:
        """Find one of the layers."""
        return find_layer(self._viewer, role, self._key)

    def all(self) -> list[Layer]:
        """List the layers that are there."""
        ours = ("proofread", "proofread_marks", "proofread_contacts",
                "proofread_seeds", "proofread_notes", "proofread_scribbles")  # fmt: skip
        found = (self.find(role) for role in ours)  # type: ignore[arg-type]
        return [layer for layer in found if layer is not None]

    # ------------------------------------------------------------------ segments and marks

    def show(self, describe: Callable[[npt.NDArray[np.float64]], str]) -> SegmentsLayer:
        """Add the layers that are always there."""
        layer = SegmentsLayer(
            self._segments,
            name=f"{self._name} proofread",
            opacity=0.45,
            metadata=tag("proofread", self._key),
            **self._placement.for_axes(3),
        )
        layer.describe = describe
        self._viewer.add_layer(layer)
        layer.editable = False
        self._added(layer)
        self._mark_layer()
        self._viewer.layers.selection.active = layer
        return layer

    def follow(self, event: SegmentsChanged) -> None:
        """Follow an edit."""
        if event.boxes:
            self.fragments.forget(event.boxes)
        self.segments.follow(event)
        self.refresh_segments()

    def refresh_segments(self) -> None:
        """Redraw the segments."""
        layer = self.layer
        values = self.segments.values
        if values.dtype != self._segments.dtype:
            self._segments = LookedUp(self.fragments, values)
            if layer is not None:
                layer.data = self._segments
                layer.editable = False  # new data have set it
            return
        self._segments.table = values
        if layer is not None:
            redraw(layer)

    def mark(
        self, marks: Mapping[int, npt.NDArray[np.int64]], preview: CutPreview | None = None
    ) -> None:
        """Mark fragments, and the parts of those that a cut would divide."""
        self.marks.mark(marks)
        self._marks.table = self.marks.values
        self._marks.lay_over(None)
        if preview is not None and preview.plan.division is not None:
            voxels = preview.plan.division.voxels
            colour = np.zeros(int(voxels.new.max(initial=0)) + 1, np.uint8)
            for mark, side in marks.items():
                colour[side[side < len(colour)]] = mark
            self._marks.lay_over(voxels, colour[voxels.new])
        redraw(self._mark_layer())

    def _mark_layer(self) -> Labels:
        layer = self.find("proofread_marks")
        if isinstance(layer, Labels):
            return layer
        return self._add_labels(
            self._marks, "proofread_marks", "marks", opacity=1.0,
            colormap=DirectLabelColormap(color_dict=MARK_COLOURS),
        )  # fmt: skip

    def show_borders(self, fragments: npt.NDArray[np.int64]) -> None:
        """Draw the borders of these fragments, and of no others, with the next marks."""
        self.marks.bordered = fragments

    def _add_labels(self, data: LookedUp, role: Role, what: str, **settings: Any) -> Labels:
        layer = add_labels(
            self._viewer,
            data,
            name=f"{self._name} {what}",
            metadata=tag(role, self._key),
            **settings,
            **self._placement.for_axes(3),
        )
        return self._new(layer)

    # ------------------------------------------------------------------ points

    def points(self, role: Role) -> Points:
        """Find the seeds, contacts or notes, or add a layer for them."""
        found: Points | None = self.find(role)
        if found is not None:
            return found
        what, settings = self._about_points(role)
        layer: Points = self._viewer.add_points(
            ndim=3,
            name=f"{self._name} {what}",
            metadata=tag(role, self._key),
            blending="translucent_no_depth",
            **settings,
            **self._placement.for_axes(3),
        )
        layer.editable = False
        return self._new(layer)

    def _about_points(self, role: Role) -> tuple[str, dict[str, Any]]:
        width = self.fragments.shape[2]
        if role == "proofread_seeds":
            return "seeds", {
                "size": max(7, width / 60), "border_color": "white", "border_width": 0.15
            }  # fmt: skip
        if role == "proofread_contacts":
            return "contacts", {
                "size": max(3, width / 150), "symbol": "diamond", "border_width": 0.1
            }  # fmt: skip
        text = {"string": "{text}", "color": "yellow", "anchor": "upper_left", "size": 9}
        features = {"text": np.zeros(0, object)}
        return "notes", {
            "size": max(5, width / 100), "symbol": "square", "text": text, "features": features
        }  # fmt: skip

    def show_seeds(self, seeds: Mapping[Any, Sequence[tuple[int, ...]]]) -> None:
        """Show the seeds of a cut, red and blue."""
        places = [voxel for colour in _SEED_COLOURS for voxel in seeds.get(colour, ())]
        colours = [_SEED_COLOURS[c] for c in _SEED_COLOURS for _ in seeds.get(c, ())]
        self._put("proofread_seeds", np.array(places, float).reshape(-1, 3), colours)

    def show_contacts(
        self,
        position: npt.NDArray[np.float32],
        affinity: npt.NDArray[np.float32],
        area: npt.NDArray[np.uint32],
    ) -> None:
        """Show places of contacts, bright where the affinity is high."""
        chosen = np.flatnonzero(np.isfinite(position).all(axis=1))
        if len(chosen) > _MOST_CONTACTS:
            chosen = chosen[np.argpartition(-area[chosen].astype(np.int64), _MOST_CONTACTS)]
            chosen = chosen[:_MOST_CONTACTS]
        bright = np.clip(affinity[chosen], 0, 1)
        colours = np.stack([0.3 + 0.7 * bright, bright, 0.1 + 0 * bright, 1 + 0 * bright], axis=1)
        self._put("proofread_contacts", position[chosen], colours)

    def show_notes(self, places: Sequence[tuple[float, ...]], texts: Sequence[str]) -> None:
        """Show notes where they were made."""
        self._put(
            "proofread_notes",
            np.array(places, float).reshape(-1, 3),
            ["yellow"] * len(places),
            {"text": np.array(texts, object)},
        )

    def _put(
        self,
        role: Role,
        places: npt.NDArray[Any],
        colours: Any,
        features: dict[str, Any] | None = None,
    ) -> None:
        found: Points | None = self.find(role)
        if not len(places) and (found is None or not len(found.data)):
            return
        layer = self.points(role)
        layer.data = places
        if features is not None:
            layer.features = features
        if len(places):
            layer.face_color = colours
        if layer.selected_data:
            layer.selected_data = set()
        if layer.editable:
            layer.editable = False  # new data have set it

    def _new(self, layer: Any) -> Any:
        """Keep the layer of the segments the one that the person works with."""
        self._added(layer)
        segments = self.layer
        if segments is not None:
            self._viewer.layers.selection.active = segments
        return layer

    # ------------------------------------------------------------------ the end

    def end(self, *, keep: bool) -> None:
        """Take the layers away; with `keep`, that of the segments stays as it is."""
        for layer in self.all():
            if isinstance(layer, SegmentsLayer) and keep:
                layer.describe = None
                # as it is now, without what is only tried: the session may go on in another
                # viewer, and nothing of this one is kept by the layer
                self.segments.rebuild()
                fragments = RecentSections(self.fragments.source.frozen())
                layer.data = LookedUp(fragments, self.segments.values.copy())
                layer.editable = False
            elif layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
