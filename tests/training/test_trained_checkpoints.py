"""What a training saves, where it is used; and the page that tells about training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_cad.core.config import InferenceConfig
from napari_cad.core.seam_job import ComparedMap, SeamsMeasured, WindowConfig, compare_seams
from napari_cad.core.segmentation_job import SegmentationOptions, segmentation_job
from napari_cad.core.store import SegmentationStore
from napari_cad.training.loop import train
from napari_cad.training.validation import score_curve, validate

sys.path.insert(0, str(Path(__file__).parent))
from tiny import make_config, make_volume

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("runs") / "run"
    list(train(make_config(steps=2), run, volumes=[make_volume()]))
    torch.set_num_threads(before)
    return run


def test_student_and_teacher_are_compared_by_the_seams_widgets_job(run):
    volume = make_volume().image
    options = SegmentationOptions(inference=InferenceConfig(device="cpu"))
    windows = WindowConfig(depth=3, size=16, stride=8, blending="gaussian", region=32)
    files = (str(run / "last.safetensors"), str(run / "teacher.safetensors"))
    events = list(compare_seams(volume, *files, options, windows, z=2))
    maps = {event.source for event in events if isinstance(event, ComparedMap)}
    assert maps == {"student", "gaussian"}
    measured = [event for event in events if isinstance(event, SeamsMeasured)]
    assert np.isfinite(measured[0].teacher.ratio).all()


def test_a_trained_student_segments(run, tmp_path):
    options = SegmentationOptions(inference=InferenceConfig(device="cpu"), workers=1)
    checkpoint = str(run / "last.safetensors")
    list(segmentation_job(make_volume().image, checkpoint, tmp_path / "run.zarr", options))
    assert SegmentationStore.open(tmp_path / "run.zarr").n_fragments > 0


def test_a_score_curve_is_that_of_single_validations(run):
    from napari_cad.core.checkpoint import load_checkpoint

    student, volume = load_checkpoint(run / "last.safetensors").build(), make_volume(1)
    cpu = InferenceConfig(device="cpu")
    curve = score_curve(student, volume, (0.2, 0.7), size=32, inference=cpu)
    assert list(curve.scores) == [0.2, 0.7]
    for threshold, scores in curve.scores.items():
        one = validate(student, [volume], size=32, threshold=threshold, inference=cpu)
        assert (one.loss, one.scores) == (curve.loss, scores)


def test_the_reference_of_the_settings_is_that_of_the_code():
    script = ROOT / "scripts" / "settings_reference.py"
    answer = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


def test_what_proofreading_saves_is_learned_from(run, tmp_path):
    from napari_cad.core.volume import EMVolume
    from napari_cad.proofreading.training_data import UNLABELLED, write_training_data
    from napari_cad.training.fine_tune import fine_tune, read_truth
    from napari_cad.training.fine_tune_config import Compared, FineTuneConfig

    volume = make_volume()
    labels = np.where(volume.labels.data > 12, volume.labels.data, UNLABELLED).astype(np.uint32)
    folder = tmp_path / "saved"
    list(write_training_data(folder, volume.image, EMVolume(labels), sections=[2, 3]))
    truth = read_truth(folder)
    assert truth.image.shape == truth.labels.shape == (4, 48, 48)
    assert truth.image.voxel_size == (30, 6, 6)
    assert (truth.complete, truth.unlabelled, truth.labelled) == (True, UNLABELLED, (1, 2))
    settings = FineTuneConfig(steps=1, patch=32, batch=2)
    student = str(run / "last.safetensors")
    events = list(fine_tune(str(folder), student, str(tmp_path / "run"), settings, device="cpu"))
    assert [e.step for e in events if isinstance(e, Compared)] == [0, 1]
