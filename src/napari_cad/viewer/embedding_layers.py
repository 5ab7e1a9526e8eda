"""Layers of which only the sections that were asked for are there: embedding maps, similarities."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.colormaps import Colormap

from napari_cad.viewer.layers import (
    Role,
    add_or_update,
    find_layer,
    redraw,
    selection_kept,
    show_layer,
    shown_section,
    tag,
)
from napari_cad.viewer.turns import in_turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt
    from napari.components import ViewerModel
    from napari.layers import Layer

    from napari_cad.core.embedding_job import SectionMap, Similarities
    from napari_cad.core.projection import Which
    from napari_cad.core.stored_maps import StoredMap
    from napari_cad.viewer.placement import Placement
    from napari_cad.viewer.turns import Turns

#: Bytes of maps that a layer keeps in memory.
_MOST_BYTES = 256 << 20

_ROLE: dict[Which, Role] = {"embedding": "embedding_rgb", "embedding_prev": "embedding_prev_rgb"}

#: How a person tells the two embeddings of a section apart.
CALLED: dict[Which, str] = {
    "embedding": "embedding, later of (z − 1, z)",
    "embedding_prev": "embedding, earlier of (z, z + 1)",
}

#: Not similar is transparent, so that the image or the map is seen through.
SIMILARITY_COLOURS = Colormap(
    [[0.2, 0.0, 0.4, 0.0], [0.5, 0.0, 0.6, 0.35], [1.0, 0.4, 0.2, 0.6], [1.0, 1.0, 0.3, 0.8]],
    name="similarity",
    controls=[0.0, 0.4, 0.75, 1.0],
)


class SectionCache:
    """A (Z, Y, X) or (Z, Y, X, 3) array of which only some sections are there, the rest 0.

    Parameters
    ----------
    shape : sequence of int
        (Z, Y, X) or (Z, Y, X, 3).
    dtype : dtype
        Of one voxel.
    stored : StoredMap, optional
        Has sections of its own, which need not be put here.

    Notes
    -----
    Sections that were put longest ago are forgotten beyond 256 MB.
    """

    def __init__(self, shape: Sequence[int], dtype: Any, stored: StoredMap | None = None) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))
        self._sections: OrderedDict[int, npt.NDArray[Any]] = OrderedDict()
        self._most = max(1, _MOST_BYTES // max(1, self.size // self.shape[0] * self.dtype.itemsize))
        self._stored = stored
        done = [] if stored is None else np.flatnonzero(stored.sections_done()).tolist()
        self._in_store: set[int] = set(done)
        self._provisional: set[int] = set()
        self._outdated: set[int] = set()

    def __contains__(self, z: int) -> bool:
        return (z in self._sections and z not in self._outdated) or z in self._in_store

    def outdate(self) -> None:
        """Let what is provisional be shown no longer than until there is something better."""
        self._outdated |= self._provisional
        self._provisional.clear()

    def is_provisional(self, z: int) -> bool:
        """Whether what is shown of a section is not final."""
        return z in self._sections and z in self._provisional | self._outdated

    def put(self, z: int, section: npt.NDArray[Any], *, provisional: bool = False) -> None:
        """Put a section, shape (Y, X) or (Y, X, 3)."""
        self._sections[z] = section
        self._outdated.discard(z)
        (self._provisional.add if provisional else self._provisional.discard)(z)
        self._sections.move_to_end(z)
        while len(self._sections) > self._most:
            self._sections.popitem(last=False)

    def clear(self) -> None:
        """Forget all sections that were put here."""
        self._sections.clear()

    def is_stored(self, z: int) -> None:
        """Take note that a section has come into the store."""
        if self._stored is not None:
            self._in_store.add(z)

    def section(self, z: int) -> npt.NDArray[Any]:
        """Give a section; zeros where it is not there."""
        found = self._sections.get(z)
        if found is None and self._stored is not None and z in self._in_store:
            found = self._stored.read(z)
        return np.zeros(self.shape[1:], self.dtype) if found is None else found

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        items = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in items:
            i = items.index(Ellipsis)
            items[i : i + 1] = [slice(None)] * (self.ndim - len(items) + 1)
        first, *rest = items
        if not isinstance(first, slice):
            section: npt.NDArray[Any] = self.section(range(self.shape[0])[int(first)])[tuple(rest)]
            return section
        # each is cut before they are put together: a cross-section of a stack is small
        parts = [self.section(z)[tuple(rest)] for z in range(*first.indices(self.shape[0]))]
        return np.stack(parts) if parts else np.zeros((0, *self.shape[1:]), self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a lazy array cannot be seen as an ndarray without reading it")
        return np.asarray(self[...], dtype=dtype)


class EmbeddingLayers:
    """The embedding layers of one image. A person may remove, rename or move them at any time.

    Parameters
    ----------
    viewer : ViewerModel
        Where they are shown.
    key : str
        Path of the run they belong to, or another name by which to find them again.
    shape : tuple of int
        (Z, Y, X) of the volume.
    placement : Placement
        Of the image.
    name : str
        Of the image.
    turns : Turns, optional
        In which layers are drawn after they have been made; without it, at once.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        key: str,
        shape: tuple[int, int, int],
        placement: Placement,
        name: str,
        turns: Turns | None = None,
    ) -> None:
        self._viewer = viewer
        self._key = key
        self._shape = shape
        self._placement = placement
        self._name = name
        self._maps: dict[tuple[Which, bool], SectionCache] = {}
        self._similarity = SectionCache(shape, np.float32)
        self._turns = turns

    def open_map(self, which: Which, normalised: bool, stored: StoredMap | None = None) -> None:
        """Make a map ready, if it is not, with the sections that a run has of it."""
        if (which, normalised) not in self._maps:
            self._maps[which, normalised] = SectionCache((*self._shape, 3), np.uint8, stored)

    def missing(self, sections: Iterable[int], which: Which, normalised: bool) -> tuple[int, ...]:
        """Give those of `sections` that exist and that the map does not have yet, in order."""
        found = self._maps[which, normalised]
        return tuple(z for z in sections if 0 <= z < self._shape[0] and z not in found)

    def show_map(self, event: SectionMap) -> None:
        """Take the map of a section, and show it where it is on screen."""
        self.open_map(event.which, event.normalised)
        found = self._maps[event.which, event.normalised]
        found.put(event.z, event.rgb, provisional=event.provisional)
        self._redraw(self.show(event.which, event.normalised), event.z)

    def colours_are_fixed(self, which: Which, normalised: bool) -> None:
        """Take note that provisional sections have to be asked for again."""
        self._maps[which, normalised].outdate()

    def is_provisional(self, z: int, which: Which, normalised: bool) -> bool:
        """Whether a section is shown in colours that will change."""
        return self._maps[which, normalised].is_provisional(z)

    def show(self, which: Which, normalised: bool) -> Layer:
        """Show one of the maps in the layer of its embedding, as far as it is there."""
        data = self._maps[which, normalised]
        return self._layer(_ROLE[which], data, f"{self._name} {CALLED[which]}", rgb=True)

    def is_stored(self, z: int, which: Which, normalised: bool) -> None:
        """Take note that a run has the map of a section; show it where it is on screen."""
        self._maps[which, normalised].is_stored(z)
        layer = find_layer(self._viewer, _ROLE[which], self._key)
        if layer is not None:
            self._redraw(layer, z)

    def show_similarities(self, event: Similarities) -> None:
        """Show the similarities to a voxel, in the two sections that they are known of."""
        self._similarity.clear()
        for z, values in event.maps.items():
            self._similarity.put(z, values)
        layer = self._layer(
            "similarity",
            self._similarity,
            f"{self._name} similarity",
            colormap=SIMILARITY_COLOURS,
            contrast_limits=(0.0, 1.0),
            blending="translucent",
        )
        redraw(layer)
        picked = event.picked
        in_turn(self._turns, partial(self._mark, (picked.z, picked.y, picked.x)))

    def _mark(self, voxel: tuple[int, int, int]) -> None:
        """Put a cross at the voxel that was picked."""
        layer = find_layer(self._viewer, "picked", self._key)
        if layer is not None:
            layer.data = [voxel]
            return
        with selection_kept(self._viewer):
            layer = self._viewer.add_points(
                [voxel],
                name=f"{self._name} picked pixel",
                metadata=tag("picked", self._key),
                symbol="cross",
                size=max(6, min(self._shape[1:]) / 25),
                face_color="white",
                border_color="black",
                visible=self._turns is None,
                **self._placement.for_axes(3),
            )
        if self._turns is not None:
            self._turns.next(partial(show_layer, self._viewer, layer))

    def _layer(self, role: Role, data: SectionCache, name: str, **settings: Any) -> Layer:
        """Find the layer of a role, showing `data`, or make it."""
        layer = find_layer(self._viewer, role, self._key)
        if layer is not None and layer.data is data:
            return layer
        return add_or_update(
            self._viewer,
            role,
            data,
            run=self._key,
            placement=self._placement,
            name=name,
            turns=self._turns,
            # a person goes on with the layer that they had chosen
            select=self._viewer.layers.selection.active is None,
            **settings,
        )

    def _redraw(self, layer: Layer, z: int) -> None:
        shown = shown_section(self._viewer, layer)
        if layer.visible and (shown is None or shown == z):
            redraw(layer)


def grid_of(viewer: ViewerModel) -> Any:
    """Give the grid of a viewer, wherever this version of napari has it."""
    return viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid  # before napari 0.9


def camera_of(viewer: ViewerModel) -> Any:
    """Give the camera of a viewer, wherever this version of napari has it."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera  # before napari 0.9
