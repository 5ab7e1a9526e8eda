"""Surfaces of segments as triangle meshes.

zmesh makes them by marching cubes and simplifies them; this module is the only one that imports
it. Sections are sampled coarsely, so that a voxel of the mesh is about a cube whatever the
voxel size, and only what is sampled stays in memory.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_cad.core.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Ints = npt.NDArray[np.integer[Any]]

Step = tuple[int, int, int]
VoxelSize = tuple[float, float, float]

#: How finely sections are sampled → by how much the edge of a sample exceeds the thickness of one.
DETAILS = {"full": 0.0, "normal": 1.0, "coarse": 2.0}

Detail = Literal["full", "normal", "coarse"]

#: Triangles that are made one by simplification, at most.
_REDUCTION = 8
#: How far simplification may move a vertex, in edges of a sample.
_LARGEST_ERROR = 0.5


@dataclass(frozen=True, eq=False)
class Mesh:
    """A closed surface; where the segment reaches the border of the stack it ends there.

    Attributes
    ----------
    vertices : ndarray, shape (n, 3), float32
        (z, y, x) in voxels; a voxel's centre has whole numbers.
    faces : ndarray, shape (m, 3), uint32
        Vertices of each triangle. Seen with z, y, x as a right-handed system, they go
        counter-clockwise round the outward normal.
    """

    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.uint32]

    def in_nm(self, voxel_size: VoxelSize, origin: VoxelSize = (0.0, 0.0, 0.0)) -> Mesh:
        """Give the same surface with vertices in nm, still (z, y, x).

        Parameters
        ----------
        voxel_size, origin : tuple of float
            (z, y, x) in nm.
        """
        vertices = self.vertices * np.asarray(voxel_size) + np.asarray(origin)
        return Mesh(vertices.astype(np.float32), self.faces)

    def volume(self) -> float:
        """Volume inside, in the cube of the vertices' unit, by the divergence theorem."""
        a, b, c = np.moveaxis(self.vertices[self.faces].astype(np.float64), 1, 0)
        return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6.0)

    def area(self) -> float:
        """Area in the square of the vertices' unit."""
        a, b, c = np.moveaxis(self.vertices[self.faces].astype(np.float64), 1, 0)
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2.0)


def sampling_step(detail: Detail, voxel_size: VoxelSize | None) -> Step:
    """Choose how many voxels (z, y, x) one sample stands for.

    Parameters
    ----------
    detail : {"full", "normal", "coarse"}
        full takes every voxel, normal makes samples as long within a section as it is thick,
        coarse twice that, and takes every second section.
    voxel_size : tuple of float or None
        (z, y, x) in nm; None counts as cubes of two voxels.

    Raises
    ------
    ConfigError
        If there is no such detail.
    """
    if detail not in DETAILS:
        raise ConfigError(f"expected a detail of {', '.join(DETAILS)}, got {detail!r}")
    if detail == "full":
        return 1, 1, 1
    z, y, x = voxel_size or (2.0, 1.0, 1.0)
    edge = DETAILS[detail] * max(z, y, x)
    return max(1, round(edge / z)), max(1, round(edge / y)), max(1, round(edge / x))


def mesh_key(fragments: Ints, step: Step, simplify: bool) -> str:
    """Name a mesh by all that it depends on, so that what did not change is known again.

    Parameters
    ----------
    fragments : ndarray, shape (n,), integer
        Ids of all fragments of the segment.
    step : tuple of int
        See `sampling_step`.
    simplify : bool
        Whether it is simplified.
    """
    digest = hashlib.sha256(repr((step, simplify)).encode())
    digest.update(np.sort(fragments).astype(np.uint64).tobytes())
    return digest.hexdigest()[:32]


class MeshMaker:
    """Takes sections in their order, and makes the meshes of some of their labels.

    Parameters
    ----------
    ids : sequence of int
        Labels to mesh; 0 cannot be.
    sections : range
        Consecutive sections that hold all of the labels.
    step : tuple of int
        See `sampling_step`.
    voxel_size : tuple of float, optional
        (z, y, x) in nm, so that simplification keeps the same distance along all axes.
    simplify : bool
        Whether to leave out vertices that matter little.

    Raises
    ------
    ShapeError
        If 0 is among the ids.

    Attributes
    ----------
    needed : range
        Those of the sections that are sampled.
    """

    def __init__(
        self,
        ids: Sequence[int],
        sections: range,
        step: Step,
        *,
        voxel_size: VoxelSize | None = None,
        simplify: bool = True,
    ) -> None:
        if 0 in ids:
            raise ShapeError("label 0 is the background: it has no mesh")
        self._ids = np.unique(np.asarray(ids, np.uint64))
        self.needed = sections[_samples(len(sections), step[0])]
        self._step = step
        self._edge = np.array(voxel_size or (1.0, 1.0, 1.0)) * step
        self._middle = np.array([sections[0], 0, 0]) + (np.array(step) - 1) / 2
        self._simplify = simplify
        self._samples: list[npt.NDArray[np.uint32]] = []
        self._volume: npt.NDArray[np.uint32] | None = None

    def add(self, labels: Ints) -> None:
        """Take the next of the sections that are needed, shape (Y, X)."""
        rows, columns = (_samples(n, s) for n, s in zip(labels.shape, self._step[1:], strict=True))
        self._samples.append(_places(labels[rows, columns], self._ids))

    def mesh(self, identity: int) -> Mesh | None:
        """Make the mesh of a label, when all sections are there.

        Returns
        -------
        Mesh or None
            None where it is too small to be sampled.
        """
        if self._volume is None:
            self._volume = np.stack(self._samples)
        place = int(np.searchsorted(self._ids, identity)) + 1
        mesh = _mesh(self._volume == place, self._edge, self._simplify)
        if mesh is None:
            return None
        # from nm to samples to voxels
        vertices = mesh.vertices / self._edge * self._step + self._middle
        return Mesh(vertices.astype(np.float32), mesh.faces)


def _samples(length: int, step: int) -> slice:
    """Take the middle voxels of samples; what is smaller than a sample has one too."""
    return slice(min(step // 2, length - 1), None, step)


def _places(labels: Ints, wanted: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """1 + place of each label in `wanted`, 0 where it is not in it."""
    values = labels.astype(np.uint64)
    place = np.searchsorted(wanted, values)
    found = wanted[np.minimum(place, len(wanted) - 1)] == values
    return np.where(found, place + 1, 0).astype(np.uint32)


def _mesh(
    mask: npt.NDArray[np.bool_], edge: npt.NDArray[np.float64], simplify: bool
) -> Mesh | None:
    """Mesh what is True, with vertices in nm from the middle of the first sample; None if empty."""
    import zmesh

    box = _box(mask)
    if box is None:
        return None
    # a border of nothing closes the surface
    inside = np.pad(mask[box], 1).astype(np.uint8)
    mesher = zmesh.Mesher(tuple(edge.tolist()))
    mesher.mesh(inside, close=False)
    made = mesher.get(
        1,
        reduction_factor=_REDUCTION if simplify else 0,
        max_error=_LARGEST_ERROR * float(edge.min()),
    )
    corner = np.array([s.start - 1 for s in box])
    vertices = made.vertices.astype(np.float64) + corner * edge
    faces = made.faces.astype(np.uint32)
    return Mesh(vertices.astype(np.float32), faces) if len(faces) else None


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    box = []
    for axis in range(3):
        there = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(there):
            return None
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    return box[0], box[1], box[2]
