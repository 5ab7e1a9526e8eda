"""A binned volume is what its name says, lies where it should, and can be opened again."""

from __future__ import annotations

import pickle
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from napari_cad.core._lazy import LazyArray
from napari_cad.core.binning import EnlargedLabels, binned, binned_shape
from napari_cad.core.errors import ConfigError, ShapeError
from napari_cad.core.readers import open_source, open_volume
from napari_cad.core.volume import EMVolume, VolumeSource

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, Any]


def stack(shape: tuple[int, int, int] = (3, 7, 10), dtype: Any = np.uint8) -> Array:
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def reference(array: Array, factor: int) -> Array:
    """One voxel at a time."""
    made = np.empty(binned_shape(array.shape, factor), array.dtype)
    for z, y, x in product(*map(range, made.shape)):
        block = array[z, y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
        mean = block.astype(np.float64).mean()
        made[z, y, x] = np.floor(mean + 0.5) if array.dtype.kind in "iu" else mean
    return made


class Counted(LazyArray):
    """Remembers which boxes were read."""

    def __init__(self, array: Array) -> None:
        super().__init__(array.shape, array.dtype)
        self._array = array
        self.boxes: list[tuple[int, ...]] = []

    def _read(self, z: slice, y: slice, x: slice) -> Array:
        values = self._array[z, y, x]
        self.boxes.append(values.shape)
        return values


@pytest.mark.parametrize("factor", [2, 3, 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
def test_voxels_are_means_of_blocks(factor: int, dtype: Any) -> None:
    array = stack(dtype=dtype) - (np.int16(100) if dtype is np.int16 else 0)
    array = array.astype(dtype)
    made = binned(EMVolume.from_array(array), factor)
    assert made.shape == binned_shape(array.shape, factor)
    assert made.dtype == array.dtype
    np.testing.assert_array_equal(np.asarray(made.data), reference(array, factor))


def test_many_rows_are_averaged_in_strips() -> None:
    array = stack((1, 301, 3))
    made = binned(EMVolume.from_array(array), 2)
    np.testing.assert_array_equal(made.section(0), reference(array, 2)[0])


@pytest.mark.parametrize(
    "key",
    [(1,), (slice(None), 2, slice(1, 4)), (slice(0, 3, 2), slice(None, None, -1), -1), (..., 4)],
)
def test_it_is_indexed_like_numpy(key: Any) -> None:
    array = stack()
    made = binned(EMVolume.from_array(array), 2).data
    np.testing.assert_array_equal(made[key], reference(array, 2)[key])


def test_only_what_is_asked_for_is_read() -> None:
    data = Counted(stack())
    made = binned(EMVolume.from_array(data), 2)
    assert data.boxes == []
    made.data[1, 1:3, :2]
    assert data.boxes == [(1, 4, 4)]


def test_both_lie_over_one_another() -> None:
    volume = EMVolume.from_array(stack(), voxel_size=(30, 6, 4), origin=(60, 12, 8), name="a")
    made = binned(volume, 2)
    assert made.voxel_size == (30, 12, 8)
    assert made.origin == (60, 15, 10)  # the centre of the first 2 × 2 voxels
    assert (made.bin, made.name) == (2, "a (bin 2)")
    assert binned(volume, 1) is volume
    # the corner of the first voxel is where it was
    corners = [
        [o - s / 2 for o, s in zip(v.origin, v.voxel_size or (), strict=True)]
        for v in (volume, made)
    ]
    assert corners[0] == corners[1]


def test_without_a_voxel_size_there_is_none() -> None:
    made = binned(EMVolume.from_array(stack()), 2)
    assert made.voxel_size is None
    assert made.origin == (0, 0, 0)


@pytest.mark.parametrize("factor", [0, -1, 17])
def test_the_factor_has_limits(factor: int) -> None:
    with pytest.raises(ConfigError, match="1 to 16"):
        binned(EMVolume.from_array(stack()), factor)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "stack.tif", stack(), photometric="minisblack")
    return tmp_path / "stack.tif"


def same(a: EMVolume, b: EMVolume) -> None:
    np.testing.assert_array_equal(np.asarray(a.data), np.asarray(b.data))
    assert (a.voxel_size, a.origin, a.source, a.bin) == (b.voxel_size, b.origin, b.source, b.bin)


def test_the_source_opens_it_again(file: Path) -> None:
    volume = open_volume(file, voxel_size=(30, 6, 4))
    for made in (
        binned(volume, 2),
        binned(volume.crop((1, 3), (1, 7), (2, 9)), 2),
        # its last blocks are narrower than others, and belong to it all the same
        binned(volume, 2).crop((1, 3), (1, 4), (2, 5)),
        binned(volume.crop((1, 3), (1, 6), (2, 9)), 2).crop((0, 1), (1, 3), (1, 4)),
    ):
        assert made.source is not None
        source = VolumeSource.from_json(made.source.to_json())
        assert source == made.source
        same(open_source(source), made)
        same(pickle.loads(pickle.dumps(made)), made)  # noqa: S301 - our own bytes


def test_the_signature_tells_it_from_the_volume(file: Path) -> None:
    volume = open_volume(file)
    assert "bin" not in volume.signature()
    assert binned(volume, 2).signature()["bin"] == 2
    assert binned(volume, 2).signature() != volume.signature()


@pytest.mark.parametrize("factor", [2, 3])
def test_enlarged_labels_repeat_every_voxel(factor: int) -> None:
    labels = stack((2, 4, 5), np.uint32)
    whole = labels.repeat(factor, 1).repeat(factor, 2)
    shape = (2, whole.shape[1] - 1, whole.shape[2])
    enlarged = EnlargedLabels(labels, factor, shape)
    for key in [(), (1,), (0, slice(3, 6), slice(1, 9, 3)), (..., -1)]:
        np.testing.assert_array_equal(enlarged[key], whole[:, :-1][key])
    with pytest.raises(ShapeError, match="binned by"):
        EnlargedLabels(labels, factor, (2, 4, 5))
