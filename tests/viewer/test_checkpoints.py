from __future__ import annotations

import subprocess
import sys

import pytest

from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.network import StudentNetwork
from napari_cad.core.published import PUBLISHED
from napari_cad.core.registry import resolve_checkpoint
from napari_cad.viewer.checkpoints import (
    DEFAULT,
    describe_checkpoint,
    needs_download,
    short_title,
)


def test_a_file_of_ours_tells_what_loading_it_tells(tmp_path):
    path = tmp_path / "mine.safetensors"
    metadata = CheckpointMetadata(
        name="mine", width=2, embedding_dim=3, training_data="some", licence="none", threshold=0.3
    )
    save_checkpoint(path, StudentNetwork(2, 3), metadata)
    assert describe_checkpoint(str(path)) == load_checkpoint(path).metadata == metadata


def test_the_default_tells_what_loading_it_tells():
    assert describe_checkpoint(DEFAULT) == resolve_checkpoint(DEFAULT).metadata


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_known_by_name_and_by_content(name, shared_dir):
    by_content = describe_checkpoint(str(shared_dir / "checkpoints" / f"{name}.ckpt"))
    assert by_content == describe_checkpoint(name)
    assert by_content == load_checkpoint(shared_dir / "checkpoints" / f"{name}.ckpt").metadata


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 damaged", b"\xff" * 100, b"\x08" + b"\0" * 7 + b'{"a": 1}']
)
def test_what_cannot_be_read_is_not_described(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert describe_checkpoint(str(tmp_path / "file")) is None
    assert describe_checkpoint(str(tmp_path / "missing")) is None
    assert describe_checkpoint(str(tmp_path)) is None


def test_only_published_ones_that_are_not_there_need_a_download(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    assert needs_download(DEFAULT) is None
    assert needs_download("some/file.ckpt") is None
    assert needs_download("AC34") is PUBLISHED["AC34"]
    (tmp_path / "napari-cad").mkdir()
    (tmp_path / "napari-cad" / "AC34.ckpt").touch()
    assert needs_download("AC34") is None


def test_torch_is_not_imported_for_it():
    code = (
        "import sys; from napari_cad.viewer.checkpoints import *; describe_checkpoint('default');"
        "needs_download('AC34'); import napari_cad.viewer.tasks; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name_or_path", "title"),
    [
        ("CremiA", "CremiA"),
        ("/data/mine.safetensors", "mine.safetensors"),
        ("/data/training/stack_default_2/best.safetensors", "stack_default_2/best"),
        (r"C:\training\stack\last.safetensors", "stack/last"),
        ("best.safetensors", "best.safetensors"),
    ],
)
def test_checkpoints_of_training_runs_are_told_apart_by_their_folders(name_or_path, title):
    assert short_title(name_or_path) == title
