"""Every format: the same voxels, nothing read on opening, and errors that say what to do."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_cad.core import readers
from napari_cad.core.errors import VolumeError
from napari_cad.core.formats._files import FileArray
from napari_cad.core.formats._units import from_attributes, nm_per
from napari_cad.core.readers import (
    SUFFIXES,
    can_read,
    list_datasets,
    open_source,
    open_volume,
    split_path,
)
from napari_cad.core.volume import VolumeSource

SHAPE = (4, 9, 7)
VOXEL_SIZE = (30.0, 6.0, 4.5)

Array = np.ndarray[Any, Any]


def stack(dtype: Any = np.uint8, shape: tuple[int, ...] = SHAPE) -> Array:
    rng = np.random.default_rng(1)
    kind = np.dtype(dtype).kind
    high = 1000 if kind == "f" else min(int(np.iinfo(dtype).max), 2**62)
    values = rng.integers(0, high, shape)
    return values.astype(dtype)


def write_folder(path: Path, array: Array, suffix: str = ".png") -> Path:
    path.mkdir()
    for z, section in enumerate(array):
        file = path / f"section{z + 8}{suffix}"  # 8, 9, 10, 11: needs the natural order
        if suffix == ".tif":
            tifffile.imwrite(file, section)
        else:
            Image.fromarray(section).save(file)
    return path


def write(kind: str, folder: Path, array: Array) -> str:
    """One file or folder of every kind, with `array` in it."""
    path = folder / kind.split(" ")[0]
    match kind.split(" ", 1):
        case ["plain.tif", options]:
            arguments = {
                "": {},
                "big": {"bigtiff": True, "byteorder": ">"},
                "deflate": {"compression": "zlib"},
                "deflate predictor": {"compression": "zlib", "predictor": True},
                "tiles": {"compression": "zlib", "tile": (16, 16)},
                "raw tiles": {"tile": (16, 16)},
                "ome": {"ome": True},
                "ome deflate": {"ome": True, "compression": "zlib"},
                "imagej": {"imagej": True},
            }[options]
            tifffile.imwrite(path, array, photometric="minisblack", **arguments)
        case ["pages.tif", options]:
            with tifffile.TiffWriter(path) as writer:
                for section in array:
                    writer.write(section, metadata=None, compression=options or None)
        case ["folder", suffix]:
            write_folder(path, array, suffix)
        case ["data.h5", options]:
            with h5py.File(path, "w") as file:
                file.create_dataset("volumes/raw", data=array, compression=options or None)
                file["volumes/table"] = np.zeros((3, 2))
        case ["data.zarr", options]:
            chunks = tuple(-(-n // 2) for n in array.shape)
            version, order = int(options[0]), {} if options[0] == "3" else {"order": options[2]}
            zarr.create_array(str(path), data=array, chunks=chunks, zarr_format=version, **order)
        case ["group.zarr", version]:
            group = zarr.create_group(str(path), zarr_format=int(version))
            group.create_group("volumes").create_array("raw", data=array)
        case ["data.mrc", _]:
            with mrcfile.new(path) as file:
                file.set_data(array)
        case ["data.npy", order]:
            np.save(path, np.asarray(array, order=order))
        case _:
            raise AssertionError(kind)
    return str(path)


KINDS = [
    "plain.tif ",
    "plain.tif big",
    "plain.tif deflate",
    "plain.tif deflate predictor",
    "plain.tif tiles",
    "plain.tif raw tiles",
    "plain.tif ome",
    "plain.tif ome deflate",
    "plain.tif imagej",
    "pages.tif ",
    "pages.tif zlib",
    "folder .png",
    "folder .tif",
    "folder .bmp",
    "data.h5 ",
    "data.h5 gzip",
    "data.zarr 2 C",
    "data.zarr 2 F",
    "data.zarr 3",
    "group.zarr 2",
    "group.zarr 3",
    "data.mrc ",
    "data.npy C",
    "data.npy F",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_voxels(kind: str, tmp_path: Path) -> None:
    array = stack(np.int8 if "mrc" in kind else np.uint8)
    path = write(kind, tmp_path, array)
    assert can_read(path)
    volume = open_volume(path)
    assert volume.shape == SHAPE
    assert volume.dtype == array.dtype
    assert volume.voxel_size is None
    for z in range(SHAPE[0]):
        np.testing.assert_array_equal(volume.section(z), array[z])
    for key in (
        2,
        (slice(None), 3, 4),
        (slice(None, None, 2), slice(1, 8, 3), slice(None, None, -2)),
        (slice(3, None), ..., slice(2, 5)),
        (-1, -1, -1),
    ):
        values = volume.data[key]
        np.testing.assert_array_equal(values, array[key])
        assert isinstance(values, np.ndarray | np.generic)
    np.testing.assert_array_equal(np.asarray(volume.data), array)
    assert volume.source is not None
    assert os.path.isabs(volume.source.path)
    # a copy: what the caller does to it does not reach the file
    volume.data[0][:] = 0
    np.testing.assert_array_equal(volume.section(0), array[0])


DTYPES = {
    "plain.tif ": ["u2", ">u2", "u4", "u8", "i2", "f4"],
    "plain.tif deflate": ["u2", "u4", "u8", "f4"],
    "plain.tif imagej": ["u2", "f4"],
    "folder .png": ["u2"],
    "folder .tif": ["u2", "u4", "u8", "f4"],
    "data.h5 gzip": ["u2", ">u4", "u8", "f4"],
    "data.zarr 2 C": ["u2", "u8", ">i4", "f4"],
    "data.zarr 3": ["u2", "u4", "u8", "f4"],
    "data.mrc ": ["i2", "u2", "f4"],
    "data.npy C": ["u2", "u4", "u8", ">u8", "f8"],
}


@pytest.mark.parametrize(("kind", "dtype"), [(k, d) for k, ds in DTYPES.items() for d in ds])
def test_other_types_stay_as_they_are(kind: str, dtype: str, tmp_path: Path) -> None:
    array = stack(dtype)
    volume = open_volume(write(kind, tmp_path, array))
    assert volume.dtype == array.dtype.newbyteorder("=")
    assert volume.section(1).dtype.isnative
    np.testing.assert_array_equal(np.asarray(volume.data), array)


@pytest.mark.parametrize("kind", KINDS)
def test_opening_reads_no_voxels(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(kind, tmp_path, stack(np.int8 if "mrc" in kind else np.uint8))

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("voxels were read")

    monkeypatch.setattr(FileArray, "_read", refuse)
    monkeypatch.setattr(zarr.Array, "__getitem__", refuse)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", refuse)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)
    monkeypatch.setattr(tifffile.TiffFrame, "asarray", refuse)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", refuse)
    monkeypatch.setattr(Image.Image, "load", refuse)
    volume = open_volume(path).crop(sections=(1, 3))
    assert volume.shape == (2, 9, 7)
    with pytest.raises(AssertionError, match="voxels"):
        volume.section(0)


@pytest.mark.skipif(sys.platform == "win32", reason="the file would not be sparse")
@pytest.mark.parametrize("kind", ["plain.tif", "data.npy", "data.mrc"])
def test_a_file_larger_than_memory_opens(kind: str, tmp_path: Path) -> None:
    """Sparse files: 64 GiB on paper, and only what is looked at is read."""
    path = tmp_path / kind
    shape = (1024, 8192, 8192)
    if kind == "plain.tif":
        small = np.zeros((1, 8192, 8192), np.uint8)
        tifffile.imwrite(
            path,
            small,
            bigtiff=True,
            description="ImageJ=1.11a\nimages=1024\nslices=1024\n",
            metadata=None,
        )
        with tifffile.TiffFile(path) as tif:
            offset = tif.pages[0].dataoffsets[0]
    elif kind == "data.npy":
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            offset = file.tell()
    else:
        with mrcfile.new(path) as file:
            file.set_data(np.zeros((1, 2, 2), np.int8))
        header = np.fromfile(path, np.int32, 3)
        header[:] = shape[::-1]
        with path.open("r+b") as file:
            file.write(header.tobytes())
        offset = 1024
    os.truncate(path, offset + 1024 * 8192 * 8192)
    with path.open("r+b") as file:
        file.seek(offset + (1000 * 8192 + 5) * 8192 + 6)
        file.write(b"\x07")
    volume = open_volume(path)
    assert volume.shape == shape
    assert volume.data[1000, 5, 6] == 7
    volume.signature()


def test_large_sections_are_no_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns of images of 14,000 pixels squared, and refuses those of 19,000."""
    path = write_folder(tmp_path / "folder", stack())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path / "section8.png")
    np.testing.assert_array_equal(open_volume(path).section(0), stack()[0])


