"""The map from embeddings to affinities, against an obvious double loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_cad.core import affinity
from napari_cad.core.affinity import LEVELS, OFFSETS, dequantise, pair_affinities, quantise
from napari_cad.core.errors import ShapeError


def slow_pair_affinities(embedding_prev: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """(E, H, W) twice → (3, H, W) float64, voxel by voxel in the words of the definition."""

    def affinity(a: np.ndarray, b: np.ndarray) -> float:
        cosine = a @ b / (max(np.linalg.norm(a), 1e-12) * max(np.linalg.norm(b), 1e-12))
        return min(max(cosine, 0.0), 1.0)

    prev, now = embedding_prev.astype(np.float64), embedding.astype(np.float64)
    _, height, width = now.shape
    out = np.full((3, height, width), np.nan)
    for y in range(height):
        for x in range(width):
            out[0, y, x] = affinity(prev[:, y, x], now[:, y, x])
            if y >= 1:
                out[1, y, x] = affinity(now[:, y - 1, x], now[:, y, x])
            if x >= 1:
                out[2, y, x] = affinity(now[:, y, x - 1], now[:, y, x])
    # no neighbour before the first: reflection, where there is something to reflect
    out[1, 0] = out[1, 2] if height > 2 else out[1, 1] if height == 2 else 1.0
    out[2, :, 0] = out[2, :, 2] if width > 2 else out[2, :, 1] if width == 2 else 1.0
    return out


def random_embeddings(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    # a common part, so that not every second cosine is negative
    common = rng.normal(size=shape)
    made = [common + rng.normal(size=shape) * rng.uniform(0.5, 3) for _ in range(2)]
    return torch.from_numpy(made[0]).float(), torch.from_numpy(made[1]).float()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99)
)
def test_equals_the_double_loop(batch, channels, height, width, seed):
    prev, now = random_embeddings((batch, channels, height, width), seed)
    made = pair_affinities(prev, now)
    assert made.dtype == torch.float32
    assert made.shape == (batch, 3, height, width)
    for b in range(batch):
        expected = slow_pair_affinities(prev[b].numpy(), now[b].numpy())
        np.testing.assert_allclose(made[b].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_strips_of_rows_give_what_the_whole_gives(rows, monkeypatch):
    prev, now = random_embeddings((1, 8, 20, 6))
    expected = pair_affinities(prev, now)
    monkeypatch.setattr(affinity, "_ROWS_AT_ONCE", rows)
    torch.testing.assert_close(pair_affinities(prev, now), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2), (2, 3), (3, 2)])
def test_sizes_too_small_for_reflection(size):
    prev, now = random_embeddings((1, 16, *size))
    expected = slow_pair_affinities(prev[0].numpy(), now[0].numpy())
    made = pair_affinities(prev, now)[0].numpy()
    np.testing.assert_allclose(made, expected, atol=1e-6)
    if size[0] == 1:
        assert (made[1] == 1).all()


def test_channels_follow_the_offsets():
    assert OFFSETS == ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
    # voxels of two kinds, orthogonal: an affinity is 0 exactly where the kind changes
    kinds = np.zeros((2, 6, 8), int)
    kinds[1, 4:, :] = 1
    kinds[1, :, 5:] = 1
    one_hot = torch.from_numpy(np.eye(2, dtype=np.float32)[kinds]).permute(0, 3, 1, 2)
    made = pair_affinities(one_hot[:1], one_hot[1:])[0].numpy()
    for channel, (dz, dy, dx) in enumerate(OFFSETS):
        for y in range(1, 6):
            for x in range(1, 8):
                same = kinds[1, y, x] == kinds[1 + dz, y + dy, x + dx]
                assert made[channel, y, x] == same


def test_cosine_not_dot_product_and_cut_at_zero():
    now = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1)
    for prev, expected in (([0.01, 0.0], 1.0), ([-5.0, 0.0], 0.0), ([1.0, 1.0], 0.5**0.5)):
        made = pair_affinities(torch.tensor(prev).view(1, 2, 1, 1), now)[0, 0, 0, 0]
        assert made.item() == pytest.approx(expected, abs=1e-6)


def test_zero_embedding_has_affinity_zero():
    zero = torch.zeros(1, 4, 3, 3)
    assert (pair_affinities(zero, zero) == 0).all()


def test_in_section_channels_come_from_the_later_section_alone():
    prev, now = random_embeddings((1, 8, 5, 6))
    other = random_embeddings((1, 8, 5, 6), seed=7)[0]
    a, b = pair_affinities(prev, now), pair_affinities(other, now)
    assert torch.equal(a[:, 1:], b[:, 1:])
    assert not torch.equal(a[:, 0], b[:, 0])


def test_half_precision_embeddings_are_compared_in_float32():
    prev, now = (e.half() for e in random_embeddings((1, 16, 4, 4)))
    made = pair_affinities(prev, now)
    assert made.dtype == torch.float32
    assert torch.equal(made, pair_affinities(prev.float(), now.float()))


def test_inputs_stay_as_they_are():
    prev, now = random_embeddings((1, 4, 4, 5))
    copies = prev.clone(), now.clone()
    pair_affinities(prev, now)
    assert torch.equal(prev, copies[0])
    assert torch.equal(now, copies[1])


@pytest.mark.parametrize(
    ("shape_prev", "shape"),
    [((1, 4, 3, 3), (1, 1, 3, 3)), ((1, 4, 3, 3), (2, 4, 3, 3)), ((4, 3, 3), (4, 3, 3))],
)
def test_embeddings_of_two_shapes_are_refused(shape_prev, shape):
    with pytest.raises(ShapeError, match="one shape"):
        pair_affinities(torch.ones(shape_prev), torch.ones(shape))


def test_every_stored_value_survives_reading_and_storing():
    stored = np.arange(LEVELS, dtype=np.uint8).reshape(16, 16)
    read = dequantise(stored)
    assert read.dtype == np.float32
    assert read.min() == 0.5 / 256
    assert read.max() == 255.5 / 256
    again = quantise(torch.from_numpy(read))
    assert again.dtype == torch.uint8
    np.testing.assert_array_equal(again.numpy(), stored)


def test_bins_are_those_of_the_merge_function():
    below_one = float(np.nextafter(np.float32(1), np.float32(0)))
    below_bin = float(np.nextafter(np.float32(128 / 256), np.float32(0)))
    values = torch.tensor([0.0, 1.0, below_one, 0.5, below_bin, 1 / 256, 255 / 256])
    assert quantise(values).tolist() == [0, 255, 255, 128, 127, 1, 255]


def test_reading_is_off_by_at_most_half_a_bin():
    values = torch.linspace(0, 1, 10_001)
    error = np.abs(dequantise(quantise(values).numpy()) - values.numpy())
    assert error.max() <= 0.5 / 256 + 1e-7


def test_quantise_leaves_its_input():
    values = torch.tensor([0.2, 0.9])
    quantise(values)
    assert torch.equal(values, torch.tensor([0.2, 0.9]))
