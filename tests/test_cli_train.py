"""Training from the command line and from Python."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import napari_cad as package
from napari_cad import cli
from napari_cad.core.checkpoint import load_checkpoint
from napari_cad.training.events import StepsDone
from napari_cad.training.learner import Learner
from napari_cad.training.run_folder import RunFolder, read_curve
from napari_cad.training.step import DistillationStep

sys.path.insert(0, str(Path(__file__).parent / "training"))
from tiny import make_config, make_volume

TINY = """
name = "tiny"
steps = 4
log_every = 1
save_every = 2
device = "cpu"
[data]
patch = [2, 16, 32]
margin = 4
batch = 2
[[data.volumes]]
image = "image.npy"
labels = "labels.npy"
[student]
width = 2
embedding_dim = 3
[validation]
every = 2
size = 32
"""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An image, its labels, and the settings of a run that takes a second."""
    folder = tmp_path_factory.mktemp("train")
    volume = make_volume()
    np.save(folder / "image.npy", volume.image.data)
    np.save(folder / "labels.npy", volume.labels.data)
    (folder / "train.toml").write_text(TINY)
    return folder


@pytest.fixture
def napari_cad(monkeypatch, capsys):
    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["napari-cad", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, " ".join(output.err.split())

    return call


def test_train_from_a_file(napari_cad, files, tmp_path):
    code, out, err = napari_cad("train", "--config", files / "train.toml", "-o", tmp_path / "run")
    assert code == 0
    assert f"--checkpoint {tmp_path / 'run' / 'last.safetensors'}" in out
    assert "4/4" in err
    assert "0:00 left" in err
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").metadata.name == "tiny"


def test_options_win_over_the_file(napari_cad, files, tmp_path):
    image, labels = files / "image.npy", files / "labels.npy"
    code, _, err = napari_cad(
        "train", "--config", files / "train.toml", "-o", tmp_path / "run", "--image", image,
        "--labels", labels, "--sections", "0:4", "--validation-sections", "4:6", "--sparse",
        "--steps", "2", "--teacher", "new", "--set", "teacher.widths=[2, 3]",
        "--set", "optimiser.learning_rate=0.01", "--set", "licence=mine",
    )  # fmt: skip
    assert code == 0
    assert "step 2: validation loss" in err
    assert "the best so far" in err
    config = RunFolder(tmp_path / "run").read_config()
    assert config.steps == 2
    assert config.licence == "mine"
    assert config.optimiser.learning_rate == 0.01
    assert config.teacher is not None
    assert config.teacher.widths == (2, 3)
    volume, validation = config.data.volumes[0], config.data.validation[0]
    assert (volume.image, volume.sections, volume.truth) == (str(image), (0, 4), "sparse")
    assert validation.sections == (4, 6)
    assert config.data.patch == (2, 16, 32)  # of the file


def test_folders_of_training_data(napari_cad, files, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "volume.toml").write_text(
            f"image = '{files / 'image.npy'}'\nlabels = '{files / 'labels.npy'}'\n"
            "labelled_sections = [1, 2]\n"
        )
    code, _, _ = napari_cad(
        "train", "--config", files / "train.toml", "-o", tmp_path / "run", "--steps", "1",
        "--folder", tmp_path / "a", "--folder", tmp_path / "b",
    )  # fmt: skip
    assert code == 0
    volumes = RunFolder(tmp_path / "run").read_config().data.volumes
    assert [volume.labelled_sections for volume in volumes] == [(1, 2), (1, 2)]
    code, _, err = napari_cad("train", "--folder", tmp_path)
    assert code == 1
    assert "is no folder of training data" in err


def test_distil_from_a_given_teacher_and_fine_tune(napari_cad, files, tmp_path):
    base = ("train", "--config", files / "train.toml", "--steps", "1")
    assert napari_cad(*base, "-o", tmp_path / "a", "--teacher", "new",
                      "--set", "teacher.widths=[2, 3]")[0] == 0  # fmt: skip
    teacher, student = tmp_path / "a" / "teacher.safetensors", tmp_path / "a" / "last.safetensors"
    code, out, _ = napari_cad("info", teacher, "--json")
    assert (code, json.loads(out)["kind"]) == (0, "teacher")
    code, out, _ = napari_cad(
        *base, "-o", tmp_path / "b", "--teacher", teacher, "--frozen", "-c", student, "--json"
    )
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == [
        "TrainingStarted", "StepsDone", "CheckpointSaved", "TrainingFinished",
    ]  # fmt: skip
    assert set(events[1]["losses"]) == {"loss", "slice", "cross", "interaction"}
    assert not (tmp_path / "b" / "teacher.safetensors").exists()


def test_ctrl_c_stops_after_a_step_and_the_run_goes_on(napari_cad, files, tmp_path, monkeypatch):
    config, whole, cut = files / "train.toml", tmp_path / "whole", tmp_path / "cut"
    assert napari_cad("train", "--config", config, "-o", whole)[0] == 0
    real = Learner.step

    def interrupted(self, module, image, labels, number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, module, image, labels, number)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Learner, "step", interrupted)
    code, _, err = napari_cad("train", "--config", config, "-o", cut)
    assert signal.getsignal(signal.SIGINT) is before
    assert code == 130
    assert f"Stopped at step 3. Go on: napari-cad train --resume {cut}" in err
    assert RunFolder(cut).load_state()["step"] == 3
    monkeypatch.setattr(Learner, "step", real)
    code, out, _ = napari_cad("info", cut)
    assert code == 0
    assert out.splitlines()[-1].split(maxsplit=2)[2] == f"napari-cad train --resume {cut}"
    assert napari_cad("train", "--resume", cut)[0] == 0
    points = [[p["loss"] for p in read_curve(run / "curve.jsonl")] for run in (whole, cut)]
    assert points[0] == points[1]


