from __future__ import annotations

import dataclasses
import json

import pytest

from napari_cad.core.errors import ConfigError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.training import config as module
from napari_cad.training.config import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    OptimiserConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
    ValidationConfig,
    VolumeConfig,
)

CLASSES = [
    AugmentConfig, DataConfig, LossConfig, OptimiserConfig, StudentConfig, TeacherConfig,
    ValidationConfig, TrainingConfig,
]  # fmt: skip

FULL = TrainingConfig(
    data=DataConfig(
        volumes=(
            VolumeConfig(
                "a.h5", "b.h5", image_dataset="raw", sections=(0, 70), labelled_sections=(1, 3),
                truth="sparse", intensity=IntensityMapping("limits", 3, 9), voxel_size=(30, 6, 6),
            ),
            VolumeConfig("c.tif", "d.tif", weight=0.5),
        ),
        validation=(VolumeConfig("a.h5", "b.h5", sections=(70, 80)),),
    ),
    teacher=TeacherConfig(widths=(8, 12, 16)),
)  # fmt: skip


@pytest.mark.parametrize("config", [TrainingConfig(), TrainingConfig.published(), FULL])
def test_json_there_and_back(config):
    text = json.dumps(config.to_json())
    again = TrainingConfig.from_json(json.loads(text))
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize("cls", [*CLASSES, VolumeConfig])
def test_every_setting_says_what_it_does(cls):
    for f in dataclasses.fields(cls):
        assert f.metadata.get("help", "").endswith(".") or "parts" in f.metadata, f.name


def test_the_published_settings_are_those_of_the_publication():
    config = TrainingConfig.published(steps=5)
    assert config.steps == 5
    assert config.data.patch == (18, 160, 160)
    assert config.loss.published_fgi
    never = ("misalign", "missing", "defocus", "noise", "zoom", "stretch")
    assert not any(getattr(config.augment, name) for name in never)
    assert config.optimiser.learning_rate_at(0, 10) == config.optimiser.learning_rate_at(9, 10)
    assert config.optimiser.learning_rate_at(3, 10) == 1e-4


