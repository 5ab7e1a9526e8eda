"""Whoever carries out the tasks of a run, and whatever happens to them: the same store."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import napari_cad
from napari_cad.core import cluster, engines, section_tasks
from napari_cad.core._prediction_stage import _cut
from napari_cad.core.adaptation import adapt
from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.cluster import GPU, Check, open_cluster
from napari_cad.core.config import FitConfig, InferenceConfig, SegmentationConfig
from napari_cad.core.engines import Task, TaskFailed
from napari_cad.core.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    SectionError,
    StoreError,
    VolumeError,
)
from napari_cad.core.events import Finished, SectionDone, StageStarted, Warned
from napari_cad.core.inference import AffinityPredictor
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.local_engines import InlineEngine, ProcessEngine
from napari_cad.core.memory_plan import DASK, agglomeration_share, plan_memory, within_memory
from napari_cad.core.network import StudentNetwork
from napari_cad.core.pipeline import segment_volume
from napari_cad.core.preprocessing import Preprocessing
from napari_cad.core.readers import open_volume
from napari_cad.core.section_tasks import Student
from napari_cad.core.store import SegmentationStore
from napari_cad.core.volume import EMVolume

if TYPE_CHECKING:
    from pathlib import Path

N_SECTIONS = 9


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> EMVolume:
    path = tmp_path_factory.mktemp("volume") / "stack.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (N_SECTIONS, 48, 40), np.uint8))
    return open_volume(path, voxel_size=(30, 6, 6))


@pytest.fixture(scope="module")
def checkpoint(volume, tmp_path_factory):
    """A narrow student that sees a good hundred fragments in every section of the volume."""
    torch.manual_seed(2)
    network = StudentNetwork(width=2, embedding_dim=3).eval()
    network = adapt(network, volume, Preprocessing(IntensityMapping("limits", 0, 255)), strength=1)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=3, training_data="none", licence="none"
    )
    save_checkpoint(path, network, metadata)
    return load_checkpoint(path)


@pytest.fixture(scope="module")
def config() -> SegmentationConfig:
    return SegmentationConfig(inference=InferenceConfig(device="cpu"), workers=0)


@pytest.fixture(scope="module")
def finished(volume, checkpoint, config, tmp_path_factory) -> dict[str, bytes]:
    """What a run in one process makes."""
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    list(segment_volume(volume, checkpoint, config, path))
    assert SegmentationStore.open(path).n_fragments > 100 * N_SECTIONS
    return contents(path)


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a store but the settings, which name device, precision and workers."""
    files = {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
    del files["zarr.json"]
    return files


def same(path: Path, finished: dict[str, bytes]) -> bool:
    made = contents(path)
    assert made.keys() == finished.keys()
    return made == finished


# -------------------------------------------------------------------- this machine


@pytest.mark.parametrize("n_events", [2, 4, 6, 9, 13, 18])
def test_a_run_whose_scratch_is_lost_goes_on(
    volume, checkpoint, config, finished, tmp_path, n_events
):
    """As for a store that a version without a scratch has begun."""
    path = tmp_path / "run.zarr"
    run = segment_volume(volume, checkpoint, config, path)
    for _ in range(n_events):
        next(run)
    run.close()
    SegmentationStore.open(path, mode="a").scratch.remove()
    list(segment_volume(volume, checkpoint, config, path))
    assert same(path, finished)


def test_sections_may_be_predicted_in_any_ranges(volume, checkpoint, config, finished, tmp_path):
    """Predicted by one, fragments by another, in another order."""
    path = tmp_path / "run.zarr"
    run = segment_volume(volume, checkpoint, config, path)
    next(run)
    run.close()
    prepared, _ = section_tasks.prepare_run(volume, checkpoint, config)
    student = Student(str(checkpoint.path), checkpoint.sha256, prepared)
    for start, stop in ((6, 9), (1, 4), (3, 5)):  # section 3 is there the second time
        section_tasks.predict_sections(volume.source, student, str(path), start, stop)
    for z in (7, 2):
        section_tasks.make_local_fragments(str(path), z)
    list(segment_volume(volume, checkpoint, config, path))
    assert same(path, finished)


def test_the_number_of_threads_does_not_change_affinities(volume):
    torch.manual_seed(0)
    network = StudentNetwork(width=16, embedding_dim=16).eval()
    raw = np.random.default_rng(1).integers(0, 256, (3, 150, 130), np.uint8)
    noise = EMVolume.from_array(raw)
    mapping = IntensityMapping("limits", 0, 255)
    network = adapt(network, noise, Preprocessing(mapping), strength=1)
    before, made = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            predictor = AffinityPredictor(network, InferenceConfig(device="cpu"))
            made.append([s.affinities for s in predictor.predict(noise, mapping)])
    finally:
        torch.set_num_threads(before)
    assert np.unique(made[0]).size > 50
    assert np.array_equal(made[0], made[1])


def test_a_section_that_waits_for_ids_is_whole_or_refused(
    volume, checkpoint, config, finished, tmp_path
):
    """A task that was given up for lost, and comes back when its work has been done."""
    path = tmp_path / "run.zarr"
    run = segment_volume(volume, checkpoint, config, path)
    while not (isinstance(event := next(run), SectionDone) and event.z == 4):
        pass
    run.close()
    store = SegmentationStore.open(path, mode="a")
    with pytest.raises(StoreError, match="section 0 has no fragments that wait"):
        store.scratch.read(0)
    section_tasks.make_local_fragments(str(path), 0)
    section_tasks.number_fragments(str(path), 0, 99)
    section_tasks.make_edges(str(path), 0)

    section_tasks.make_local_fragments(str(path), 4)
    store.scratch._array("fragments")[4, :20] = 0
    store.scratch._array("fragments")[4, 20:] = 1
    with pytest.raises(StoreError, match="section 4 has no fragments that wait"):
        section_tasks.number_fragments(str(path), 4, 99)
    section_tasks.make_local_fragments(str(path), 4)
    list(segment_volume(volume, checkpoint, config, path))
    assert same(path, finished)


def test_edges_are_not_made_of_fragments_that_went_missing(volume, checkpoint, config, tmp_path):
    path = tmp_path / "run.zarr"
    list(segment_volume(volume, checkpoint, config, path))
    store = SegmentationStore.open(path, mode="a")
    store.fragments[3] = 0
    store._mark("edges", 3, -1)
    with pytest.raises(SectionError, match=r"edges of section 3 could not be made.*and 0 can be"):
        list(segment_volume(volume, checkpoint, config, path))


def test_ranges_have_no_gaps_and_leave_nothing_out():
    assert list(_cut([0, 1, 2, 3, 4], 2)) == [(0, 2), (2, 4), (4, 5)]
    assert list(_cut([1, 2, 5, 6, 7, 9], 8)) == [(1, 3), (5, 8), (9, 10)]
    assert list(_cut([], 8)) == []


# -------------------------------------------------------------------- what goes wrong


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(engines, "PAUSE", 0.0)


def fail(errors: list[Exception]) -> str:
    """Raise what is left of the errors, one a call."""
    if errors:
        raise errors.pop(0)
    return "made"


def test_what_may_pass_is_tried_again_a_few_times():
    engine = InlineEngine()
    lost = OSError(errno.EIO, "lost")
    assert Task(engine, "section 1", fail, [lost, lost]).result() == "made"
    errors: list[Exception] = [lost] * 4
    with pytest.raises(SectionError, match=r"edges of section 7 could not be made.*lost.*goes on"):
        Task(engine, "edges of section 7", fail, errors).result()
    assert len(errors) == 4 - engines.ATTEMPTS
    unread = VolumeError("section 3 cannot be read")
    unread.__cause__ = lost
    assert Task(engine, "section 3", fail, [unread]).result() == "made"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left"), "disk is full.*free some space"),
        (VolumeError("expected grey"), "expected grey"),
        (FileNotFoundError("gone"), "gone"),
        (MemoryError(), "MemoryError"),
        (KeyError("a mistake in the code"), "KeyError: 'a mistake in the code'"),
    ],
)
def test_what_would_fail_again_is_told_at_once(error, said):
    errors = [error, error]
    engine = SimpleNamespace(submit=InlineEngine().submit)
    with pytest.raises(SectionError, match=said):
        Task(engine, "fragments of section 7", fail, errors).result()
    assert len(errors) == 1


