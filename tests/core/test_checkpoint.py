"""Checkpoints: what is read comes out right, and what is no checkpoint is refused harmlessly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import napari_cad
from napari_cad.core.checkpoint import (
    FORMAT_VERSION,
    Checkpoint,
    CheckpointMetadata,
    load_checkpoint,
    published_keys,
    save_checkpoint,
)
from napari_cad.core.errors import CheckpointError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.network import StudentNetwork, fold_batch_norm
from napari_cad.core.published import PUBLISHED

WIDTH, EMBEDDING_DIM = 1, 3

METADATA = CheckpointMetadata(
    name="tiny",
    width=WIDTH,
    embedding_dim=EMBEDDING_DIM,
    voxel_size=(30.0, 6.0, 6.0),
    intensity=IntensityMapping(method="limits", low=3, high=200.5, invert=True),
    merge_function="mean",
    threshold=0.35,
    training_data="nothing",
    licence="BSD-3-Clause",
    notes="µm × 3",
)


@pytest.fixture
def network() -> StudentNetwork:
    torch.manual_seed(0)
    made = StudentNetwork(WIDTH, EMBEDDING_DIM)
    for name, buffer in made.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.fill_(2**40)  # float32 could not hold 2**40 + 1
            buffer.add_(1)
        else:
            buffer.uniform_(0.5, 2)
    return made


@pytest.fixture
def entries(network) -> dict[str, torch.Tensor]:
    """The network by the published names."""
    names = published_keys()
    return {names[k]: v for k, v in network.state_dict().items()}


def write_published(path: Path, entries: object, *, legacy: bool = True, **more: object) -> Path:
    content = {"current_iter": 7, "valid_result": None, "model_weights": entries} | more
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def write_safetensors(path: Path, network: StudentNetwork, metadata: object) -> Path:
    header = None if metadata is None else {"napari_cad": json.dumps(metadata)}
    path.write_bytes(safetensors.torch.save(dict(network.state_dict()), metadata=header))
    return path


def values_with(**changes: object) -> dict[str, object]:
    return METADATA.to_json() | {"format_version": FORMAT_VERSION} | changes


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert path.name in str(caught.value)
    assert "weights_only=False" not in str(caught.value)
    return str(caught.value)


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoint(shared_dir, name):
    path = shared_dir / "checkpoints" / f"{name}.ckpt"
    checkpoint = load_checkpoint(path)
    assert checkpoint.path == path
    assert checkpoint.sha256 == PUBLISHED[name].sha256
    metadata = checkpoint.metadata
    assert metadata.name == name
    assert metadata.voxel_size == PUBLISHED[name].voxel_size
    assert metadata.intensity == IntensityMapping()
    assert (metadata.width, metadata.embedding_dim) == (16, 16)
    assert (metadata.merge_function, metadata.threshold) == ("median", 0.5)
    assert "dark membranes" in metadata.notes
    assert "no licence" in metadata.licence
    # every entry, bit by bit, against a reading without our code
    theirs = torch.load(path, weights_only=True, map_location="cpu")["model_weights"]
    names = published_keys()
    assert len(checkpoint.state_dict) == len(theirs) == 158
    for ours, tensor in checkpoint.state_dict.items():
        assert tensor.dtype == theirs[names[ours]].dtype
        assert torch.equal(tensor, theirs[names[ours]])
    assert not checkpoint.build().training


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_format_of_another_width(tmp_path, network, entries, legacy, prefix):
    prefixed = {prefix + k: v for k, v in entries.items()}
    path = write_published(tmp_path / "mine.ckpt", prefixed, legacy=legacy)
    checkpoint = load_checkpoint(str(path))
    metadata = checkpoint.metadata
    assert (metadata.name, metadata.width, metadata.embedding_dim) == ("mine", 1, 3)
    assert metadata.voxel_size is None
    assert "not known" in metadata.licence
    for name, tensor in network.state_dict().items():
        assert torch.equal(checkpoint.state_dict[name], tensor)


def test_half_precision_entries_become_float32(tmp_path, network, entries):
    half = {k: v.half() if v.is_floating_point() else v.int() for k, v in entries.items()}
    # 2**40 + 1 does not fit into int32
    half = {k: v if v.is_floating_point() else torch.tensor(5) for k, v in half.items()}
    checkpoint = load_checkpoint(write_published(tmp_path / "half.ckpt", half))
    assert {t.dtype for t in checkpoint.state_dict.values()} == {torch.float32, torch.int64}


def test_own_format_comes_back_as_it_was(tmp_path, network):
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, network, METADATA)
    checkpoint = load_checkpoint(path)
    assert checkpoint.metadata == METADATA
    assert checkpoint.metadata.code_version == napari_cad.__version__
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    expected = network.state_dict()
    assert list(checkpoint.state_dict) == list(expected)
    for name, tensor in checkpoint.state_dict.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])
    pair = torch.rand(1, 2, 16, 16)
    with torch.inference_mode():
        made, direct = checkpoint.build()(pair), network.eval()(pair)
    assert torch.equal(made[0], direct[0])
    assert torch.equal(made[1], direct[1])


def test_half_precision_on_disk_rounds_kernels_only(tmp_path, network):
    save_checkpoint(tmp_path / "full.safetensors", network, METADATA)
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, network.state_dict(), METADATA, half=True)
    checkpoint = load_checkpoint(path)
    for name, tensor in network.state_dict().items():
        expected = tensor.half().float() if tensor.ndim == 4 else tensor
        assert checkpoint.state_dict[name].dtype == tensor.dtype
        assert torch.equal(checkpoint.state_dict[name], expected)
    assert path.stat().st_size < 0.7 * (tmp_path / "full.safetensors").stat().st_size
    # saving what was loaded loses nothing more
    again = tmp_path / "again.safetensors"
    save_checkpoint(again, checkpoint.state_dict, checkpoint.metadata, half=True)
    assert again.read_bytes() == path.read_bytes()


def test_half_precision_of_a_published_student_is_close(tmp_path, shared_dir):
    from napari_cad.core.affinity import pair_affinities

    checkpoint = load_checkpoint(shared_dir / "checkpoints" / "AC34.ckpt")
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, checkpoint.state_dict, checkpoint.metadata, half=True)
    assert path.stat().st_size < 1_900_000
    with np.load(shared_dir / "golden" / "published_students.npz") as golden:
        raw = torch.from_numpy(golden["raw"][:2].astype(np.float32) / 255)[None]
        expected = golden["AC34/affinities"][:, 1]
    with torch.inference_mode():
        made = pair_affinities(*load_checkpoint(path).build()(raw))[0].numpy()
    error = np.abs(made - expected)
    assert error.max() < 0.05
    assert error.mean() < 5e-4


def test_a_built_network_is_a_copy(tmp_path, network):
    save_checkpoint(tmp_path / "a.safetensors", network, METADATA)
    checkpoint = load_checkpoint(tmp_path / "a.safetensors")
    built = checkpoint.build()
    before = checkpoint.state_dict["decoder.head.bias"].clone()
    with torch.no_grad():
        built.decoder.head.bias += 1
    assert torch.equal(checkpoint.state_dict["decoder.head.bias"], before)


def test_a_checkpoint_can_be_sent_to_another_process(tmp_path, network):
    save_checkpoint(tmp_path / "a.safetensors", network, METADATA)
    sent = load_checkpoint(tmp_path / "a.safetensors")
    received = pickle.loads(pickle.dumps(sent))  # noqa: S301
    assert isinstance(received, Checkpoint)
    assert received.metadata == sent.metadata
    assert received.sha256 == sent.sha256


def test_unknown_metadata_of_a_later_release_are_passed_over(tmp_path, network):
    path = write_safetensors(tmp_path / "a.safetensors", network, values_with(colour="blue"))
    assert load_checkpoint(path).metadata == METADATA


# --- what is saved -------------------------------------------------------------------------------


def test_the_same_content_gives_the_same_bytes(tmp_path, network):
    channels_last = StudentNetwork(WIDTH, EMBEDDING_DIM)
    channels_last.load_state_dict(network.state_dict())
    channels_last.to(memory_format=torch.channels_last)
    for name, given in (("a", network), ("b", network.state_dict()), ("c", channels_last)):
        save_checkpoint(tmp_path / f"{name}.safetensors", given, METADATA)
    a, b, c = ((tmp_path / f"{n}.safetensors").read_bytes() for n in "abc")
    assert a == b == c


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, network, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"precious")

    def broken(*_args: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, network, METADATA)
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_save_into_a_missing_folder_fails(tmp_path, network):
    with pytest.raises(FileNotFoundError):
        save_checkpoint(tmp_path / "no" / "a.safetensors", network, METADATA)


def test_what_cannot_be_loaded_is_not_saved(tmp_path, network):
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match="110 of 158 entries missing"):
        save_checkpoint(path, fold_batch_norm(network), METADATA)
    with pytest.raises(CheckpointError, match="width 16 and embedding dimension 3"):
        save_checkpoint(path, network, dataclasses.replace(METADATA, width=16))
    with torch.no_grad():
        network.encode_half[0].weight[0, 0, 0, 0] = 1e5
    with pytest.raises(CheckpointError, match=r"encode_half\.0\.weight .* float16"):
        save_checkpoint(path, network, METADATA, half=True)
    save_checkpoint(tmp_path / "full.safetensors", network, METADATA)
    with torch.no_grad():
        network.encode_half[0].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="NaN"):
        save_checkpoint(path, network, METADATA)
    assert not path.exists()


# --- what is refused -----------------------------------------------------------------------------


class Evil:
    """Unpickling an instance makes a file: stands for code that a file brings along."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.marker, "w")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("form", ["zip", "legacy", "beside", "pickle", "pickle0", "pickle2"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, entries, form):
    marker, path = tmp_path / "marker", tmp_path / "evil.ckpt"
    evil = Evil(marker)
    if form in ("zip", "legacy"):
        bad = entries | {"inc.conv.conv.0.bias": evil}
        write_published(path, bad, legacy=form == "legacy")
    elif form == "beside":
        write_published(path, entries, optimiser=evil)
    else:
        path.write_bytes(pickle.dumps(evil, protocol=int(form[6:] or 4)))
    # the payload works: a careless reader would run it
    if form.startswith("pickle"):
        pickle.loads(path.read_bytes())  # noqa: S301
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()
    marker.unlink()

    message = refusal(path)
    assert not marker.exists()
    if form.startswith("pickle") and form != "pickle0":
        assert "other Python pickle" in message
    elif form != "pickle0":
        assert "open" in message
        assert "could run code" in message


