"""Stores and volumes at URLs: the same bytes as at a path."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import InferenceConfig, SegmentationConfig
from napari_cad.core.errors import ConfigError, StoreError, VolumeError
from napari_cad.core.events import SectionDone
from napari_cad.core.locations import address, as_path, is_free, location
from napari_cad.core.network import StudentNetwork
from napari_cad.core.pipeline import segment_volume
from napari_cad.core.readers import open_source, open_volume
from napari_cad.core.store import SegmentationStore, is_store

pytest.importorskip("upath", reason="the extra cluster is not installed")

SHAPE = (3, 40, 48)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=3, training_data="none", licence="none"
    )
    save_checkpoint(path, StudentNetwork(width=2, embedding_dim=3).eval(), metadata)
    return load_checkpoint(path)


@pytest.fixture(scope="module")
def config() -> SegmentationConfig:
    return SegmentationConfig(inference=InferenceConfig(device="cpu"), workers=0)


def write_volume(place: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    zarr.create_array(place, data=values, chunks=(1, 32, 32))


@pytest.fixture(scope="module")
def finished(checkpoint, config, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("here")
    write_volume(str(folder / "stack.zarr"))
    volume = open_volume(folder / "stack.zarr", voxel_size=(30, 6, 6))
    list(segment_volume(volume, checkpoint, config, folder / "run.zarr"))
    return contents(folder / "run.zarr")


def contents(place: str | Path) -> dict[str, bytes]:
    """Every file of a store but the settings, which name the volume's place."""
    root = as_path(location(place))
    found = {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file()
    }
    del found["zarr.json"]
    return found


def test_paths_and_urls_are_told_apart(tmp_path):
    assert location("a/b.zarr") == Path("a/b.zarr")
    assert location("s3://bucket/b.zarr/") == "s3://bucket/b.zarr"
    assert location((tmp_path / "with space").as_uri()) == tmp_path / "with space"
    assert address(Path("a")) == str(Path("a").absolute())
    assert address("s3://bucket/a") == "s3://bucket/a"


def unmapped(files: dict[str, bytes]) -> dict[str, bytes]:
    mapped = ("graph/", "/tree/", "/numbered_")
    return {name: data for name, data in files.items() if not any(m in name for m in mapped)}


def test_a_run_in_memory(checkpoint, config, finished):
    base = "memory://test_a_run_in_memory"
    write_volume(f"{base}/stack.zarr")
    volume = open_volume(f"{base}/stack.zarr", voxel_size=(30, 6, 6))
    assert volume.name == "stack"
    assert np.array_equal(open_source(volume.source).section(1), volume.section(1))
    store = f"{base}/run.zarr"
    assert not is_store(store)
    assert is_free(store)
    run = segment_volume(volume, checkpoint, config, store)
    while not isinstance(next(run), SectionDone):
        pass
    run.close()
    list(segment_volume(volume, checkpoint, config, store))
    # columns that are mapped from a local disk have another layout elsewhere
    assert unmapped(contents(store)) == unmapped(finished)

    opened = SegmentationStore.open(store)
    assert opened.address == opened.path == store
    with pytest.raises(StoreError, match="a store already"):
        SegmentationStore.create(
            store,
            volume=volume,
            checkpoint=checkpoint.metadata,
            config=config,
            signature={},
        )
    list(segment_volume(volume, checkpoint, config, store, overwrite=True))
    assert unmapped(contents(store)) == unmapped(finished)


def test_a_run_at_a_file_url_by_two_processes(checkpoint, config, finished, tmp_path):
    write_volume(str(tmp_path / "stack.zarr"))
    volume = open_volume((tmp_path / "stack.zarr").as_uri(), voxel_size=(30, 6, 6))
    url = (tmp_path / "run.zarr").as_uri()
    list(segment_volume(volume, checkpoint, replace(config, workers=2), url))
    assert contents(tmp_path / "run.zarr") == finished


def test_nothing_but_a_store_is_ever_removed(checkpoint, config):
    base = "memory://test_nothing_but_a_store"
    write_volume(f"{base}/stack.zarr")
    volume = open_volume(f"{base}/stack.zarr", voxel_size=(30, 6, 6))
    with pytest.raises(StoreError, match="in the way"):
        list(segment_volume(volume, checkpoint, config, f"{base}/stack.zarr", overwrite=True))
    assert open_volume(f"{base}/stack.zarr").shape == SHAPE


def test_what_cannot_be_opened_is_told(monkeypatch):
    with pytest.raises(ConfigError, match="nowhere://a/b cannot be opened"):
        open_volume("nowhere://a/b")
    with pytest.raises(VolumeError, match="expected a zarr array or image, got none"):
        open_volume("memory://nothing/here.zarr")
    with pytest.raises(StoreError, match="which does not exist"):
        SegmentationStore.open("memory://nothing/here.zarr")
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(ConfigError, match=r"napari-cad\[cluster\]"):
        open_volume("s3://bucket/stack.zarr")


@pytest.fixture
def s3(monkeypatch) -> str:
    """A bucket on a server of this machine."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server_module = pytest.importorskip("moto.server", reason="moto's server is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "FSSPEC_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import fsspec
    from fsspec.config import conf, set_conf_env

    set_conf_env(conf)  # it was read when fsspec was imported
    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
    conf.pop("s3")
    server.stop()


def test_a_run_in_an_object_store_by_two_processes(s3, checkpoint, config, finished):
    write_volume(f"{s3}/stack.zarr")
    volume = open_volume(f"{s3}/stack.zarr", voxel_size=(30, 6, 6))
    store = f"{s3}/run.zarr"
    run = segment_volume(volume, checkpoint, config, store)
    while not isinstance(next(run), SectionDone):
        pass
    run.close()
    list(segment_volume(volume, checkpoint, replace(config, workers=2), store))
    assert unmapped(contents(store)) == unmapped(finished)
    with pytest.raises(StoreError, match="which does not exist"):
        SegmentationStore.open("s3://there-is-no-such-bucket")
