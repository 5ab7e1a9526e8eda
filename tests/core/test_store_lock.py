"""One run at a time in a store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING

import numpy as np
import pytest
import torch

from napari_cad.core import store_lock
from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import InferenceConfig, SegmentationConfig
from napari_cad.core.errors import StoreError
from napari_cad.core.events import Finished, SectionDone
from napari_cad.core.network import StudentNetwork
from napari_cad.core.pipeline import segment_volume
from napari_cad.core.store import SegmentationStore
from napari_cad.core.store_lock import sole_run
from napari_cad.core.volume import EMVolume

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_lock, "_PATIENCE", 0.2)


def test_the_second_one_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    run = tmp_path / "folder" / "run.zarr"
    with sole_run(run):
        with pytest.raises(StoreError, match="being made by another run"), sole_run(run):
            pass
        with sole_run(run.with_name("another.zarr")):
            pass
        (tmp_path / "link.zarr").symlink_to(run, target_is_directory=True)
        with pytest.raises(StoreError, match="another run"), sole_run(tmp_path / "link.zarr"):
            pass
    with sole_run(str(run)):
        pass
    assert list(run.parent.iterdir()) == []


def test_who_waits_gets_it_when_it_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_lock, "_PATIENCE", 60.0)
    inside, most = 0, 0

    def take() -> None:
        nonlocal inside, most
        for _ in range(20):
            with sole_run(tmp_path / "run.zarr"):
                inside += 1
                most = max(most, inside)
                inside -= 1

    monkeypatch.setattr(store_lock, "_PAUSE", 0.001)
    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there no file is removed that is open")
def test_a_file_that_its_last_holder_removes_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock, locked = tmp_path / ".run.zarr.lock", store_lock._lock, []

    def removed_before(file: IO[bytes]) -> None:
        if not locked:
            path.unlink()
        locked.append(file)
        lock(file)

    monkeypatch.setattr(store_lock, "_lock", removed_before)
    with sole_run(tmp_path / "run.zarr"):
        assert path.exists()
    assert len(locked) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_run_that_was_killed_is_not_in_the_way(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from napari_cad.core.store_lock import sole_run\n"
        "with sole_run(sys.argv[1]):\n"
        "    print(1, flush=True); time.sleep(600)\n"
    )
    run = tmp_path / "run.zarr"
    process = subprocess.Popen([sys.executable, "-c", script, run], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as said:
        said.readline()
        with pytest.raises(StoreError, match="another run"), sole_run(run):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with sole_run(run):
        pass
    assert list(tmp_path.iterdir()) == []


def test_where_there_are_no_locks_it_goes_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_here(_: object) -> None:
        raise OSError(37, "No locks available")

    with sole_run("memory://bucket/run.zarr"):
        pass
    monkeypatch.setattr(store_lock, "_lock", none_here)
    with sole_run(tmp_path / "run.zarr"):
        pass
    (tmp_path / "file").write_text("")
    with sole_run(tmp_path / "file" / "run.zarr"):
        pass


def test_two_runs_do_not_mix_in_one_store(tmp_path: Path) -> None:
    """Whatever the first still wrote would come to lie in the store of the second."""
    checkpoints = []
    for seed in range(2):
        torch.manual_seed(seed)
        metadata = CheckpointMetadata(
            name="tiny", width=2, embedding_dim=3, training_data="none", licence="none"
        )
        path = tmp_path / f"{seed}.safetensors"
        save_checkpoint(path, StudentNetwork(width=2, embedding_dim=3).eval(), metadata)
        checkpoints.append(load_checkpoint(path))
    volume = EMVolume.from_array(np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8))
    config = SegmentationConfig(inference=InferenceConfig(device="cpu"), workers=0)
    first = segment_volume(volume, checkpoints[0], config, tmp_path / "run.zarr")
    while not isinstance(next(first), SectionDone):
        pass
    for overwrite, checkpoint in ((True, checkpoints[1]), (False, checkpoints[0])):
        second = segment_volume(
            volume, checkpoint, config, tmp_path / "run.zarr", overwrite=overwrite
        )
        with pytest.raises(StoreError, match="another run"):
            next(second)
    # held to the end
    for event in first:
        if isinstance(event, Finished):
            break
        with pytest.raises(StoreError, match="another run"), sole_run(tmp_path / "run.zarr"):
            pass
    signature = SegmentationStore.open(tmp_path / "run.zarr").signature
    assert signature["checkpoint"] == checkpoints[0].sha256
    assert not [entry for entry in tmp_path.iterdir() if entry.name.endswith(".lock")]
