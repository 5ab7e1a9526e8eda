from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import zarr

from napari_cad.core.agglomerations import agglomerate
from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import (
    AgglomerationConfig,
    FitConfig,
    FragmentConfig,
    InferenceConfig,
    SegmentationConfig,
)
from napari_cad.core.errors import ConfigError, StoreError, StoreMismatchError
from napari_cad.core.events import Finished, SectionDone, StageStarted, Warned
from napari_cad.core.fragments import section_fragments
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.network import StudentNetwork
from napari_cad.core.pipeline import segment_volume
from napari_cad.core.readers import open_volume
from napari_cad.core.region_graph import section_edges
from napari_cad.core.store import RECIPES, SegmentationStore, is_store, run_signature
from napari_cad.core.store_layout import FORMAT
from napari_cad.core.verify import Problem, verify_store
from napari_cad.core.volume import EMVolume

N_SECTIONS = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    network = StudentNetwork(width=2, embedding_dim=3).eval()
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=3, training_data="none", licence="none"
    )
    save_checkpoint(path, network, metadata)
    return load_checkpoint(path)


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> EMVolume:
    path = tmp_path_factory.mktemp("volume") / "stack.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (N_SECTIONS, 48, 40), np.uint8))
    return open_volume(path, voxel_size=(30, 6, 6))


@pytest.fixture(scope="module")
def config() -> SegmentationConfig:
    return SegmentationConfig(inference=InferenceConfig(device="cpu"), workers=0)


