"""What is exported opens again with the same labels, voxel size and origin."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from napari_cad.core.errors import ConfigError, ShapeError, StoreError, VolumeError
from napari_cad.core.export import export_labels, smallest_dtype
from napari_cad.core.export_job import export_volume
from napari_cad.core.label_pyramid import mode_of_blocks
from napari_cad.core.readers import is_label_image, list_datasets, open_levels, open_volume

if TYPE_CHECKING:
    from pathlib import Path

VOXEL_SIZE = (30.0, 6.0, 4.5)
NAMES = ["a.zarr", "a.tif", "a.h5"]

Array = np.ndarray[Any, Any]


def labels(largest: int, shape: tuple[int, int, int] = (4, 9, 7), dtype: Any = np.uint32) -> Array:
    array = np.random.default_rng(0).integers(0, min(largest, 2**62) + 1, shape).astype(dtype)
    array[-1, -1, -1] = largest
    return array


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("largest", "dtype"),
    [
        (0, "uint8"),
        (255, "uint8"),
        (256, "uint16"),
        (65535, "uint16"),
        (65536, "uint32"),
        (2**32 - 1, "uint32"),
        (2**32, "uint64"),
        (2**64 - 1, "uint64"),
    ],
)
def test_labels_come_back_in_the_smallest_type(
    name: str, largest: int, dtype: str, tmp_path: Path
) -> None:
    array = labels(largest, dtype=np.uint64)
    path = export_labels(array.__getitem__, array.shape, tmp_path / name, voxel_size=VOXEL_SIZE)
    volume = open_volume(path)
    assert volume.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(np.asarray(volume.data), array)
    assert volume.voxel_size == pytest.approx(VOXEL_SIZE, rel=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 4), (5, 1, 4), (5, 4, 1), (2, 1100, 3)])
def test_any_shape(name: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    array = labels(300, shape)
    path = export_labels(array.__getitem__, shape, tmp_path / name, voxel_size=None)
    volume = open_volume(path)
    assert volume.shape == shape
    assert volume.voxel_size is None
    np.testing.assert_array_equal(np.asarray(volume.data), array)


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_the_origin_comes_back(name: str, tmp_path: Path) -> None:
    array = labels(5)
    path = export_labels(
        array.__getitem__, array.shape, tmp_path / name, voxel_size=VOXEL_SIZE, origin=(60, 0, 9)
    )
    assert open_volume(path).origin == (60, 0, 9)


def test_ome_zarr_metadata(tmp_path: Path) -> None:
    array = labels(5, (2, 1100, 3))
    path = export_labels(
        array.__getitem__,
        array.shape,
        tmp_path / "cells.zarr",
        voxel_size=VOXEL_SIZE,
        origin=(60, 0, 9),
    )
    group = json.loads((path / "zarr.json").read_text())
    assert group["zarr_format"] == 3
    coarser = [
        # the centre of 2 × 2 voxels, of 4 × 4 voxels
        ("0", [30.0, 6.0, 4.5], [60.0, 0.0, 9.0]),
        ("1", [30.0, 12.0, 9.0], [60.0, 3.0, 11.25]),
        ("2", [30.0, 24.0, 18.0], [60.0, 9.0, 15.75]),
    ]
    assert group["attributes"] == {
        "ome": {
            "version": "0.5",
            "multiscales": [
                {
                    "name": "cells",
                    "axes": [
                        {"name": "z", "type": "space", "unit": "nanometer"},
                        {"name": "y", "type": "space", "unit": "nanometer"},
                        {"name": "x", "type": "space", "unit": "nanometer"},
                    ],
                    "datasets": [
                        {
                            "path": level,
                            "coordinateTransformations": [
                                {"type": "scale", "scale": scale},
                                {"type": "translation", "translation": translation},
                            ],
                        }
                        for level, scale, translation in coarser
                    ],
                }
            ],
            "image-label": {},
        }
    }
    data = zarr.open_array(str(path / "0"), mode="r")
    assert data.metadata.dimension_names == ("z", "y", "x")
    assert (data.chunks, data.shards) == ((1, 512, 3), (1, 1536, 3))
    assert zarr.open_array(str(path / "2"), mode="r").shape == (2, 275, 1)
    # one file per section, however many chunks it has
    assert len([file for file in (path / "0" / "c").rglob("*") if file.is_file()]) == 2


def test_without_a_voxel_size_levels_lie_over_one_another_in_voxels(tmp_path: Path) -> None:
    array = labels(5, (1, 513, 3))
    path = export_labels(array.__getitem__, array.shape, tmp_path / "a.zarr", voxel_size=None)
    (image,) = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    assert "unit" not in image["axes"][0]
    assert [entry["coordinateTransformations"] for entry in image["datasets"]] == [
        [{"type": "scale", "scale": [1.0, 1.0, 1.0]}],
        [
            {"type": "scale", "scale": [1.0, 2.0, 2.0]},
            {"type": "translation", "translation": [0.0, 0.5, 0.5]},
        ],
    ]


@pytest.mark.parametrize("voxel_size", [VOXEL_SIZE, (6.0, 6.0, 6.0), None])
def test_every_level_holds_the_modes_of_the_one_before(
    voxel_size: tuple[float, float, float] | None, tmp_path: Path
) -> None:
    array = labels(3, (5, 600, 1030))
    path = export_labels(array.__getitem__, array.shape, tmp_path / "a.zarr", voxel_size=voxel_size)
    volume = open_volume(path)
    assert is_label_image(volume)
    levels = [np.asarray(level) for level in open_levels(volume)]
    np.testing.assert_array_equal(levels[0], array)
    assert len(levels) == 3
    step = 2 if voxel_size == (6.0, 6.0, 6.0) else 1
    for before, level in itertools.pairwise(levels):
        for z, section in enumerate(level):
            np.testing.assert_array_equal(
                section, mode_of_blocks(before[z * step : (z + 1) * step])
            )
    coarsest = open_volume(path / "2")
    assert coarsest.shape == levels[2].shape
    assert coarsest.voxel_size == (
        None if voxel_size is None else (voxel_size[0] * step**2, *(4 * v for v in voxel_size[1:]))
    )


@pytest.mark.parametrize("name", NAMES)
def test_memory_does_not_grow_with_the_number_of_sections(name: str, tmp_path: Path) -> None:
    """Of twelve sections as much as of three, and much less than all of them."""
    peaks = []
    for n_sections in (1, 3, 12):  # the first imports what it needs
        tracemalloc.start()
        # how many chunks zarr compresses side by side is chance, and worth up to a section
        with zarr.config.set({"async.concurrency": 1}):
            export_labels(
                lambda z: np.full((700, 700), z, np.uint32),
                (n_sections, 700, 700),
                tmp_path / f"{n_sections}{name}",
                voxel_size=(6, 6, 6),
                max_label=2**20,
            )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    section = 700 * 700 * 4
    assert peaks[2] < peaks[1] + section / 2
    assert peaks[2] < 6 * section


def test_tiff_is_big_compressed_and_ome(tmp_path: Path) -> None:
    array = labels(700)
    path = export_labels(array.__getitem__, array.shape, tmp_path / "a.tiff", voxel_size=VOXEL_SIZE)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_bigtiff
        assert tif.is_ome
        assert len(tif.pages) == 4
        assert tif.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert 'PhysicalSizeZ="30.0" PhysicalSizeZUnit="nm"' in tif.ome_metadata


def test_hdf5_has_the_dataset_main(tmp_path: Path) -> None:
    array = labels(700)
    path = export_labels(array.__getitem__, array.shape, tmp_path / "a.hdf", voxel_size=VOXEL_SIZE)
    assert list_datasets(path) == ["/main"]
    with h5py.File(path) as file:
        assert file["main"].chunks == (1, 9, 7)
        assert file["main"].compression == "gzip"
        np.testing.assert_array_equal(file["main"].attrs["resolution"], VOXEL_SIZE)


@pytest.mark.parametrize("name", NAMES)
def test_one_section_is_held_at_a_time(name: str, tmp_path: Path) -> None:
    """Every section asked for is written before the one after the next is asked for."""
    asked, written = [], []

    def section(z: int) -> Array:
        asked.append(z)
        assert len(asked) - len(written) <= 2
        return np.full((8, 8), z, np.uint32)

    def progress(done: int, n: int) -> None:
        assert n == 6
        written.append(done)

    export_labels(
        section,
        (6, 8, 8),
        tmp_path / name,
        voxel_size=None,
        max_label=5,
        progress=progress,
    )
    assert asked == list(range(6))
    assert written == list(range(1, 7))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_there_stays_unless_told(name: str, tmp_path: Path) -> None:
    old, new = labels(5), labels(400)
    path = tmp_path / name
    export_labels(old.__getitem__, old.shape, path, voxel_size=None)
    with pytest.raises(StoreError, match=f"{name}: expected nothing there"):
        export_labels(new.__getitem__, new.shape, path, voxel_size=None)
    np.testing.assert_array_equal(np.asarray(open_volume(path).data), old)
    export_labels(new.__getitem__, new.shape, path, voxel_size=None, overwrite=True)
    np.testing.assert_array_equal(np.asarray(open_volume(path).data), new)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_broken_export_leaves_nothing_and_loses_nothing(
    name: str, overwrite: bool, tmp_path: Path
) -> None:
    path = tmp_path / name
    old = labels(5)
    if overwrite:
        export_labels(old.__getitem__, old.shape, path, voxel_size=None)

    def section(z: int) -> Array:
        if z == 2:
            raise KeyboardInterrupt
        return old[z]

    with pytest.raises(KeyboardInterrupt):
        export_labels(section, old.shape, path, voxel_size=None, max_label=5, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ([name] if overwrite else [])
    if overwrite:
        np.testing.assert_array_equal(np.asarray(open_volume(path).data), old)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_replaces_what_came_during_the_export(name: str, tmp_path: Path) -> None:
    path = tmp_path / name

    def section(z: int) -> Array:
        path.write_text("somebody else's")
        return np.zeros((2, 2), np.uint8)

    with pytest.raises(StoreError, match="since the export began"):
        export_labels(section, (1, 2, 2), path, voxel_size=None)
    assert path.read_text() == "somebody else's"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_the_format_may_be_said(tmp_path: Path) -> None:
    array = labels(5)
    path = export_labels(
        array.__getitem__, array.shape, tmp_path / "a.ome", voxel_size=None, format="tiff"
    )
    with tifffile.TiffFile(path) as tif:
        np.testing.assert_array_equal(tif.asarray(), array)
    with pytest.raises(ConfigError, match=r"one of the suffixes .*\.zarr.*got \.png"):
        export_labels(array.__getitem__, array.shape, tmp_path / "a.png", voxel_size=None)
    with pytest.raises(ConfigError, match="expected one of ome-zarr, tiff, hdf5, got 'n5'"):
        export_labels(
            array.__getitem__,
            array.shape,
            tmp_path / "a.zarr",
            voxel_size=None,
            format="n5",  # type: ignore[arg-type]
        )


@pytest.mark.parametrize(
    ("section", "error", "message"),
    [
        (np.zeros((3, 2), np.uint8), ShapeError, r"section 0: expected labels of shape \(2, 2\)"),
        (np.zeros((2, 2), np.float32), VolumeError, "integer type, got float32"),
        (np.full((2, 2), -1), VolumeError, "labels from 0, got -1"),
    ],
)
@pytest.mark.parametrize("max_label", [None, 9])
def test_what_is_no_label_section(
    section: Array,
    error: type[Exception],
    message: str,
    max_label: int | None,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        export_labels(
            lambda z: section,
            (1, 2, 2),
            tmp_path / "a.h5",
            voxel_size=None,
            max_label=max_label,
        )
    assert not list(tmp_path.iterdir())


def test_labels_never_wrap(tmp_path: Path) -> None:
    array = labels(255)
    array[3, 0, 0] = 256
    with pytest.raises(VolumeError, match="section 3: expected labels up to 255, got 256"):
        export_labels(
            array.__getitem__, array.shape, tmp_path / "a.h5", voxel_size=None, max_label=255
        )
    for wrong in (-1, 2**64):
        with pytest.raises(VolumeError, match=f"got {wrong}"):
            smallest_dtype(wrong)


def test_places_and_numbers_are_checked_first(tmp_path: Path) -> None:
    def section(z: int) -> Array:
        raise AssertionError("asked for labels")

    with pytest.raises(StoreError, match="make it first"):
        export_labels(section, (1, 2, 2), tmp_path / "missing" / "a.h5", voxel_size=None)
    with pytest.raises(VolumeError, match="three positive numbers"):
        export_labels(section, (1, 2, 2), tmp_path / "a.h5", voxel_size=(0, 1, 1))
    with pytest.raises(VolumeError, match="at least one voxel"):
        export_labels(section, (1, 0, 2), tmp_path / "a.h5", voxel_size=None)


def store_at(path: Path) -> Path:
    """Make what is told from other folders as a store: a group with the attribute of one."""
    group = zarr.create_group(path, attributes={"napari_cad": {"format": 2}})
    group.create_array("fragments", data=np.arange(4))
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    found = folder.rglob("*")
    return {str(file.relative_to(folder)): file.read_bytes() for file in found if file.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["run.zarr", "run.zarr/a.zarr", "run.zarr/fragments/a.tif"])
def test_nothing_is_written_over_or_into_a_store(
    name: str, overwrite: bool, tmp_path: Path
) -> None:
    store_at(tmp_path / "run.zarr")
    before = files_of(tmp_path)
    array = labels(5)
    expected = "say overwrite" if (name, overwrite) == ("run.zarr", False) else "never writes into"
    with pytest.raises(StoreError, match=expected):
        export_labels(
            array.__getitem__,
            array.shape,
            tmp_path / name,
            voxel_size=None,
            overwrite=overwrite,
        )
    assert files_of(tmp_path) == before


def test_no_folder_but_a_label_image_is_replaced(tmp_path: Path) -> None:
    raw, theses, mixed = (tmp_path / name for name in ("raw.zarr", "theses.zarr", "mixed.zarr"))
    zarr.create_array(raw, data=labels(5))
    theses.mkdir()
    (theses / "mine.txt").write_text("ten years of work")
    array = labels(5)
    export_labels(array.__getitem__, array.shape, mixed, voxel_size=None)
    store_at(mixed / "run.zarr")
    before = files_of(tmp_path)
    for path in (raw, theses, mixed):
        with pytest.raises(StoreError, match=rf"{path.name}: expected a label image"):
            export_labels(array.__getitem__, array.shape, path, voxel_size=None, overwrite=True)
    assert files_of(tmp_path) == before


def test_what_becomes_a_store_during_the_export_stays(tmp_path: Path) -> None:
    array = labels(5)

    def section(z: int) -> Array:
        if z == 3:
            store_at(tmp_path / "a.zarr")
        return array[z]

    with pytest.raises(StoreError, match="never writes into"):
        export_labels(
            section, array.shape, tmp_path / "a.zarr", voxel_size=None, max_label=5, overwrite=True
        )
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
    assert "fragments/zarr.json" in files_of(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("source", "target"),
    [("a.zarr", "a.zarr"), ("a.h5", "a.h5"), ("a.zarr", "a.zarr/b.tif"), ("b/a.h5", "b")],
)
def test_the_source_is_not_written_over(source: str, target: str, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    array = labels(5)
    export_labels(array.__getitem__, array.shape, tmp_path / source, voxel_size=None)
    before = files_of(tmp_path)
    opened = open_volume(tmp_path / source)
    if target != "b":  # which has no suffix
        with pytest.raises(StoreError, match="apart from what is exported"):
            list(export_volume(opened, str(tmp_path / target), overwrite=True))
    with pytest.raises(StoreError, match="apart from what is exported"):
        export_labels(
            array.__getitem__,
            array.shape,
            tmp_path / target,
            voxel_size=None,
            format="ome-zarr",
            overwrite=True,
            source=tmp_path / source,
        )
    assert files_of(tmp_path) == before