def test_a_process_that_dies_is_replaced(tmp_path):
    def die_once(flag: str) -> str:  # nested: workers cannot import this module
        from pathlib import Path

        if not Path(flag).exists():
            Path(flag).touch()
            os._exit(1)
        return "made"

    engine = ProcessEngine(1)
    try:
        assert Task(engine, "section 1", die_once, str(tmp_path / "flag")).result() == "made"
    finally:
        engine.stop(kill=True)


def test_a_full_disk_ends_the_run_with_what_to_do(
    volume, checkpoint, config, finished, tmp_path, monkeypatch
):
    path = tmp_path / "run.zarr"
    write = SegmentationStore.write_affinities

    def full(store, z, affinities):
        if z == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(store, z, affinities)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationStore, "write_affinities", full)
        with pytest.raises(SectionError, match=r"affinities of section 2.*disk is full"):
            list(segment_volume(volume, checkpoint, config, path))
    list(segment_volume(volume, checkpoint, config, path))
    assert same(path, finished)


def test_a_section_that_cannot_be_read_once_is_read_again(
    volume, checkpoint, config, finished, tmp_path, monkeypatch
):
    failures = [VolumeError("a moment without network")]
    failures[0].__cause__ = OSError(errno.EIO, "lost")
    section = EMVolume.section

    def unreliable(self, z):
        if z == 5 and failures:
            raise failures.pop()
        return section(self, z)

    monkeypatch.setattr(EMVolume, "section", unreliable)
    list(segment_volume(volume, checkpoint, config, tmp_path / "run.zarr"))
    assert not failures
    assert same(tmp_path / "run.zarr", finished)


