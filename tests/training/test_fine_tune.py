"""Fine-tuning on a few sections, without a viewer."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
import torch
import zarr

from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.errors import ConfigError
from napari_cad.core.network import StudentNetwork
from napari_cad.training.data_config import VolumeConfig
from napari_cad.training.events import CheckpointSaved, StepsDone, TrainingFinished, Validated
from napari_cad.training.fine_tune import fine_tune, read_truth
from napari_cad.training.fine_tune_config import (
    Compared,
    FineTuneConfig,
    Truth,
    retention_for,
    split_sections,
)
from napari_cad.training.run_folder import RunFolder, read_curve

sys.path.insert(0, str(Path(__file__).parent))
from tiny import make_volume

SETTINGS = FineTuneConfig(steps=4, patch=32, batch=2, every=2)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("start") / "tiny.safetensors"
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=3, training_data="nothing", licence="mine",
        threshold=0.4,
    )  # fmt: skip
    save_checkpoint(path, StudentNetwork(2, 3), metadata)
    return str(path)


def truth(**settings) -> Truth:
    volume = make_volume()
    return Truth(volume.image, volume.labels, **settings)


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


def test_sections_are_split():
    assert split_sections(range(10)) == (tuple(range(8)), (8, 9))
    assert split_sections([3, 1, 2]) == ((1, 2, 3), ())
    assert split_sections(range(20))[1] == (16, 17, 18, 19)
    assert split_sections(range(6), [0, 5]) == ((1, 2, 3, 4), (0, 5))
    assert split_sections(range(6), []) == (tuple(range(6)), ())
    with pytest.raises(ConfigError, match=r"\[7\] are not: labelled are \[0, 1\]"):
        split_sections([0, 1], [7])
    with pytest.raises(ConfigError, match="nothing is left to learn from"):
        split_sections([0, 1], [0, 1])


def test_kept_out_sections_choose_the_weights_and_the_start_counts(tmp_path, checkpoint):
    events = list(fine_tune(truth(), checkpoint, str(tmp_path), SETTINGS, device="cpu"))
    assert [e.step for e in of_kind(events, Validated)] == [0, 2, 4]
    assert events[1].best  # the start is what must be beaten
    shown = of_kind(events, Compared)
    assert [e.step for e in shown] == [0, 2, 4]
    assert all(e.kept_out and e.picture.shape == (48, 4 * 48, 3) for e in shown)
    config = RunFolder(tmp_path).read_config()
    assert config.validation.threshold == 0.4
    facts = RunFolder(tmp_path).read_facts()
    assert facts["volumes"][0]["labelled_sections"] == [0, 1, 2, 3]
    assert facts["validation"][0]["image"]["shape"] == [2, 48, 48]
    metadata = load_checkpoint(tmp_path / "last.safetensors").metadata
    assert metadata.name == "tiny fine-tuned"
    assert metadata.licence == "mine"
    assert metadata.training_data == "nothing; then fine-tuned on labelled sections"
    assert metadata.width == 2


def test_only_what_shows_no_neighbours_is_to_be_held_on_to():
    assert retention_for([4]) > 0
    assert retention_for([1, 3, 5]) > 0
    assert retention_for([0, 5, 4]) == 0


def test_one_section_holds_on_to_what_the_student_knows_between_sections(tmp_path, checkpoint):
    def losses(labelled, run):
        data = truth(labelled=labelled)
        list(fine_tune(data, checkpoint, str(tmp_path / run), SETTINGS, device="cpu"))
        return read_curve(tmp_path / run / "curve.jsonl")[0]

    assert losses((2,), "one")["retention"] > 0
    unpainted = truth(labelled=(2, 3), sparse=True)
    unpainted.labels.data[3] = 0
    list(fine_tune(unpainted, checkpoint, str(tmp_path / "unpainted"), SETTINGS, device="cpu"))
    assert read_curve(tmp_path / "unpainted" / "curve.jsonl")[0]["retention"] > 0
    assert "retention" not in losses((2, 3), "two")


def test_few_sections_are_all_learned_from_and_one_is_shown(tmp_path, checkpoint):
    events = list(
        fine_tune(truth(labelled=(2, 3)), checkpoint, str(tmp_path), SETTINGS, device="cpu")
    )
    assert not of_kind(events, Validated)
    shown = of_kind(events, Compared)
    assert [e.step for e in shown] == [0, 2, 4]
    assert not any(e.kept_out for e in shown)
    assert events[-2].step == 4
    finished = of_kind(events, TrainingFinished)[0]
    assert finished.checkpoint == str(tmp_path / "last.safetensors")


def test_a_request_stops_it_and_it_goes_on_exactly(tmp_path, checkpoint):
    whole = tmp_path / "whole"
    list(fine_tune(truth(), checkpoint, str(whole), SETTINGS, device="cpu"))
    requests: SimpleQueue[str] = SimpleQueue()
    cut, events = tmp_path / "cut", []
    stopped = fine_tune(truth(), checkpoint, str(cut), SETTINGS, device="cpu", requests=requests)
    for event in stopped:
        events.append(event)
        if isinstance(event, CheckpointSaved) and event.step == 2:
            requests.put("stop")
            deadline = time.monotonic() + 60
            while not requests.empty():  # until the thread that listens has it
                assert time.monotonic() < deadline
                time.sleep(0.001)
    finished = of_kind(events, TrainingFinished)[0]
    assert finished.reason == "stopped"
    assert finished.step < 4
    list(fine_tune(truth(), checkpoint, str(cut), SETTINGS, device="cpu", go_on=True))
    for name in ("last", "best"):
        files = [run / f"{name}.safetensors" for run in (whole, cut)]
        assert files[0].read_bytes() == files[1].read_bytes()
    steps = [line["step"] for line in read_curve(cut / "validation.jsonl")]
    assert steps == [0, 2, 4]


def test_a_request_before_the_first_step_counts(tmp_path, checkpoint):
    requests: SimpleQueue[str] = SimpleQueue()
    requests.put("stop")
    data = truth(labelled=(2, 3))
    events = list(
        fine_tune(data, checkpoint, str(tmp_path), SETTINGS, device="cpu", requests=requests)
    )
    (finished,) = of_kind(events, TrainingFinished)
    assert (finished.reason, finished.step < 4) == ("stopped", True)
    list(fine_tune(data, checkpoint, str(tmp_path), SETTINGS, device="cpu", go_on=True))
    assert read_curve(tmp_path / "curve.jsonl")[-1]["step"] == 4


def test_a_run_that_was_killed_before_its_first_state_validates_its_start_once(
    tmp_path, checkpoint
):
    events = fine_tune(truth(), checkpoint, str(tmp_path), SETTINGS, device="cpu")
    for event in events:
        if isinstance(event, Validated):
            break
    events.close()
    list(fine_tune(truth(), checkpoint, str(tmp_path), SETTINGS, device="cpu", go_on=True))
    steps = [line["step"] for line in read_curve(tmp_path / "validation.jsonl")]
    assert steps == [0, 2, 4]


def test_more_steps_than_it_had(tmp_path, checkpoint):
    few = FineTuneConfig(steps=2, patch=32, batch=2, every=2)
    list(fine_tune(truth(), checkpoint, str(tmp_path), few, device="cpu"))
    events = list(fine_tune(truth(), checkpoint, str(tmp_path), SETTINGS, device="cpu", go_on=True))
    assert of_kind(events, TrainingFinished)[0].step == 4


def test_sparse_truth_and_an_unlabelled_value(tmp_path, checkpoint):
    volume = make_volume()
    labels = volume.labels.data.copy()
    labels[:, :, 24:] = 999
    from napari_cad.core.volume import EMVolume

    given = Truth(volume.image, EMVolume(labels), sparse=True, unlabelled=999)
    events = list(fine_tune(given, checkpoint, str(tmp_path), SETTINGS, device="cpu"))
    assert all(np.isfinite(e.losses["loss"]) for e in of_kind(events, StepsDone))
    facts = RunFolder(tmp_path).read_facts()["volumes"][0]
    assert (facts["sparse"], facts["unlabelled"]) == (True, 999)


# -------------------------------------------------------------------- folders of training data


@pytest.fixture
def folder(tmp_path):
    """What the Proofread widget saves: zarr arrays and a file that names them."""
    volume = make_volume()
    path = tmp_path / "data"
    path.mkdir()
    for name, array in (("image", volume.image.data), ("labels", volume.labels.data)):
        zarr.save_array(str(path / f"{name}.zarr"), array)
    (path / "volume.toml").write_text(
        'truth = "sparse"\nunlabelled = 65535\nlabelled_sections = [1, 2]\n'
        "voxel_size = [30.0, 6.0, 6.0]\ncomplete = true\n"
    )
    return path


def test_a_folder_is_read(folder):
    config = VolumeConfig.from_folder(folder)
    assert config.image == str(folder / "image.zarr")
    found = read_truth(folder)
    assert found.image.shape == (6, 48, 48)
    assert found.image.voxel_size == (30, 6, 6)
    assert (found.sparse, found.unlabelled, found.labelled) == (True, 65535, (1, 2))
    assert found.complete


def test_it_is_learned_from(folder, tmp_path, checkpoint):
    events = list(fine_tune(str(folder), checkpoint, str(tmp_path / "run"), SETTINGS, device="cpu"))
    assert of_kind(events, Compared)[-1].step == 4
    facts = RunFolder(tmp_path / "run").read_facts()["volumes"][0]
    assert facts["labelled_sections"] == [1, 2]


def test_a_folder_that_is_none_is_explained(tmp_path):
    with pytest.raises(ConfigError, match=r"no folder of training data: expected a volume\.toml"):
        VolumeConfig.from_folder(tmp_path)
    (tmp_path / "volume.toml").write_text("colour = 3")
    with pytest.raises(ConfigError, match="VolumeConfig has no setting colour"):
        VolumeConfig.from_folder(tmp_path)
