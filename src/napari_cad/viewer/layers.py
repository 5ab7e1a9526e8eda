"""Layers from stores and volumes from layers.

Nothing here reads more than what is on screen, and nothing writes voxels: the labels layer of a
run shows `lut[fragments]`, so that a new segmentation is a new LUT.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from napari.layers import Labels
from napari.utils.transforms import Affine

from napari_cad.core._lazy import CroppedArray, LazyArray
from napari_cad.core.errors import ShapeError, VolumeError
from napari_cad.core.jobs import Served
from napari_cad.core.volume import EMVolume, VolumeSource
from napari_cad.viewer.read_ahead import Sections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    import numpy.typing as npt
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from napari_cad.core.volume import ArrayLike
    from napari_cad.viewer.turns import Turns

#: Key of everything that this package writes into a layer's metadata.
METADATA_KEY = "napari_cad"

T = TypeVar("T")

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


class LutLabels(LazyArray):
    """The labels `lut[fragments]`, looked up when and where they are asked for. Read-only.

    Parameters
    ----------
    fragments : array_like, shape (Z, Y, X), unsigned integer
        A zarr array or any other array that is read by slices.
    lut : ndarray, shape (n_fragments + 1,), unsigned integer, optional
        Fragment → segment with lut[0] = 0; without it the fragments themselves are shown.

    Notes
    -----
    The type is uint16 where the LUT's values fit into it, which napari shows almost three times as
    fast, and uint32 otherwise. There is deliberately no `__setitem__`.

    Of a zarr array that has a LUT the last sections are kept and their neighbours read ahead: while
    the LUT changes, reading and decompressing one would be half of the time until the picture. Such
    an array is that of a finished run, which nobody writes any more.
    """

    def __init__(self, fragments: ArrayLike, lut: npt.NDArray[Any] | None = None) -> None:
        small = lut is not None and int(lut.max(initial=0)) < 2**16
        super().__init__(fragments.shape, np.uint16 if small else np.uint32)
        self._fragments = fragments
        import zarr  # takes half a second, which a widget that opens has not

        self._is_stored = isinstance(fragments, zarr.Array)
        self._indices = self._sections(_index)
        self._lut: npt.NDArray[Any] | None = None
        if lut is not None:
            self.set_lut(lut)

    @property
    def lut(self) -> npt.NDArray[Any] | None:
        """The LUT that is shown, of this array's type; do not write into it."""
        return self._lut

    def set_lut(self, lut: npt.NDArray[Any]) -> None:
        """Show another LUT from now on; refresh the layer to see it.

        Parameters
        ----------
        lut : ndarray, shape (n_fragments + 1,), unsigned integer
            With lut[0] = 0.

        Raises
        ------
        ShapeError
            If it has another shape, or its values do not fit into the type of this array.
        """
        if lut.ndim != 1 or not len(lut) or lut[0] != 0:
            raise ShapeError("a LUT has one axis and begins with 0 for the background")
        highest = int(lut.max())
        if highest > np.iinfo(self.dtype).max:
            raise ShapeError(f"segment {highest} does not fit into {self.dtype} labels")
        # one assignment: a slicing thread sees the old LUT or the new one
        self._lut = lut.astype(self.dtype)

    def ahead(self, z: int) -> Future[Any] | None:
        """Have a section read; None where they are not kept."""
        has_lut = self._lut is not None
        return self._indices.ahead(z) if self._is_stored and has_lut else None

    def _read(self, z: slice, y: slice, x: slice) -> npt.NDArray[Any]:
        lut = self._lut
        if lut is None:
            return np.asarray(self._fragments[z, y, x]).astype(self.dtype, copy=False)
        if self._keeps(z, self._indices):
            return lut.take(self._indices.get(z.start)[None, y, x])
        return lut.take(np.asarray(self._fragments[z, y, x]))

    def _keeps(self, z: slice, sections: Sections[Any]) -> bool:
        return self._is_stored and sections.kept and z.stop == z.start + 1

    def _sections(self, make: Callable[[ArrayLike, int], T]) -> Sections[T]:
        n_bytes = self.shape[1] * self.shape[2] * np.dtype(np.intp).itemsize
        return Sections(partial(make, self._fragments), self.shape[0], n_bytes)


def _index(fragments: ArrayLike, z: int) -> npt.NDArray[np.intp]:
    """Read a section as numpy looks values up fastest."""
    return np.asarray(fragments[z]).astype(np.intp)


