"""Meshes: where they lie, how large they are, that they are closed, and the files."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from napari_cad.core.errors import ConfigError, ShapeError, StoreError
from napari_cad.core.mesh_files import FORMATS, write_mesh
from napari_cad.core.mesh_job import MeshMade, mesh_volume
from napari_cad.core.meshes import Mesh, MeshMaker, mesh_key, sampling_step
from napari_cad.core.volume import EMVolume

VOXEL = (30.0, 6.0, 7.0)


def mesh_of(labels, identity, step=(1, 1, 1), sections=None, simplify=False, voxel_size=VOXEL):
    sections = range(len(labels)) if sections is None else sections
    maker = MeshMaker([identity], sections, step, voxel_size=voxel_size, simplify=simplify)
    for z in maker.needed:
        maker.add(labels[z])
    return maker.mesh(identity)


def box(shape, *bounds, label=7):
    labels = np.zeros(shape, np.uint64)
    labels[tuple(slice(*b) for b in bounds)] = label
    return labels


def is_closed(mesh):
    """Every edge lies between two triangles that go round it in opposite directions."""
    edges = {}
    for a, b, c in mesh.faces.tolist():
        for edge in ((a, b), (b, c), (c, a)):
            edges[edge] = edges.get(edge, 0) + 1
    return all(n == edges.get(edge[::-1]) for edge, n in edges.items())


def test_a_box_lies_where_its_voxels_are():
    mesh = mesh_of(box((9, 20, 30), (2, 5), (4, 12), (10, 25)), 7)
    # half a voxel round the centres of the outermost voxels
    np.testing.assert_allclose(mesh.vertices.min(0), [1.5, 3.5, 9.5])
    np.testing.assert_allclose(mesh.vertices.max(0), [4.5, 11.5, 24.5])
    assert is_closed(mesh)
    assert mesh.volume() == pytest.approx(3 * 8 * 15, rel=0.1)  # corners are bevelled
    assert mesh.volume() > 0  # normals point outwards


def test_the_border_of_the_stack_closes_it():
    labels = box((4, 6, 6), (0, 4), (0, 6), (0, 6))
    mesh = mesh_of(labels, 7)
    assert is_closed(mesh)
    np.testing.assert_allclose(mesh.vertices.min(0), [-0.5] * 3)
    np.testing.assert_allclose(mesh.vertices.max(0), [3.5, 5.5, 5.5])


@pytest.mark.parametrize("step", [(1, 1, 1), (1, 5, 4), (2, 10, 8)])
def test_sampling_keeps_place_and_size(step):
    labels = box((12, 80, 64), (4, 8), (20, 60), (16, 48))
    mesh = mesh_of(labels, 7, step)
    np.testing.assert_allclose(mesh.vertices.min(0), [3.5, 19.5, 15.5], atol=0.51)
    np.testing.assert_allclose(mesh.vertices.max(0), [7.5, 59.5, 47.5], atol=0.51)
    assert mesh.volume() == pytest.approx(4 * 40 * 32, rel=0.25)


@pytest.mark.parametrize("simplify", [False, True])
def test_a_ball_in_voxels_that_are_no_cubes(simplify):
    radius = 180.0  # nm
    z, y, x = (np.arange(n) * size for n, size in zip((15, 75, 65), VOXEL, strict=True))
    centre = (7 * 30.0, 37 * 6.0, 32 * 7.0)
    distance = np.sqrt(
        (z[:, None, None] - centre[0]) ** 2 + (y[:, None] - centre[1]) ** 2 + (x - centre[2]) ** 2
    )
    labels = (distance < radius).astype(np.uint32)
    mesh = mesh_of(labels, 1, (1, 5, 4), simplify=simplify).in_nm(VOXEL)
    assert mesh.volume() == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.08)
    assert mesh.area() == pytest.approx(4 * np.pi * radius**2, rel=0.12)
    np.testing.assert_allclose((mesh.vertices.min(0) + mesh.vertices.max(0)) / 2, centre, atol=16)
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), 2 * radius, atol=32)
    if simplify:
        assert len(mesh.faces) < 0.6 * len(mesh_of(labels, 1, (1, 5, 4)).faces)
        assert is_closed(mesh)


def test_only_some_of_the_sections():
    labels = box((20, 10, 10), (12, 15), (2, 8), (2, 8))
    whole, part = mesh_of(labels, 7), mesh_of(labels, 7, sections=range(11, 17))
    np.testing.assert_allclose(np.sort(whole.vertices, 0), np.sort(part.vertices, 0))
    coarse = MeshMaker([7], range(11, 17), (2, 1, 1))
    assert list(coarse.needed) == [12, 14, 16]


def test_labels_do_not_run_into_each_other():
    labels = box((5, 12, 12), (1, 4), (2, 6), (2, 10), label=2**40) + box(
        (5, 12, 12), (1, 4), (6, 10), (2, 10), label=3
    )
    maker = MeshMaker([3, 2**40, 99], range(5), (1, 1, 1))
    for section in labels:
        maker.add(section)
    upper, lower = maker.mesh(2**40), maker.mesh(3)
    np.testing.assert_allclose(
        [upper.vertices[:, 1].max(), lower.vertices[:, 1].min()], 5.5, atol=1e-4
    )
    assert maker.mesh(99) is None


def test_a_stack_that_is_smaller_than_a_sample():
    mesh = mesh_of(np.ones((1, 3, 3), np.uint32), 1, (2, 10, 10))
    assert is_closed(mesh)


def test_sampling_steps():
    assert sampling_step("full", (30, 6, 6)) == (1, 1, 1)
    assert sampling_step("normal", (30, 6, 6)) == (1, 5, 5)
    assert sampling_step("coarse", (30, 6, 7)) == (2, 10, 9)
    assert sampling_step("normal", (8, 8, 8)) == (1, 1, 1)
    assert sampling_step("normal", None) == (1, 2, 2)
    with pytest.raises(ConfigError, match="'fine'"):
        sampling_step("fine", None)


def test_keys_tell_what_has_changed():
    keys = [
        mesh_key(np.array(fragments), step, simplify)
        for fragments, step, simplify in itertools.product(
            ([1, 2, 3], [1, 2]), ((1, 1, 1), (1, 5, 5)), (True, False)
        )
    ]
    assert len(set(keys)) == 8
    assert mesh_key(np.array([3, 1, 2], np.uint32), (1, 1, 1), True) == keys[0]


def test_the_background_has_none():
    with pytest.raises(ShapeError, match="background"):
        MeshMaker([0, 1], range(2), (1, 1, 1))


def test_events_of_labels_without_a_run():
    labels = box((4, 10, 10), (1, 3), (2, 8), (2, 8))
    volume = EMVolume.from_array(labels, voxel_size=(1, 1, 1))
    events = list(mesh_volume(volume, [7, 8], simplify=False))
    made = [event for event in events if isinstance(event, MeshMade)]
    assert [(event.segment, event.mesh is None) for event in made] == [(7, False), (8, True)]
    assert events[0].total == events[-1].done == 6


# ---------------------------------------------------------------------- files


def read_obj(data):
    lines = [line.split() for line in data.decode().splitlines()]
    vertices = [[float(v) for v in line[1:]] for line in lines if line[0] == "v"]
    return np.array(vertices), np.array([[int(v) - 1 for v in f[1:]] for f in lines if f[0] == "f"])


def read_ply(data):
    header, _, body = data.partition(b"end_header\n")
    n, m = (int(line.split()[-1]) for line in header.decode().splitlines() if "element" in line)
    vertices = np.frombuffer(body, "<f4", 3 * n).reshape(n, 3)
    faces = np.frombuffer(body, [("n", "u1"), ("v", "<i4", 3)], m, offset=12 * n)
    assert (faces["n"] == 3).all()
    return vertices, faces["v"]


def read_stl(data):
    (n,) = np.frombuffer(data, "<u4", 1, offset=80)
    rows = np.frombuffer(data, [("n", "<f4", 3), ("v", "<f4", (3, 3)), ("_", "<u2")], offset=84)
    assert len(rows) == n
    np.testing.assert_allclose(np.linalg.norm(rows["n"], axis=1), 1, rtol=1e-5)
    return rows["v"].reshape(-1, 3), np.arange(3 * n).reshape(-1, 3)


@pytest.mark.parametrize("suffix", FORMATS)
def test_files(suffix, tmp_path):
    mesh = mesh_of(box((6, 12, 14), (1, 4), (2, 9), (3, 12)), 7).in_nm(VOXEL, (300, 60, 70))
    path = tmp_path / f"mesh{suffix}"
    write_mesh(path, mesh)
    read = {".obj": read_obj, ".ply": read_ply, ".stl": read_stl}[suffix]
    vertices, faces = read(path.read_bytes())
    assert len(faces) == len(mesh.faces)
    np.testing.assert_allclose(vertices.min(0), mesh.vertices.min(0)[::-1], atol=0.01)
    np.testing.assert_allclose(vertices.max(0), mesh.vertices.max(0)[::-1], atol=0.01)
    # in (x, y, z) too, normals point outwards
    in_file = Mesh(vertices.astype(np.float32), faces.astype(np.uint32))
    assert in_file.volume() == pytest.approx(mesh.volume(), rel=1e-4)


def test_files_that_cannot_be(tmp_path):
    mesh = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint32))
    with pytest.raises(StoreError, match=r"\.obj, \.ply, \.stl"):
        write_mesh(tmp_path / "mesh.glb", mesh)
    with pytest.raises(StoreError, match="cannot be written"):
        write_mesh(tmp_path / "no" / "mesh.ply", mesh)
