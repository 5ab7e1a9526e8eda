"""Meshes in a child process, one segment after the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.errors import StoreError
from napari_cad.core.events import Event, SectionDone, StageStarted
from napari_cad.core.mesh_files import FORMATS, write_mesh
from napari_cad.core.meshes import Detail, Mesh, MeshMaker, VoxelSize, mesh_key, sampling_step

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from napari_cad.core.volume import EMVolume

#: Names of the jobs, as `JobProcess` wants them.
MESH_RUN = f"{__name__}:mesh_run"
MESH_LABELS = f"{__name__}:mesh_volume"
EXPORT_RUN = f"{__name__}:export_run_meshes"
EXPORT_LABELS = f"{__name__}:export_volume_meshes"

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
    labels: EMVolume,
    segments: Sequence[int],
    *,
    detail: Detail = "normal",
    simplify: bool = True,
    keys: Mapping[int, str] | None = None,
    sections: tuple[int, int] | None = None,
) -> Iterator[Event]:
    """Make the meshes of labels that come without a run; see `mesh_run`.

    Parameters
    ----------
    labels : EMVolume
        Labels.
    segments, detail, simplify
        As for `mesh_run`.
    keys : mapping, optional
        Segment → key of its mesh, for whoever knows what the labels are made of.
    sections : (int, int), optional
        First section that holds any of the segments, and the one after the last.

    Yields
    ------
    Event
        As `mesh_run`.
    """
    first, stop = (0, labels.n_sections) if sections is None else sections
    maker = MeshMaker(
        segments,
        range(first, stop),
        sampling_step(detail, labels.voxel_size),
        voxel_size=labels.voxel_size,
        simplify=simplify,
    )
    yield from _meshes(maker, labels.section, keys or dict.fromkeys(segments, ""))


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


@dataclass(frozen=True)
class MeshWritten(Event):
    """The mesh of a segment is in a file, or has been left out as too small (`path` is empty)."""

    segment: int
    path: str


def export_run_meshes(
    run: str,
    segments: Sequence[int],
    folder: str,
    file_format: str = "ply",
    *,
    lut: npt.NDArray[np.integer] | None = None,
    detail: Detail = "normal",
    simplify: bool = True,
) -> Iterator[Event]:
    """Write the meshes of segments of a run into a folder, one file each, in nm.

    Parameters
    ----------
    run, segments, lut, detail, simplify
        See `mesh_run`.
    folder : str
        It is made if it is not there; the files are named by the segments' ids.
    file_format : str
        obj, ply or stl.

    Yields
    ------
    Event
        As `mesh_run`, with `MeshWritten` in place of `MeshMade`.

    Raises
    ------
    StoreError
        If there is no such format, or a file cannot be written.
    """
    from napari_cad.core.store import SegmentationStore

    store = SegmentationStore.open(run)
    events = mesh_run(run, segments, lut=lut, detail=detail, simplify=simplify)
    yield from _written(events, folder, file_format, store.voxel_size, store.origin)


def export_volume_meshes(
    labels: EMVolume,
    segments: Sequence[int],
    folder: str,
    file_format: str = "ply",
    *,
    detail: Detail = "normal",
    simplify: bool = True,
) -> Iterator[Event]:
    """Write the meshes of labels that come without a run; see `export_run_meshes`."""
    events = mesh_volume(labels, segments, detail=detail, simplify=simplify)
    yield from _written(events, folder, file_format, labels.voxel_size, labels.origin)


def _written(
    events: Iterator[Event],
    folder: str,
    file_format: str,
    voxel_size: VoxelSize | None,
    origin: VoxelSize,
) -> Iterator[Event]:
    if f".{file_format}" not in FORMATS:
        known = ", ".join(name.removeprefix(".") for name in FORMATS)
        raise StoreError(f"expected one of the formats {known}, got {file_format!r}")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error}") from error
    for event in events:
        if not isinstance(event, MeshMade):
            yield event
            continue
        path = ""
        if event.mesh is not None:
            path = str(Path(folder) / f"{event.segment}.{file_format}")
            write_mesh(path, event.mesh.in_nm(voxel_size or (1.0, 1.0, 1.0), origin))
        yield MeshWritten(event.segment, path)
