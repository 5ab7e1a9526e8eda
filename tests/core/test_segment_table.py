"""Measures of segments against counting voxels and faces one by one."""

from __future__ import annotations

import csv
import itertools
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from napari_cad.core.errors import ShapeError, StoreError
from napari_cad.core.region_graph import (
    EdgeTable,
    RegionGraph,
    section_edges,
    section_fragment_table,
)
from napari_cad.core.segment_export import (
    contact_columns,
    segment_columns,
    write_contacts,
    write_csv,
)
from napari_cad.core.segment_table import ContactTable, SegmentMeasures, SegmentTable

VOXEL = (30.0, 6.0, 7.0)
SHAPE = (4, 9, 8)
PER_SECTION = 7


def random_fragments(seed):
    """Fragments with ids unique over the volume; some voxels are background."""
    rng = np.random.default_rng(seed)
    local = rng.integers(0, PER_SECTION + 1, (SHAPE[0], 3, 4)).repeat(3, 1).repeat(2, 2)
    first = np.arange(SHAPE[0])[:, None, None] * PER_SECTION
    return np.where(local, local + first, 0).astype(np.uint32)


def measures_of(fragments, voxel_size=VOXEL):
    zeros = np.zeros((3, *SHAPE[1:]), np.uint8)
    edges = [
        section_edges(f, zeros, z, fragments[z - 1] if z else None) for z, f in enumerate(fragments)
    ]
    table = np.concatenate([section_fragment_table(f, z) for z, f in enumerate(fragments)])
    return SegmentMeasures(table, RegionGraph.concatenate(edges), voxel_size)


def random_lut(rng, n_segments):
    lut = rng.integers(1, n_segments + 1, SHAPE[0] * PER_SECTION + 1).astype(np.uint32)
    lut[0] = 0
    return lut


def slow_segments(labels):
    """Rows (id, voxels, sections, box, centroid) straight from the voxels."""
    for label in np.unique(labels[labels != 0]):
        where = np.argwhere(labels == label)
        yield (
            int(label),
            len(where),
            len(set(where[:, 0])),
            [*where.min(0), *(where.max(0) + 1)],
            where.mean(0),
        )


def slow_contacts(labels, fragments):
    """{(u, v): (faces between sections, along y, along x)}, voxel by voxel.

    The graph has no edges to voxels without a fragment.
    """
    found = {}
    for voxel in itertools.product(*map(range, labels.shape)):
        for axis in range(3):
            other = list(voxel)
            other[axis] += 1
            if other[axis] < labels.shape[axis]:
                pair = tuple(sorted((int(labels[voxel]), int(labels[tuple(other)]))))
                there = fragments[voxel] and fragments[tuple(other)]
                if there and pair[0] != pair[1]:
                    found.setdefault(pair, [0, 0, 0])[axis] += 1
    return found


def test_areas_of_an_older_graph_are_exact_for_square_pixels_only():
    fragments = random_fragments(0)
    zeros = np.zeros((3, *SHAPE[1:]), np.uint8)
    tables = [section_edges(f, zeros, z) for z, f in enumerate(fragments)]
    table = np.concatenate([section_fragment_table(f, z) for z, f in enumerate(fragments)])
    new = RegionGraph.concatenate(tables)
    old = RegionGraph.concatenate([EdgeTable.from_array(t.to_array()[:, :-1]) for t in tables])
    lut = np.arange(SHAPE[0] * PER_SECTION + 1)
    for voxel_size, exact in ((VOXEL, False), ((30.0, 6.0, 6.0), True), (None, True)):
        older = SegmentMeasures(table, old, voxel_size)
        newer = SegmentMeasures(table, new, voxel_size)
        assert newer.exact
        assert older.exact == exact
        if exact:
            np.testing.assert_allclose(
                older.measure(lut).contacts.area, newer.measure(lut).contacts.area
            )


@pytest.mark.parametrize("seed", range(5))
def test_against_counting_voxels(seed):
    rng = np.random.default_rng(seed)
    fragments = random_fragments(seed)
    lut = random_lut(rng, 9)
    lut[rng.random(len(lut)) < 0.1] = 0  # no segment
    measured = measures_of(fragments).measure(lut)
    labels = lut[fragments]
    segments, contacts = measured.segments, measured.contacts
    expected = list(slow_segments(labels))
    assert segments.id.tolist() == [row[0] for row in expected]
    assert segments.voxels.tolist() == [row[1] for row in expected]
    assert segments.sections.tolist() == [row[2] for row in expected]
    assert segments.box.tolist() == [row[3] for row in expected]
    np.testing.assert_allclose(segments.centroid, [row[4] for row in expected])
    np.testing.assert_allclose(segments.volume, segments.voxels * 0.03 * 0.006 * 0.007)
    assert segments.fragments.tolist() == [
        len(np.unique(fragments[labels == label])) for label in segments.id
    ]
    slow = slow_contacts(labels, fragments)
    assert list(zip(contacts.u.tolist(), contacts.v.tolist(), strict=True)) == sorted(slow)
    areas = (0.006 * 0.007, 0.03 * 0.007, 0.03 * 0.006)
    for pair, faces, area in zip(sorted(slow), contacts.faces, contacts.area, strict=True):
        assert faces == sum(slow[pair])
        assert area == pytest.approx(np.dot(slow[pair], areas))
    for label, surface, number in zip(
        segments.id, segments.surface, segments.contacts, strict=True
    ):
        mine = [np.dot(faces, areas) for pair, faces in slow.items() if label in pair]
        assert surface == pytest.approx(sum(mine))
        assert number == len([pair for pair in slow if label in pair and pair[0]])