def test_harmless_objects_are_refused_too(tmp_path, entries):
    path = write_published(tmp_path / "a.ckpt", entries, when=Path("yesterday"))
    assert "pathlib" in refusal(path)


@pytest.mark.parametrize("kind", ["legacy", "zip", "safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 9, 20, 0.3, 0.9, -1])
def test_truncated_files_are_refused(tmp_path, network, entries, kind, kept):
    path = tmp_path / "a.ckpt"
    if kind == "safetensors":
        save_checkpoint(path, network, METADATA)
    else:
        write_published(path, entries, legacy=kind == "legacy")
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    message = refusal(path)
    assert ("empty" if kept == 0 else "checkpoint") in message


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(100),
        b"Dear reader,\n",
        b'{"a": 1}{"b": 2}',
        b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
        b"\xff" * 8 + b"{}",
        b"PK\x03\x04" + bytes(50),
        b"PK",
        bytes(1000),
    ],
)
def test_files_that_are_no_checkpoints_are_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert "checkpoint" in refusal(path)


def test_a_numpy_archive_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros(3))
    assert "no checkpoint" in refusal(path)


def test_folders_and_missing_files_are_refused(tmp_path):
    assert "folder" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "none.ckpt")


@pytest.mark.parametrize("legacy", [True, False])
def test_damaged_files_are_refused_or_read_but_never_fail_otherwise(
    tmp_path, network, entries, legacy
):
    rng = random.Random(0)
    path = tmp_path / "a.ckpt"
    data = write_published(path, entries, legacy=legacy).read_bytes()
    # where the structure is: the start, and for an archive its directory at the end too
    places = list(range(16, 9000)) + ([] if legacy else list(range(len(data) - 3000, len(data))))
    refused = 0
    for _ in range(60):
        damaged = bytearray(data)
        for place in rng.sample(places, 8):
            damaged[place] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 30