# ---------------------------------------------------------------------------------------------
# another process


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_travels_without_its_voxels(kind: str, tmp_path: Path) -> None:
    array = stack(np.int8 if "mrc" in kind else np.uint8, (4, 90, 70))
    volume = open_volume(write(kind, tmp_path, array), voxel_size=(30, 6, 6)).crop((1, 4), x=(1, 9))
    volume.section(0)  # with its handle open
    pickled = pickle.dumps(volume)
    assert len(pickled) < 3000
    for copy in (pickle.loads(pickled), open_source(pickle.loads(pickle.dumps(volume.source)))):  # noqa: S301
        np.testing.assert_array_equal(np.asarray(copy.data), array[1:, :, 1:9])
        assert copy.source == volume.source
        assert copy.voxel_size == volume.voxel_size
        assert copy.origin == (30, 0, 6)
        assert copy.signature() == volume.signature()


def test_a_source_opens_in_a_new_process(tmp_path: Path) -> None:
    array = stack()
    volume = open_volume(write("data.h5 gzip", tmp_path, array)).crop(sections=(2, 4))
    volume.section(0)
    code = (
        "import pickle, sys; from napari_cad.core.readers import open_source; "
        "volume = open_source(pickle.loads(sys.stdin.buffer.read())); "
        "print(int(volume.section(1).sum()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(volume.source),
        capture_output=True,
        check=True,
        cwd="/",
    )
    assert int(result.stdout) == array[3].sum()


@pytest.mark.parametrize("kind", KINDS)
def test_threads_may_read_at_once(kind: str, tmp_path: Path) -> None:
    array = stack(np.int8 if "mrc" in kind else np.uint8, (8, 64, 64))
    volume = open_volume(write(kind, tmp_path, array))
    with ThreadPoolExecutor(4) as pool:
        sections = list(pool.map(volume.section, [*range(8)] * 4))
    np.testing.assert_array_equal(np.stack(sections), np.concatenate([array] * 4))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("kind", ["data.h5 gzip", "pages.tif zlib"])
