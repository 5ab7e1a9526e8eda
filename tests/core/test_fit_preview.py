from __future__ import annotations

import queue
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_cad.core import fit as fit_module
from napari_cad.core.checkpoint import save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import FitConfig, FragmentConfig, InferenceConfig
from napari_cad.core.fit import Fitter
from napari_cad.core.fit_job import PreviewFailed, PreviewMade, WantedPreview, serve_previews
from napari_cad.core.fit_preview import PreviewMaker
from napari_cad.core.fragments import section_fragments
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.network import StudentNetwork
from napari_cad.core.registry import resolve_checkpoint
from napari_cad.core.volume import EMVolume

CPU = InferenceConfig(device="cpu")
TO_UNIT = IntensityMapping("limits", 0, 255)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=4, training_data="none", licence="none"
    )
    network = StudentNetwork(width=2, embedding_dim=4).eval()
    save_checkpoint(path, network, metadata)
    return str(path)


@pytest.fixture(scope="module")
def volume():
    return EMVolume.from_array(np.random.default_rng(0).integers(0, 256, (6, 80, 100), np.uint8))


@pytest.fixture
def wanted(checkpoint):
    return WantedPreview(1, 3, (8, 72), (16, 90), checkpoint, None, FitConfig())


@pytest.fixture
def small(monkeypatch):
    """First looks at windows that are smaller than the sections."""
    monkeypatch.setattr(fit_module, "_ROUGH_WINDOW", 32)


def as_a_run(volume, wanted):
    """What the predictor of a run gives for the crop alone, statistics from the whole stack."""
    fitter = Fitter(volume, resolve_checkpoint(wanted.checkpoint), CPU)
    predictor, preprocessing = fitter.predictor(wanted.intensity or TO_UNIT, wanted.fit)
    crop = volume.crop((max(wanted.z - 1, 0), wanted.z + 1), wanted.rows, wanted.columns)
    (made,) = predictor.predict(crop, preprocessing, [crop.n_sections - 1])
    return made.affinities


@pytest.mark.parametrize(
    ("z", "fit"),
    [(3, FitConfig()), (0, FitConfig()), (3, FitConfig(smooth=0.7, rescale=0.8))],
)
def test_a_preview_is_what_a_run_gives(volume, wanted, z, fit):
    wanted = replace(wanted, z=z, fit=fit)
    made = PreviewMaker(volume, CPU).make(wanted)
    expected = as_a_run(volume, wanted)
    assert not made.rough
    assert made.affinities.shape == (3, 64, 74)
    assert np.abs(made.affinities.astype(int) - expected).max() <= 1  # rounding
    np.testing.assert_array_equal(
        made.fragments, section_fragments(made.affinities, FragmentConfig())
    )
    assert made.rgb.shape == (64, 74, 3)
    assert np.ptp(made.rgb, axis=(0, 1)).min() > 100


def test_adapted_it_is_rough_until_it_has_been_measured(volume, wanted, small):
    wanted = replace(wanted, fit=FitConfig(adapt=1.0, sampled_sections=3))
    maker = PreviewMaker(volume, CPU)
    rough = maker.make(wanted)
    assert rough.rough
    steps = 0
    while not maker.measure(wanted):
        steps += 1
    assert steps == 3
    exact = maker.make(wanted)
    assert not exact.rough
    assert not np.array_equal(exact.affinities, rough.affinities)
    assert np.abs(exact.affinities.astype(int) - as_a_run(volume, wanted)).max() <= 1
    other = replace(wanted, fit=replace(wanted.fit, adapt=0.5))  # shares what was measured
    assert not maker.make(other).rough


def test_the_colours_of_a_setting_do_not_depend_on_the_section(volume, wanted):
    maker, alone = PreviewMaker(volume, CPU), PreviewMaker(volume, CPU)
    maker.make(replace(wanted, z=5))
    shared = maker.make(wanted).rgb
    assert not np.array_equal(shared, alone.make(wanted).rgb)
    np.testing.assert_array_equal(shared, maker.make(wanted).rgb)


def served(volume, *wanted):
    """What the server answers to requests that have all come before it began."""
    requests = queue.SimpleQueue()
    for one in wanted:
        requests.put(one)
    answers = serve_previews(volume, CPU, requests)
    return requests, answers


def test_only_the_last_request_is_answered_and_the_exact_answer_follows(volume, wanted, small):
    fit = FitConfig(adapt=1.0, sampled_sections=2)
    requests, answers = served(volume, wanted, replace(wanted, number=2, fit=fit))
    made = [next(answers), next(answers)]
    assert [(event.wanted.number, event.rough) for event in made] == [(2, True), (2, False)]
    requests.put(None)
    assert list(answers) == []


def test_a_new_request_goes_before_the_exact_answer(volume, wanted, small):
    fit = FitConfig(adapt=1.0, sampled_sections=2)
    requests, answers = served(volume, replace(wanted, fit=fit))
    assert next(answers).rough
    requests.put(replace(wanted, number=2))
    answer = next(answers)
    assert isinstance(answer, PreviewMade)
    assert answer.wanted.number == 2
    requests.put(None)
    assert list(answers) == []


def test_a_setting_that_fails_is_said_and_the_next_one_is_shown(volume, wanted):
    requests, answers = served(volume, replace(wanted, checkpoint="nothing.safetensors"))
    failed = next(answers)
    assert isinstance(failed, PreviewFailed)
    assert "nothing.safetensors" in failed.message
    requests.put(wanted)
    assert isinstance(next(answers), PreviewMade)
