"""Meshes in a child process, one segment after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.events import Event, SectionDone, StageStarted
from napari_cad.core.meshes import Detail, Mesh, MeshMaker, mesh_key, sampling_step

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from napari_cad.core.volume import EMVolume

#: Names of the jobs, as `JobProcess` wants them.
MESH_RUN = f"{__name__}:mesh_run"
MESH_LABELS = f"{__name__}:mesh_volume"

#: Stage of their events.
MESHING = "meshes"


@dataclass(frozen=True, eq=False)
class MeshMade(Event):
    """The mesh of a segment; None where it is known already, or too small to have one.

    Attributes
    ----------
    segment : int
    key : str
        See `napari_cad.core.meshes.mesh_key`; of labels without a run it is empty.
    mesh : Mesh or None
    """

    segment: int
    key: str
    mesh: Mesh | None


def mesh_run(
    run: str,
    segments: Sequence[int],
    *,
    lut: npt.NDArray[np.integer] | None = None,
    detail: Detail = "normal",
    simplify: bool = True,
    known: Collection[str] = (),
) -> Iterator[Event]:
    """Make the meshes of segments of a run, reading only the sections that they are in.

    Parameters
    ----------
    run : str
        Path of the store.
    segments : sequence of int
        Their ids.
    lut : ndarray, shape (n_fragments + 1,), optional
        Fragment to segment; by default that of the store at its own threshold.
    detail, simplify
        See `sampling_step` and `MeshMaker`.
    known : collection of str
        Keys of meshes that need not be made again.

    Yields
    ------
    Event
        `StageStarted`, `SectionDone` for every section that is read, and `MeshMade`.
    """
    from napari_cad.core.store import SegmentationStore

    store = SegmentationStore.open(run)
    table = store.lut() if lut is None else lut
    step = sampling_step(detail, store.voxel_size)
    offsets = store.fragment_offsets
    keys, bounds = {}, []
    for segment in segments:
        fragments = np.flatnonzero(table == segment)
        fragments = fragments[fragments > 0]
        keys[segment] = mesh_key(fragments, step, simplify)
        if keys[segment] in known or not len(fragments):
            yield MeshMade(segment, keys[segment], None)
            del keys[segment]
        else:
            bounds += np.searchsorted(offsets, fragments[[0, -1]]).tolist()
    if not keys:
        return

    sections = range(min(bounds) - 1, max(bounds))
    maker = MeshMaker(list(keys), sections, step, voxel_size=store.voxel_size, simplify=simplify)
    yield from _meshes(maker, lambda z: table[store.read_fragments(z)], keys)


def mesh_volume(
    labels: EMVolume, segments: Sequence[int], *, detail: Detail = "normal", simplify: bool = True
) -> Iterator[Event]:
    """Make the meshes of labels that come without a run; see `mesh_run`."""
    maker = MeshMaker(
        segments,
        range(labels.n_sections),
        sampling_step(detail, labels.voxel_size),
        voxel_size=labels.voxel_size,
        simplify=simplify,
    )
    yield from _meshes(maker, labels.section, dict.fromkeys(segments, ""))


def _meshes(
    maker: MeshMaker, section: Callable[[int], npt.NDArray[np.integer]], keys: Mapping[int, str]
) -> Iterator[Event]:
    """Report the sections as they are read, then the meshes as they are made."""
    total = len(maker.needed) + len(keys)
    yield StageStarted(MESHING, total)
    for done, z in enumerate(maker.needed, 1):
        maker.add(section(z))
        yield SectionDone(MESHING, z, done, total)
    for done, (segment, key) in enumerate(keys.items(), len(maker.needed) + 1):
        yield MeshMade(segment, key, maker.mesh(segment))
        yield SectionDone(MESHING, maker.needed[-1], done, total)