def test_toml_with_paths_from_its_folder(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(
        """
        steps = 12
        [data]
        patch = [3, 32, 64]
        [[data.volumes]]
        image = "em.tif"
        labels = "/data/truth.tif"
        sections = [0, 8]
        intensity = {method = "percentiles", percentiles = [1, 99]}
        [[data.validation]]
        image = "em.tif"
        labels = "truth.tif"
        sections = [8, 9]
        [teacher]
        checkpoint = "teacher.safetensors"
        frozen = true
        [loss]
        cross = 0.5
        """
    )
    config = TrainingConfig.from_toml(path)
    assert config.steps == 12
    assert config.data.patch == (3, 32, 64)
    (volume,) = config.data.volumes
    assert volume.image == str(tmp_path / "em.tif")
    assert volume.labels == "/data/truth.tif"
    assert volume.sections == (0, 8)
    assert volume.intensity.percentiles == (1, 99)
    assert config.data.validation[0].labels == str(tmp_path / "truth.tif")
    assert config.teacher is not None
    assert config.teacher.checkpoint == str(tmp_path / "teacher.safetensors")
    assert config.loss.cross == 0.5
    assert config.student.checkpoint is None


def test_one_table_where_a_list_of_them_belongs_is_explained():
    volume = {"image": "a.tif", "labels": "b.tif"}
    with pytest.raises(ConfigError, match=r"write two brackets .* \[\[data.volumes\]\]"):
        TrainingConfig.from_json({"data": {"volumes": volume}})


@pytest.mark.parametrize(
    ("learned", "kept", "both"),
    [
        ({}, {"sections": (70, 80)}, "70 to 79"),
        ({"sections": (0, 75)}, {"sections": (70, 80)}, "70 to 74"),
        ({"sections": (0, 75)}, {}, "0 to 74"),
        ({}, {}, "from 0 on"),
        ({"sections": (0, 70)}, {"sections": (70, 80)}, None),
        ({"labelled_sections": (1, 2)}, {"labelled_sections": (2, 3)}, "2"),
        ({"labelled_sections": (1, 2)}, {"labelled_sections": (3,)}, None),
        ({"sections": (5, 20), "labelled_sections": (1, 2)}, {"sections": (6, 9)}, "6, 7"),
        ({"sections": (5, 20), "labelled_sections": (1, 2)}, {"sections": (8, 9)}, None),
        ({"image_dataset": "raw"}, {"image_dataset": "other"}, None),
        ({"weight": 0.0}, {}, None),
    ],
)
def test_nothing_is_validated_on_that_is_learned_from(learned, kept, both):
    volumes = (VolumeConfig("a.h5", "b.h5", **learned),)
    validation = (VolumeConfig("a.h5", "c.h5", **kept),)
    if both is None:
        DataConfig(volumes=volumes, validation=validation)
        return
    with pytest.raises(ConfigError, match=f"sections {both} of a.h5 are both"):
        DataConfig(volumes=volumes, validation=validation)


def test_a_checkpoint_is_a_name_or_a_file(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text('[student]\ncheckpoint = "default"\n')
    assert TrainingConfig.from_toml(path).student.checkpoint == "default"
    (tmp_path / "default").write_text("a file of that name")
    assert TrainingConfig.from_toml(path).student.checkpoint == str(tmp_path / "default")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = ", "cannot be read as a TOML file"),
        ("stepz = 3", "no setting stepz"),
        ("[data]\npatches = 3", "no setting patches"),
        ("steps = 0", "steps must be between 1"),
        ('steps = "many"', "a value is no number"),
        ("data = 3", "DataConfig: expected a table"),
        ("[[data.volumes]]\nimage = 'a'", "labels"),
        ("[steps]\na = 1", "steps is one value, got a table"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, message):
    path = tmp_path / "train.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        TrainingConfig.from_toml(path)
    assert "train.toml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.toml cannot be read"):
        TrainingConfig.from_toml(tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (DataConfig, {"patch": (1, 32, 32)}, "at least 2 sections"),
        (DataConfig, {"patch": (2, 24, 32)}, "multiples of 16"),
        (DataConfig, {"patch": (2, 32)}, "multiples of 16"),
        (DataConfig, {"patch": (2, 16, 16), "batch": 1}, "batch norm would see one value"),
        (DataConfig, {"synthetic_shape": (0, 3, 3)}, "synthetic_shape"),
        (DataConfig, {"balanced": 1.5}, "balanced"),
        (VolumeConfig, {"image": "a", "labels": "b", "sections": (5, 5)}, "sections"),
        (VolumeConfig, {"image": "a", "labels": "b", "labelled_sections": ()}, "one or more"),
        (VolumeConfig, {"image": "a", "labels": "b", "truth": "no"}, "dense, sparse"),
        (TeacherConfig, {"frozen": True}, "give it a checkpoint"),
        (TeacherConfig, {"widths": ()}, "widths"),
        (LossConfig, {"balance": "no"}, "balance must be one of"),
        (OptimiserConfig, {"name": "sgd"}, "name must be one of"),
        (TrainingConfig, {"device": "tpu"}, "device must be one of"),
        (TrainingConfig, {"loss": LossConfig(slice=0.0)}, "the student learns nothing"),
        (TrainingConfig, {"loss": LossConfig(retention=0.1)}, "give student.checkpoint"),
        (
            TrainingConfig,
            {"loss": LossConfig(slice=0.0, start_distillation=5), "teacher": TeacherConfig()},
            "from step 0 on",
        ),
        (
            TrainingConfig,
            {"data": DataConfig(patch=(3, 32, 48)), "teacher": TeacherConfig(widths=(1,) * 6)},
            "multiples of 32",
        ),
        (
            TrainingConfig,
            {
                "data": DataConfig(patch=(3, 32, 16)),
                "teacher": TeacherConfig(),
                "loss": LossConfig(published_fgi=True),
            },
            "must be wider",
        ),
    ],
)
def test_impossible_settings_are_refused(cls, settings, message):
    with pytest.raises(ConfigError, match=message):
        cls(**settings)


def test_the_learning_rate_rises_stays_and_falls():
    optimiser = OptimiserConfig(learning_rate=1.0, warmup=4, decay=0.5, schedule="linear")
    rates = [optimiser.learning_rate_at(step, 20) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:11] == [1.0] * 7
    assert rates[11:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    cosine = dataclasses.replace(optimiser, schedule="cosine")
    assert cosine.learning_rate_at(15, 20) == pytest.approx(0.5)
    constant = dataclasses.replace(optimiser, schedule="constant")
    assert constant.learning_rate_at(19, 20) == 1.0


def test_everything_is_offered_from_one_place():
    assert {cls.__name__ for cls in [*CLASSES, VolumeConfig]} == set(module.__all__)
