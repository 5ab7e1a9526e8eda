from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import torch

from napari_cad.training.parallel import Processes
from napari_cad.training.run_folder import read_curve


def test_alone_there_is_one_process(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    alone = Processes.from_environment()
    assert alone == Processes(0, 1, 0)
    assert alone.is_first
    assert alone.own_gpu("auto") == "auto"
    assert alone.agree(3) == 3
    module = torch.nn.Linear(1, 1)
    assert alone.wrap(module, "cpu") is module


def test_torchrun_is_understood(monkeypatch):
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    one = Processes.from_environment()
    assert one == Processes(3, 4, 1)
    assert not one.is_first


def test_two_processes_train_one_network(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = str(Path(__file__).with_name("together.py"))
    run = tmp_path / "run"
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), str(port), str(run)])
        for rank in (0, 1)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    first, second = (torch.load(f"{run}.{rank}.pt", weights_only=True) for rank in (0, 1))
    assert second["events"] == 0
    assert first["events"] > 3
    assert all(torch.equal(v, second["weights"][k]) for k, v in first["weights"].items())
    assert [point["step"] for point in read_curve(run / "curve.jsonl")] == [1, 2]
