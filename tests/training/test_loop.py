from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.device import Device, pick_device
from napari_cad.core.errors import ConfigError, DeviceMemoryError, StoreMismatchError
from napari_cad.core.jobs import JobProcess
from napari_cad.core.network import StudentNetwork
from napari_cad.core.teacher import TeacherMetadata, TeacherNetwork, load_teacher, save_teacher
from napari_cad.training.average import WeightAverage
from napari_cad.training.config import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    OptimiserConfig,
    StudentConfig,
    TeacherConfig,
    ValidationConfig,
)
from napari_cad.training.events import (
    CheckpointSaved,
    StepsDone,
    TrainingFinished,
    TrainingStarted,
    Validated,
)
from napari_cad.training.learner import Learner, TrainingDivergedError
from napari_cad.training.loop import Trainer, resume, train
from napari_cad.training.run_folder import RunFolder, read_curve

sys.path.insert(0, str(Path(__file__).parent))
from tiny import make_config, make_volume

pytestmark = pytest.mark.usefixtures("one_thread")


def curve(run):
    """All points of the loss curve, without the time that they took."""
    points = read_curve(Path(run) / "curve.jsonl")
    return [{k: v for k, v in point.items() if k != "seconds"} for point in points]


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


# ------------------------------------------------------------------------------------ a whole run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with teacher and validation, and the events that it gave."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("runs") / "whole"
    config = make_config(log_every=3)
    events = list(train(config, run, volumes=[make_volume()], validation=[make_volume(1)]))
    return run, events


def test_events_tell_what_happens(finished):
    run, events = finished
    assert events[0] == TrainingStarted(str(run), 0, 8, "cpu")
    steps = [e for e in events if isinstance(e, StepsDone)]
    assert [e.step for e in steps] == [3, 6, 8]
    assert set(steps[0].losses) == {"loss", "teacher", "slice", "cross", "interaction"}
    assert steps[0].seconds_left > 0
    assert steps[-1].seconds_left == 0
    assert [e.step for e in events if isinstance(e, Validated)] == [4, 8]
    assert [e.step for e in events if isinstance(e, CheckpointSaved)] == [3, 4, 6, 8]
    last = events[-1]
    assert isinstance(last, TrainingFinished)
    assert (last.step, last.reason) == (8, "steps")
    assert last.checkpoint == str(run / "best.safetensors")
    for event in events:
        assert pickle.loads(pickle.dumps(event)) == event  # noqa: S301


def test_the_run_folder_has_everything(finished):
    run, _ = finished
    names = {p.name for p in run.iterdir()}
    assert names >= {
        "config.json", "run.json", "curve.jsonl", "validation.jsonl", "validation.png", "state.pt",
        "before_decay.pt", "best.safetensors", "last.safetensors", "teacher.safetensors",
    }  # fmt: skip
    assert not any("partial" in name for name in names)
    folder = RunFolder(run)
    assert folder.read_config() == make_config(log_every=3)
    facts = folder.read_facts()
    assert facts["volumes"][0]["image"]["shape"] == [6, 48, 48]
    assert facts["versions"]["torch"] == torch.__version__
    validation = read_curve(run / "validation.jsonl")
    assert [line["step"] for line in validation] == [4, 8]
    assert set(validation[0]) >= {"loss", "voi", "voi_split", "voi_merge", "arand", "best"}


def test_its_checkpoints_can_be_used(finished):
    run, _ = finished
    checkpoint = load_checkpoint(run / "last.safetensors")
    assert checkpoint.metadata.width == 2
    assert checkpoint.metadata.voxel_size == (30, 6, 6)
    assert checkpoint.metadata.training_data == "tiny"
    assert checkpoint.metadata.notes == "step 8 of 8"
    checkpoint.build()
    teacher, metadata = load_teacher(run / "teacher.safetensors")
    assert teacher.widths == metadata.widths == (2, 3)


def test_the_saved_weights_are_the_average(finished):
    run, _ = finished
    state = torch.load(run / "state.pt", weights_only=True)
    learner = state["learner"]
    saved = load_checkpoint(run / "last.safetensors").state_dict
    assert same_weights(saved, {k: learner["averages"]["student"]["entries"][k] for k in saved})
    assert not same_weights(saved, {k: learner["networks"]["student"][k] for k in saved})


