"""Fitting a student from the command line."""

from __future__ import annotations

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