# -------------------------------------------------------------------- a cluster

distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")

#: Only Linux and Windows have more than one loopback address from the start.
HOSTS = ["127.0.0.1", "127.0.0.1"] if sys.platform == "darwin" else ["127.0.0.2", "127.0.0.3"]


@pytest.fixture(scope="module")
def scheduler():
    """Address of a scheduler with two workers, the second of which says it has a GPU."""
    options = {"nthreads": 1, "silence_logs": 50, "death_timeout": 60, "dashboard": False}
    workers = {
        i: {"cls": distributed.Nanny, "options": {**options, "host": host, "resources": resources}}
        for i, (host, resources) in enumerate(zip(HOSTS, ({}, {GPU: 1}), strict=True))
    }
    specification = {
        "cls": distributed.Scheduler,
        "options": {"host": "127.0.0.1", "port": 0, "dashboard": False},
    }
    with distributed.SpecCluster(workers, specification, silence_logs=50) as cluster:
        yield cluster.scheduler_address


def test_workers_at_other_addresses_make_the_same_store(
    volume, checkpoint, config, finished, scheduler, tmp_path
):
    path = tmp_path / "run.zarr"
    events = list(segment_volume(volume, checkpoint, config, path, scheduler=scheduler))
    assert same(path, finished)

    started = [e.stage for e in events if isinstance(e, StageStarted)]
    assert started == ["affinities", "fragments", "agglomeration"]
    for stage in ("affinities", "fragments"):
        of_stage = [e for e in events if isinstance(e, SectionDone) and e.stage == stage]
        assert [e.done for e in of_stage] == list(range(1, N_SECTIONS + 1))
        assert sorted(e.z for e in of_stage) == list(range(N_SECTIONS))
    assert isinstance(events[-1], Finished)
    assert events[-1].n_fragments == SegmentationStore.open(path).n_fragments
    with open_cluster(scheduler) as engine:
        assert engine.wait_for_workers(10, gpu=True)
        assert [HOSTS[1] in name for name in engine.workers(network=True)] == [True]
        assert len(engine.workers(network=False)) == 2


def test_an_adapted_student_is_measured_once_for_all(
    volume, checkpoint, config, scheduler, tmp_path
):
    adapted = replace(config, fit=FitConfig(adapt=0.5))
    list(segment_volume(volume, checkpoint, adapted, tmp_path / "here.zarr"))
    list(segment_volume(volume, checkpoint, adapted, tmp_path / "there.zarr", scheduler=scheduler))
    assert same(tmp_path / "there.zarr", contents(tmp_path / "here.zarr"))


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_worker_killed_on_the_way_is_survived(
    volume, checkpoint, config, finished, scheduler, tmp_path
):
    path = tmp_path / "run.zarr"
    killed = False
    with distributed.Client(scheduler, set_as_default=False) as client:
        workers = client.run(os.getpid)
        for event in segment_volume(volume, checkpoint, config, path, scheduler=scheduler):
            if not killed and isinstance(event, SectionDone):
                for pid in workers.values():
                    os.kill(pid, signal.SIGKILL)
                killed = True
        assert set(client.run(os.getpid).values()).isdisjoint(workers.values())
    assert same(path, finished)


