from __future__ import annotations

import numpy as np
import pytest

from napari_cad.core.errors import ShapeError
from napari_cad.core.fragments import distance_watershed
from napari_cad.core.region_graph import (
    EDGE_COLUMNS,
    FRAGMENT_COLUMNS,
    EdgeTable,
    RegionGraph,
    section_edges,
    section_fragment_table,
)


def reference_edges(fragments, affinities):
    """Every edge of a volume by plain loops: (u, v) → affinities and later voxels of contacts."""
    contacts = {}
    for later in np.ndindex(fragments.shape):
        for axis in range(3):
            if later[axis] == 0:
                continue
            earlier = tuple(p - (i == axis) for i, p in enumerate(later))
            a, b = int(fragments[later]), int(fragments[earlier])
            if a != b and a and b:
                stored = int(affinities[(axis, *later)])
                contacts.setdefault((min(a, b), max(a, b)), []).append((stored, later))
    return contacts


def check_against_reference(table, fragments, affinities):
    contacts = reference_edges(fragments, affinities)
    assert sorted(zip(table.u.tolist(), table.v.tolist(), strict=True)) == sorted(contacts)
    for i, pair in enumerate(zip(table.u.tolist(), table.v.tolist(), strict=True)):
        stored, voxels = zip(*contacts[pair], strict=True)
        affinity = (np.array(stored) + 0.5) / 256
        assert table.area[i] == len(stored)
        assert table.max[i] == np.float32(affinity.max())
        assert table.mean[i] == pytest.approx(affinity.mean(), rel=1e-7)
        assert table.position[i] == pytest.approx(np.mean(voxels, axis=0), rel=1e-6)