def test_a_second_ctrl_c_stops_at_once(napari_cad, files, tmp_path, monkeypatch):
    def interrupted(self, module, image, labels, number):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the step went on")

    monkeypatch.setattr(Learner, "step", interrupted)
    code, _, _ = napari_cad("train", "--config", files / "train.toml", "-o", tmp_path / "run")
    assert code == 130


def test_minutes_end_a_run_that_can_go_on(napari_cad, files, tmp_path):
    run = tmp_path / "run"
    code, _, err = napari_cad(
        "train", "--config", files / "train.toml", "-o", run, "--minutes", "0"
    )
    assert code == 0
    assert "Stopped at step 0. Go on:" in err
    assert napari_cad("train", "--resume", run, "--steps", "1")[0] == 0
    assert RunFolder(run).read_config().steps == 1


def test_info_of_a_run(napari_cad, files, tmp_path):
    run = tmp_path / "run"
    options = ("--image", files / "image.npy", "--labels", files / "labels.npy",
               "--sections", "0:4", "--validation-sections", "4:6")  # fmt: skip
    napari_cad("train", "--config", files / "train.toml", "-o", run, *options)
    code, out, _ = napari_cad("info", run, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["kind"] == "training run"
    assert (facts["steps_done"], facts["steps"], facts["validations"]) == (4, 4, 2)
    assert facts["checkpoint"] == str(run / "best.safetensors")
    assert facts["best_step"] in (2, 4)
    assert facts["versions"]["napari-cad sources"]
    assert facts["go_on"] is None


def test_a_resumed_run_notes_another_code(napari_cad, files, tmp_path):
    run = tmp_path / "run"
    napari_cad("train", "--config", files / "train.toml", "-o", run, "--minutes", "0")
    facts = json.loads((run / "run.json").read_text())
    facts["versions"]["napari-cad"] = "0.0.1"
    (run / "run.json").write_text(json.dumps(facts))
    assert napari_cad("train", "--resume", run)[0] == 0
    assert napari_cad("train", "--resume", run)[0] == 0
    noted = RunFolder(run).read_facts()
    assert noted["versions"]["napari-cad"] == "0.0.1"
    assert [one["step"] for one in noted["resumed"]] == [0]


# -------------------------------------------------------------------------------- what is refused


def labels_like(files, change):
    labels = np.load(files / "labels.npy")
    return change(labels)


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        (lambda a: a[:, :-1], (), r"labels must have the shape (6, 48, 48) of"),
        (lambda a: 0 * a, (), "none of the 6 sections has a positive label"),
        (
            lambda a: np.arange(1, a.size + 1, dtype=np.uint32).reshape(a.shape),
            (),
            "no two neighbouring voxels have the same label",
        ),
        (lambda a: a, ("--set", "data.patch=[2,64,64]"), "make data.patch smaller"),
        (lambda a: a.astype(np.float32), (), "labels are integers, got float32"),
    ],
)
def test_data_that_cannot_be_learned_from(napari_cad, files, tmp_path, change, options, expected):
    np.save(tmp_path / "labels.npy", labels_like(files, change))
    code, _, err = napari_cad(
        "train", "--config", files / "train.toml", "-o", tmp_path / "run", "--image",
        files / "image.npy", "--labels", tmp_path / "labels.npy", *options,
    )  # fmt: skip
    assert code == 1
    assert err.startswith("error: ")
    assert expected in err
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number(napari_cad, files, tmp_path, monkeypatch):
    real = Learner.step

    def poisoned(self, module, image, labels, number):
        return real(self, module, image * (float("nan") if number == 3 else 1), labels, number)

    monkeypatch.setattr(Learner, "step", poisoned)
    code, _, err = napari_cad("train", "--config", files / "train.toml", "-o", tmp_path / "run")
    assert code == 1
    assert "training diverged at step 4: loss nan" in err
    assert "the last good weights, those of step 2 in" in err
    weights = load_checkpoint(tmp_path / "run" / "last.safetensors").state_dict
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_too_little_memory_names_the_setting_to_lower(napari_cad, files, tmp_path, monkeypatch):
    def full(self, *_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(DistillationStep, "forward", full)
    code, _, err = napari_cad("train", "--config", files / "train.toml", "-o", tmp_path / "run")
    assert code == 1
    assert "lower data.batch, then data.patch" in err


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        (("--resume", "RUN", "--set", "seed=1"), 2, "a run goes on with the settings it has"),
        (("--resume", "RUN"), 1, "is no folder of a training run"),
        (("--image", "a.tif"), 2, "an image needs its labels"),
        (("--sections", "0:4"), 2, "they belong to --image"),
        (("--set", "seed"), 2, "expected KEY=VALUE"),
        (("--set", "optimizer.eps=1"), 1, "TrainingConfig has no setting optimizer"),
        (("--frozen",), 1, "a frozen teacher never learns"),
        (("--config", "none.toml"), 1, "cannot be read as a TOML file"),
        ((), 1, "nothing to learn from"),
    ],
)
def test_wrong_usage(napari_cad, tmp_path, monkeypatch, options, code, expected):
    monkeypatch.chdir(tmp_path)
    found, _, err = napari_cad("train", *options)
    assert found == code
    assert expected in err.replace("│ ", "")


# -------------------------------------------------------------------------------------- in Python


def test_train_and_resume_in_python(files, tmp_path):
    events = []
    data = {"volumes": [make_volume()]}
    config = make_config(teacher=False, steps=4)
    early = package.train(config, tmp_path / "run", **data, minutes=0.0)
    assert early.reason == "time"
    done = package.resume_training(tmp_path / "run", **data, progress=events.append)
    assert (done.reason, done.step) == ("steps", 4)
    assert sum(isinstance(event, StepsDone) for event in events) == 4
    from_file = package.train(files / "train.toml", tmp_path / "other")
    assert Path(from_file.checkpoint).is_file()