def test_a_forked_process_opens_its_own_handle(kind: str, tmp_path: Path) -> None:
    volume = open_volume(write(kind, tmp_path, stack()))
    volume.section(0)
    array = volume.data
    assert isinstance(array, FileArray)
    handle = array._handle
    array._handle_pid = -1  # as after a fork
    volume.section(0)
    assert array._handle is not handle


def test_reading_opens_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = open_volume(write("pages.tif zlib", tmp_path, stack()))
    opened = []
    tiff_file = tifffile.TiffFile
    monkeypatch.setattr(
        tifffile, "TiffFile", lambda *a, **k: opened.append(a) or tiff_file(*a, **k)
    )
    for z in range(4):
        volume.section(z)
    assert len(opened) == 1


# ---------------------------------------------------------------------------------------------
# paths


def test_the_dataset_stands_behind_a_colon(tmp_path: Path) -> None:
    path = write("data.h5 ", tmp_path, stack())
    for name in (f"{path}:/volumes/raw", f"{path}:volumes/raw", f"{path}/volumes/raw"):
        volume = open_volume(name)
        assert volume.source == VolumeSource(path, "/volumes/raw")
        assert can_read(name)
    assert open_volume(path).source == VolumeSource(path, "/volumes/raw")
    with pytest.raises(VolumeError, match="one dataset"):
        open_volume(f"{path}:/volumes/raw", dataset="other")
    with pytest.raises(VolumeError, match="one dataset"):
        open_volume(f"{path}/volumes/raw", dataset="other")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"C:\data\file.h5:/ds", (r"C:\data\file.h5", "/ds")),
        (r"C:\data\file.h5", (r"C:\data\file.h5", None)),
        (r"C:\data\folder", (r"C:\data\folder", None)),
        ("D:/a.b:c/file.h5:ds/x", ("D:/a.b:c/file.h5", "ds/x")),
        ("missing.zarr:labels/a", ("missing.zarr", "labels/a")),
        ("file.H5:/a:b", ("file.H5", "/a:b")),
        ("nothing:here", ("nothing:here", None)),
    ],
)
def test_paths_that_are_not_there_are_split_too(text: str, expected: Any) -> None:
    assert split_path(text) == expected


def test_a_drive_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "C").mkdir()
    monkeypatch.chdir(tmp_path)
    assert split_path(r"C:\data\missing.tif") == (r"C:\data\missing.tif", None)


@pytest.mark.skipif(sys.platform == "win32", reason="no colons in names on this system")
def test_a_colon_may_be_part_of_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "a:b.h5"
    folder.mkdir()
    path = write("data.h5 ", folder, stack())
    assert split_path(path) == (path, None)
    assert split_path(f"{path}:x") == (path, "x")


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_for_people(kind: str, tmp_path: Path) -> None:
    array = stack(np.int8 if "mrc" in kind else np.uint8)
    expected = kind.split(" ")[0].split(".")[0]
    assert open_volume(write(kind, tmp_path, array)).name == expected


def test_relative_paths_and_homes_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("data.npy C", tmp_path, stack())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for path in ("data.npy", Path("data.npy"), "~/data.npy"):
        source = open_volume(path).source
        assert source is not None
        assert source.path == str(tmp_path / "data.npy")


def test_only_volumes_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    zarr.create_group(str(tmp_path / "run.zarr"), attributes={"napari_cad": {}})
    for name in ("missing.tif", "notes.txt", "empty", "run.zarr", "https://a.org/b.zarr"):
        assert not can_read(tmp_path / name)


# ---------------------------------------------------------------------------------------------
# voxel size


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("nm", 1),
        ("µm", 1e3),
        ("μm", 1e3),
        ("um", 1e3),
        ("\\u00B5m", 1e3),
        ("micron", 1e3),
        ("Microns", 1e3),
        ("micrometre", 1e3),
        ("nanometer", 1),
        ("angstrom", 0.1),
        ("Å", 0.1),
        ("mm", 1e6),
        ("inch", 2.54e7),
        ("inches", 2.54e7),
        (b"nm", 1),
        ("pixel", None),
        ("", None),
        (None, None),
        (3, None),
    ],
)
def test_units(unit: Any, factor: float | None) -> None:
    assert nm_per(unit) == factor


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m", "nm"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_imagej_voxel_size(unit: str, compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    factor = 1 if unit == "nm" else 1000
    tifffile.imwrite(
        path,
        stack(),
        imagej=True,
        resolution=(factor / 4.5, factor / 6),
        metadata={"spacing": 30 / factor, "unit": unit, "axes": "ZYX"},
        compression=compression,
    )
    assert open_volume(path).voxel_size == pytest.approx(VOXEL_SIZE, rel=1e-5)


@pytest.mark.parametrize("missing", ["unit", "spacing"])
def test_half_a_voxel_size_is_none(missing: str, tmp_path: Path) -> None:
    metadata = {"spacing": 0.03, "unit": "um", "axes": "ZYX"}
    del metadata[missing]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack(), imagej=True, resolution=(200, 200), metadata=metadata)
    assert open_volume(path).voxel_size is None


def test_imagej_stacks_of_time_points_are_sections(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack(), imagej=True, metadata={"axes": "TYX"})
    np.testing.assert_array_equal(np.asarray(open_volume(path).data), stack())