def test_training_descends(tmp_path):
    config = make_config(
        steps=40, optimiser=OptimiserConfig(learning_rate=5e-3, warmup=2), log_every=10,
        save_every=100,
    )  # fmt: skip
    list(train(config, tmp_path / "run", volumes=[make_volume()]))
    points = curve(tmp_path / "run")
    for name in ("loss", "teacher", "slice"):
        assert points[-1][name] < 0.8 * points[0][name]


def test_without_validation_the_last_checkpoint_is_the_one_to_use(tmp_path):
    events = list(train(make_config(teacher=False, steps=2), tmp_path, volumes=[make_volume()]))
    assert events[-1].checkpoint == str(tmp_path / "last.safetensors")
    assert set(events[1].losses) == {"loss", "slice"}
    assert not (tmp_path / "teacher.safetensors").exists()


# --------------------------------------------------------------------------------- exact resuming


def interrupted(config, run, after, **volumes):
    """Run until so many steps are reported, then drop everything, as a kill would."""
    events = Trainer.start(config, run, **volumes).run()
    for event in events:
        if isinstance(event, StepsDone) and event.step >= after:
            break
    events.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that nothing interrupts, by the number of steps that a point averages."""
    torch.set_num_threads(1)
    runs = {n: tmp_path_factory.mktemp("whole") / str(n) for n in (1, 2)}
    for log_every, run in runs.items():
        data = {"volumes": [make_volume()], "validation": [make_volume(1)]}
        list(train(make_config(log_every=log_every), run, **data))
    return runs


@pytest.mark.parametrize(("after", "log_every"), [(1, 1), (4, 2), (7, 1)])
def test_a_resumed_run_is_the_run_itself(tmp_path, whole, after, log_every):
    data = {"volumes": [make_volume()], "validation": [make_volume(1)]}
    cut, whole = tmp_path / "cut", whole[log_every]
    interrupted(make_config(log_every=log_every), cut, after, **data)
    torch.manual_seed(99)  # another process would have another state
    list(resume(cut, **data))
    assert curve(cut) == curve(whole)
    assert read_curve(cut / "validation.jsonl") == read_curve(whole / "validation.jsonl")
    for name in ("last", "best", "teacher"):
        one, other = (run / f"{name}.safetensors" for run in (cut, whole))
        assert one.read_bytes() == other.read_bytes()
    states = [RunFolder(run).load_state()["learner"] for run in (cut, whole)]
    for a, b in zip(*(s["optimiser"]["state"].values() for s in states), strict=True):
        assert same_weights(a, b)


def test_what_is_retained_is_that_of_the_start_also_when_its_file_has_changed(tmp_path, finished):
    start, cut, whole = tmp_path / "start.safetensors", tmp_path / "cut", tmp_path / "whole"
    start.write_bytes((finished[0] / "best.safetensors").read_bytes())
    config = make_config(
        teacher=False,
        student=StudentConfig(checkpoint=str(start)),
        loss=LossConfig(retention=0.5),
    )
    data = {"volumes": [make_volume(labelled_sections=[2])]}
    list(train(config, whole, **data))
    interrupted(config, cut, 4, **data)
    other = StudentNetwork(2, 3)
    save_checkpoint(start, other, load_checkpoint(start).metadata)
    list(resume(cut, **data))
    assert curve(cut) == curve(whole)


def test_a_killed_run_goes_on_to_the_last_bit(tmp_path, whole):
    script = Path(__file__).with_name("kill_me.py")
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "cut")])
    deadline = time.monotonic() + 120
    while len(read_curve(tmp_path / "cut" / "curve.jsonl")) < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    assert process.wait() != 0
    done = read_curve(tmp_path / "cut" / "curve.jsonl")
    list(resume(tmp_path / "cut", volumes=[make_volume()]))
    assert len(done) == 4
    assert RunFolder(tmp_path / "cut").load_state()["step"] == 8
    assert curve(tmp_path / "cut") == curve(whole[1])  # validating changes nothing
    for ours, theirs in zip(done, curve(whole[1]), strict=False):
        assert ours["loss"] == theirs["loss"]
    files = [run / "last.safetensors" for run in (tmp_path / "cut", whole[1])]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_can_be_a_job(tmp_path):
    arguments = {
        "config": make_config(teacher=False, steps=2),
        "run": str(tmp_path / "run"),
        "volumes": [make_volume()],
    }
    job = JobProcess("napari_cad.training.loop:train", arguments)
    events = list(job.events())
    assert [type(e) for e in events] == [
        TrainingStarted, StepsDone, StepsDone, CheckpointSaved, TrainingFinished,
    ]  # fmt: skip
    assert job.error is None


def test_time_is_up(tmp_path):
    config = make_config(teacher=False)
    events = list(train(config, tmp_path, volumes=[make_volume()], minutes=0.0))
    assert events[-1].reason == "time"
    assert events[-1].step == 0
    events = list(resume(tmp_path, volumes=[make_volume()]))
    assert (events[-1].reason, events[-1].step) == ("steps", 8)
    assert len(curve(tmp_path)) == 8


def test_more_steps_go_on_from_before_the_learning_rate_fell(tmp_path):
    config = make_config(teacher=False, steps=8)
    list(train(config, tmp_path / "run", volumes=[make_volume()]))
    events = list(resume(tmp_path / "run", volumes=[make_volume()], steps=12))
    assert events[0].step == 6
    longer = dataclasses.replace(config, steps=12)
    list(train(longer, tmp_path / "whole", volumes=[make_volume()]))
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    assert RunFolder(tmp_path / "run").read_config().steps == 12
    with pytest.raises(ConfigError, match="at step 9 already, got steps 8"):
        Trainer.resume(tmp_path / "run", volumes=[make_volume()], steps=8)


def test_a_longer_run_that_is_killed_before_it_saves_is_still_the_longer_run(tmp_path):
    config = make_config(teacher=False, steps=8)
    list(train(config, tmp_path / "run", volumes=[make_volume()]))
    events = Trainer.resume(tmp_path / "run", volumes=[make_volume()], steps=40).run()
    next(events)
    events.close()
    again = Trainer.resume(tmp_path / "run", volumes=[make_volume()])
    assert (again.step, again.config.steps) == (6, 40)


def test_patience_begins_anew_when_a_run_is_made_longer(tmp_path):
    config = make_config(
        teacher=False,
        optimiser=OptimiserConfig(learning_rate=0.0, schedule="constant", average=0.0),
        validation=ValidationConfig(every=1, size=32, patience=2),
    )
    data = {"volumes": [make_volume()], "validation": [make_volume(1)]}
    events = list(train(config, tmp_path, **data))
    assert events[-1].reason == "patience"
    longer = list(resume(tmp_path, steps=20, **data))
    assert longer[-1].reason == "patience"
    assert longer[-1].step >= events[-1].step + 2


def test_processes_write_nothing_before_all_of_them_have_read_the_folder(tmp_path, monkeypatch):
    config, data = make_config(teacher=False), {"volumes": [make_volume()]}
    list(train(config, tmp_path, **data))
    first = Trainer.resume(tmp_path, steps=40, **data)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    late = Trainer.resume(tmp_path, steps=40, **data)
    assert (first.step, late.step) == (6, 6)
    Trainer.start(config, tmp_path, **data)  # the first process alone decides about the folder


def test_another_frozen_teacher_is_refused(tmp_path):
    path, _ = teacher_file(tmp_path)
    config = make_config(teacher=False, steps=4)
    config = dataclasses.replace(config, teacher=TeacherConfig(checkpoint=str(path), frozen=True))
    interrupted(config, tmp_path / "run", 4, volumes=[make_volume()])
    again = path.read_bytes()
    teacher_file(tmp_path, seed=6)
    with pytest.raises(StoreMismatchError, match="another frozen teacher"):
        Trainer.resume(tmp_path / "run", volumes=[make_volume()])
    path.write_bytes(again)
    list(resume(tmp_path / "run", volumes=[make_volume()]))


def test_what_a_run_started_from_may_be_gone_once_it_has_a_state(tmp_path, finished):
    start = tmp_path / "start.safetensors"
    start.write_bytes((finished[0] / "best.safetensors").read_bytes())
    config = make_config(teacher=False, student=StudentConfig(checkpoint=str(start)))
    interrupted(config, tmp_path / "run", 4, volumes=[make_volume()])
    start.unlink()
    list(resume(tmp_path / "run", volumes=[make_volume()]))
    assert curve(tmp_path / "run")[-1]["step"] == 8


def test_other_data_are_refused_and_moved_ones_are_not(tmp_path):
    list(train(make_config(teacher=False, steps=1), tmp_path, volumes=[make_volume()]))
    with pytest.raises(StoreMismatchError, match="other data for volumes"):
        Trainer.resume(tmp_path, volumes=[make_volume(1)])
    moved = make_volume()
    moved.name = "elsewhere"
    Trainer.resume(tmp_path, volumes=[moved])


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    config = make_config(teacher=False, steps=1)
    list(train(config, tmp_path, volumes=[make_volume()]))
    with pytest.raises(ConfigError, match="holds a training run already"):
        Trainer.start(config, tmp_path, volumes=[make_volume()])
    with pytest.raises(ConfigError, match="no folder of a training run"):
        Trainer.resume(tmp_path / "elsewhere")


def test_nothing_is_written_where_the_data_are_wrong(tmp_path):
    with pytest.raises(ConfigError, match="nothing to learn from"):
        Trainer.start(make_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------- stopping and diverging


def test_early_stopping_and_the_best_checkpoint(tmp_path, monkeypatch):
    scores = iter([0.5, 0.3, 0.4, 0.35])
    from napari_cad.training import loop

    real = loop.validate

    def scripted(*args, **kwargs):
        outcome = real(*args, **kwargs)
        return dataclasses.replace(outcome, loss=next(scores))

    monkeypatch.setattr(loop, "validate", scripted)
    config = make_config(
        teacher=False, steps=20,
        validation=ValidationConfig(every=2, size=32, select="loss", patience=2),
    )  # fmt: skip
    data = {"volumes": [make_volume()], "validation": [make_volume(1)]}
    events = list(train(config, tmp_path, **data))
    assert [e.best for e in events if isinstance(e, Validated)] == [True, True, False, False]
    assert (events[-1].reason, events[-1].step) == ("patience", 8)
    assert load_checkpoint(tmp_path / "best.safetensors").metadata.notes == "step 4 of 20"
    again = list(resume(tmp_path, **data))
    assert (again[-1].reason, again[-1].step) == ("patience", 8)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_weights(tmp_path, monkeypatch):
    real = Learner.step

    def poisoned(self, module, image, labels, number):
        if number == 5:
            image = image * float("nan")
        return real(self, module, image, labels, number)

    monkeypatch.setattr(Learner, "step", poisoned)
    with pytest.raises(
        TrainingDivergedError, match=r"step 6: loss nan.*those of step 3 .*--checkpoint"
    ):
        list(train(make_config(), tmp_path, volumes=[make_volume()]))
    assert load_checkpoint(tmp_path / "last.safetensors").metadata.notes == "step 3 of 8"
    monkeypatch.setattr(Learner, "step", real)
    events = list(resume(tmp_path, volumes=[make_volume()]))
    assert events[-1].step == 8


def test_an_infinite_gradient_does_not_reach_the_weights():
    learner = Learner(make_config(teacher=False), pick_device("cpu"))
    before = {k: v.clone() for k, v in learner.networks.student.named_parameters()}
    learner.networks.student.decoder.head.weight.register_hook(lambda g: g * float("inf"))
    dataset = [torch.rand(2, 2, 16, 16), torch.ones(2, 2, 16, 16, dtype=torch.int32)]
    dataset[1][..., :8] = 2
    with pytest.raises(TrainingDivergedError, match="gradient norms"):
        learner.step(learner.networks, *dataset, 0)
    for name, value in learner.networks.student.named_parameters():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("x"), RuntimeError("can't allocate memory")]
)
def test_too_little_memory_names_what_to_lower(error):
    learner = Learner(make_config(), pick_device("cpu"))

    def module(*_):
        raise error

    with pytest.raises(DeviceMemoryError, match=r"data.batch 2 .*then teacher.widths"):
        learner.step(module, torch.rand(1, 2, 16, 16), torch.ones(1, 2, 16, 16), 0)


def test_other_errors_of_a_step_are_left_alone():
    learner = Learner(make_config(), pick_device("cpu"))
    with pytest.raises(RuntimeError, match=r"shape|size|invalid"):
        learner.step(learner.networks, torch.rand(1, 2, 15, 16), torch.ones(1, 2, 15, 16), 0)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_keeps_weights_and_losses_in_float32(precision):
    """What CUDA does by default, on the CPU: autocast, and for float16 a scaled loss."""
    losses = {}
    for name in ("float32", precision):
        learner = Learner(make_config(), Device("cpu", name))
        assert learner.scaler.is_enabled() == (name == "float16")
        torch.manual_seed(1)
        batch = torch.rand(2, 3, 16, 32), torch.ones(2, 3, 16, 32, dtype=torch.int32)
        batch[1][..., :8] = 2
        losses[name] = learner.step(learner.networks, *batch, 0)["loss"]
        assert {p.dtype for p in learner.networks.parameters()} == {torch.float32}
    assert losses[precision] == pytest.approx(losses["float32"], rel=0.05)
    assert losses[precision] != losses["float32"]


def test_a_step_whose_half_precision_gradient_overflows_is_skipped():
    learner = Learner(make_config(teacher=False), Device("cpu", "float16"))
    before = {k: v.clone() for k, v in learner.networks.student.named_parameters()}
    scale = learner.scaler.get_scale()
    hook = learner.networks.student.decoder.head.weight.register_hook(lambda g: g * float("inf"))
    batch = torch.rand(2, 2, 16, 16), torch.ones(2, 2, 16, 16, dtype=torch.int32)
    batch[1][..., :8] = 2
    learner.step(learner.networks, *batch, 0)
    for name, value in learner.networks.student.named_parameters():
        assert torch.equal(value, before[name])
    assert learner.scaler.get_scale() == scale / 2
    hook.remove()
    weight = learner.networks.student.decoder.head.weight
    for number in range(1, 20):  # the scale is halved until nothing overflows
        learner.step(learner.networks, *batch, number)
        if not torch.equal(weight, before["decoder.head.weight"]):
            return
    pytest.fail("nothing is learned")


# ----------------------------------------------------------------------------- the teacher's ways


def teacher_file(tmp_path, widths=(2, 3), embedding_dim=3, seed=5):
    torch.manual_seed(seed)
    teacher = TeacherNetwork(widths, embedding_dim)
    path = tmp_path / "teacher.safetensors"
    save_teacher(
        path, teacher, TeacherMetadata(name="t", widths=widths, embedding_dim=embedding_dim)
    )
    return path, teacher


def test_a_frozen_teacher_stays_as_it_is(tmp_path):
    path, teacher = teacher_file(tmp_path)
    config = make_config(teacher=False, steps=3)
    config = dataclasses.replace(config, teacher=TeacherConfig(checkpoint=str(path), frozen=True))
    trainer = Trainer.start(config, tmp_path / "run", volumes=[make_volume()])
    events = list(trainer.run())
    assert set(events[1].losses) == {"loss", "slice", "cross", "interaction"}
    frozen = trainer.learner.networks.teacher
    assert same_weights(frozen.state_dict(), teacher.state_dict())
    assert not frozen.training
    assert not (tmp_path / "run" / "teacher.safetensors").exists()


def test_a_given_teacher_learns_on_unless_it_is_frozen(tmp_path):
    path, teacher = teacher_file(tmp_path)
    config = make_config(teacher=False, steps=2)
    config = dataclasses.replace(config, teacher=TeacherConfig(checkpoint=str(path)))
    trainer = Trainer.start(config, tmp_path / "run", volumes=[make_volume()])
    start = trainer.learner.networks.teacher.state_dict()
    assert same_weights(start, teacher.state_dict())
    list(trainer.run())
    assert not same_weights(trainer.learner.networks.teacher.state_dict(), teacher.state_dict())


def test_a_teacher_that_does_not_fit_is_refused(tmp_path):
    path, _ = teacher_file(tmp_path, embedding_dim=4)
    config = make_config(teacher=False)
    config = dataclasses.replace(config, teacher=TeacherConfig(checkpoint=str(path)))
    with pytest.raises(ConfigError, match="4 channels and the student's 3"):
        Trainer.start(config, tmp_path / "run", volumes=[make_volume()])


def test_distillation_starts_when_it_should(tmp_path):
    config = make_config(steps=4, loss=LossConfig(start_distillation=2))
    list(train(config, tmp_path, volumes=[make_volume()]))
    names = [set(point) & {"cross", "interaction"} for point in curve(tmp_path)]
    assert names == [set(), set(), {"cross", "interaction"}, {"cross", "interaction"}]


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(interaction=0.0),
        LossConfig(cross=0.0, teacher=0.0),
        LossConfig(published_fgi=True, balance="published", clamped=True, sum_pairs=True),
        LossConfig(detach_teacher=True, unlabelled_weight=0.5, balance="patch"),
        LossConfig(slice=0.0),
    ],
)
def test_every_kind_of_loss_trains(tmp_path, loss):
    config = make_config(steps=2, loss=loss)
    points = []
    list(train(config, tmp_path, volumes=[make_volume()]))
    points = curve(tmp_path)
    assert set(points[0]) == {"step", "loss", "learning_rate"} | {
        name for name in ("teacher", "slice", "cross", "interaction") if getattr(loss, name) > 0
    }
    total = sum(getattr(loss, k) * v for k, v in points[0].items() if hasattr(loss, k))
    assert points[0]["loss"] == pytest.approx(total, rel=1e-5)


def test_the_published_losses_weigh_like_ours_unless_they_are_summed(tmp_path):
    def losses(name, **settings):
        config = make_config(steps=1, loss=LossConfig(**settings), data=DataConfig(
            patch=(6, 32, 32), margin=0, batch=2), augment=AugmentConfig.none())  # fmt: skip
        list(train(config, tmp_path / name, volumes=[make_volume()]))
        return curve(tmp_path / name)[0]

    ours, mean = losses("ours"), losses("mean", published_fgi=True)
    total = losses("sum", published_fgi=True, sum_pairs=True)
    for name in ("slice", "cross", "interaction"):
        assert total[name] == pytest.approx(5 * mean[name], rel=1e-5)
    assert mean["slice"] == pytest.approx(ours["slice"], rel=1e-5)
    assert 0.5 < mean["cross"] / ours["cross"] < 2


def test_one_process_starts_from_a_checkpoint(tmp_path, finished):
    run, _ = finished
    config = make_config(teacher=False, steps=1)
    config = dataclasses.replace(
        config,
        student=dataclasses.replace(
            config.student, checkpoint=str(run / "last.safetensors"), width=9
        ),
        optimiser=OptimiserConfig(learning_rate=0.0, average=0.0),
    )
    list(train(config, tmp_path, volumes=[make_volume()]))
    start, end = (load_checkpoint(p / "last.safetensors") for p in (run, tmp_path))
    assert end.metadata.width == 2
    for name, value in start.build().named_parameters():
        assert torch.equal(value, end.state_dict[name])


# ---------------------------------------------------------------------------------------- averages


def test_the_average_against_plain_numbers():
    network = torch.nn.Linear(2, 1)
    average = WeightAverage(network, 0.9)
    expected = network.weight.detach().numpy().copy()
    for n in range(1, 30):
        with torch.no_grad():
            network.weight += 1
        average.update(network)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * network.weight.detach().numpy()
        np.testing.assert_allclose(average.entries["weight"].numpy(), expected, rtol=1e-5)
    none = WeightAverage(network, 0.0)
    with torch.no_grad():
        network.weight += 1
    none.update(network)
    assert torch.equal(none.entries["weight"], network.weight)


# ------------------------------------------------------------------------------------- tensorboard


def test_curves_go_to_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            written.append(("open", Path(folder).name, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def close(self):
            written.append("closed")

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    list(train(make_config(teacher=False, steps=2), tmp_path, volumes=[make_volume()]))
    assert written[0] == ("open", "tensorboard", 0)
    assert ("loss/slice", 2) in written
    assert written[-1] == "closed"
    json.loads((tmp_path / "config.json").read_text())
