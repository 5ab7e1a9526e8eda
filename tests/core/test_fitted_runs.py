"""Runs with a fit: recorded in the store, and reproduced from it bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_cad.core.adaptation import adapt
from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import FitConfig, InferenceConfig, SegmentationConfig
from napari_cad.core.errors import ConfigError, StoreMismatchError
from napari_cad.core.events import OutOfDomain
from napari_cad.core.inference import AffinityPredictor
from napari_cad.core.network import StudentNetwork
from napari_cad.core.pipeline import segment_volume
from napari_cad.core.preprocessing import Preprocessing
from napari_cad.core.readers import open_volume
from napari_cad.core.segmentation_job import SegmentationOptions, segmentation_job
from napari_cad.core.store import SegmentationStore
from napari_cad.core.volume import EMVolume

FIT = FitConfig(adapt=0.5, sampled_sections=2, smooth=0.7, rescale=0.75)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=3, training_data="none", licence="none",
        voxel_size=(30, 8, 8),
    )  # fmt: skip
    save_checkpoint(path, StudentNetwork(width=2, embedding_dim=3).eval(), metadata)
    return load_checkpoint(path)


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> EMVolume:
    path = tmp_path_factory.mktemp("volume") / "stack.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (4, 48, 40), np.uint8))
    return open_volume(path, voxel_size=(30, 6, 6))


def config(fit: FitConfig = FIT) -> SegmentationConfig:
    return SegmentationConfig(inference=InferenceConfig(device="cpu"), workers=0, fit=fit)


@pytest.fixture(scope="module")
def finished(volume, checkpoint, tmp_path_factory) -> SegmentationStore:
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    list(segment_volume(volume, checkpoint, config(), path))
    return SegmentationStore.open(path)


def contents(path) -> dict[str, bytes]:
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_the_store_has_the_volumes_size_and_the_fit(finished, volume):
    assert finished.shape == volume.shape
    assert finished.affinities.shape == (3, *volume.shape)
    assert finished.config.fit == FIT
    assert finished.settings["signature"]["fit"] == FIT.recorded()


def test_the_affinities_are_those_of_the_fitted_student(finished, volume, checkpoint):
    preprocessing = Preprocessing.of(finished.config.intensity, FIT)
    network = adapt(checkpoint.build(), volume, preprocessing, strength=0.5, n_sections=2)
    predictor = AffinityPredictor(network, InferenceConfig(device="cpu"))
    for made in predictor.predict(volume, preprocessing):
        assert np.array_equal(made.affinities, finished.read_affinities(made.z))


@pytest.mark.parametrize("n_events", [1, 4, 6])
def test_a_fitted_run_abandoned_goes_on_to_the_same_store(
    volume, checkpoint, finished, tmp_path, n_events
):
    run = segment_volume(volume, checkpoint, config(), tmp_path / "run.zarr")
    for _ in range(n_events):
        next(run)
    run.close()
    list(segment_volume(volume, checkpoint, config(), tmp_path / "run.zarr"))
    assert contents(tmp_path / "run.zarr") == contents(finished.path)


def test_repeated_from_the_stores_own_config_the_voxels_are_the_same(
    volume, checkpoint, finished, tmp_path
):
    list(segment_volume(volume, checkpoint, finished.config, tmp_path / "again.zarr"))
    assert contents(tmp_path / "again.zarr") == contents(finished.path)


@pytest.mark.parametrize(
    "other", [FitConfig(), FitConfig(0.4, 2, 0.7, 0.75), FitConfig(0.5, 3, 0.7, 0.75)]
)
def test_another_fit_does_not_go_on_with_the_run(volume, checkpoint, finished, other):
    with pytest.raises(StoreMismatchError, match=r"fit\."):
        list(segment_volume(volume, checkpoint, config(other), finished.path))


def test_without_a_fit_the_signature_is_what_it_always_was(volume, checkpoint, tmp_path):
    list(segment_volume(volume, checkpoint, config(FitConfig()), tmp_path / "run.zarr"))
    store = SegmentationStore.open(tmp_path / "run.zarr")
    assert "fit" not in store.settings["signature"]
    # settings that have no effect are no difference
    unused = FitConfig(sampled_sections=9)
    list(segment_volume(volume, checkpoint, config(unused), tmp_path / "run.zarr"))


def test_a_store_from_before_there_was_a_fit_can_be_read(finished):
    values = finished.config.to_json()
    del values["fit"]
    assert SegmentationConfig.from_json(values).fit == FitConfig()


@pytest.mark.parametrize("values", [{"adapt": 1.5}, {"smooth": -1}, {"rescale": 0}])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(ConfigError, match="must be between"):
        FitConfig(**values)


def test_the_voxel_size_warning_heeds_the_rescaling(volume, checkpoint, tmp_path):
    coarse = EMVolume(volume.data, (30, 2, 2))
    for rescale, n_warnings in ((1.0, 1), (0.25, 0)):
        options = SegmentationOptions(
            inference=InferenceConfig(device="cpu"), workers=0, fit=FitConfig(rescale=rescale)
        )
        path = tmp_path / f"{rescale}.zarr"
        events = segmentation_job(coarse, str(checkpoint.path), path, options)
        messages = [getattr(event, "message", "") for event in events]
        about_size = [message for message in messages if "voxels of this volume" in message]
        assert len(about_size) == n_warnings
        assert all("0.25 would make them alike" in message for message in about_size)


@pytest.mark.parametrize(
    ("pixel", "factor", "expected"),
    [
        (4.0, 1, "binning by 2"),
        (4.0, 2, None),  # 8 nm, as in training
        (8.0, 2, "quick look"),
        (2.0, 2, "Rescaling by 0.5"),  # still too fine
        (30.0, 1, "Rescaling by 3.75"),
    ],
)
def test_the_voxel_size_warning_heeds_the_binning(
    volume, checkpoint, tmp_path, pixel, factor, expected
):
    stack = EMVolume(volume.data, (30, pixel, pixel))
    options = SegmentationOptions(inference=InferenceConfig(device="cpu"), workers=0, bin=factor)
    events = segmentation_job(stack, str(checkpoint.path), tmp_path / "run.zarr", options)
    messages = [getattr(event, "message", "") for event in events]
    about_size = [message for message in messages if "voxels of this volume" in message]
    assert [expected in message for message in about_size] == [True] * (expected is not None)


@pytest.mark.parametrize(
    ("fit", "seen"),
    [
        (FitConfig(smooth=1.0), FitConfig(smooth=0.5)),
        (FitConfig(rescale=0.25), FitConfig(rescale=0.5)),
        (FitConfig(rescale=0.75), FitConfig(rescale=1.0)),  # never larger for being binned
        (FitConfig(rescale=1.5, adapt=0.5), FitConfig(rescale=1.5, adapt=0.5)),
    ],
)
def test_a_fit_means_the_same_for_a_binned_stack(volume, checkpoint, fit, seen):
    assert SegmentationOptions(fit=fit, bin=2).config(volume, checkpoint.metadata).fit == seen


@pytest.mark.parametrize(
    ("agreement", "n_warnings"), [(0.6, 1), (0.85, 0), (0.95, 0)]
)  # 0.85: so small a stack has it by chance
def test_a_student_that_does_not_fit_is_warned_of_once(
    volume, checkpoint, tmp_path, monkeypatch, agreement, n_warnings
):
    monkeypatch.setattr("napari_cad.core.pipeline._JUDGED_FROM_VOXELS", 1)
    monkeypatch.setattr("napari_cad.core.agreement.reversal_agreement", lambda *_: agreement)
    events = list(segment_volume(volume, checkpoint, config(FitConfig()), tmp_path / "run.zarr"))
    about_fit = [e for e in events if isinstance(e, OutOfDomain) and "Upside down" in e.message]
    assert len(about_fit) == n_warnings
    assert all("0.60" in event.message for event in about_fit)
    again = segment_volume(volume, checkpoint, config(FitConfig()), tmp_path / "run.zarr")
    assert not [event for event in again if isinstance(event, OutOfDomain)]


def test_a_volume_of_empty_sections_is_not_judged(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_cad.core.pipeline._JUDGED_FROM_VOXELS", 1)
    empty = EMVolume.from_array(np.zeros((4, 32, 32), np.uint8))
    events = list(segment_volume(empty, checkpoint, config(FitConfig()), tmp_path / "run.zarr"))
    assert not [e for e in events if isinstance(e, OutOfDomain) and "Upside down" in e.message]
