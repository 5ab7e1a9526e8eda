"""Fitting a student from the command line."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from napari_cad import cli
from napari_cad.core.checkpoint import save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import FitConfig
from napari_cad.core.network import StudentNetwork
from napari_cad.core.store import SegmentationStore
from napari_cad.core.synthetic import synthetic_em


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A stack and a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("fit")
    np.save(folder / "stack.npy", synthetic_em((4, 48, 64), seed=1).raw)
    torch.manual_seed(0)
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=3, training_data="none", licence="none",
        voxel_size=(30, 6, 6),
    )  # fmt: skip
    save_checkpoint(folder / "tiny.safetensors", StudentNetwork(2, 3).eval(), metadata)
    return folder


@pytest.fixture
def napari_cad(monkeypatch, capsys):
    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["napari-cad", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return call


def test_segment_with_a_fit_records_it(napari_cad, files, tmp_path):
    code, _, _ = napari_cad(
        "segment", files / "stack.npy", "-c", files / "tiny.safetensors", "-o", tmp_path / "a.zarr",
        "--device", "cpu", "--adapt", "0.5", "--smooth", "1", "--rescale", "0.75",
    )  # fmt: skip
    assert code == 0
    store = SegmentationStore.open(tmp_path / "a.zarr")
    assert store.config.fit == FitConfig(adapt=0.5, smooth=1.0, rescale=0.75)
    assert store.shape == (4, 48, 64)


def test_a_fit_out_of_range_is_explained(napari_cad, files, tmp_path):
    code, _, err = napari_cad(
        "segment", files / "stack.npy", "-c", files / "tiny.safetensors", "-o", tmp_path / "a.zarr",
        "--adapt", "2",
    )  # fmt: skip
    assert code == 1
    assert "adapt must be between 0.0 and 1.0, got 2.0" in err


def test_fit_suggests_a_command(napari_cad, files):
    code, out, _ = napari_cad(
        "fit", files / "stack.npy", "-c", files / "tiny.safetensors", "--voxel-size", "30,4,4",
        "--adapt", "0,1", "--smooth", "1", "--crops", "1", "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["agreement", "checkpoint", "adapt", "smooth", "rescale", "polarity"]
    scores = [float(line.split()[0]) for line in lines[1:5]]  # two strengths, two sizes
    assert scores == sorted(scores, reverse=True)
    best = lines[1].split()
    command = lines[-1].split()
    assert command[:3] == ["napari-cad", "segment", str(files / "stack.npy")]
    assert command[command.index("--voxel-size") + 1] == "30,4,4"
    assert ("--adapt" in command) == (best[2] == "1")
    assert ("--rescale" in command) == (best[4] != "1")
    assert command[command.index("--smooth") + 1] == "1"
    assert "--limits" not in command


def test_fit_for_machines(napari_cad, files):
    code, out, _ = napari_cad(
        "fit", files / "stack.npy", "-c", files / "tiny.safetensors", "--json", "--adapt", "0",
        "--smooth", "0", "--polarity", "--limits", "10,200", "--crops", "1", "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert [e["event"] for e in events] == ["SettingScored", "SettingScored", "FitSuggested"]
    assert [e["done"] for e in events[:2]] == [1, 2]
    ranking = events[-1]["ranking"]
    assert {result["intensity"]["invert"] for result in ranking} == {False, True}
    assert {result["intensity"]["low"] for result in ranking} == {10}
    assert 0 <= ranking[1]["agreement"] <= ranking[0]["agreement"] <= 1


def test_fit_explains_wrong_lists(napari_cad, files):
    code, _, err = napari_cad("fit", files / "stack.npy", "--adapt", "0;1")
    assert code == 2
    assert "numbers separated by commas" in err
