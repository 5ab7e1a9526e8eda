"""A store that is replaced: whatever ends the process, the place can be used again."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from napari_cad.core import locations
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import SegmentationConfig
from napari_cad.core.errors import StoreError
from napari_cad.core.store import SegmentationStore, is_store
from napari_cad.core.volume import EMVolume

if TYPE_CHECKING:
    from pathlib import Path


class Killed(BaseException):
    """What ends a process at any place."""


def create(path: Path | str, *, name: str = "new", overwrite: bool = False) -> SegmentationStore:
    return SegmentationStore.create(
        path,
        volume=EMVolume.from_array(np.zeros((2, 8, 8), np.uint8), name=name),
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
