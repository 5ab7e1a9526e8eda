"""Meshes of segments as a surface layer, made by a job and kept while nothing changes."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Surface
from psygnal import Signal
from qtpy.QtCore import QObject

from napari_cad.core.errors import JobError, VolumeError
from napari_cad.core.mesh_job import MESH_LABELS, MESH_RUN, MeshMade
from napari_cad.viewer.error_layers import in_cubes, segmentation_key, shown_lut
from napari_cad.viewer.jobs import JobRunner, RunProgress
from napari_cad.viewer.layers import find_layer, run_of, selection_kept, show_layer, tag
from napari_cad.viewer.lut_watcher import LutWatcher
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.turns import Turns
from napari_cad.viewer.volumes import sendable, volume_from_layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from napari.components import ViewerModel
    from napari.layers import Labels
    from qtpy.QtWidgets import QWidget

    from napari_cad.core.events import Event
    from napari_cad.core.meshes import Detail, Mesh

#: Vertices of meshes that are kept in a viewer, beyond those that are shown: some 100 MB.
_MOST_VERTICES = 4_000_000

_CACHES: WeakKeyDictionary[ViewerModel, MeshCache] = WeakKeyDictionary()


class MeshCache:
    """Meshes by what they are made of; those asked for longest ago are forgotten."""

    def __init__(self) -> None:
        self._meshes: OrderedDict[str, Mesh] = OrderedDict()
        self._n_vertices = 0

    def __contains__(self, key: str) -> bool:
        return key in self._meshes

    def keys(self) -> tuple[str, ...]:
        """All keys."""
        return tuple(self._meshes)

    def get(self, key: str) -> Mesh | None:
        """Give a mesh, if it is there."""
        if key in self._meshes:
            self._meshes.move_to_end(key)
        return self._meshes.get(key)

    def put(self, key: str, mesh: Mesh) -> None:
        """Keep a mesh."""
        if key and key not in self._meshes:
            self._meshes[key] = mesh
            self._n_vertices += len(mesh.vertices)
            while self._n_vertices > _MOST_VERTICES and len(self._meshes) > 1:
                _, old = self._meshes.popitem(last=False)
                self._n_vertices -= len(old.vertices)


def cache_of(viewer: ViewerModel) -> MeshCache:
    """Give the meshes that the widgets of a viewer share."""
    viewer = getattr(viewer, "__wrapped__", viewer)  # plugins are given a proxy
    if viewer not in _CACHES:
        _CACHES[viewer] = MeshCache()
    return _CACHES[viewer]


class SegmentMeshes(QObject):
    """The meshes of some segments of one labels layer, followed while its LUT changes.

    Parameters
    ----------
    viewer : ViewerModel
        Where they are shown.
    parent : QWidget
        Its owner; jobs end with it.

    Attributes
    ----------
    progress : Signal
        (str, int, int), a line, and how much of how much is done.
    coming : Signal
        (), a turn before a layer is made for the meshes: volumes that will be hidden had better
        be hidden by then, for a new layer has napari read again all that is seen.
    shown : Signal
        (int), the number of meshes in the layer, when all are there.
    failed : Signal
        (JobError).
    """

    progress = Signal(str, int, int)
    coming = Signal()
    shown = Signal(int)
    failed = Signal(JobError)

    def __init__(self, viewer: ViewerModel, parent: QWidget) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._cache = cache_of(viewer)
        self._layer: Labels | None = None
        self._placement: Placement | None = None
        self._ids: list[int] = []
        self._detail: Detail = "normal"
        self._meshes: dict[int, Mesh] = {}
        self._progress = RunProgress()
        self._turns = Turns(self)
        self.runner = JobRunner(parent)
        self.runner.reported.connect(self._on_event)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._on_failed)
        self._watcher = LutWatcher(parent)
        self._watcher.changed.connect(self._again)

    @property
    def surface(self) -> Surface | None:
        """The layer of meshes, if it is there."""
        if self._layer is None:
            return None
        return find_layer(self._viewer, "meshes", segmentation_key(self._layer))

    @property
    def ids(self) -> tuple[int, ...]:
        """Segments that were asked for."""
        return tuple(self._ids)

    def show(self, layer: Labels, ids: Sequence[int], detail: Detail = "normal") -> None:
        """Show the meshes of these segments, and of no others.

        Parameters
        ----------
        layer : Labels
            Of three axes.
        ids : sequence of int
            Labels in it; 0 is left out.
        detail : str
            See `napari_cad.core.meshes.sampling_step`.

        Raises
        ------
        VolumeError
            If there is nothing to show, or the layer is no stack.
        OSError
            If the job cannot be started.
        """
        ids = list(dict.fromkeys(int(i) for i in ids if i))
        if not ids:
            raise VolumeError("Choose segments to show: there are none.")
        self._watch(layer)
        self._ids, self._detail = ids, detail
        self._start()

    def cancel(self) -> None:
        """Stop; what is shown stays."""
        self.runner.cancel()

    def clear(self) -> None:
        """Take the layer away."""
        self.cancel()
        self._turns.forget()
        surface = self.surface
        if surface is not None:
            self._viewer.layers.remove(surface)
        self._watch(None)
        self._ids = []

    def arguments(self, layer: Labels) -> tuple[bool, dict[str, Any]]:
        """Arguments of a job about labels: whether they are of a run, and which."""
        lut = shown_lut(layer)
        if lut is None:
            return False, {"labels": sendable(volume_from_layer(layer))}
        return True, {"run": run_of(layer), "lut": lut}

    def _start(self) -> None:
        if self._layer is None:
            return
        is_run, arguments = self.arguments(self._layer)
        arguments |= {"segments": self._ids, "detail": self._detail}
        if is_run:
            arguments["known"] = self._cache.keys()
        self._meshes = {}
        self._progress = RunProgress()
        function = MESH_RUN if is_run else MESH_LABELS
        self.runner.start(function, arguments, f"Meshes of {self._layer.name}")
        self.progress.emit("Starting…", 0, 0)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, MeshMade):
            mesh = event.mesh if event.mesh is not None else self._cache.get(event.key)
            if mesh is not None:
                self._cache.put(event.key, mesh)
                self._meshes[event.segment] = mesh
        elif self._progress.update(event):
            done, total = self._progress.done, self._progress.total
            self.progress.emit(f"Meshes · {done} of {total}", done, total)
            self.runner.show_progress(done, total)

    def _on_finished(self) -> None:
        if self._layer is not None and self._placement is not None:
            if self._meshes and self.surface is None:
                self.coming.emit()
                self._turns.then(self._put)
            else:
                self._put()
            self._turns.then(self._tell)

    def _tell(self) -> None:
        self.shown.emit(len(self._meshes))
        surface = self.surface
        if surface is not None:
            self._turns.then(lambda: show_layer(self._viewer, surface))

    def _on_failed(self, error: JobError) -> None:
        self.failed.emit(error)

    def _put(self) -> None:
        """Show the meshes, in the layer that is there or a new one."""
        layer, surface = self._layer, self.surface
        if layer is None or self._placement is None:
            return
        if not self._meshes:
            if surface is not None:
                self._viewer.layers.remove(surface)
            return
        vertices, faces, colours = joined(self._meshes, colours_of(layer, list(self._meshes)))
        placement, to_cubes = in_cubes(self._placement)
        vertices = within(vertices, layer.data.shape, to_cubes)
        about = tag("meshes", segmentation_key(layer), segments=list(self._meshes))
        if surface is not None:
            surface.vertex_colors = None  # as many as there were vertices
            surface.data = (vertices, faces)
            surface.vertex_colors = colours
            surface.metadata = about
            return
        made = Surface(
            (vertices, faces),
            vertex_colors=colours,
            name=f"{layer.name} meshes",
            metadata=about,
            shading="smooth",
            visible=False,  # to make, to add and to draw it takes long: each has a turn
            **placement.for_axes(3),
        )
        self._turns.next(partial(self._add, made))

    def _add(self, surface: Surface) -> None:
        with selection_kept(self._viewer):
            self._viewer.add_layer(surface)

    def _watch(self, layer: Labels | None) -> None:
        self._layer = layer
        self._placement = None if layer is None else Placement.of_layer(layer)
        self._watcher.watch(layer)

    def _again(self) -> None:
        if self.surface is not None and self._layer in self._viewer.layers:
            self._start()


def in_3d_text(n: int) -> str:
    """Tell how many segments are there as surfaces."""
    return "1 segment in 3D" if n == 1 else f"{n} segments in 3D"


def colours_of(layer: Labels, ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """Colours in which a layer shows its labels, RGBA, shape (n, 4)."""
    values = np.asarray(ids).astype(layer.data.dtype)
    colours = np.asarray(layer.colormap.map(values), np.float32)
    colours[:, 3] = 1.0
    return colours


def within(
    vertices: npt.NDArray[np.float32],
    shape: Sequence[int],
    to_cubes: npt.NDArray[np.float64],
) -> npt.NDArray[np.float32]:
    """Give vertices in cubes, none of them farther out than the centres of the outermost voxels.

    A mesh reaches half a sample beyond its outermost voxels. Of a layer that reaches beyond the
    volume napari makes sliders that begin before its first section, and every step of them would
    lie between two sections.

    Parameters
    ----------
    vertices : ndarray, shape (n, 3)
        In voxels.
    shape : sequence of int
        (Z, Y, X) of the volume.
    to_cubes : ndarray, shape (3,)
        See `napari_cad.viewer.error_layers.in_cubes`.
    """
    corner = (np.asarray(shape) - 1) * to_cubes
    last = corner.astype(np.float32)
    # what the rounding to float32 added would be beyond the volume, too
    last = np.where(np.abs(last) > np.abs(corner), np.nextafter(last, np.float32(0)), last)
    placed = (vertices * to_cubes).astype(np.float32)
    return np.clip(placed, np.minimum(last, 0), np.maximum(last, 0))


def joined(
    meshes: dict[int, Mesh], colours: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
    """Put meshes together: vertices, faces, and a colour per vertex."""
    lengths = [len(mesh.vertices) for mesh in meshes.values()]
    first = np.cumsum([0, *lengths[:-1]])
    vertices = np.concatenate([mesh.vertices for mesh in meshes.values()])
    faces = [mesh.faces + np.uint32(n) for mesh, n in zip(meshes.values(), first, strict=True)]
    return vertices, np.concatenate(faces), np.repeat(colours, lengths, axis=0)
