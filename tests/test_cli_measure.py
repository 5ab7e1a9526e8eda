"""`napari-cad evaluate --errors`, `measure` and `meshes`."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
import tifffile

from napari_cad import cli
from napari_cad.core.agglomeration import MergeHistory
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import SegmentationConfig
from napari_cad.core.region_graph import section_edges, section_fragment_table
from napari_cad.core.store import SegmentationStore
from napari_cad.core.volume import EMVolume

SHAPE = (4, 20, 24)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A run of two halves: the left one whole, the right one cut before the last section."""
    folder = tmp_path_factory.mktemp("cli")
    raw = np.zeros(SHAPE, np.uint8)
    store = SegmentationStore.create(
        folder / "run.zarr",
        volume=EMVolume.from_array(raw, voxel_size=(30, 6, 6), name="stack"),
        checkpoint=CheckpointMetadata(name="none", training_data="none", licence="none"),
        config=SegmentationConfig(),
        signature={},
    )
    half = 1 + (np.arange(SHAPE[2]) >= 12) * np.ones(SHAPE[1:], int)
    prev = None
    for z in range(SHAPE[0]):
        fragments = (half + 2 * z).astype(np.uint32)
        affinities = np.zeros((3, *SHAPE[1:]), np.uint8)
        store.write_affinities(z, affinities)
        store.write_fragments(z, fragments, 2)
        edges = section_edges(fragments, affinities, z, prev)
        store.write_edges(z, edges, section_fragment_table(fragments, z))
        prev = fragments
    a, b = np.array([1, 2, 1, 2, 1], np.uint32), np.array([3, 4, 5, 6, 7], np.uint32)
    history = MergeHistory(a, b, np.full(5, 0.2, np.float32))
    store.write_agglomeration(store.merge_function, history)
    truth = np.tile(10 * half, (SHAPE[0], 1, 1)).astype(np.uint16)
    tifffile.imwrite(folder / "truth.tif", truth, photometric="minisblack")
    labels = store.lut()[np.asarray(store.fragments)]
    tifffile.imwrite(folder / "labels.tif", labels, photometric="minisblack")
    return folder


@pytest.fixture
def napari_cad(monkeypatch, capsys):
    def _call(*arguments):
        monkeypatch.setattr(sys, "argv", ["napari-cad", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return _call


@pytest.mark.parametrize("what", ["run.zarr", "labels.tif"])
def test_the_errors_are_listed(napari_cad, files, what):
    arguments = ["evaluate", files / what, files / "truth.tif", "--errors", 3]
    code, out, _ = napari_cad(*arguments, "--least-voxels", 100, "--json")
    assert code == 0
    (error,) = json.loads(out)["errors"]
    assert (error["kind"], error["cause"]) == ("split", "contact")
    assert error["truth"] == [20, 20]
    assert error["segments"] == [2, 8]
    assert error["position"][0] == 3
    assert error["voxels"] == 240
    code, out, _ = napari_cad(*arguments, "--least-voxels", 100)
    assert "1 errors of 100 voxels and more" in out
    assert out.splitlines()[-1].split()[:2] == ["1", "split"]
    code, out, _ = napari_cad(*arguments, "--least-voxels", 241)
    assert "0 errors of 241 voxels" in out
    code, out, _ = napari_cad(*arguments, "--least-voxels", 100, "--sections", "2:4", "--json")
    assert json.loads(out)["errors"][0]["position"][0] == 3
    code, out, _ = napari_cad("evaluate", files / what, files / "truth.tif", "--json")
    assert "errors" not in json.loads(out)


def test_errors_without_a_join_score_are_valid_json(napari_cad, files, monkeypatch):
    """As those of a multicut, whose edges are cut at every threshold."""

    def never(store):
        return np.full(len(store.region_graph()), np.inf, np.float32)

    monkeypatch.setattr(SegmentationStore, "join_scores", never)
    code, out, _ = napari_cad(
        "evaluate", files / "run.zarr", files / "truth.tif", "--errors", 3, "--json",
        "--least-voxels", 100,
    )  # fmt: skip

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert code == 0
    assert json.loads(out, parse_constant=refuse)["errors"][0]["score"] is None


@pytest.mark.parametrize("threshold", ["50", "-0.1", "nan", "inf"])
@pytest.mark.parametrize("command", ["export", "measure", "meshes"])
def test_a_threshold_that_means_nothing_is_refused(napari_cad, files, tmp_path, command, threshold):
    options = ["--largest", "1"] if command == "meshes" else []
    output = tmp_path / {"export": "labels.tif", "measure": "a.csv", "meshes": "meshes"}[command]
    code, _, err = napari_cad(
        command, files / "run.zarr", "-o", output, f"--threshold={threshold}", *options
    )
    assert code == 2
    assert "--threshold" in err
    assert not output.exists()


def test_measure_writes_tables(napari_cad, files, tmp_path):
    table, graph = tmp_path / "segments.csv", tmp_path / "contacts.graphml"
    code, out, _ = napari_cad("measure", files / "run.zarr", "-o", table, "--contacts", graph)
    assert code == 0
    assert "3 segments" in out
    assert "3 contacts" in out
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["segment"] for row in rows] == ["1", "2", "8"]
    assert float(rows[0]["volume_um3"]) == pytest.approx(4 * 240 * 0.03 * 0.006**2)
    assert "graphml" in graph.read_text()
    code, out, _ = napari_cad("measure", files / "run.zarr", "-o", table, "--threshold", "0.1")
    assert "8 segments" in out
    code, _, err = napari_cad("measure", files / "run.zarr", "-o", tmp_path / "no" / "table.csv")
    assert code == 1
    assert "cannot be written" in err


def test_meshes_are_written(napari_cad, files, tmp_path):
    folder = tmp_path / "meshes"
    code, out, _ = napari_cad(
        "meshes", files / "run.zarr", "-o", folder, "--segments", "8,99", "--largest", "1",
        "--format", "stl", "--detail", "full",
    )  # fmt: skip
    assert code == 0
    assert "2 meshes" in out
    assert "1 are not there" in out
    assert sorted(path.name for path in folder.iterdir()) == ["1.stl", "8.stl"]
    for arguments, message in (
        ((), "name them"),
        (("--segments", "a"), "ids such as"),
        (("--segments", "1", "--format", "glb"), "obj, ply, stl"),
    ):
        code, _, err = napari_cad("meshes", files / "run.zarr", "-o", folder, *arguments)
        assert code != 0
        assert message in err
