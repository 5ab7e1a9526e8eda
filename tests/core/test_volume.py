from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest

from napari_cad.core._lazy import CroppedArray, LazyArray
from napari_cad.core.errors import VolumeError
from napari_cad.core.volume import EMVolume, VolumeSource, spread_sections


class CountingArray(LazyArray):
    """A lazy array over a numpy one that counts what is read."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        super().__init__(array.shape, array.dtype)
        self.array = array
        self.voxels_read = 0

    def _read(self, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        box = self.array[z, y, x].copy()
        self.voxels_read += box.size
        return box


@pytest.fixture
def array() -> np.ndarray[Any, Any]:
    return np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)


KEYS = [
    0,
    -1,
    np.int64(2),
    slice(None),
    slice(1, 3),
    slice(None, None, 2),
    slice(3, 0, -2),
    slice(None, None, -1),
    slice(2, 2),
    slice(3, 1),
    slice(-2, 100),
    ...,
    (1, 2, 3),
    (1, ..., 3),
    (..., 3),
    (slice(1, 3), slice(None, None, -2), 4),
    (slice(1, 3), 2, slice(1, 6, 3)),
    (0, ...),
    (0, 1, 2, ...),
    (slice(0, 0), 1, slice(None)),
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
@pytest.mark.parametrize("cropped", [False, True])
def test_a_lazy_array_is_indexed_like_numpy(
    array: np.ndarray[Any, Any], key: Any, cropped: bool
) -> None:
    lazy: LazyArray = CountingArray(array)
    expected = array
    if cropped:
        wide = np.pad(array, ((2, 1), (1, 3), (2, 2)))
        lazy = CroppedArray(CountingArray(wide), ((2, 6), (1, 6), (2, 8)))
    np.testing.assert_array_equal(lazy[key], expected[key])
    assert np.shape(lazy[key]) == np.shape(expected[key])
    assert lazy[key].dtype == array.dtype


@pytest.mark.parametrize(
    "key", [4, -5, (0, 5), (0, 0, 0, 0), [0, 1], True, None, (0, np.array([1, 2])), 1.5]
)
def test_a_lazy_array_refuses_what_it_cannot_read(array: np.ndarray[Any, Any], key: Any) -> None:
    with pytest.raises(IndexError):
        CountingArray(array)[key]


def test_a_lazy_array_looks_like_an_array(array: np.ndarray[Any, Any]) -> None:
    lazy = CountingArray(array)
    assert (lazy.ndim, lazy.size, lazy.nbytes, len(lazy)) == (3, 120, 240, 4)
    assert lazy.voxels_read == 0
    np.testing.assert_array_equal(np.asarray(lazy), array)
    np.testing.assert_array_equal(np.stack(list(lazy)), array)
    assert np.asarray(lazy, dtype=np.float32).dtype == np.float32


def test_only_what_is_asked_for_is_read(array: np.ndarray[Any, Any]) -> None:
    lazy = CountingArray(array)
    volume = EMVolume(lazy).crop(sections=(1, 3), x=slice(2, 5))
    assert lazy.voxels_read == 0
    volume.section(0)
    assert lazy.voxels_read == 5 * 3


def test_a_section_is_native_and_contiguous(array: np.ndarray[Any, Any]) -> None:
    volume = EMVolume(array.astype(">u2")[:, :, ::2])
    section = volume.section(1)
    assert section.flags.c_contiguous
    assert section.dtype == np.dtype("u2") == volume.dtype
    assert section.dtype.isnative
    np.testing.assert_array_equal(section, array[1, :, ::2])


@pytest.mark.parametrize("z", [-1, 4])
def test_there_is_no_section_outside(array: np.ndarray[Any, Any], z: int) -> None:
    with pytest.raises(IndexError, match="sections 0 to 3, got"):
        EMVolume(array).section(z)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((2, 3), np.uint8), "from_array"),
        (np.zeros((2, 3, 4, 5), np.uint8), "three axes"),
        (np.zeros((2, 3, 4, 3), np.uint8), "RGB"),
        (np.zeros((2, 0, 4), np.uint8), "at least one voxel"),
        (np.zeros((2, 3, 4), bool), "astype"),
        (np.zeros((2, 3, 4), complex), "abs"),
        (np.zeros((2, 3, 4), [("r", "u1"), ("g", "u1")]), "colour"),
        (np.zeros((2, 3, 4), object), "numbers"),
    ],
)
def test_what_is_no_volume_is_refused(data: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        EMVolume(data)


@pytest.mark.parametrize("voxel_size", [(1, 2), (1, 2, 0), (1, 2, -3), (1, 2, np.nan), "abc", 4])
def test_a_voxel_size_is_three_positive_numbers(voxel_size: Any) -> None:
    with pytest.raises(VolumeError, match="three"):
        EMVolume(np.zeros((1, 1, 1), np.uint8), voxel_size=voxel_size)


def test_an_image_becomes_one_section() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    volume = EMVolume.from_array(image, voxel_size=[30, 6, 6], name="image")
    assert volume.shape == (1, 2, 3)
    assert volume.voxel_size == (30.0, 6.0, 6.0)
    np.testing.assert_array_equal(volume.section(0), image)


def test_dask_arrays_stay_lazy() -> None:
    da = pytest.importorskip("dask.array")
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    volume = EMVolume.from_array(da.from_array(array, chunks=(1, 3, 4))).crop(y=(1, 3))
    np.testing.assert_array_equal(volume.section(1), array[1, 1:])
    assert EMVolume.from_array(da.from_array(array[0])).shape == (1, 3, 4)


def test_a_crop_moves_the_origin_and_narrows_the_source(array: np.ndarray[Any, Any]) -> None:
    volume = EMVolume(array, (30, 6, 4), origin=(60, 0, 8), source=VolumeSource("a.h5", "raw"))
    once = volume.crop(sections=(1, 4), y=slice(1, None), x=(None, -1))
    np.testing.assert_array_equal(once.data, array[1:4, 1:, :-1])
    assert once.origin == (90, 6, 8)
    assert once.source == VolumeSource("a.h5", "raw", ((1, 4), (1, 5), (0, 5)))
    twice = once.crop(sections=(1, 2), x=(2, 4))
    np.testing.assert_array_equal(twice.data, array[2:3, 1:, 2:4])
    assert twice.origin == (120, 6, 16)
    assert twice.source is not None
    assert twice.source.bounds == ((2, 3), (1, 5), (2, 4))
    assert volume.crop() is volume


@pytest.mark.parametrize(
    "sections", [(0, 5), (2, 2), (3, 1), (-5, 2), slice(0, 9), slice(0, 4, 2), (4, None)]
)
def test_a_crop_lies_inside(array: np.ndarray[Any, Any], sections: Any) -> None:
    with pytest.raises(VolumeError, match="sections"):
        EMVolume(array).crop(sections=sections)


def test_a_source_survives_json_and_pickle() -> None:
    source = VolumeSource("a.h5", "raw", ((0, 1), (2, 3), (4, 5)), (30, 6, 6))
    assert VolumeSource.from_json(json.loads(json.dumps(source.to_json()))) == source
    assert VolumeSource.from_json(VolumeSource("a").to_json()) == VolumeSource("a")
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301
    for broken in ({}, {"path": "a", "bounds": 3}, {"path": "a", "voxel_size": [1]}):
        with pytest.raises(VolumeError):
            VolumeSource.from_json(broken)


def test_a_signature_tells_volumes_apart_without_reading_them(
    array: np.ndarray[Any, Any],
) -> None:
    signature = EMVolume(array).signature()
    assert signature == EMVolume(CountingArray(array)).signature()
    assert signature == EMVolume(array.astype(">u2")).signature()
    assert signature == json.loads(json.dumps(signature))
    changed = array.copy()
    changed[0, 0, 0] += 1
    assert EMVolume(changed).signature() != signature
    assert EMVolume(array.astype(np.int16)).signature() != signature
    assert EMVolume(array.reshape(4, 6, 5)).signature() != signature
    source = VolumeSource("a", bounds=((0, 4), (0, 5), (0, 6)))
    assert EMVolume(array, source=source).signature() != signature
    big = CountingArray(np.zeros((50, 4, 2000), np.uint8))
    EMVolume(big).signature()
    assert big.voxels_read == 5 * 4 * 1024


def test_sections_are_spread_evenly() -> None:
    assert spread_sections(3, 5) == [0, 1, 2]
    assert spread_sections(100, 5) == [0, 25, 50, 74, 99]
    assert spread_sections(9, 1) == [4]