class PyramidLevel(LazyArray):
    """One resolution of a multiscale layer: a box cut out of it reads nothing yet. Read-only.

    napari cuts the tile that is on screen out of all sections before it takes one of them. Any
    other index than one plain slice per axis reads what it asks for.

    Parameters
    ----------
    data : array_like, shape (Z, Y, X)
        Read by slices.
    """

    def __init__(self, data: ArrayLike) -> None:
        super().__init__(data.shape, data.dtype)
        self._data = data

    def __getitem__(self, key: Any) -> Any:
        items = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(item, slice) and item.step in (None, 1) for item in items):
            return super().__getitem__(key)
        spans = [range(n)[item] for n, item in zip(self.shape, items, strict=False)]
        spans += [range(n) for n in self.shape[len(spans) :]]
        z, y, x = ((span.start, span.stop) for span in spans)
        return PyramidLevel(CroppedArray(self._data, (z, y, x)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a lazy array cannot be seen as an ndarray without reading it")
        return np.asarray(super().__getitem__(...), dtype=dtype)

    def _read(self, z: slice, y: slice, x: slice) -> npt.NDArray[Any]:
        return np.asarray(self._data[z, y, x])


class ChannelsLast:
    """Affinities (3, Z, Y, X) as a colour image (Z, Y, X, 3): red z, green y, blue x. Read-only.

    Parameters
    ----------
    affinities : array_like, shape (3, Z, Y, X), uint8
    """

    def __init__(self, affinities: ArrayLike) -> None:
        n, *rest = affinities.shape
        self._affinities = affinities
        self.shape = (*rest, n)
        self.dtype = np.dtype(affinities.dtype)
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        items = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in items:
            i = items.index(Ellipsis)
            items[i : i + 1] = [slice(None)] * (self.ndim - len(items) + 1)
        items += [slice(None)] * (self.ndim - len(items))
        *voxels, channel = items
        part = np.asarray(self._affinities[(slice(None), *voxels)])
        return np.ascontiguousarray(np.moveaxis(part, 0, -1))[..., channel]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a lazy array cannot be seen as an ndarray without reading it")
        return np.asarray(self[...], dtype=dtype)


# ---------------------------------------------------------------------- where a layer lies


@dataclass(frozen=True)
class Placement:
    """Where a layer lies in the world; outlives the layer that it was taken from.

    Attributes
    ----------
    ndim : int
        Number of axes of that layer.
    settings : dict
        Arguments of a layer: scale, translate, rotate, shear, affine, units, axis_labels.
    """

    ndim: int
    settings: dict[str, Any]

    @classmethod
    def of_layer(cls, layer: Layer) -> Placement:
        """Take it from a layer."""
        names = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
        return cls(layer.ndim, {name: getattr(layer, name) for name in names})

    @classmethod
    def of_volume(
        cls,
        voxel_size: tuple[float, float, float] | None,
        origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Placement:
        """Make it from a voxel size and an origin in nm; in pixels where there is no voxel size."""
        settings: dict[str, Any] = {"axis_labels": ("z", "y", "x")}
        if voxel_size is not None:
            settings |= {"scale": voxel_size, "translate": origin, "units": ("nm",) * 3}
        return cls(3, settings)

    def from_section(self, z: int) -> Placement:
        """Place a layer that begins at section `z` of this one."""
        if z == 0:
            return self
        step = np.zeros(self.ndim)
        step[0] = z * self.settings["scale"][0]
        rotation = np.asarray(self.settings.get("rotate", np.eye(self.ndim)))
        moved = np.asarray(self.settings["translate"]) + rotation @ step
        return Placement(self.ndim, self.settings | {"translate": moved})

    def binned(self, factor: int) -> Placement:
        """Place a layer of which a voxel lies over `factor` × `factor` of this one, in y and x."""
        if factor == 1:
            return self
        settings = {"scale": np.ones(self.ndim), **self.settings}
        middle = (factor - 1) / 2  # of the first block, in voxels of this one
        placed = Placement(self.ndim, settings).from_voxel((0, middle, middle))
        larger = np.asarray(settings["scale"]) * np.array([1, factor, factor])[-self.ndim :]
        return replace(placed, settings=placed.settings | {"scale": larger})

    def from_voxel(self, start: tuple[float, float, float]) -> Placement:
        """Place a layer that begins at voxel `start` (z, y, x) of this one."""
        names = ("scale", "translate", "rotate", "shear")
        known = {name: self.settings[name] for name in names if name in self.settings}
        moved = Affine(**known)(np.asarray(start[-self.ndim :], float))
        return Placement(self.ndim, self.settings | {"translate": moved})

    def to_world(self, position: Sequence[float]) -> npt.NDArray[np.float64]:
        """Give the place in the world of a position in the layer's own coordinates."""
        names = ("scale", "translate", "rotate", "shear")
        world = Affine(**{name: self.settings[name] for name in names if name in self.settings})
        affine = self.settings.get("affine")
        placed = np.asarray(world(np.asarray(position, float)))
        return placed if affine is None else np.asarray(affine(placed))

    def for_axes(self, ndim: int) -> dict[str, Any]:
        """Arguments for a layer with more axes in front (a section of its own, channels)."""
        more = ndim - self.ndim
        if more <= 0:
            return dict(self.settings)
        fillers = {"scale": 1.0, "translate": 0.0, "units": "pixel"}
        settings = {
            name: (filler,) * more + tuple(self.settings[name])
            for name, filler in fillers.items()
            if name in self.settings
        }
        labels = tuple(self.settings.get("axis_labels", ()))
        new = tuple(name for name in ("c", "z") if name not in labels)[-more:]
        if labels and len(new) == more:
            settings["axis_labels"] = new + labels
        return settings


def voxel_size_of(layer: Layer) -> tuple[float, float, float] | None:
    """Voxel size of a layer with three axes.

    Returns
    -------
    tuple of float or None
        (z, y, x) in nm; None where a unit of the layer is not a length.
    """
    if layer.ndim != 3:
        return None
    return _in_nm(layer, layer.scale)


def volume_from_layer(layer: Image) -> EMVolume:
    """Make a volume of an image layer, without reading it.

    Parameters
    ----------
    layer : Image
        Of two axes (one section) or three; grey. Of a multiscale layer the finest level counts.

    Returns
    -------
    EMVolume
        With the layer's scale as voxel size and its translate as origin where its units are
        lengths. Its source is set where our reader made the layer, or it can be pickled.

    Raises
    ------
    VolumeError
        If the layer is coloured, has other axes or no numbers; the message says what to do.
    """
    if getattr(layer, "rgb", False):
        raise VolumeError(
            f"{layer.name} is a colour image, a grey one is needed: choose “Split RGB” from its "
            "right-click menu and segment one of the channels"
        )
    data = layer.data[0] if layer.multiscale else layer.data
    if layer.ndim not in (2, 3):
        raise VolumeError(
            f"{layer.name} has {layer.ndim} axes {tuple(data.shape)}, a stack has three (z, y, x): "
            "choose “Split Stack” from its right-click menu and segment one of the parts"
        )
    voxel_size = voxel_size_of(layer)
    origin = (_in_nm(layer, layer.translate) if voxel_size else None) or (0.0, 0.0, 0.0)
    source = _source_of(layer)
    return EMVolume.from_array(
        data, voxel_size=voxel_size, origin=origin, name=layer.name, source=source
    )


def sendable(volume: EMVolume) -> EMVolume:
    """Make a volume an argument for a job, without copying voxels.

    Returns
    -------
    EMVolume
        The same where its array opens its file by itself in the child process; otherwise its
        array is served from this process.
    """
    if volume.source is not None and isinstance(volume.data, LazyArray):
        return volume
    return replace(volume, data=Served(volume.data))


def _in_nm(layer: Layer, lengths: Any) -> tuple[float, float, float] | None:
    units = layer.units
    if not all(unit.is_compatible_with("nm") for unit in units):
        return None
    z, y, x = (
        float((float(n) * unit).to("nm").magnitude) for n, unit in zip(lengths, units, strict=True)
    )
    return z, y, x


def _source_of(layer: Layer) -> VolumeSource | None:
    source = _tag(layer).get("source")
    # an array in memory is no longer what the reader gave
    if not isinstance(source, dict) or isinstance(layer.data, np.ndarray):
        return None
    return VolumeSource.from_json(source)


# ---------------------------------------------------------------------- our layers in a viewer


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


def _tag(layer: Layer) -> dict[str, Any]:
    found = layer.metadata.get(METADATA_KEY)
    return found if isinstance(found, dict) else {}


def role_of(layer: Layer) -> str | None:
    """Tell what a layer shows, if this package made it."""
    return _tag(layer).get("role")


def run_of(layer: Layer) -> str | None:
    """Tell which run a layer belongs to: the path of its store."""
    return _tag(layer).get("run")


def find_layer(viewer: ViewerModel, role: Role, run: str | None = None) -> Layer | None:
    """Find a layer by role and run, whatever it is called; the topmost if there are several."""
    for layer in reversed(viewer.layers):
        if _tag(layer).get("role") == role and _tag(layer).get("run") == run:
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