def test_damaged_safetensors_headers_are_refused_or_read(tmp_path, network):
    rng = random.Random(0)
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, network, METADATA)
    data = path.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    refused = 0
    for _ in range(60):
        damaged = bytearray(data)
        for place in rng.sample(range(header), 4):
            damaged[place] = rng.randrange(32, 127)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 30


def test_missing_extra_and_misshaped_entries_are_named(tmp_path, entries):
    path = tmp_path / "a.ckpt"
    fewer = {k: v for k, v in entries.items() if not k.startswith("up1.")}
    message = refusal(write_published(path, fewer))
    assert "14 of 158 entries missing: up1.conv.conv.0.weight" in message
    assert "and 11 more" in message

    message = refusal(write_published(path, entries | {"extra.weight": torch.zeros(1)}))
    assert "1 entries too many: extra.weight" in message

    wrong = entries | {"up2.conv.conv.0.weight": torch.zeros(2, 9, 3, 3)}
    message = refusal(write_published(path, wrong))
    assert "up2.conv.conv.0.weight expected (2, 8, 3, 3), got (2, 9, 3, 3)" in message

    message = refusal(write_published(path, {"layer.weight": torch.zeros(2, 2)}))
    assert "158 of 158 entries missing" in message
    assert "1 entries too many" in message


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("inc.conv.conv.0.weight", torch.zeros(())),
        ("inc.conv.conv.0.weight", torch.zeros(1).expand(100_000, 1, 3, 3)),
        ("outc_tn.conv.weight", torch.zeros(0, 32, 1, 1)),
        ("up1.conv.conv.0.bias", torch.zeros(4, dtype=torch.int64)),
        ("up1.conv.conv.0.bias", torch.zeros(4, dtype=torch.complex64)),
        ("up1.conv.conv.1.num_batches_tracked", torch.tensor(1.5)),
        ("up1.conv.conv.1.num_batches_tracked", torch.tensor(True)),
        ("up1.conv.conv.0.bias", torch.zeros(4).to_sparse()),
        ("up1.conv.conv.0.bias", torch.zeros(4, device="meta")),
        ("up1.conv.conv.0.bias", 3.0),
        ("up1.conv.conv.0.bias", None),
    ],
)
def test_entries_of_the_wrong_kind_are_refused(tmp_path, entries, name, tensor):
    refusal(write_published(tmp_path / "a.ckpt", entries | {name: tensor}, legacy=False))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, network, entries, value):
    entries["down.0.mpconv.1.conv.3.weight"][1, 1, 2, 2] = value
    assert "down.0.mpconv.1.conv.3.weight" in refusal(write_published(tmp_path / "a.ckpt", entries))
    # the same tensors under our names
    path = write_safetensors(tmp_path / "a.safetensors", network, values_with())
    assert "NaN" in refusal(path)


