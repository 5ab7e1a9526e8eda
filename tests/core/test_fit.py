from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_cad.core import fit as fit_module
from napari_cad.core.adaptation import adapt
from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import FitConfig, InferenceConfig
from napari_cad.core.errors import ConfigError
from napari_cad.core.fit import FitGrid, FitSuggested, Fitter, SettingScored, suggest
from napari_cad.core.inference import AffinityPredictor
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.network import StudentNetwork
from napari_cad.core.readers import open_volume
from napari_cad.core.volume import EMVolume

CPU = InferenceConfig(device="cpu")
TO_UNIT = IntensityMapping("limits", 0, 255)


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
def volume() -> EMVolume:
    array = np.random.default_rng(0).integers(0, 256, (6, 64, 80), np.uint8)
    return EMVolume.from_array(array, voxel_size=(30, 4, 4))


def test_the_grid_has_every_combination_and_the_checkpoints_voxel_size(checkpoint, volume):
    settings = FitGrid().settings(volume, "tiny", checkpoint.metadata, TO_UNIT)
    assert len(set(settings)) == len(settings) == 3 * 2 * 2
    assert {s.fit.rescale for s in settings} == {1.0, 0.5}
    assert settings[0].fit == FitConfig()
    assert {s.intensity for s in settings} == {TO_UNIT}


@pytest.mark.parametrize("size", [None, (30, 8, 8), (30, 7.5, 7.5), (30, 0.4, 0.4)])
def test_the_grid_does_not_rescale_without_need_or_out_of_reach(checkpoint, volume, size):
    settings = FitGrid().settings(
        replace(volume, voxel_size=size), "tiny", checkpoint.metadata, TO_UNIT
    )
    assert {s.fit.rescale for s in settings} == {1.0}


def test_both_polarities_double_the_grid(checkpoint, volume):
    one = FitGrid().settings(volume, "tiny", checkpoint.metadata, TO_UNIT)
    two = FitGrid(both_polarities=True).settings(volume, "tiny", checkpoint.metadata, TO_UNIT)
    assert len(two) == 2 * len(one)
    assert two[: len(one)] == one
    assert all(s.intensity.invert for s in two[len(one) :])


def test_an_empty_grid_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        FitGrid(adapt=())


def test_suggest_ranks_what_it_has_tried(checkpoint, volume):
    grid = FitGrid(adapt=(0.0, 1.0), smooth=(0.0, 1.0), rescale=(1.0,), sampled_sections=2)
    path = str(checkpoint.path)
    events = list(suggest(volume, [path], grid=grid, inference=CPU, n_crops=1, crop_size=48))
    scored, last = events[:-1], events[-1]
    assert isinstance(last, FitSuggested)
    assert all(isinstance(event, SettingScored) for event in scored)
    assert [(e.done, e.total) for e in scored] == [(i, 4) for i in range(1, 5)]
    agreements = [result.agreement for result in last.ranking]
    assert agreements == sorted(agreements, reverse=True)
    assert last.best is last.ranking[0]
    assert {result.setting for result in last.ranking} == {e.result.setting for e in scored}
    assert pickle.loads(pickle.dumps(last)) == last  # noqa: S301
    again = list(suggest(volume, [path], grid=grid, inference=CPU, n_crops=1, crop_size=48))[-1]
    assert [r.agreement for r in again.ranking] == agreements


def test_inverting_keeps_the_percentiles(checkpoint, volume, monkeypatch):
    """Of data that is not uint8; as in a run."""
    monkeypatch.setattr(fit_module, "reversal_agreement", lambda *_: 0.5)
    wide = EMVolume.from_array(volume.data[:].astype(np.uint16) * 16)
    path = str(checkpoint.path)
    plain, inverted = (
        list(suggest(wide, [path], invert=invert, inference=CPU, n_crops=1))[-1].best.setting
        for invert in (False, True)
    )
    assert plain.intensity.high < 4096
    assert inverted.intensity == replace(plain.intensity, invert=True)


def test_of_equals_the_student_as_it_is_is_suggested(checkpoint, volume, monkeypatch):
    monkeypatch.setattr(fit_module, "reversal_agreement", lambda *_: 0.5)
    last = list(suggest(volume, [str(checkpoint.path)], inference=CPU))[-1]
    assert last.best.setting.fit == FitConfig()


def test_no_checkpoint_is_refused(volume):
    with pytest.raises(ConfigError, match="at least one checkpoint"):
        next(suggest(volume, []))


def test_a_fitter_measures_once_for_all_strengths(checkpoint, volume, monkeypatch):
    import napari_cad.core.adaptation as adaptation_module

    calls = []
    measure = adaptation_module.measured_so_far
    monkeypatch.setattr(
        adaptation_module,
        "measured_so_far",
        lambda *args, **kwargs: calls.append(args) or measure(*args, **kwargs),
    )
    fitter = Fitter(volume, checkpoint, CPU)
    for strength in (0.0, 0.3, 1.0):
        fitter.predictor(TO_UNIT, FitConfig(adapt=strength, sampled_sections=2))
    assert len(calls) == 1
    fitter.predictor(TO_UNIT, FitConfig(adapt=0.3, sampled_sections=2, smooth=1.0))
    fitter.predictor(replace(TO_UNIT, invert=True), FitConfig(adapt=0.3, sampled_sections=2))
    assert len(calls) == 3


def test_a_fitter_gives_what_a_run_gives(checkpoint, volume):
    chosen = FitConfig(adapt=0.6, sampled_sections=3, smooth=0.5, rescale=0.5)
    predictor, preprocessing = Fitter(volume, checkpoint, CPU).predictor(TO_UNIT, chosen)
    network = adapt(checkpoint.build(), volume, preprocessing, strength=0.6, n_sections=3)
    expected = AffinityPredictor(network, CPU).predict(volume, preprocessing, [2])
    made = predictor.predict(volume, preprocessing, [2])
    assert np.array_equal(next(made).affinities, next(expected).affinities)


def test_the_score_tells_a_fitting_student_from_one_that_does_not_fit(shared_dir):
    """AC34 on its own stack: better than another student, as they are (VOI 0.4 against 4.6)."""
    raw = open_volume(shared_dir / "data" / "snemi3d_ac4" / "raw").crop((0, 80))
    folder = shared_dir / "checkpoints"
    grid = FitGrid(adapt=(0.0,), smooth=(0.0,))
    names = [str(folder / f"{name}.ckpt") for name in ("CremiA", "AC34")]
    last = list(suggest(raw, names, grid=grid, inference=CPU, n_crops=1, crop_size=192))[-1]
    assert last.best.setting.checkpoint == names[1]
    assert last.best.agreement > 0.85
    assert last.ranking[1].agreement < 0.75