def random_volume(seed, shape=(4, 13, 17), n_per_section=9, blob=3):
    """Blocky random fragments with background, ids unique over the volume, and affinities."""
    rng = np.random.default_rng(seed)
    z, y, x = shape
    coarse = rng.integers(0, n_per_section + 1, (z, -(-y // blob), -(-x // blob)))
    fragments = coarse.repeat(blob, axis=1).repeat(blob, axis=2)[:, :y, :x]
    offsets = n_per_section * np.arange(z)[:, None, None]
    fragments = np.where(fragments > 0, fragments + offsets, 0).astype(np.uint32)
    return fragments, rng.integers(0, 256, (3, *shape), np.uint8)


def graph_of(fragments, affinities):
    return RegionGraph.concatenate(
        section_edges(fragments[z], affinities[:, z], z, fragments[z - 1] if z else None)
        for z in range(len(fragments))
    )


@pytest.mark.parametrize("blob", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(4, 13, 17), (3, 1, 40), (3, 40, 1), (1, 9, 9), (5, 1, 1)])
def test_equals_plain_loops(shape, blob):
    fragments, affinities = random_volume(blob, shape, blob=blob)

    check_against_reference(graph_of(fragments, affinities), fragments, affinities)


def test_equals_plain_loops_on_real_affinities(shared_dir):
    with np.load(shared_dir / "golden" / "published_students.npz") as golden:
        real = golden["AC34/affinities"][:, :3, :60, :80]
    affinities = np.minimum(255, np.floor(256 * real)).astype(np.uint8)
    fragments = np.zeros(affinities.shape[1:], np.uint32)
    for z in range(3):
        fragments[z] = distance_watershed(affinities[:, z]) + fragments.max()

    check_against_reference(graph_of(fragments, affinities), fragments, affinities)


def test_ids_that_continue_through_sections():
    """Not what this package makes, but what a person may load: u = v between two sections."""
    fragments, affinities = random_volume(0)
    fragments = np.where(fragments > 0, fragments % 5 + 1, 0).astype(np.uint32)
    tables = [
        section_edges(fragments[z], affinities[:, z], z, fragments[z - 1] if z else None)
        for z in range(4)
    ]

    assert all((table.u < table.v).all() for table in tables)
    n_contacts = sum(len(c) for c in reference_edges(fragments, affinities).values())
    assert sum(int(table.area.sum()) for table in tables) == n_contacts


def test_columns():
    fragments, affinities = random_volume(1)

    table = section_edges(fragments[2], affinities[:, 2], 2, fragments[1])

    assert [getattr(table, name).dtype for name in EDGE_COLUMNS[:5]] == [
        np.uint32, np.uint32, np.float32, np.float32, np.uint32
    ]  # fmt: skip
    assert table.position.dtype == np.float32
    assert table.position.shape == (len(table), 3)
    assert (table.position[:, 0] == 2).all()
    assert (table.u < table.v).all()
    assert (table.u > 0).all()
    pairs = np.stack([table.u, table.v], axis=1)
    np.testing.assert_array_equal(pairs, np.unique(pairs, axis=0))


def test_no_edge_stands_in_two_sections():
    fragments, affinities = random_volume(2)
    graph = graph_of(fragments, affinities)

    pairs = np.stack([graph.u, graph.v], axis=1)
    assert len(np.unique(pairs, axis=0)) == len(graph)


def test_what_is_stored_in_the_first_row_and_column_is_not_used():
    fragments, affinities = random_volume(3, n_per_section=40, blob=1)
    changed = affinities.copy()
    changed[1, :, 0] = 77
    changed[2, :, :, 0] = 77
    changed[0, 0] = 77

    for name in EDGE_COLUMNS[:5]:
        expected = getattr(graph_of(fragments, affinities), name)
        np.testing.assert_array_equal(getattr(graph_of(fragments, changed), name), expected)


def test_an_edge_by_hand():
    # 1 1 2   y affinities of row 1: 10 20 30, x affinities of row 0: -, 1, 2 and row 1: -, 4, 5
    # 3 3 2
    fragments = np.array([[1, 1, 2], [3, 3, 2]], np.uint32)
    affinities = np.zeros((3, 2, 3), np.uint8)
    affinities[1, 1] = 10, 20, 30
    affinities[2] = [[0, 1, 2], [0, 4, 5]]

    table = section_edges(fragments, affinities, z=7)

    np.testing.assert_array_equal(table.u, [1, 1, 2])
    np.testing.assert_array_equal(table.v, [2, 3, 3])
    np.testing.assert_array_equal(table.area, [1, 2, 1])
    np.testing.assert_array_equal(table.max * 256, [2.5, 20.5, 5.5])
    np.testing.assert_array_equal(table.mean * 256, [2.5, 15.5, 5.5])
    np.testing.assert_array_equal(table.position, [[7, 0, 2], [7, 1, 0.5], [7, 1, 2]])
    np.testing.assert_array_equal(table.along_y, [0, 2, 0])


def test_other_integer_types_and_views():
    fragments, affinities = random_volume(4)
    expected = section_edges(fragments[1], affinities[:, 1], 1, fragments[0])
    before = fragments.copy()

    for dtype in (np.int64, np.uint64, np.uint8):
        got = section_edges(
            np.asfortranarray(fragments[1].astype(dtype)),
            np.asfortranarray(affinities[:, 1]),
            1,
            fragments[0].astype(dtype),
        )
        np.testing.assert_array_equal(got.to_array(), expected.to_array())
    np.testing.assert_array_equal(fragments, before)


def test_a_section_of_background_has_no_edges():
    affinities = np.zeros((3, 4, 5), np.uint8)

    table = section_edges(np.zeros((4, 5), np.uint32), affinities, 0, np.ones((4, 5), np.uint32))

    assert len(table) == 0
    assert table.to_array().shape == (0, 9)


def test_highest_ids():
    highest = np.iinfo(np.uint32).max
    fragments = np.array([[highest, highest - 1]], np.uint32)

    table = section_edges(fragments, np.full((3, 1, 2), 255, np.uint8), 0)

    assert (table.u[0], table.v[0]) == (highest - 1, highest)
    again = EdgeTable.from_array(table.to_array())
    assert (again.u[0], again.v[0]) == (highest - 1, highest)


def test_array_and_back_is_exact():
    fragments, affinities = random_volume(5)
    table = section_edges(fragments[1], affinities[:, 1], 1, fragments[0])

    array = table.to_array()
    again = EdgeTable.from_array(array)

    assert array.dtype == np.float64
    assert array.shape == (len(table), len(EDGE_COLUMNS))
    np.testing.assert_array_equal(array[:, EDGE_COLUMNS.index("area")], table.area)
    np.testing.assert_array_equal(array[:, EDGE_COLUMNS.index("z") : -1], table.position)
    for name in ("u", "v", "mean", "max", "area", "position", "along_y"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
        assert getattr(again, name).dtype == getattr(table, name).dtype
    with pytest.raises(ShapeError, match="9 columns"):
        EdgeTable.from_array(array[:, :7])


def test_a_table_of_an_older_version_does_not_tell_how_faces_are_turned():
    fragments, affinities = random_volume(5)
    tables = [section_edges(fragments[z], affinities[:, z], z) for z in range(2)]
    old = EdgeTable.from_array(tables[0].to_array()[:, :-1])

    assert old.along_y is None
    assert old.to_array().shape == (len(old), 8)
    assert RegionGraph.concatenate([old, tables[1]]).along_y is None
    assert RegionGraph.concatenate(tables).along_y.dtype == np.uint32


def test_faces_along_y_are_those_of_the_slow_way():
    fragments, affinities = random_volume(9)
    table = section_edges(fragments[1], affinities[:, 1], 1, fragments[0])
    section = fragments[1]
    counts = {}
    for y in range(1, section.shape[0]):
        for x in range(section.shape[1]):
            pair = tuple(sorted((int(section[y - 1, x]), int(section[y, x]))))
            if pair[0] != pair[1] and pair[0]:
                counts[pair] = counts.get(pair, 0) + 1
    got = {
        (int(u), int(v)): int(n) for u, v, n in zip(table.u, table.v, table.along_y, strict=True)
    }
    assert {pair: n for pair, n in got.items() if n} == counts


def test_concatenate():
    fragments, affinities = random_volume(6)
    tables = [section_edges(fragments[z], affinities[:, z], z) for z in range(4)]

    graph = RegionGraph.concatenate(tables)

    assert len(graph) == sum(map(len, tables))
    assert graph.n_fragments == fragments.max()
    np.testing.assert_array_equal(graph.to_array(), np.concatenate([t.to_array() for t in tables]))
    assert RegionGraph.concatenate(tables, n_fragments=99).n_fragments == 99
    empty = RegionGraph.concatenate([], n_fragments=1)
    assert (len(empty), empty.n_fragments, empty.u.dtype) == (0, 1, np.uint32)
    assert empty.position.shape == (0, 3)


def test_unfit_input_is_refused():
    fragments = np.ones((4, 5), np.uint32)
    affinities = np.zeros((3, 4, 5), np.uint8)
    with pytest.raises(ShapeError, match=r"need uint8 affinities of shape \(3, 4, 5\)"):
        section_edges(fragments, affinities[:, :, :4], 0)
    with pytest.raises(ShapeError, match="float32"):
        section_edges(fragments, affinities.astype(np.float32), 0)
    with pytest.raises(ShapeError, match="one shape"):
        section_edges(fragments, affinities, 1, fragments[:3])
    with pytest.raises(ShapeError, match="integers"):
        section_edges(fragments.astype(float), affinities, 0)
    with pytest.raises(ShapeError, match="renumber"):
        section_edges(fragments.astype(np.int64) - 2, affinities, 0)
    with pytest.raises(ShapeError, match="renumber"):
        section_edges(fragments.astype(np.uint64) << np.uint64(32), affinities, 0)


@pytest.mark.parametrize("shape", [(13, 17), (1, 30), (30, 1), (1, 1)])
@pytest.mark.parametrize("blob", [1, 3])
def test_fragment_table_equals_plain_loops(shape, blob):
    fragments = random_volume(7, (1, *shape), blob=blob)[0][0]

    table = section_fragment_table(fragments, z=5, offset=100)

    ids = np.unique(fragments[fragments > 0])
    assert table.shape == (len(ids), len(FRAGMENT_COLUMNS))
    for row, i in zip(table, ids, strict=True):
        y, x = np.nonzero(fragments == i)
        expected = {
            "id": i + 100, "size": len(y),
            "z_start": 5, "y_start": y.min(), "x_start": x.min(),
            "z_stop": 6, "y_stop": y.max() + 1, "x_stop": x.max() + 1,
            "z": 5, "y": y.mean(), "x": x.mean(),
        }  # fmt: skip
        assert dict(zip(FRAGMENT_COLUMNS, row, strict=True)) == pytest.approx(expected)


def test_fragment_table_of_background():
    assert section_fragment_table(np.zeros((3, 4), np.uint32), 0).shape == (0, 11)