def test_negative_variances_are_refused(tmp_path, entries):
    entries["up1.conv.conv.1.running_var"][0] = -1
    message = refusal(write_published(tmp_path / "a.ckpt", entries))
    assert "up1.conv.conv.1.running_var" in message


def test_a_teacher_is_refused_as_such(tmp_path):
    teacher = {"conv0.block.0.weight": torch.zeros(2, 2, 1, 3, 3), "out.bias": torch.zeros(16)}
    assert "teacher" in refusal(write_published(tmp_path / "a.ckpt", teacher))
    path = tmp_path / "a.safetensors"
    header = {"napari_cad": json.dumps(values_with())}
    path.write_bytes(safetensors.torch.save(teacher, metadata=header))
    assert "teacher" in refusal(path)


def test_files_without_weights_are_refused(tmp_path, entries):
    path = tmp_path / "a.ckpt"
    torch.save({"epoch": 3, "state": entries}, path)
    assert "expected an entry 'model_weights', got entries epoch, state" in refusal(path)
    torch.save(torch.zeros(3), path)
    assert "got a Tensor" in refusal(path)
    assert "model_weights" in refusal(write_published(path, [1, 2]))


def test_safetensors_without_our_metadata_are_refused(tmp_path, network):
    path = write_safetensors(tmp_path / "a.safetensors", network, None)
    assert "no checkpoint of napari-cad" in refusal(path)


