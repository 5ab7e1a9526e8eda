"""The synthetic stack: what tests, demo and benchmarks rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import ndimage
from skimage.io import imread

from napari_cad.core.errors import ShapeError
from napari_cad.core.smooth_noise import SmoothNoise
from napari_cad.core.synthetic import SyntheticEM, synthetic_em
from napari_cad.core.synthetic_image import Microscope, _distance
from napari_cad.core.synthetic_tissue import Tissue

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def stack() -> SyntheticEM:
    return synthetic_em((6, 200, 240), seed=3, calibre=0.5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 5), (3, 1, 40), (2, 50, 1), (40, 8, 9)])
def test_any_shape(shape: tuple[int, int, int]) -> None:
    made = synthetic_em(shape)
    assert made.raw.shape == made.labels.shape == shape
    assert made.raw.dtype == np.uint8
    assert made.labels.dtype == np.uint16


def test_same_seed_same_stack(stack: SyntheticEM) -> None:
    again = synthetic_em((6, 200, 240), seed=3, calibre=0.5)
    np.testing.assert_array_equal(stack.raw, again.raw)
    np.testing.assert_array_equal(stack.labels, again.labels)
    other = synthetic_em((6, 200, 240), seed=4, calibre=0.5)
    assert (stack.raw != other.raw).mean() > 0.9
    assert (stack.labels != other.labels).mean() > 0.5


def test_leaves_numpys_global_random_state_alone() -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - it is what must not move
    synthetic_em((1, 16, 16))
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_labels_are_dense_and_connected(stack: SyntheticEM) -> None:
    ids = np.unique(stack.labels)
    np.testing.assert_array_equal(ids, np.arange(len(ids)))
    assert len(ids) > 40
    for label, box in enumerate(ndimage.find_objects(stack.labels), start=1):
        _, pieces = ndimage.label(stack.labels[box] == label)
        assert pieces == 1, f"neurite {label} is in {pieces} pieces"


def test_neighbours_are_kept_apart_by_membrane(stack: SyntheticEM) -> None:
    for axis in (1, 2):
        a = np.moveaxis(stack.labels, axis, 0)
        assert not ((a[1:] != a[:-1]) & (a[1:] > 0) & (a[:-1] > 0)).any()
    assert 0.08 < (stack.labels == 0).mean() < 0.4


def test_membranes_are_dark_and_cytoplasm_is_bright(stack: SyntheticEM) -> None:
    for raw, labels in zip(stack.raw, stack.labels, strict=True):
        assert raw[labels > 0].mean() - raw[labels == 0].mean() > 20


def test_neurites_go_on_in_the_next_section(stack: SyntheticEM) -> None:
    here, there = stack.labels[:-1], stack.labels[1:]
    both = (here > 0) & (there > 0)
    same = (here == there)[both].mean()
    assert 0.8 < same < 0.999  # they go on, but they move


def test_calibre_sets_the_number_of_neurites() -> None:
    counts = [synthetic_em((1, 200, 200), calibre=c).labels.max() for c in (1.6, 0.8, 0.4)]
    assert counts[0] * 1.5 < counts[1]
    assert counts[1] * 1.5 < counts[2]


def test_voxel_size_shows_the_same_tissue_coarser() -> None:
    fine = synthetic_em((1, 240, 240), voxel_size=(30.0, 6.0, 6.0), jitter=0.0)
    coarse = synthetic_em((1, 120, 60), voxel_size=(30.0, 12.0, 24.0), jitter=0.0)
    assert coarse.voxel_size == (30.0, 12.0, 24.0)
    sampled = fine.labels[:, ::2, ::4]
    both = (sampled > 0) & (coarse.labels > 0)
    pairs = np.unique(np.stack([sampled[both], coarse.labels[both]]), axis=1).shape[1]
    assert pairs <= 1.3 * fine.labels.max()
    assert (sampled > 0)[coarse.labels > 0].mean() > 0.9


def test_strengths_can_be_turned_off() -> None:
    quiet = synthetic_em((3, 64, 64), noise=0.0, contrast=0.0, jitter=0.0, defocus=0.0)
    noisy = synthetic_em((3, 64, 64), noise=3.0, contrast=0.0, jitter=0.0, defocus=0.0)
    np.testing.assert_array_equal(quiet.labels, noisy.labels)
    difference = noisy.raw.astype(float) - quiet.raw
    assert abs(difference.mean()) < 1
    assert difference.std() > 10


def test_like_the_real_stack(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "snemi3d_ac4" / "raw"
    real = np.stack([imread(folder / f"ac4_{z:04}.png") for z in range(0, 80, 8)])
    made = synthetic_em((10, 192, 192), voxel_size=(240.0, 6.0, 6.0)).raw
    # contrast is drawn per section: ten sections are a small sample
    assert abs(real.mean() - made.mean()) < 25
    assert abs(real.std() - made.std()) < 12
    fine = [np.diff(stack.astype(float), axis=2).std() for stack in (real, made)]
    assert 0.7 < fine[1] / fine[0] < 1.4


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 4), (1, 2, 3, 4), (1, -1, 5)])
def test_refuses_a_shape_that_is_none(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="expected"):
        synthetic_em(shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [{"voxel_size": (30.0, 0.0, 6.0)}, {"noise": -1.0}, {"defocus": -0.1}, {"calibre": 0.0}],
)
def test_refuses_settings_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected|negative"):
        synthetic_em((1, 4, 4), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("z", [120.0, 240.0, 360.0, 480.0])
def test_partition_is_that_of_all_discs_everywhere(z: float) -> None:
    """Painting windows gives what comparing every pixel with every disc gives."""
    shape, voxel_size = (20, 150, 170), (30.0, 6.0, 6.0)
    tissue = Tissue(np.random.default_rng(5), (600.0, 900.0, 1020.0), 0.5)
    microscope = Microscope(shape, 5, voxel_size, tissue, 1.0, 1.0, 1.0, 0.0)
    y, x, flow = microscope._coordinates(np.random.default_rng(0), z)
    discs = tissue.discs(z)
    found = microscope._partition(discs, y, x, flow, z)

    glia = 95.0 + 75.0 * microscope._glia.at(z)[0]
    every = [
        _distance(discs, i, y, x) if discs.radius[i] > 0 else np.full_like(y, np.inf)
        for i in range(len(discs.radius))
    ]
    distance = np.stack([*every, glia.astype(np.float32)])
    first = distance.argmin(axis=0)
    np.testing.assert_array_equal(found.first, first)
    owner = np.append(discs.owner, -1)
    seen = np.unique(first)
    assert len(np.unique(owner[seen])) < len(seen), "no neurite of several discs to be right about"
    rivals = np.where(owner[:, None, None] == owner[first], np.inf, distance)
    near = rivals.min(axis=0) - distance.min(axis=0) < 60
    assert near.any()
    np.testing.assert_array_equal(found.second[near], rivals.argmin(axis=0)[near])


def test_smooth_noise_is_standard_and_smooth() -> None:
    y, x = np.arange(300) * 4.0, np.arange(400) * 4.0
    noise = SmoothNoise(np.random.default_rng(0), 600.0, y, x, 40.0, 60.0, 2)
    a, b = noise.at(300.0), noise.at(303.0)
    assert a.shape == (2, 300, 400)
    assert a.dtype == np.float32
    assert abs(a.mean()) < 0.1
    assert abs(a.std() - 1) < 0.1
    assert abs(np.corrcoef(a[0].ravel(), a[1].ravel())[0, 1]) < 0.1
    assert np.abs(np.diff(a, axis=1)).max() < 0.6
    assert np.abs(a - b).max() < 0.4