@pytest.mark.parametrize("seed", range(8))
def test_an_update_gives_what_measuring_anew_gives(seed):
    rng = np.random.default_rng(seed)
    fragments = random_fragments(seed)
    measures = measures_of(fragments)
    lut = random_lut(rng, 12)
    before = measures.measure(lut)
    for n_changed in (0, 1, 3, 20):
        lut = lut.copy()
        rows = rng.integers(1, len(lut), n_changed)
        lut[rows] = rng.integers(0, 15, n_changed)  # merges, splits, and into nothing
        updated, anew = measures.measure(lut, before), measures.measure(lut)
        for kind, table in ((SegmentTable, "segments"), (ContactTable, "contacts")):
            for column in kind.__dataclass_fields__:
                np.testing.assert_allclose(
                    getattr(getattr(updated, table), column),
                    getattr(getattr(anew, table), column),
                    err_msg=column,
                )
        before = updated


def test_the_place_of_a_contact_is_on_it():
    fragments = np.zeros((4, 9, 8), np.uint32)
    fragments[:, :, :3], fragments[:, :, 3:] = 1, 2
    fragments += 2 * np.arange(4, dtype=np.uint32)[:, None, None]
    lut = np.append(0, np.tile([5, 7], 4))
    measured = measures_of(fragments).measure(lut)
    assert measured.contacts.position[0, 1:].tolist() == [4, 3]
    assert measured.contacts.faces.tolist() == [36]


def test_without_a_voxel_size():
    measured = measures_of(random_fragments(0), None).measure(np.arange(29))
    assert np.isnan(measured.segments.volume).all()
    assert np.isnan(measured.segments.surface).all()
    assert "volume_um3" not in segment_columns(measured.segments)
    assert "area_um2" not in contact_columns(measured.contacts)


def test_one_segment_and_none():
    measures = measures_of(random_fragments(1))
    one = measures.measure(np.append(0, np.full(28, 3)))
    assert one.segments.id.tolist() == [3]
    assert one.segments.surface.tolist() == [0]
    assert len(one.contacts) == 0
    none = measures.measure(np.zeros(29, np.uint32), one)
    assert len(none.segments) == len(none.contacts) == 0
    assert len(measures.measure(one.lut, none).segments) == 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match="LUT for fragments up to"):
        measures_of(random_fragments(0)).measure(np.arange(5))
    with pytest.raises(ShapeError, match="11 columns"):
        SegmentMeasures(np.zeros((3, 4)), RegionGraph.concatenate([]), VOXEL)


def test_files(tmp_path):
    measured = measures_of(random_fragments(2)).measure(random_lut(np.random.default_rng(2), 5))
    segments, contacts = measured.segments, measured.contacts
    write_csv(tmp_path / "segments.csv", segment_columns(segments))
    with (tmp_path / "segments.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["segment"]) for row in rows] == segments.id.tolist()
    np.testing.assert_allclose(
        [float(row["volume_um3"]) for row in rows], segments.volume, rtol=1e-5
    )
    write_contacts(tmp_path / "edges.csv", segments, contacts)
    with (tmp_path / "edges.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == len(contacts)
    write_contacts(tmp_path / "graph.graphml", segments, contacts)
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    graph = ET.parse(tmp_path / "graph.graphml").getroot()
    assert len(graph.findall(".//g:node", space)) == len(segments)
    edge = graph.find(".//g:edge", space)
    assert (edge.get("source"), edge.get("target")) == (str(contacts.u[0]), str(contacts.v[0]))
    values = {data.get("key"): float(data.text) for data in edge}
    assert values["edge_area_um2"] == pytest.approx(contacts.area[0], rel=1e-5)
    declared = {key.get("id") for key in graph.findall("g:key", space)}
    assert {data.get("key") for data in graph.findall(".//g:data", space)} == declared
    with pytest.raises(StoreError, match="cannot be written"):
        write_csv(tmp_path / "no" / "segments.csv", {})
    with pytest.raises(StoreError, match="cannot be written"):
        write_contacts(tmp_path / "no" / "graph.graphml", segments, contacts)
