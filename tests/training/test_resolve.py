from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny import make_config, make_volume

from napari_cad.core.checkpoint import CheckpointMetadata, load_checkpoint, save_checkpoint
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.network import StudentNetwork
from napari_cad.training.config import (
    DataConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
    ValidationConfig,
    VolumeConfig,
)
from napari_cad.training.loop import resume, train
from napari_cad.training.resolve import resolve_config
from napari_cad.training.run_folder import RunFolder, read_curve

INVERTED = IntensityMapping(invert=True)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "start.safetensors"
    metadata = CheckpointMetadata(
        name="old", width=2, embedding_dim=3, training_data="a stack", licence="ODC-By",
        threshold=0.7, intensity=INVERTED,
    )  # fmt: skip
    save_checkpoint(path, StudentNetwork(2, 3), metadata)
    return str(path)


def volumes(**settings):
    return DataConfig(volumes=(VolumeConfig("em.tif", "truth.tif", **settings),))


def test_without_a_checkpoint_only_places_are_filled_in():
    config = TrainingConfig(data=volumes())
    assert resolve_config(config) == config
    assert config.validation.fixed_threshold == 0.5


def test_what_goes_on_from_a_checkpoint_keeps_what_that_says(start):
    config = TrainingConfig(student=StudentConfig(checkpoint=start), data=volumes())
    made = resolve_config(config)
    assert made.licence == "ODC-By"
    assert made.training_data == "a stack; then fine-tuned on em.tif"
    assert made.validation.threshold == 0.7
    assert made.data.volumes[0].intensity == INVERTED
    assert "fine-tuned on layer" in resolve_config(config, ["layer"]).training_data
    assert resolve_config(made) == made


def test_what_is_set_wins(start):
    given = IntensityMapping("limits", 3, 9)
    config = TrainingConfig(
        student=StudentConfig(checkpoint=start),
        data=volumes(intensity=given),
        licence="mine",
        training_data="all",
        validation=ValidationConfig(threshold=0.2),
    )
    assert resolve_config(config) == config


def test_files_are_named_by_their_whole_path_and_names_stay(tmp_path, monkeypatch, start):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "em.tif").touch()
    (tmp_path / "teacher.safetensors").touch()
    config = TrainingConfig(
        student=StudentConfig(checkpoint="start.safetensors"),
        teacher=TeacherConfig(checkpoint="teacher.safetensors"),
        data=DataConfig(volumes=(VolumeConfig("em.tif", "s3://bucket/labels.zarr"),)),
    )
    made = resolve_config(config)
    assert made.student.checkpoint == start
    assert made.teacher.checkpoint == str(tmp_path / "teacher.safetensors")
    assert made.data.volumes[0].image == str(tmp_path / "em.tif")
    assert made.data.volumes[0].labels == "s3://bucket/labels.zarr"
    named = TrainingConfig(student=StudentConfig(checkpoint="default"))
    assert resolve_config(named).student.checkpoint == "default"


def test_a_run_is_gone_on_with_from_anywhere(tmp_path, monkeypatch, start):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    volume = make_volume()
    np.save(here / "image.npy", volume.image.data)
    np.save(here / "labels.npy", volume.labels.data)
    config = make_config(teacher=False, steps=2, student=StudentConfig(checkpoint=start))
    data = dataclasses.replace(config.data, volumes=(VolumeConfig("image.npy", "labels.npy"),))
    monkeypatch.chdir(here)
    list(train(dataclasses.replace(config, data=data), tmp_path / "run"))
    monkeypatch.chdir(elsewhere)
    list(resume(tmp_path / "run", steps=4))
    assert read_curve(tmp_path / "run" / "curve.jsonl")[-1]["step"] == 4
    assert RunFolder(tmp_path / "run").read_config().data.volumes[0].intensity == INVERTED
    made = load_checkpoint(tmp_path / "run" / "last.safetensors").metadata
    assert (made.licence, made.threshold, made.intensity) == ("ODC-By", 0.7, INVERTED)
    assert made.training_data == "a stack; then fine-tuned on image.npy"