@pytest.mark.parametrize(("unit", "factor"), [(None, 1000), ("nm", 1), ("Å", 0.1), ("mm", 1e6)])
def test_ome_tiff_voxel_size(unit: str | None, factor: float, tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    metadata: dict[str, Any] = {"axes": "ZYX"}
    for axis, size in zip("ZYX", VOXEL_SIZE, strict=True):
        metadata[f"PhysicalSize{axis}"] = size / factor
        if unit:
            metadata[f"PhysicalSize{axis}Unit"] = unit
    tifffile.imwrite(path, stack(), metadata=metadata)
    assert open_volume(path).voxel_size == pytest.approx(VOXEL_SIZE)


def test_hdf5_voxel_size(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("cremi", data=stack()).attrs["resolution"] = VOXEL_SIZE
        file["cremi"].attrs["offset"] = (60.0, 12.0, 9.0)
        file.create_dataset("plantseg", data=stack()).attrs["element_size_um"] = (
            0.03,
            0.006,
            0.0045,
        )
        file.create_dataset("bare", data=stack())
        file.create_dataset("wrong", data=stack()).attrs["resolution"] = "fine"
        file.create_dataset("zero", data=stack()).attrs["resolution"] = (0, 0, 0)
    assert open_volume(f"{path}:/cremi").voxel_size == VOXEL_SIZE
    assert open_volume(f"{path}:/cremi").origin == (60, 12, 9)
    assert open_volume(f"{path}:/plantseg").voxel_size == VOXEL_SIZE
    for name in ("bare", "wrong", "zero"):
        assert open_volume(f"{path}:/{name}").voxel_size is None
        assert open_volume(f"{path}:/{name}").origin == (0, 0, 0)


def test_attributes_may_name_their_units() -> None:
    attributes = {"voxel_size": [3, 4, 5], "units": ["um", "um", "nm"], "offset": [1, 2, 3]}
    assert from_attributes(attributes) == ((3000, 4000, 5), (1000, 2000, 3))
    assert from_attributes({"resolution": [1, 1, 1], "units": "voxels"})[0] is None
    assert from_attributes({"resolution": [9, 3, 4, 5]})[0] == (3, 4, 5)


def test_mrc_voxel_size(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(stack(np.int16))
        file.voxel_size = (45.0, 60.0, 300.0)  # x, y, z in Å
    assert open_volume(path).voxel_size == VOXEL_SIZE


def test_mrc_from_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(stack(np.uint8).view(np.int8))
        file.set_extended_header(np.zeros(100, np.uint8))
    raw = bytearray(path.read_bytes())
    # where IMOD keeps its stamp and flags
    raw[152:160] = np.array([1146047817, 0], "<i4").tobytes()
    path.write_bytes(raw)
    volume = open_volume(path)
    assert volume.dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(volume.data), stack())
    raw[156] = 1
    path.write_bytes(raw)
    assert open_volume(path).dtype == np.int8


def test_big_endian_mrc(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(stack(np.int16).astype(">i2"))
    np.testing.assert_array_equal(np.asarray(open_volume(path).data), stack(np.int16))


def test_a_voxel_size_by_hand_wins_and_travels(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", data=stack()).attrs["resolution"] = (1, 1, 1)
    volume = open_volume(path, voxel_size=[30, 6, 4.5])
    assert volume.voxel_size == VOXEL_SIZE
    assert volume.source is not None
    assert open_source(volume.source).voxel_size == VOXEL_SIZE
    with pytest.raises(VolumeError, match="three"):
        open_volume(path, voxel_size=[1, 2])


# ---------------------------------------------------------------------------------------------
# OME-Zarr


def write_ome(
    path: Path,
    array: Array,
    *,
    version: str = "0.5",
    axes: str = "zyx",
    unit: str | None = "nanometer",
    scale: tuple[float, ...] = VOXEL_SIZE,
    order: tuple[str, ...] = ("full", "half"),
) -> Path:
    group = zarr.create_group(str(path), zarr_format=3 if version == "0.5" else 2)
    levels = {"full": (array, 1.0), "half": (array[..., ::2, ::2], 2.0)}
    datasets = []
    for name in order:
        values, factor = levels[name]
        group.create_array(name, data=np.ascontiguousarray(values))
        lengths = (*[1.0] * (len(axes) - 3), scale[0], scale[1] * factor, scale[2] * factor)
        datasets.append(
            {"path": name, "coordinateTransformations": [{"type": "scale", "scale": lengths}]}
        )
    kinds = {"t": "time", "c": "channel"}
    spec = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    for axis in spec:
        if unit and axis["type"] == "space":
            axis["unit"] = unit
    multiscales = [{"version": version, "axes": spec, "datasets": datasets}]
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    else:
        group.attrs["multiscales"] = multiscales
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("order", [("full", "half"), ("half", "full")])
def test_ome_zarr_gives_the_full_resolution(
    version: str, order: tuple[str, ...], tmp_path: Path
) -> None:
    path = write_ome(tmp_path / "a.zarr", stack(), version=version, order=order)
    volume = open_volume(path)
    np.testing.assert_array_equal(np.asarray(volume.data), stack())
    assert volume.voxel_size == VOXEL_SIZE
    assert list_datasets(path) == [""]
    half = open_volume(f"{path}:half")
    np.testing.assert_array_equal(np.asarray(half.data), stack()[:, ::2, ::2])
    assert half.voxel_size == (30, 12, 9)
    assert open_volume(path / "half").voxel_size == (30, 12, 9)


@pytest.mark.parametrize(
    ("unit", "factor"), [("micrometer", 1000), ("angstrom", 0.1), (None, None), ("pixel", None)]
)
def test_ome_zarr_units(unit: str | None, factor: float | None, tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.zarr", stack(), unit=unit)
    expected = None if factor is None else pytest.approx([v * factor for v in VOXEL_SIZE])
    assert open_volume(path).voxel_size == expected


def test_ome_zarr_transformations_of_array_and_image_add_up(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.zarr", stack(), scale=(3, 2, 1), order=("full",))
    group = zarr.open_group(str(path))
    ome = group.attrs["ome"]
    ome["multiscales"][0]["datasets"][0]["coordinateTransformations"].append(
        {"type": "translation", "translation": [7, 8, 9]}
    )
    ome["multiscales"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [10, 10, 10]}]
    group.attrs["ome"] = ome
    volume = open_volume(path)
    assert volume.voxel_size == (30, 20, 10)
    assert volume.origin == (70, 80, 90)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_one_channel_and_time_point_are_dropped(version: str, tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.zarr", stack()[None, None], version=version, axes="tczyx")
    volume = open_volume(path)
    assert volume.shape == SHAPE
    assert volume.voxel_size == VOXEL_SIZE
    np.testing.assert_array_equal(volume.data[1:3, ::2, 4], stack()[1:3, ::2, 4])


def test_several_channels_must_be_chosen(tmp_path: Path) -> None:
    array = stack(shape=(1, 3, *SHAPE))
    path = write_ome(tmp_path / "a.zarr", array, axes="tczyx")
    with pytest.raises(VolumeError, match=r"several along c .*@c=0"):
        open_volume(path)
    for volume in (open_volume(f"{path}:@c=2"), open_volume(path, dataset="@c=2,t=0")):
        np.testing.assert_array_equal(np.asarray(volume.data), array[0, 2])
        assert volume.source is not None
        np.testing.assert_array_equal(open_source(volume.source).section(0), array[0, 2, 0])
    with pytest.raises(VolumeError, match="c goes from 0 to 2, got c=3"):
        open_volume(path, dataset="@c=3")
    with pytest.raises(VolumeError, match="cannot choose along q"):
        open_volume(path, dataset="@q=3")


def test_axes_in_another_order_are_refused(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.zarr", stack(), axes="xyz")
    with pytest.raises(VolumeError, match="order z, y, x"):
        open_volume(path)


def test_labels_beside_an_image(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.zarr", stack())
    labels = zarr.open_group(str(path)).create_group("labels")
    labels.attrs["ome"] = {"version": "0.5", "labels": ["cells"]}
    write_ome(path / "labels" / "cells", stack(np.uint64))
    assert open_volume(path).dtype == np.uint8
    assert list_datasets(path) == ["", "labels/cells"]
    assert open_volume(f"{path}:labels/cells").dtype == np.uint64


def test_an_image_in_a_group_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_group(str(path), attributes={"ome": {"bioformats2raw.layout": 3}})
    write_ome(path / "0", stack())
    assert open_volume(path).voxel_size == VOXEL_SIZE


def test_dimension_names_and_attributes_of_plain_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    array = stack(shape=(9, 7))
    zarr.create_array(
        str(path),
        data=stack(),
        dimension_names=["z", "y", "x"],
        attributes={"voxel_size": VOXEL_SIZE, "offset": (1, 2, 3)},
    )
    volume = open_volume(path)
    assert volume.voxel_size == VOXEL_SIZE
    assert volume.origin == (1, 2, 3)
    zarr.create_array(str(tmp_path / "image.zarr"), data=array)
    np.testing.assert_array_equal(open_volume(tmp_path / "image.zarr").section(0), array)


def test_a_store_is_no_volume(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    group = zarr.create_group(str(path), attributes={"napari_cad": {"version": 1}})
    group.create_array("fragments", data=stack(np.uint32))
    with pytest.raises(VolumeError, match=r"napari-cad store.*open it as a store"):
        open_volume(path)
    assert open_volume(f"{path}:fragments").dtype == np.uint32


# ---------------------------------------------------------------------------------------------
# one of several


def test_datasets_of_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = stack()
        file["labels/cells"] = stack(np.uint64)
        file["image"] = stack()[0]
        file["table"] = np.arange(3)
        file["names"] = ["a", "b"]
    assert list_datasets(path) == ["/image", "/labels/cells", "/raw"]
    with pytest.raises(VolumeError, match=r"got 2: .*/labels/cells \(4, 9, 7\).*/raw"):
        open_volume(path)
    with pytest.raises(VolumeError, match=r"got /nothing: It holds .*/raw"):
        open_volume(f"{path}:/nothing")
    with pytest.raises(VolumeError, match=r"got /labels: It holds .*/raw"):
        open_volume(f"{path}:/labels")
    assert open_volume(f"{path}:/image").shape == (1, 9, 7)


def test_axes_of_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    array = stack(shape=(*SHAPE, 2))
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("ilastik", data=array)
        dataset.attrs["axistags"] = (
            '{"axes": [{"key": "z"}, {"key": "y"}, {"key": "x"}, {"key": "c"}]}'
        )
        file["channels"] = np.moveaxis(array, -1, 0)
        file["six"] = np.zeros((1,) * 6)
    for name in ("ilastik", "channels"):
        with pytest.raises(VolumeError, match="several along c"):
            open_volume(f"{path}:/{name}")
        volume = open_volume(f"{path}:/{name}@c=1")
        np.testing.assert_array_equal(np.asarray(volume.data), array[..., 1])
    with pytest.raises(VolumeError, match="at most t, c, z, y, x"):
        open_volume(f"{path}:/six")


def test_arrays_of_zarr(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    group = zarr.create_group(str(path))
    group.create_group("volumes").create_array("raw", data=stack())
    group.create_array("labels", data=stack(np.uint64))
    with pytest.raises(VolumeError, match=r"got 2: .*labels \(4, 9, 7\).*volumes/raw"):
        open_volume(path)
    assert list_datasets(path) == ["labels", "volumes/raw"]
    with pytest.raises(VolumeError, match="got nothing: It holds labels"):
        open_volume(f"{path}:nothing")
    assert open_volume(f"{path}:volumes/raw").dtype == np.uint8
    assert open_volume(path / "labels").dtype == np.uint64


def test_series_of_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(stack(), photometric="minisblack")
        writer.write(stack(np.uint16, (3, 5, 6)), photometric="minisblack")
    with pytest.raises(VolumeError, match=r"2 series \(0: \(4, 9, 7\) uint8, 1: "):
        open_volume(path)
    assert list_datasets(path) == ["0", "1"]
    assert open_volume(f"{path}:1").shape == (3, 5, 6)
    for wrong in ("2", "x"):
        with pytest.raises(VolumeError, match="index of a series"):
            open_volume(path, dataset=wrong)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_channels_of_tiff(compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    array = stack(shape=(4, 2, 9, 7))
    tifffile.imwrite(path, array, metadata={"axes": "ZCYX"}, compression=compression)
    with pytest.raises(VolumeError, match="several along c"):
        open_volume(path)
    volume = open_volume(f"{path}:@c=1")
    np.testing.assert_array_equal(np.asarray(volume.data), array[:, 1])
    np.testing.assert_array_equal(np.asarray(open_volume(f"{path}:@z=1").data), array[1])


def test_channels_of_npy(tmp_path: Path) -> None:
    array = stack(shape=(2, *SHAPE))
    np.save(tmp_path / "a.npy", array)
    volume = open_volume(f"{tmp_path / 'a.npy'}:@c=1")
    np.testing.assert_array_equal(np.asarray(volume.data), array[1])
    with pytest.raises(VolumeError, match="expected no dataset"):
        open_volume(tmp_path / "a.npy", dataset="raw")
    with pytest.raises(VolumeError, match="expected no dataset"):
        open_volume(write("data.mrc ", tmp_path, stack(np.int8)), dataset="raw")


def test_types_of_images_in_a_folder(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "folder", stack())
    (path / "readme.txt").write_text("not a section")
    (path / ".hidden.png").write_text("not a section")
    (path / "sub.png").mkdir()
    assert open_volume(path).n_sections == 4
    tifffile.imwrite(path / "labels.tif", stack(), photometric="minisblack")
    with pytest.raises(VolumeError, match=r"got 4 \.png, 1 \.tif: .*folder:\*\.png"):
        open_volume(path)
    volume = open_volume(f"{path}:*.png")
    np.testing.assert_array_equal(np.asarray(volume.data), stack())
    assert volume.source is not None
    assert open_source(volume.source).n_sections == 4
    with pytest.raises(VolumeError, match=r"named \*\.jpg"):
        open_volume(f"{path}:*.jpg")


def test_natural_order(tmp_path: Path) -> None:
    names = ["z1_t2.png", "z1_t10.png", "z2_t1.png", "Z10_t1.png", "z010_t2.png"]
    for i, name in enumerate(names):
        Image.fromarray(np.full((2, 2), i, np.uint8)).save(tmp_path / name)
    assert np.asarray(open_volume(tmp_path).data)[:, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_single_image_is_one_section(tmp_path: Path) -> None:
    for name, array in (("a.png", stack()[0]), ("a.tif", stack(np.uint16)[0])):
        if name == "a.tif":
            tifffile.imwrite(tmp_path / name, array)
        else:
            Image.fromarray(array).save(tmp_path / name)
        volume = open_volume(tmp_path / name)
        assert volume.shape == (1, 9, 7)
        np.testing.assert_array_equal(volume.section(0), array)
    with pytest.raises(VolumeError, match="expected no dataset"):
        open_volume(tmp_path / "a.png", dataset="x")


THIN = [(1, 1, 1), (3, 1, 5), (3, 5, 1), (1, 5, 4)]


@pytest.mark.parametrize(
    ("kind", "shape"),
    # tifffile takes a last axis of 1 for samples when it writes
    [(k, s) for k in KINDS for s in THIN if s[-1] > 1 or not k.startswith("plain.tif")],
)
def test_thin_volumes_keep_their_axes(
    kind: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    array = stack(np.int8 if "mrc" in kind else np.uint8, shape)
    volume = open_volume(write(kind, tmp_path, array))
    assert volume.shape == shape
    np.testing.assert_array_equal(np.asarray(volume.data), array)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_damage_is_a_volume_error_or_nothing(kind: str, seed: int, tmp_path: Path) -> None:
    """Bytes changed at random: any other error would be one that nobody catches."""
    rng = np.random.default_rng(seed)
    path = Path(write(kind, tmp_path, stack(np.int8 if "mrc" in kind else np.uint8)))
    files = sorted(path.rglob("*.*")) if path.is_dir() else [path]
    file = files[rng.integers(len(files))]
    content = bytearray(file.read_bytes())
    for place in rng.integers(0, min(len(content), 400), 10):
        content[place] = rng.integers(256)
    file.write_bytes(content)
    with contextlib.suppress(VolumeError):
        volume = open_volume(path)
        if volume.data.size < 1e6:  # a damaged header may say anything
            volume.section(0)


# ---------------------------------------------------------------------------------------------
# what goes wrong


def test_nothing_there(tmp_path: Path) -> None:
    for name in ("missing.tif", "missing.h5:/raw", "folder"):
        with pytest.raises(VolumeError, match=f"{name.split(':')[0]}: .*nothing there"):
            open_volume(tmp_path / name)
    with pytest.raises(VolumeError, match=r"memory://nothing/a\.zarr: .*check the address"):
        open_volume("memory://nothing/a.zarr")


def test_an_unknown_suffix_lists_what_is_read(tmp_path: Path) -> None:
    for name in ("a.czi", "a"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(VolumeError) as info:
            open_volume(tmp_path / name)
        assert all(suffix in str(info.value) for suffix in SUFFIXES)


def test_folders_without_sections(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(VolumeError, match="got a folder with none"):
        open_volume(empty)
    empty = tmp_path / "empty.zarr"
    empty.mkdir()
    with pytest.raises(VolumeError, match="without its metadata"):
        open_volume(empty)
    zarr.create_group(str(tmp_path / "group.zarr"))
    with pytest.raises(VolumeError, match=r"got 0: .*holds no arrays"):
        open_volume(tmp_path / "group.zarr")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["table"] = np.zeros((3, 2))
    with pytest.raises(VolumeError, match=r"got none\. It holds /table \(3, 2\)"):
        open_volume(tmp_path / "a.h5")


@pytest.mark.parametrize("change", ["shape", "dtype"])
def test_the_first_section_that_differs_is_named(change: str, tmp_path: Path) -> None:
    path = write_folder(tmp_path / "folder", stack())
    odd = stack()[0, :5] if change == "shape" else stack(np.uint16)[0]
    for number in (10, 11):
        Image.fromarray(odd).save(path / f"section{number}.png")
    with pytest.raises(VolumeError, match=r"like section8\.png.*got section10\.png with"):
        open_volume(path)


def test_a_section_that_changes_later_is_noticed(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "folder", stack())
    volume = open_volume(path)
    Image.fromarray(stack()[0, :5]).save(path / "section9.png")
    volume.section(0)
    with pytest.raises(VolumeError, match=r"section9\.png.*changed"):
        volume.section(1)
    (path / "section10.png").unlink()
    with pytest.raises(VolumeError, match=r"section10\.png"):
        volume.section(2)


def test_colour_says_how_to_convert(tmp_path: Path) -> None:
    rgb = stack(shape=(*SHAPE, 3))
    tifffile.imwrite(tmp_path / "rgb.tif", rgb, photometric="rgb")
    tifffile.imwrite(tmp_path / "planar.tif", np.moveaxis(rgb, -1, 1), photometric="rgb")
    np.save(tmp_path / "rgb.npy", rgb)
    (tmp_path / "png").mkdir()
    (tmp_path / "tif").mkdir()
    for z in range(2):
        Image.fromarray(rgb[z]).save(tmp_path / "png" / f"{z}.png")
        tifffile.imwrite(tmp_path / "tif" / f"{z}.tif", rgb[z], photometric="rgb")
    for name in ("rgb.tif", "planar.tif", "rgb.npy", "png", "tif"):
        with pytest.raises(VolumeError, match=r"grey.*got colour.*convert"):
            open_volume(tmp_path / name)


def test_palettes(tmp_path: Path) -> None:
    """ImageJ writes 8-bit PNG with a palette of grey values."""
    grey, colour = tmp_path / "grey", tmp_path / "colour"
    for folder, palette in (
        (grey, [255 - v for v in range(256) for _ in range(3)]),
        (colour, [v if c else 0 for v in range(256) for c in range(3)]),
    ):
        folder.mkdir()
        image = Image.fromarray(stack()[0])
        image = image.convert("P")
        image.putpalette(palette)
        image.save(folder / "0.png")
    with Image.open(grey / "0.png") as image:
        assert image.mode == "P"
        expected = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(open_volume(grey).section(0), expected)
    with pytest.raises(VolumeError, match=r"got colour \(P\)"):
        open_volume(colour)


def test_one_bit_says_how_to_convert(tmp_path: Path) -> None:
    Image.fromarray(stack()[0] > 100).save(tmp_path / "a.png")
    with pytest.raises(VolumeError, match="one bit"):
        open_volume(tmp_path / "a.png")
    for name in ("a.npy", "a.tif"):
        if name == "a.npy":
            np.save(tmp_path / name, stack() > 100)
        else:
            tifffile.imwrite(tmp_path / name, stack() > 100, photometric="minisblack")
        with pytest.raises(VolumeError, match=r"a\..*got bool.*astype"):
            open_volume(tmp_path / name)


def test_a_folder_of_stacks_is_no_folder_of_sections(tmp_path: Path) -> None:
    for z in range(2):
        tifffile.imwrite(tmp_path / f"{z}.tif", stack(), photometric="minisblack")
    with pytest.raises(VolumeError, match=r"0\.tif.*one section per file.*got 4"):
        open_volume(tmp_path)


TRUNCATED = [kind for kind in KINDS if "zarr" not in kind]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
@pytest.mark.parametrize("kind", TRUNCATED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_truncated_file_never_gives_fewer_or_wrong_voxels(
    kind: str, share: float, tmp_path: Path
) -> None:
    array = stack(np.int8 if "mrc" in kind else np.uint8, (4, 60, 50))
    path = Path(write(kind, tmp_path, array))
    file = path / "section9.png" if path.is_dir() else path
    file = file if file.exists() else next(path.glob("section9.*"))
    os.truncate(file, int(file.stat().st_size * share))
    try:
        got = np.asarray(open_volume(path).data)
    except VolumeError as error:
        message = str(error)
    else:
        message = path.name
        np.testing.assert_array_equal(got, array)
    assert path.name in message


def test_truncation_is_said_on_opening(tmp_path: Path) -> None:
    for kind in ("plain.tif ", "plain.tif imagej", "pages.tif zlib", "data.mrc ", "data.npy C"):
        array = stack(np.int8 if "mrc" in kind else np.uint8, (4, 60, 50))
        path = Path(write(kind, tmp_path, array))
        os.truncate(path, int(path.stat().st_size * 0.6))
        with pytest.raises(VolumeError, match=path.name):
            open_volume(path)


@pytest.mark.parametrize("missing", [0, 1, 63])
def test_imagej_describes_all_sections_in_the_first_page(missing: int, tmp_path: Path) -> None:
    """As ImageJ writes stacks of more than 4 GiB: one page, and the voxels of all behind it."""
    path, array = tmp_path / "a.tif", stack()
    description = "ImageJ=1.54f\nimages=4\nslices=4\n"
    tifffile.imwrite(path, array[0], description=description, metadata=None)
    with path.open("ab") as file:
        file.write(array[1:].tobytes())
    os.truncate(path, path.stat().st_size - missing)
    if missing:
        with pytest.raises(VolumeError, match=r"truncated.*expected 4 images, got 1"):
            open_volume(path)
    else:
        np.testing.assert_array_equal(np.asarray(open_volume(path).data), array)


@pytest.mark.parametrize("name", ["a.tif", "a.h5", "a.mrc", "a.npy", "a.png", "a.bmp", "a.jpg"])
@pytest.mark.parametrize("content", [b"", b"this is not an image at all" * 100])
def test_files_of_something_else(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VolumeError, match=name):
        open_volume(tmp_path / name)


def test_damaged_zarr(tmp_path: Path) -> None:
    path = Path(write("data.zarr 3", tmp_path, stack()))
    chunk = path / "c" / "0" / "0" / "0"
    chunk.write_bytes(b"nonsense")
    volume = open_volume(path)
    volume.section(3)
    with pytest.raises(VolumeError, match=r"data\.zarr: section 1 cannot be read"):
        volume.section(1)
    (path / "zarr.json").write_text("{")
    with pytest.raises(VolumeError, match=r"data\.zarr"):
        open_volume(path)


def test_ome_metadata_without_their_array(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.zarr", stack())
    shutil.rmtree(path / "full")
    shutil.rmtree(path / "half")
    with pytest.raises(VolumeError, match="array full"):
        open_volume(path)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(VolumeError, match=r"a\.npy"):
        open_volume(tmp_path / "a.npy")


@pytest.mark.parametrize("compression", [5, 50000, 34887])
def test_a_compression_without_its_decoder_says_what_to_install(
    compression: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(write("plain.tif deflate", tmp_path, stack()))
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in tif.pages:
            page.tags["Compression"].overwrite(compression)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for place in (path, path.parent):
        with pytest.raises(VolumeError, match=r"expected a compression.*pip install imagecodecs"):
            open_volume(place)


@pytest.mark.parametrize("compression", ["lzw", "zstd", "packbits"])
def test_other_compressions_where_their_decoder_is_installed(
    compression: str, tmp_path: Path
) -> None:
    pytest.importorskip("imagecodecs")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack(), photometric="minisblack", compression=compression)
    np.testing.assert_array_equal(np.asarray(open_volume(path).data), stack())


def test_reading_needs_no_heavy_import() -> None:
    code = (
        "import sys; import napari_cad.core.readers, napari_cad.core.intensity; "
        "heavy = {'torch', 'skimage', 'scipy', 'zarr', 'h5py', 'tifffile', 'mrcfile', 'napari'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_real_stack(shared_dir: Path) -> None:
    volume = open_volume(shared_dir / "data" / "snemi3d_ac4" / "raw")
    assert volume.shape == (100, 1024, 1024)
    assert volume.dtype == np.uint8
    assert 100 < volume.section(0).mean() < 200
    labels = open_volume(shared_dir / "data" / "snemi3d_ac4" / "labels.tif")
    assert labels.shape == volume.shape
    assert labels.dtype == np.uint16
    assert labels.data[0, :512].max() > 0
    assert readers.list_datasets(shared_dir / "data" / "snemi3d_ac4" / "raw") == []
