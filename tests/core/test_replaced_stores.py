"""A store that is replaced: nothing is lost, and after any kill the place can be used again."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import zarr

from napari_cad.core import locations
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import SegmentationConfig
from napari_cad.core.errors import StoreError
from napari_cad.core.readers import open_volume
from napari_cad.core.store import SegmentationStore, is_store
from napari_cad.core.store_layout import UNFINISHED, is_unfinished
from napari_cad.core.volume import EMVolume

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Killed(BaseException):
    """What ends a process at any place."""


def create(
    path: Path | str,
    *,
    name: str = "new",
    overwrite: bool = False,
    volume: EMVolume | None = None,
) -> SegmentationStore:
    return SegmentationStore.create(
        path,
        volume=volume or EMVolume.from_array(np.zeros((2, 8, 8), np.uint8), name=name),
        checkpoint=CheckpointMetadata(
            name="tiny", width=2, embedding_dim=3, training_data="none", licence="none"
        ),
        config=SegmentationConfig(),
        signature={},
        overwrite=overwrite,
    )


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_an_overwrite_that_is_killed_while_it_removes_leaves_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.zarr"
    create(path, name="old")

    true_rmtree = shutil.rmtree

    def killed(place: Path) -> None:
        true_rmtree(place / "marks")
        (place / "zarr.json").unlink()
        raise Killed

    monkeypatch.setattr(locations.shutil, "rmtree", killed)
    with pytest.raises(Killed):
        create(path, overwrite=True)
    monkeypatch.undo()
    assert SegmentationStore.open(path).name == "new"
    assert len(names(tmp_path)) == 2

    # what was left is removed by the next one, and nothing else
    (tmp_path / ".run.zarr.mine.replaced").mkdir()
    (tmp_path / ".other.zarr.0123abcd.replaced").mkdir()
    create(path, overwrite=True)
    assert names(tmp_path) == [
        ".other.zarr.0123abcd.replaced",
        ".run.zarr.mine.replaced",
        "run.zarr",
    ]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("n_written", range(1, 8))
def test_a_store_that_was_not_made_to_its_end_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_written: int, overwrite: bool
) -> None:
    path = tmp_path / "run.zarr"
    made = 0

    def counted(method: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            made += 1
            if made > n_written:
                raise Killed
            return method(*args, **kwargs)

        return wrapper

    for kind in ("create_group", "create_array"):
        monkeypatch.setattr(zarr.Group, kind, counted(getattr(zarr.Group, kind)))
    with pytest.raises(Killed):
        create(path)
    monkeypatch.undo()
    assert names(path)
    assert not is_store(path)
    with pytest.raises(StoreError, match="expected a napari-cad store"):
        SegmentationStore.open(path)

    store = create(path, overwrite=overwrite)
    assert not store.sections_done("edges").any()
    assert dict(zarr.open_group(path, mode="r").attrs) == {"napari_cad": store.settings}
    assert names(tmp_path) == ["run.zarr"]


def test_what_cannot_be_moved_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.zarr"
    create(path, name="old")

    def refused(self: Path, target: Path) -> None:
        raise PermissionError(13, "in use by another process")

    monkeypatch.setattr(type(path), "rename", refused)
    with pytest.raises(StoreError, match=r"run\.zarr cannot be replaced .*in use"):
        create(path, overwrite=True)
    assert SegmentationStore.open(path).name == "old"
    assert names(tmp_path) == ["run.zarr"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    real, link = tmp_path / "large disk" / "run.zarr", tmp_path / "link.zarr"
    create(real, name="old")
    link.symlink_to(real, target_is_directory=True)
    create(link, overwrite=True)
    assert link.is_symlink()
    assert SegmentationStore.open(real).name == "new"
    assert names(real.parent) == ["run.zarr"]


def test_a_store_of_which_a_part_was_removed_says_so(tmp_path: Path) -> None:
    """As an interrupted overwrite of an older version leaves it."""
    path = tmp_path / "run.zarr"
    create(path)
    shutil.rmtree(path / "marks")
    with pytest.raises(StoreError, match="is not whole, marks/edges is missing"):
        SegmentationStore.open(path).sections_done("edges")
    create(path, overwrite=True)
    assert not SegmentationStore.open(path).sections_done("edges").any()


# ---------------------------------------------------------------- the first file


def test_a_kill_at_the_first_file_leaves_a_place_that_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.zarr"

    def half(self: Path, text: str, **_: Any) -> None:
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise Killed

    def never(self: Path, target: Path) -> None:
        raise Killed

    for name, method in (("write_text", half), ("replace", never)):
        with monkeypatch.context() as patched:
            patched.setattr(type(path), name, method)
            with pytest.raises(Killed):
                create(path)
        assert names(path) == [UNFINISHED]
        assert is_unfinished(path)
        store = create(path)
        assert dict(zarr.open_group(path, mode="r").attrs) == {"napari_cad": store.settings}
        assert names(tmp_path) == ["run.zarr"]
        shutil.rmtree(path)


@pytest.mark.parametrize("files", [["zarr.json"], [UNFINISHED, "thesis.txt"], ["thesis.txt"]])
def test_a_folder_of_a_person_is_not_taken_for_a_beginning(
    tmp_path: Path, files: list[str]
) -> None:
    path = tmp_path / "run.zarr"
    path.mkdir()
    for name in files:
        (path / name).write_text("{")
    with pytest.raises(StoreError, match="in the way"):
        create(path, overwrite=True)
    assert names(path) == sorted(files)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"zarr_format": 3}',
        b'{"zarr_format": 3, "node_type": "group", "attributes": ["napari_cad"]}',
        b'{"zarr_format": 3, "node_type": "group", "more": 1}',
    ],
)
def test_strange_metadata_are_those_of_no_store(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "zarr.json").write_bytes(text)
    assert not is_store(tmp_path)
    assert not is_unfinished(tmp_path)


# ---------------------------------------------------------------- what must not be lost


#: Ways to reach a volume that lies in a store.
REACHES: dict[str, Callable[[Path, Path], EMVolume]] = {
    "its path": lambda _, raw: open_volume(raw),
    "a relative path": lambda _, raw: open_volume(os.path.relpath(raw)),
    "the store and a dataset": lambda run, _: open_volume(f"{run}:fragments/raw"),
    "a link to it": lambda run, raw: open_volume(linked(run.parent / "stack", raw)),
    "a link to the store": lambda run, _: open_volume(
        linked(run.parent / "link.zarr", run) / "fragments" / "raw"
    ),
    "a link in another zarr": lambda run, raw: in_another_zarr(run.parent / "other.zarr", raw),
    "a part of it": lambda _, raw: open_volume(raw).crop((1, 2)),
    "an array": lambda _, raw: EMVolume.from_array(zarr.open_array(raw, mode="r")),
    "a lazy array": lambda _, raw: EMVolume.from_array(open_volume(raw).data),
}


def linked(link: Path, target: Path) -> Path:
    link.symlink_to(target, target_is_directory=True)
    return link


def in_another_zarr(path: Path, raw: Path) -> EMVolume:
    zarr.open_group(path, mode="w")
    linked(path / "raw", raw)
    return open_volume(f"{path}:raw")


@pytest.mark.parametrize("place", ["run.zarr", "place.zarr"])
@pytest.mark.parametrize("reach", list(REACHES))
def test_a_store_that_the_volume_lies_in_is_not_removed(
    tmp_path: Path, reach: str, place: str
) -> None:
    run = tmp_path / "run.zarr"
    create(run, name="old")
    linked(tmp_path / "place.zarr", run)
    raw = run / "fragments" / "raw"
    zarr.create_array(raw, data=np.full((2, 8, 8), 7, np.uint8), chunks=(1, 8, 8))
    volume = REACHES[reach](run, raw)
    with pytest.raises(StoreError, match=r"which is to be segmented, lies in .*another place"):
        create(tmp_path / place, overwrite=True, volume=volume)
    assert SegmentationStore.open(run).name == "old"
    assert int(volume.section(0).min()) == 7


def test_a_volume_beside_the_store_does_not_lie_in_it(tmp_path: Path) -> None:
    """Although one name begins like the other."""
    create(tmp_path / "run.zarr", name="old")
    stack = tmp_path / "run.zarr.raw.zarr"
    zarr.create_array(stack, data=np.full((2, 8, 8), 7, np.uint8), chunks=(1, 8, 8))
    create(tmp_path / "run.zarr", overwrite=True, volume=open_volume(stack))
    assert SegmentationStore.open(tmp_path / "run.zarr").name == "run.zarr.raw"


def test_the_results_of_a_run_are_no_volume_of_the_run_in_its_place(tmp_path: Path) -> None:
    run = tmp_path / "run.zarr"
    create(run, name="old")
    with pytest.raises(StoreError, match="which is to be segmented"):
        create(run, overwrite=True, volume=open_volume(f"{run}:fragments"))
    assert SegmentationStore.open(run).name == "old"


def test_what_no_run_has_made_is_not_removed_with_a_store(tmp_path: Path) -> None:
    run = tmp_path / "run.zarr"
    create(run, name="old")
    for name in (".DS_Store", "zarr.0123456789abcdef.partial"):
        (run / name).write_bytes(b"")
    with h5py.File(run / "truth.h5", "w") as file:
        file["main"] = np.zeros((2, 8, 8), np.uint32)
    (run / "notes").mkdir()
    with pytest.raises(
        StoreError, match=r"run\.zarr holds notes, truth\.h5, which no run has made"
    ):
        create(run, overwrite=True)
    assert SegmentationStore.open(run).name == "old"
    (run / "truth.h5").unlink()
    (run / "notes").rmdir()
    create(run, overwrite=True)
    assert SegmentationStore.open(run).name == "new"
    assert names(tmp_path) == ["run.zarr"]


def test_nor_at_a_url() -> None:
    pytest.importorskip("upath", reason="the extra cluster is not installed")
    base = "memory://test_nor_at_a_url"
    run = f"{base}/run.zarr"
    create(run, name="old")
    data = np.full((2, 8, 8), 7, np.uint8)
    for raw in (f"{run}/fragments/raw", f"{base}/run.zarr.raw"):
        zarr.create_array(raw, data=data, chunks=(1, 8, 8))
    with pytest.raises(StoreError, match="which is to be segmented"):
        create(run, overwrite=True, volume=open_volume(f"{run}/fragments/raw"))
    create(run, overwrite=True, volume=open_volume(f"{base}/run.zarr.raw"))
    zarr.create_array(f"{run}/truth", data=data, chunks=(1, 8, 8))
    with pytest.raises(StoreError, match="holds truth"):
        create(run, overwrite=True)
    assert is_store(run)


# ---------------------------------------------------------------- what else can go wrong


@pytest.mark.parametrize("n_removed", [0, 1, 4])
def test_an_overwrite_at_a_url_that_is_killed_can_be_done_again(
    monkeypatch: pytest.MonkeyPatch, n_removed: int
) -> None:
    """Nothing can be set aside there."""
    pytest.importorskip("upath", reason="the extra cluster is not installed")
    from fsspec.implementations.memory import MemoryFileSystem

    run = f"memory://test_killed_{n_removed}/run.zarr"
    create(run, name="old")
    remove, removed = MemoryFileSystem._rm, 0

    def killed(self: Any, path: str) -> None:
        nonlocal removed
        removed += 1
        if removed > n_removed:
            raise Killed
        remove(self, path)

    with monkeypatch.context() as patched:
        patched.setattr(MemoryFileSystem, "_rm", killed)
        with pytest.raises(Killed):
            create(run, overwrite=True)
    assert not is_store(run)
    create(run)
    assert SegmentationStore.open(run).name == "new"


def test_an_old_store_that_cannot_be_removed_does_not_stop_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another process has one of its files open, on a network drive."""
    run = tmp_path / "run.zarr"
    create(run, name="old")

    def busy(_: Path) -> None:
        raise OSError(16, "Device or resource busy")

    with monkeypatch.context() as patched:
        patched.setattr(locations.shutil, "rmtree", busy)
        create(run, overwrite=True)
    assert SegmentationStore.open(run).name == "new"
    assert len(names(tmp_path)) == 2
    create(run, overwrite=True)
    assert names(tmp_path) == ["run.zarr"]


def test_a_place_that_cannot_be_written_into_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/run\.zarr cannot be made"):
        create(tmp_path / "file" / "run.zarr")


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_consolidated_metadata_do_not_hide_what_came_later(tmp_path: Path) -> None:
    store = create(tmp_path / "run.zarr")
    zarr.consolidate_metadata(tmp_path / "run.zarr")
    again = SegmentationStore.open(tmp_path / "run.zarr", mode="a")
    again._write_table("edges/0", np.zeros((3, 9)))
    assert len(again.read_edges(0)) == 3
    assert len(SegmentationStore.open(store.path).read_edges(0)) == 3
