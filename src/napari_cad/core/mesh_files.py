"""Meshes as files that other programs open: OBJ, PLY, STL.

Coordinates are written as (x, y, z), as those programs expect them, in nm.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_cad.core.meshes import Mesh


def write_mesh(path: str | Path, mesh: Mesh) -> None:
    """Write a mesh; the ending of the path decides how.

    Parameters
    ----------
    path : path
        Ends in .obj, .ply or .stl (both binary); a file that exists is replaced.
    mesh : Mesh
        With vertices (z, y, x) in nm; see `Mesh.in_nm`.

    Raises
    ------
    StoreError
        If there is no such format, or the file cannot be written.
    """
    path = Path(path)
    write = FORMATS.get(path.suffix.lower())
    if write is None:
        raise StoreError(
            f"expected a path that ends in {', '.join(FORMATS)}, got {path.name}: the ending says "
            "which format to write"
        )
    # reversing the axes mirrors the surface, so its triangles are turned round
    vertices, faces = mesh.vertices[:, ::-1], mesh.faces[:, ::-1]
    try:
        path.write_bytes(write(vertices, faces))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}") from error


def _obj(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    lines = ["v {:.2f} {:.2f} {:.2f}".format(*vertex) for vertex in vertices.tolist()]
    lines += ["f {} {} {}".format(*face) for face in (faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


def _ply(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.zeros(len(faces), [("n", "u1"), ("vertices", "<i4", 3)])
    rows["n"], rows["vertices"] = 3, faces
    return header.encode() + vertices.astype("<f4").tobytes() + rows.tobytes()


def _stl(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    corners = vertices[faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    rows = np.zeros(len(faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("_", "<u2")])
    rows["normal"], rows["corners"] = normals, corners
    return b"\0" * 80 + np.uint32(len(faces)).tobytes() + rows.tobytes()


#: Ending of a path → how a mesh is written.
FORMATS: dict[str, Callable[[np.ndarray, np.ndarray], bytes]] = {
    ".obj": _obj,
    ".ply": _ply,
    ".stl": _stl,
}
