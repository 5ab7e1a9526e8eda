"""A store is damaged in many ways, and each is found."""

from __future__ import annotations

import errno
import json
import shutil

import numpy as np
import pytest
import torch
import zarr
from typer.testing import CliRunner

from napari_cad.cli._app import app
from napari_cad.core import section_tasks
from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.columns import ColumnWriter
from napari_cad.core.config import AgglomerationConfig, InferenceConfig, SegmentationConfig
from napari_cad.core.errors import StoreError
from napari_cad.core.events import SectionDone, Warned
from napari_cad.core.network import StudentNetwork
from napari_cad.core.pipeline import segment_volume
from napari_cad.core.store import SegmentationStore
from napari_cad.core.synthetic import synthetic_em
from napari_cad.core.verify import Problem, Verified, verify_store
from napari_cad.core.volume import EMVolume


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of three sections whose network says little, with real fragments anyway."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    network = StudentNetwork(width=4, embedding_dim=4).eval()
    for parameter in network.parameters():  # far from saturation
        parameter.data *= 2
    metadata = CheckpointMetadata(
        name="tiny", width=4, embedding_dim=4, training_data="none", licence="none"
    )
    save_checkpoint(folder / "tiny.safetensors", network, metadata)
    volume = EMVolume.from_array(synthetic_em((3, 64, 80), seed=1).raw, voxel_size=(30, 6, 6))
    config = SegmentationConfig(inference=InferenceConfig(device="cpu"), workers=0)
    checkpoint = load_checkpoint(folder / "tiny.safetensors")
    list(segment_volume(volume, checkpoint, config, folder / "run.zarr"))
    return folder / "run.zarr"


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run.zarr")


def problems_of(path):
    events = list(verify_store(path))
    assert isinstance(events[-1], Verified)
    found = [event for event in events if isinstance(event, Problem)]
    assert events[-1].problems == len(found)
    return [event.message for event in found]


def test_a_finished_run_has_no_problem(made):
    group = zarr.open_group(made, mode="r")
    assert group["fragments/0"][:].max() > 10  # there is something to check

    assert problems_of(made) == []


def test_an_unfinished_run_has_no_problem_and_is_checked_as_far_as_it_is(run):
    group = zarr.open_group(run, mode="r+")
    group["marks/edges"][2] = -1
    assert problems_of(run) == []

    group["fragments/0"][2, 5, 5] += 1
    (problem,) = problems_of(run)
    assert problem.startswith("section 2: 1 voxels are in other fragments")


@pytest.mark.parametrize(
    ("array", "at", "expected"),
    [
        ("fragments/0", (1, 10, 10), "section 1: 1 voxels are in other fragments"),
        ("marks/fragments", 1, "section 1: .* fragments are counted, the affinities give"),
        ("edges/1", (0, 2), "section 1: the edges are not those"),
        ("fragment_table/2", (0, 1), "section 2: the table of the fragments is not"),
        ("agglomeration/median/join_score", 0, "the join scores of median do not follow"),
        ("agglomeration/median/score", 0, "the join scores of median do not follow"),
        ("agglomeration/median/numbered_join_score", 0, "the join scores of median do not follow"),
        ("agglomeration/median/tree/above", 2, "the merge tree of median does not follow"),
        ("agglomeration/median/tree/voxels", 0, "the merge tree of median does not follow"),
        *(
            (f"graph/{name}", at, "the columns of the region graph are not those .* " + name)
            for name, at in (
                ("u", 0),
                ("v", 1),
                ("mean", 0),
                ("area", 2),
                ("position", (0, 2)),
                ("first", 3),
                ("first_ending", 4),
                ("ending", 0),
                ("size", 1),
            )
        ),
    ],
)
def test_a_changed_number_is_found(run, array, at, expected):
    values = zarr.open_group(run, mode="r+")[array]
    values[at] = np.asarray(values[at]) * 2 + 1

    found = problems_of(run)

    assert any(np.char.find(found, expected.split(" .* ")[0]) == 0), found
    assert any(expected.split(" .* ")[-1] in message for message in found)


def test_names_of_fragments_that_do_not_exist_are_found(run):
    zarr.open_group(run, mode="r+")["agglomeration/median/b"][0] = 10**6

    assert problems_of(run) == ["the merge history of median names fragments that do not exist"]


@pytest.mark.parametrize("array", ["affinities", "fragments", "edges"])
@pytest.mark.parametrize("damage", ["cut", "lost"])
def test_a_damaged_chunk_is_found(run, array, damage):
    place = run / "edges" / "1" if array == "edges" else run / array / "0"
    chunks = sorted(path for path in (place / "c").rglob("*") if path.is_file())
    chunk = chunks[1 if array != "edges" else 0]
    if damage == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-7])
    else:  # zarr takes a chunk that is not there for zeros
        chunk.unlink()

    assert all(problem.startswith("section 1") for problem in problems_of(run)[:1])
    assert problems_of(run)