def contents(path) -> dict[str, bytes]:
    """Everything in a store but the marks of time."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def finished(volume, checkpoint, config, tmp_path_factory) -> SegmentationStore:
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    list(segment_volume(volume, checkpoint, config, path))
    return SegmentationStore.open(path)


def test_events_tell_the_run(volume, checkpoint, config, tmp_path):
    events = list(segment_volume(volume, checkpoint, config, tmp_path / "run.zarr"))
    started = [e.stage for e in events if isinstance(e, StageStarted)]
    assert started == ["affinities", "fragments", "agglomeration"]
    for stage in ("affinities", "fragments"):
        of_stage = [e for e in events if isinstance(e, SectionDone) and e.stage == stage]
        assert [(e.z, e.done) for e in of_stage] == [(z, z + 1) for z in range(N_SECTIONS)]
    assert isinstance(events[-1], Finished)
    store = SegmentationStore.open(tmp_path / "run.zarr")
    assert events[-1].n_fragments == store.n_fragments
    assert events[-1].n_segments == len(np.unique(store.lut()[1:]))


def test_the_store_holds_what_the_stages_make(finished, config):
    assert finished.shape == (N_SECTIONS, 48, 40)
    assert finished.voxel_size == (30, 6, 6)
    offsets = finished.fragment_offsets
    for z in range(N_SECTIONS):
        local = section_fragments(finished.read_affinities(z), config.fragments)
        assert np.array_equal(finished.read_fragments(z), local + offsets[z])
    fragments = finished.fragments[:]
    assert np.array_equal(np.unique(fragments), np.arange(1, finished.n_fragments + 1))
    table = finished.fragment_table()
    assert np.array_equal(table[:, 0], np.arange(1, finished.n_fragments + 1))
    assert np.array_equal(table[:, 1], np.bincount(fragments.ravel())[1:])
    graph = finished.region_graph()
    assert graph.n_fragments == finished.n_fragments
    assert len(finished.join_scores()) == len(graph)


def test_other_viewers_can_open_it(finished):
    ome = zarr.open_group(finished.path / "affinities", mode="r").attrs["ome"]
    multiscale = ome["multiscales"][0]
    assert [axis["name"] for axis in multiscale["axes"]] == ["c", "z", "y", "x"]
    transform = multiscale["datasets"][0]["coordinateTransformations"][0]
    assert transform == {"type": "scale", "scale": [1, 30, 6, 6]}


def test_workers_make_the_same_store(volume, checkpoint, config, finished, tmp_path):
    with_workers = SegmentationConfig(inference=config.inference, workers=2)
    list(segment_volume(volume, checkpoint, with_workers, tmp_path / "run.zarr"))
    here, there = contents(tmp_path / "run.zarr"), contents(finished.path)
    # the settings name the number of workers
    assert {k for k in here if here[k] != there.get(k)} <= {"zarr.json"}
    assert here.keys() == there.keys()


@pytest.mark.parametrize("n_events", [1, 3, 4, 6, 9, 11])
def test_a_run_abandoned_anywhere_goes_on_to_the_same_store(
    volume, checkpoint, config, finished, tmp_path, n_events
):
    path = tmp_path / "run.zarr"
    run = segment_volume(volume, checkpoint, config, path)
    for _ in range(n_events):
        next(run)
    run.close()
    list(segment_volume(volume, checkpoint, config, path))
    assert contents(path) == contents(finished.path)


_RUN_SCRIPT = """
import sys
from napari_cad.core.checkpoint import load_checkpoint
from napari_cad.core.config import InferenceConfig, SegmentationConfig
from napari_cad.core.pipeline import segment_volume
from napari_cad.core.readers import open_volume
volume = open_volume(sys.argv[1], voxel_size=(30, 6, 6))
config = SegmentationConfig(inference=InferenceConfig(device="cpu"), workers=0)
for event in segment_volume(volume, load_checkpoint(sys.argv[2]), config, sys.argv[3]):
    print(event, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_run_goes_on_to_the_same_store(volume, checkpoint, config, finished, tmp_path):
    path = tmp_path / "run.zarr"
    assert volume.source is not None
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN_SCRIPT, volume.source.path, str(checkpoint.path), str(path)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout as events:
        while b"SectionDone" not in next(events):
            pass
        time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    list(segment_volume(volume, checkpoint, config, path))
    assert contents(path) == contents(finished.path)


def test_a_half_written_section_is_made_again(volume, checkpoint, config, finished, tmp_path):
    """Killed between a section's voxels and its mark: the voxels are not trusted."""
    path = tmp_path / "run.zarr"
    run = segment_volume(volume, checkpoint, config, path)
    while not isinstance(next(run), SectionDone):
        pass
    run.close()
    store = SegmentationStore.open(path, mode="a")
    store.affinities[:, 1] = 77
    list(segment_volume(volume, checkpoint, config, path))
    assert contents(path) == contents(finished.path)


def test_another_volume_checkpoint_or_setting_is_refused_with_both_values(
    volume, checkpoint, config, finished
):
    other = EMVolume.from_array(np.asarray(volume.data[:]) // 2, voxel_size=(30, 6, 6))
    with pytest.raises(StoreMismatchError, match=r"volume\.sha256.*the store has .* this run"):
        list(segment_volume(other, checkpoint, config, finished.path))
    inverted = SegmentationConfig(
        intensity=IntensityMapping(invert=True), inference=config.inference, workers=0
    )
    with pytest.raises(StoreMismatchError, match=r"intensity\.invert: the store has False"):
        list(segment_volume(volume, checkpoint, inverted, finished.path))


def with_recipe(path, recipe, store_format=FORMAT):
    """Let a store be one that another version has begun."""
    group = zarr.open_group(path, mode="r+")
    settings = dict(group.attrs["napari_cad"])
    settings["format"] = store_format
    settings["signature"].pop("recipe")
    settings["signature"].update({} if recipe is None else {"recipe": recipe})
    group.attrs["napari_cad"] = settings


@pytest.mark.parametrize(
    ("recipe", "store_format", "said"),
    [
        (None, 2, r"recipe\.fragments: the store has 1, this run 2"),
        (None, 1, r"recipe\.edges: the store has 1, this run 2"),
        ({"fragments": 3, "edges": 2}, 2, r"recipe\.fragments: the store has 3, this run 2"),
    ],
)
def test_a_run_begun_by_another_recipe_is_refused_but_can_be_looked_at(
    volume, checkpoint, config, finished, tmp_path, recipe, store_format, said
):
    path = shutil.copytree(finished.path, tmp_path / "run.zarr")
    with_recipe(path, recipe, store_format)
    with pytest.raises(StoreMismatchError, match=rf"{said}.*would mix both.*can be viewed"):
        list(segment_volume(volume, checkpoint, config, path))

    store = SegmentationStore.open(path, mode="a")
    assert np.array_equal(store.lut(), finished.lut())
    assert agglomerate(store, "mean") is None
    assert not [e for e in verify_store(path) if isinstance(e, Problem)]


def test_recipes_are_raised_when_results_change():
    """Where other results are wanted, raise the recipe of the stage, and the digests with it."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, 66, 66))
    windows = np.lib.stride_tricks.sliding_window_view(noise, (3, 3), (2, 3))
    affinities = np.clip(4 * (windows.sum((-2, -1)) // 9 - 128) + 128, 0, 255).astype(np.uint8)
    above, below = (section_fragments(section, FragmentConfig()) for section in affinities)
    edges = section_edges(below + above.max(), affinities[1], 1, above).to_array()
    made = {"fragments": below, "edges": edges.round(3) + 0.0}
    digests = {k: hashlib.sha256(v.tobytes()).hexdigest()[:12] for k, v in made.items()}
    assert digests == {"fragments": "e6421a224d69", "edges": "e0c02704b503"}
    assert RECIPES == {"fragments": 2, "edges": 2}


def test_a_moved_volume_is_the_same_volume(volume, checkpoint, config, finished, tmp_path):
    np.save(tmp_path / "elsewhere.npy", np.asarray(volume.data[:]))
    moved = open_volume(tmp_path / "elsewhere.npy", voxel_size=(30, 6, 6))
    events = list(segment_volume(moved, checkpoint, config, finished.path))
    assert not [e for e in events if isinstance(e, SectionDone) and e.stage == "affinities"]


def test_another_merge_function_or_threshold_needs_no_new_run(volume, checkpoint, config, tmp_path):
    path = tmp_path / "run.zarr"
    list(segment_volume(volume, checkpoint, config, path))
    stricter = SegmentationConfig(
        inference=config.inference, agglomeration=AgglomerationConfig("mean", 0.2), workers=0
    )
    events = list(segment_volume(volume, checkpoint, stricter, path))
    assert [e.stage for e in events if isinstance(e, SectionDone)] == ["agglomeration"]
    store = SegmentationStore.open(path)
    assert (store.merge_function, store.threshold) == ("mean", 0.2)
    assert store.has_agglomeration("median")


def test_a_multicut_needs_no_new_run_and_has_no_threshold(volume, checkpoint, config, tmp_path):
    path = tmp_path / "run.zarr"
    list(segment_volume(volume, checkpoint, config, path))
    agglomerate(SegmentationStore.open(path, mode="a"), "multicut")
    tree = SegmentationStore.open(path).merge_tree("multicut")
    assert np.array_equal(tree.lut(0.1), tree.lut(0.9))


def test_unknown_merge_functions_are_refused_before_anything_is_written(
    volume, checkpoint, tmp_path
):
    unknown = SegmentationConfig(agglomeration=AgglomerationConfig("mode", 0.5))
    with pytest.raises(ConfigError, match="median"):
        next(segment_volume(volume, checkpoint, unknown, tmp_path / "run.zarr"))
    assert not (tmp_path / "run.zarr").exists()


def test_nothing_but_a_store_is_ever_removed(volume, checkpoint, config, tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(StoreError, match="in the way"):
        list(segment_volume(volume, checkpoint, config, tmp_path, overwrite=True))
    assert (tmp_path / "thesis.txt").read_text() == "ten years of work"


def test_what_is_no_store_is_refused(tmp_path):
    assert not is_store(tmp_path)
    with pytest.raises(StoreError, match="does not exist"):
        SegmentationStore.open(tmp_path / "nothing.zarr")
    zarr.create_array(tmp_path / "array.zarr", shape=(2, 2), dtype="uint8")
    assert not is_store(tmp_path / "array.zarr")


def test_a_newer_store_is_refused(finished, tmp_path):
    path = tmp_path / "newer.zarr"
    group = zarr.open_group(path, mode="w")
    group.attrs["napari_cad"] = {**finished.settings, "format": 99}
    with pytest.raises(StoreError, match="store format 99"):
        SegmentationStore.open(path)


def test_an_unfinished_store_says_what_is_missing(volume, checkpoint, config, tmp_path):
    run = segment_volume(volume, checkpoint, config, tmp_path / "run.zarr")
    next(run)
    run.close()
    store = SegmentationStore.open(tmp_path / "run.zarr")
    with pytest.raises(StoreError, match=r"4 of 4 sections have no edges yet"):
        store.region_graph()
    with pytest.raises(StoreError, match="no agglomeration by median"):
        store.lut()


def test_settings_can_be_read_by_machines(finished, config):
    json.dumps(finished.settings)
    assert finished.config.agglomeration == config.agglomeration
    assert finished.config.intensity == IntensityMapping("limits", 0, 255)


@pytest.mark.parametrize("level", [0, 255])
def test_affinities_near_0_or_1_everywhere_are_warned_of_once(level):
    from napari_cad.core.pipeline import _PlausibilityCheck

    check = _PlausibilityCheck()
    affinities = np.full((3, 8, 8), level, np.uint8)
    warned = [event for z in range(6) for event in check(z, affinities[0].mean() / 255)]
    assert len(warned) == 1
    assert isinstance(warned[0], Warned)
    assert "intensity mapping" in warned[0].message
    check = _PlausibilityCheck()
    affinities = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    assert not [event for z in range(6) for event in check(z, affinities[0].mean() / 255)]


def test_agglomerating_again_does_nothing(finished):
    def files():
        return {f: f.stat().st_mtime_ns for f in finished.path.rglob("*") if f.is_file()}

    before = files()
    agglomerate(finished, "median")
    assert files() == before


def test_another_augmentation_is_another_run(volume, checkpoint, config, tmp_path):
    augmented = replace(config, augmentation="order")
    list(segment_volume(volume, checkpoint, config, tmp_path / "plain.zarr"))
    list(segment_volume(volume, checkpoint, augmented, tmp_path / "augmented.zarr"))

    assert SegmentationStore.open(tmp_path / "augmented.zarr").config.augmentation == "order"
    with pytest.raises(
        StoreMismatchError, match="augmentation: the store has None, this run 'order'"
    ):
        list(segment_volume(volume, checkpoint, augmented, tmp_path / "plain.zarr"))


def test_the_store_is_there_before_the_student_is_adapted(volume, checkpoint, config, tmp_path):
    """Who shows a run opens its store at the first event; what is refused is refused at once."""
    adapted = replace(config, fit=FitConfig(adapt=0.5))
    run = segment_volume(volume, checkpoint, adapted, tmp_path / "run.zarr")
    first = next(run)
    run.close()
    assert isinstance(first, StageStarted)
    assert first.stage == "adaptation"
    assert is_store(tmp_path / "run.zarr")
    otherwise = replace(adapted, fit=FitConfig(adapt=0.7))
    with pytest.raises(StoreMismatchError, match=r"fit\.adapt"):
        next(segment_volume(volume, checkpoint, otherwise, tmp_path / "run.zarr"))


def test_a_halo_that_changes_voxels_is_another_run(volume, checkpoint, config, finished):
    narrow = replace(config, inference=replace(config.inference, tile=64, halo=16))
    with pytest.raises(StoreMismatchError, match=r"tiles\.halo: the store has None, this run 16"):
        next(segment_volume(volume, checkpoint, narrow, finished.path))
    wide = replace(config, inference=replace(config.inference, tile=512, halo=160))
    assert run_signature(volume, "", wide, "float32") == run_signature(
        volume, "", config, "float32"
    )


def placed(volume, voxel_size, origin=(0, 0, 0)):
    """The same volume, as if these had been given by hand."""
    source = replace(volume.source, voxel_size=voxel_size)
    return replace(volume, voxel_size=voxel_size, origin=origin, source=source)


def warnings_of(events):
    return [event.message for event in events if isinstance(event, Warned)]


def transforms(path, name):
    (image,) = zarr.open_group(path / name, mode="r").attrs["ome"]["multiscales"]
    return image["axes"], image["datasets"][0]["coordinateTransformations"]


def test_a_voxel_size_can_be_given_afterwards(volume, checkpoint, config, finished, tmp_path):
    path = tmp_path / "run.zarr"
    list(segment_volume(placed(volume, None), checkpoint, config, path))
    assert SegmentationStore.open(path).voxel_size is None

    run = partial(segment_volume, checkpoint=checkpoint, config=config, store_path=path)
    assert warnings_of(run(placed(volume, (30.0, 6.0, 6.0)))) == []
    assert SegmentationStore.open(path).voxel_size == (30, 6, 6)
    assert contents(path) == contents(finished.path)  # as if it had been known from the start

    (warned,) = warnings_of(run(placed(volume, (40.0, 8.0, 8.0), (0.0, 0.0, 16.0))))
    assert "was 30 × 6 × 6 nm and is 40 × 8 × 8 nm now" in warned
    store = SegmentationStore.open(path)
    assert (store.voxel_size, store.origin) == ((40, 8, 8), (0, 0, 16))
    assert store.settings["volume"]["source"]["voxel_size"] == [40, 8, 8]
    for name, channel in (("affinities", 1), ("fragments", 0)):
        axes, steps = transforms(path, name)
        assert [axis.get("unit") for axis in axes] == [None] * channel + ["nanometer"] * 3
        assert steps == [
            {"type": "scale", "scale": [1] * channel + [40, 8, 8]},
            {"type": "translation", "translation": [0] * channel + [0, 0, 16]},
        ]


def test_a_voxel_size_given_by_hand_stays_until_another_is(volume, checkpoint, config, tmp_path):
    path = tmp_path / "run.zarr"
    list(segment_volume(placed(volume, (30.0, 6.0, 6.0)), checkpoint, config, path))
    unknown = placed(volume, None)
    its_own = replace(unknown, voxel_size=(1.0, 1.0, 1.0))  # as the file says
    rounded = placed(volume, (30.0, 6.0, 6.000000000000001))
    for again in (unknown, its_own, rounded):
        assert warnings_of(segment_volume(again, checkpoint, config, path)) == []
        assert SegmentationStore.open(path).voxel_size == (30, 6, 6)