_RUN_SCRIPT = """
import sys
from napari_cad.core.checkpoint import load_checkpoint
from napari_cad.core.config import InferenceConfig, SegmentationConfig
from napari_cad.core.pipeline import segment_volume
from napari_cad.core.readers import open_volume
volume = open_volume(sys.argv[1], voxel_size=(30, 6, 6))
config = SegmentationConfig(inference=InferenceConfig(device="cpu"), workers=0)
run = segment_volume(
    volume, load_checkpoint(sys.argv[2]), config, sys.argv[3], scheduler=sys.argv[4]
)
for event in run:
    print(event, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_coordinator_is_followed_by_another(
    volume, checkpoint, config, finished, scheduler, tmp_path
):
    path = tmp_path / "run.zarr"
    arguments = [volume.source.path, str(checkpoint.path), str(path), scheduler]
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN_SCRIPT, *arguments], stdout=subprocess.PIPE
    )
    with process.stdout as events:
        while b"SectionDone" not in next(events):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    list(segment_volume(volume, checkpoint, config, path, scheduler=scheduler))
    assert same(path, finished)


def test_workers_of_another_version_are_named(
    volume, checkpoint, config, scheduler, tmp_path, monkeypatch
):
    monkeypatch.setattr(napari_cad, "__version__", "99.0")
    run = segment_volume(volume, checkpoint, config, tmp_path / "run.zarr", scheduler=scheduler)
    with pytest.raises(ClusterError, match=rf"expected napari-cad 99\.0 .*{HOSTS[0]}.*Install"):
        list(run)
    assert not (tmp_path / "run.zarr").exists()
    # one that joins later
    with pytest.raises(TaskFailed, match="install the same version everywhere"):
        engines.carry_out("98.0", fail, ([],))


def test_a_cluster_needs_what_has_an_address(volume, checkpoint, config, scheduler, tmp_path):
    in_memory = EMVolume.from_array(np.zeros((2, 32, 32), np.uint8))
    with pytest.raises(ConfigError, match="write it into a file"):
        list(segment_volume(in_memory, checkpoint, config, tmp_path / "a", scheduler=scheduler))
    unsaved = replace(checkpoint, path=None)
    with pytest.raises(CheckpointError, match="save it with save_checkpoint"):
        list(segment_volume(volume, unsaved, config, tmp_path / "b", scheduler=scheduler))


def test_a_worker_that_sees_other_files_is_named(volume, checkpoint, config, scheduler, tmp_path):
    path = tmp_path / "run.zarr"
    list(segment_volume(volume, checkpoint, config, path))
    SegmentationStore.open(path, mode="a").scratch.make("this run")
    address, source = str(path), volume.source
    prepared, _ = section_tasks.prepare_run(volume, checkpoint, config)
    student = Student(str(checkpoint.path), checkpoint.sha256, prepared)
    section_tasks.check_worker(address, "this run", source, student)

    with pytest.raises(StoreError, match="another store: put the store on a file system"):
        section_tasks.check_worker(address, "a run elsewhere", source, student)
    with pytest.raises(StoreError, match="does not exist"):
        section_tasks.check_worker(address + "2", "this run", source, student)
    other = tmp_path / "other.npy"
    np.save(other, np.zeros((2, 32, 32), np.uint8))
    with pytest.raises(VolumeError, match=r"expected .*all workers must see the same"):
        section_tasks.check_worker(address, "this run", replace(source, path=str(other)), student)
    wrong = replace(student, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="is another file here"):
        section_tasks.check_worker(address, "this run", source, wrong)
    with open_cluster(scheduler) as engine:
        engine.wait_for_workers(10, gpu=True)
        arguments = ("/nowhere.zarr", "", source, None)
        check = Check("elsewhere", section_tasks.check_worker, arguments)
        with pytest.raises(ClusterError, match=f"the worker tcp://{HOSTS[0]}.* cannot see.*napari"):
            engine.require("see", check, network=False)


@contextlib.contextmanager
def joining(scheduler, *options, **environment):
    """Let another worker join a scheduler, and leave it again."""
    arguments = ["-m", "distributed.cli.dask_worker", scheduler, "--no-nanny", "--no-dashboard"]
    arguments += ["--death-timeout", "60", "--name", "late", *options]
    with distributed.Client(scheduler, set_as_default=False) as client:
        before = len(client.scheduler_info(n_workers=-1)["workers"])
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            client.wait_for_workers(before + 1, timeout=60)
            yield
        finally:
            process.kill()
            process.wait()
            while len(client.scheduler_info(n_workers=-1)["workers"]) > before:
                time.sleep(0.05)


def test_a_worker_that_joins_later_and_cannot_take_part_is_left_out(
    volume, checkpoint, config, finished, scheduler, tmp_path
):
    """It has three threads, which a limit of memory does not allow, and would take most tasks."""
    path = tmp_path / "run.zarr"
    limited = replace(config, memory=4 * 10**9)
    run = segment_volume(volume, checkpoint, limited, path, scheduler=scheduler)
    events = []
    for event in run:
        events.append(event)
        if isinstance(event, StageStarted) and event.stage == "affinities":
            break
    with joining(scheduler, "--nthreads", "3"):
        events += run
    assert same(path, finished)
    (said,) = [event.message for event in events if isinstance(event, Warned)]
    assert re.search(r"worker tcp://.* cannot take part .*it has 3 threads.*--nthreads 1", said)


def test_a_run_ends_where_no_worker_is_left_that_can_take_part():
    engine = InlineEngine()
    unfit = engines.WorkerUnfit("it sees no store", "tcp://a:1")
    again = pickle.loads(pickle.dumps(unfit))  # noqa: S301
    assert (again.message, again.worker, again.may_pass) == ("it sees no store", "tcp://a:1", False)
    failed: Future[None] = Future()
    failed.set_exception(unfit)
    engine.submit = lambda *_, network: failed
    with pytest.raises(SectionError, match=r"no worker can take part.*tcp://a:1 says: it sees no"):
        Task(engine, "section 1", fail, []).result()


def test_a_limit_of_memory_is_one_of_each_worker(volume, checkpoint, config):
    memory, size = 2 * 10**9, (2048, 2048)
    planned = within_memory(replace(config, memory=memory, workers=7), size, size, 16, there=True)
    alone = plan_memory(memory - DASK, size, config.inference, width=16, workers=0)
    assert (planned.workers, planned.inference.memory) == (7, alone.step)
    assert agglomeration_share(memory, there=True) == agglomeration_share(memory) - DASK
    source = volume.source
    made, _ = section_tasks.prepare_run_there(
        source, str(checkpoint.path), checkpoint.sha256, replace(config, memory=memory)
    )
    here, _ = section_tasks.prepare_run(volume, checkpoint, replace(config, memory=memory))
    assert made.inference.memory == here.inference.memory - DASK


def test_a_scheduler_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_TIMEOUT", 0.2)
    with (
        pytest.raises(ClusterError, match=r"expected a dask scheduler at tcp://127\.0\.0\.1:9"),
        open_cluster("tcp://127.0.0.1:9"),
    ):
        pass


def test_a_cluster_needs_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ConfigError, match=r"napari-cad\[cluster\]"),
        open_cluster("tcp://127.0.0.1:9"),
    ):
        pass


def test_what_dask_says_of_lost_workers_is_told_in_our_words():
    killed = distributed.KilledWorker("task", SimpleNamespace(address="tcp://a:1"), 3)
    state = SimpleNamespace(exception=lambda: killed, cancelled=lambda: False)
    error = cluster._DaskFuture(state).exception()
    assert isinstance(error, TaskFailed)
    assert "4 workers" in error.message
    assert not error.may_pass
    gone = SimpleNamespace(exception=lambda: None, cancelled=lambda: True)
    assert "scheduler" in cluster._DaskFuture(gone).exception().message


@pytest.mark.parametrize(
    ("variables", "device"),
    [({}, "auto"), ({"SLURM_LOCALID": "3"}, "cuda:1"), ({"LOCAL_RANK": "0"}, "cuda:0")],
)
def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch, variables, device):
    for name in section_tasks._LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = SegmentationConfig(inference=InferenceConfig())
    assert section_tasks._on_this_device(config).inference.device == device
    on_cpu = SegmentationConfig(inference=InferenceConfig(device="cpu"))
    assert section_tasks._on_this_device(on_cpu) == on_cpu