def test_a_newer_format_is_refused(tmp_path, network):
    values = values_with(format_version=FORMAT_VERSION + 1)
    message = refusal(write_safetensors(tmp_path / "a.safetensors", network, values))
    assert "install a newer napari-cad" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format_version": None}, "format version"),
        ({"format_version": "1"}, "format version"),
        ({"architecture": "teacher-3d"}, "architecture"),
        ({"width": 2}, "width 2 and embedding dimension 3"),
        ({"embedding_dim": 16}, "embedding dimension 16"),
        ({"width": 10**9}, "whole number"),
        ({"width": True}, "whole number"),
        ({"voxel_size": [30, 6]}, "voxel size"),
        ({"voxel_size": [30, 6, 0]}, "positive"),
        ({"voxel_size": "abc"}, "voxel size"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": None}, "threshold"),
        ({"name": ""}, "name"),
        ({"licence": 3}, "licence"),
        ({"intensity": None}, "intensity"),
        ({"intensity": {"method": "magic"}}, "magic"),
        ({"intensity": {"colour": 1}}, "colour"),
        ({"intensity": {"method": "limits", "low": "a", "high": 2}}, "intensity"),
    ],
)
def test_wrong_metadata_are_refused(tmp_path, network, change, expected):
    path = write_safetensors(tmp_path / "a.safetensors", network, values_with(**change))
    assert expected in refusal(path)


@pytest.mark.parametrize("values", [[], "text", 3, None, {"format_version": 1}])
def test_metadata_of_another_form_are_refused(tmp_path, network, values):
    text = json.dumps(values)
    path = tmp_path / "a.safetensors"
    path.write_bytes(
        safetensors.torch.save(dict(network.state_dict()), metadata={"napari_cad": text})
    )
    refusal(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_metadata_that_are_no_json_are_refused(tmp_path, network, text):
    path = tmp_path / "a.safetensors"
    path.write_bytes(
        safetensors.torch.save(dict(network.state_dict()), metadata={"napari_cad": text})
    )
    assert "no JSON" in refusal(path)


# --- metadata ------------------------------------------------------------------------------------


def test_metadata_survive_json():
    assert CheckpointMetadata.from_json(json.loads(json.dumps(METADATA.to_json()))) == METADATA
    unknown = dataclasses.replace(METADATA, voxel_size=None)
    assert CheckpointMetadata.from_json(json.loads(json.dumps(unknown.to_json()))) == unknown


def test_metadata_are_normalised_and_hashable():
    made = dataclasses.replace(METADATA, voxel_size=np.array([30, 6, 6]), threshold=np.float32(0.5))
    assert made.voxel_size == (30.0, 6.0, 6.0)
    assert type(made.threshold) is float
    assert hash(made) == hash(dataclasses.replace(METADATA, threshold=0.5))


def test_loading_reads_the_file_once(tmp_path, network, monkeypatch):
    """What is hashed is what is loaded, even where the file is replaced in between."""
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, network, METADATA)
    opened = []
    real = Path.open

    def spy(self, *args, **kwargs):
        opened.append(self)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", spy)
    load_checkpoint(path)
    assert opened == [path]