def make_foreign(run):
    """Move a pixel to its neighbour's fragment, as another recipe might, in an old store."""
    group = zarr.open_group(run, mode="r+")
    settings = dict(group.attrs["napari_cad"])
    del settings["signature"]["recipe"]
    group.attrs["napari_cad"] = settings
    store = SegmentationStore.open(run, mode="a")
    fragments = store.read_fragments(1)
    y, x = next(
        (y, x)
        for y, x in np.argwhere(fragments[:, 1:] != fragments[:, :-1])
        if (fragments == fragments[y, x]).sum() > 5
    )
    fragments[y, x] = fragments[y, x + 1]
    store.fragments[1] = fragments
    return store


def test_fragments_of_another_recipe_are_told_of_and_no_problem(run):
    store = make_foreign(run)
    for z in (1, 2):
        store._mark("edges", z, -1)
        section_tasks.make_edges(str(run), z)
    del zarr.open_group(run, mode="r+")["graph"], zarr.open_group(run, mode="r+")["agglomeration"]
    zarr.open_group(run, mode="r+").create_group("agglomeration")
    section_tasks.agglomerate_run(str(run), store.config.agglomeration)

    events = list(verify_store(run))

    assert events[-1] == Verified(0, 3)
    (warned,) = [event for event in events if isinstance(event, Warned)]
    assert "1 of 3 sections have other fragments" in warned.message
    assert "recipe 1 of fragments, this version has recipe 2" in warned.message


@pytest.mark.parametrize(
    ("array", "at", "expected"),
    [
        ("fragments/0", (1, 3, 3), "section 1: the ids of its fragments are not"),
        ("marks/fragments", 1, "section 1: the ids of its fragments are not"),
        ("edges/1", (0, 2), "section 1: the edges are not those"),
    ],
)
def test_what_does_not_follow_from_fragments_of_another_recipe_is_found(run, array, at, expected):
    make_foreign(run)
    values = zarr.open_group(run, mode="r+")[array]
    values[at] = np.asarray(values[at]) * 2 + 1

    assert any(problem.startswith(expected) for problem in problems_of(run))


def test_a_mark_without_what_comes_before_it_is_found(run):
    zarr.open_group(run, mode="r+")["marks/affinities"][1] = -1

    assert problems_of(run) == [
        "section 1: edges are marked as done, but what they are made from is not"
    ]


def test_the_forest_of_absorbed_segments_is_checked(run):
    forest = SegmentationStore.open(run, mode="a").spanning_forest()
    assert len(forest.child) > 10
    assert problems_of(run) == []

    rows = zarr.open_group(run, mode="r+")["agglomeration/median/forest"]
    rows[3, 3] += 1
    (problem,) = problems_of(run)
    assert problem.startswith("the forest of median, by which small segments are absorbed")

    # without a mark, as older versions left it when they were cut short
    rows[:] = 0
    del rows.attrs["whole"]
    assert len(problems_of(run)) == 1
    SegmentationStore.open(run, mode="a").spanning_forest()
    assert problems_of(run) == []


def forest_of(run):
    return zarr.open_group(run, mode="r+")["agglomeration/median/forest"]


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_forest_that_was_cut_short_is_made_again(run, made, monkeypatch):
    chosen = AgglomerationConfig("median", 0.3, absorb=50)
    expected = SegmentationStore.open(made).spanning_forest().lut(0.3, 50)
    n_segments = len(np.unique(expected)) - 1
    assert n_segments < len(np.unique(SegmentationStore.open(made).lut(0.3))) - 1
    with monkeypatch.context() as patch:
        patch.setattr(ColumnWriter, "_write", full_disk)
        with pytest.raises(OSError, match="No space left"):
            section_tasks.agglomerate_run(str(run), chosen)
    assert not forest_of(run)[:].any()
    assert problems_of(run) == []  # it is known for a part, and made again

    assert section_tasks.agglomerate_run(str(run), chosen)[2] == n_segments
    assert np.array_equal(SegmentationStore.open(run).lut(), expected)


@pytest.mark.parametrize("cut", [0, 5, None])
def test_a_forest_without_a_mark_is_taken_if_all_its_rows_are_there(run, monkeypatch, cut):
    """Older versions marked none."""
    expected = SegmentationStore.open(run, mode="a").spanning_forest().to_array()
    forest = forest_of(run)
    del forest.attrs["whole"]
    if cut is not None:
        forest[cut:] = 0
    made = []
    make = SegmentationStore.made_forest
    monkeypatch.setattr(
        SegmentationStore, "made_forest", lambda *args: made.append(1) or make(*args)
    )
    assert np.array_equal(SegmentationStore.open(run).spanning_forest().to_array(), expected)
    assert len(made) == (cut is not None)


def test_it_tells_how_far_it_is_and_changes_nothing(run):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}

    done = [event.done for event in verify_store(run) if isinstance(event, SectionDone)]

    assert done == [1, 2, 3]
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="expected a napari-cad store"):
        list(verify_store(tmp_path))


def test_on_the_command_line(run):
    good = CliRunner().invoke(app, ["verify", str(run)])
    zarr.open_group(run, mode="r+")["fragments/0"][0, 0, 0] = 99
    bad = CliRunner().invoke(app, ["verify", str(run), "--json"])

    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert "nothing wrong in 3 sections" in good.output
    lines = [json.loads(line) for line in bad.output.splitlines() if line.startswith("{")]
    assert [line["z"] for line in lines if line["event"] == "Problem"] == [0]
    assert lines[-1]["problems"] == 1
