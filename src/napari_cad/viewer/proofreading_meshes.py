"""Meshes of selected segments that follow every edit; what did not change is not made again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.jobs import Served
from napari_cad.core.mesh_job import MESH_LABELS
from napari_cad.core.meshes import mesh_key, sampling_step
from napari_cad.core.volume import EMVolume
from napari_cad.viewer.error_layers import in_cubes
from napari_cad.viewer.jobs import RunProgress
from napari_cad.viewer.mesh_layers import SegmentMeshes
from napari_cad.viewer.proofreading_labels import FrozenSegments

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt
    from napari.components import ViewerModel
    from napari.layers import Surface
    from qtpy.QtWidgets import QWidget

    from napari_cad.proofreading.events import SegmentsChanged
    from napari_cad.viewer.proofreading import Proofreader


class SessionMeshes(SegmentMeshes):
    """Meshes of some segments of a session.

    Parameters
    ----------
    viewer : ViewerModel
        Where they are shown.
    parent : QWidget
        Its owner; jobs end with it.
    proofreader : Proofreader
        Whose session it is.
    """

    def __init__(self, viewer: ViewerModel, parent: QWidget, proofreader: Proofreader) -> None:
        super().__init__(viewer, parent)
        self._owner = proofreader
        #: segments that were made by the latest job, for those who want to know
        self.made: tuple[int, ...] = ()

    def follow(self, event: SegmentsChanged) -> None:
        """Follow an edit."""
        if not self._ids or self.surface is None:
            return
        if event.segments and not set(event.segments) & set(self._ids):
            return
        wanted = [*self._ids, *(s for s in event.segments if s not in self._ids)]
        self._ids = self._owner.living(wanted)
        if self._ids:
            self._start()
        else:
            self.clear()

    def vertices(self) -> tuple[list[int], list[int]]:
        """Segments in the layer, and the first vertex of each."""
        lengths = [len(mesh.vertices) for mesh in self._shown.values()]
        return list(self._shown), [0, *np.cumsum(lengths)[:-1].tolist()]

    def factor(self) -> npt.NDArray[np.float64]:
        """From voxels to the coordinates of the surface."""
        return in_cubes(self._owner.layers.placement)[1]

    def _start(self) -> None:
        session, owner = self._owner.session, self._owner
        if self._layer is None or session.fragments is None:
            return
        size = session.source.voxel_size
        step = sampling_step(self._detail, size)
        self._meshes = {}
        self._progress = RunProgress()
        keys, fragments = {}, []
        for segment in self._ids:
            members = session.fragments_of(segment)
            key = mesh_key(members, step, simplify=True)
            key = f"{owner.layers.key}:{key}"  # fragments of another session have the same numbers
            known = self._cache.get(key)
            if known is not None:
                self._meshes[segment] = known
            else:
                keys[segment] = key
                fragments.append(members)
        self.made = tuple(keys)
        self.runner.cancel()
        if not keys:
            self._on_finished()
            return
        labels = FrozenSegments(session.fragments, session.lut)
        arguments = {
            "labels": EMVolume.from_array(Served(labels), voxel_size=size, name=owner.name),
            "segments": list(keys),
            "detail": self._detail,
            "keys": keys,
            "sections": self._sections(np.concatenate(fragments)),
        }
        self.runner.start(MESH_LABELS, arguments, f"Meshes of {owner.name}")

    def _sections(self, fragments: npt.NDArray[np.int64]) -> tuple[int, int]:
        """First section that these fragments are in, and the one after the last."""
        session = self._owner.session
        shape = self._owner.layers.fragments.shape
        if session.source.boxes is None:
            return 0, shape[0]
        boxes = session.voxels.boxes()[fragments]
        return int(boxes[:, 0].min()), int(boxes[:, 3].max())

    def _put(self) -> None:
        # in the order of the ids, whether they were known or had to be made
        self._meshes = {i: self._meshes[i] for i in self._ids if i in self._meshes}
        self._shown = dict(self._meshes)
        super()._put()

    _shown: dict[int, Any] = {}  # noqa: RUF012 - replaced, never written to

    def on_surface(self) -> Surface | None:
        """Give the layer if it can be clicked on."""
        surface = self.surface
        return surface if surface is not None and surface.visible and self._shown else None
