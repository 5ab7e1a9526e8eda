from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_cad.core.errors import ShapeError
from napari_cad.core.teacher import TEACHER_OFFSETS
from napari_cad.training.targets import IGNORE, affinity_targets, widen_borders


def reference_widen(section):
    padded = np.pad(section, 1, mode="reflect")
    out = section.copy()
    for y, x in np.ndindex(section.shape):
        window = padded[y : y + 3, x : x + 3]
        if section[y, x] > 0 and len(set(window[window > 0].tolist())) > 1:
            out[y, x] = 0
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint64])
def test_widening_against_loops(dtype):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 4, (3, 4, 5))
    labels = coarse.repeat(3, 1).repeat(3, 2).astype(dtype)
    labels[labels == 3] = np.iinfo(dtype).max
    labels[labels == 2] = np.iinfo(dtype).max - 1
    before = labels.copy()
    got = widen_borders(labels)
    assert got.dtype == dtype
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(got, np.stack([reference_widen(s) for s in labels]))
    np.testing.assert_array_equal(widen_borders(labels[1]), got[1])


def test_a_border_becomes_two_voxels_wide_and_nothing_else_changes():
    labels = np.repeat([[1, 1, 1, 2, 2, 2]], 3, 0)
    np.testing.assert_array_equal(widen_borders(labels)[1], [1, 1, 0, 0, 2, 2])
    apart = np.repeat([[1, 1, 0, 0, 2, 2]], 3, 0)
    np.testing.assert_array_equal(widen_borders(apart), apart)
    one = np.repeat([[0, 1, IGNORE, IGNORE, 1, 0]], 3, 0)
    np.testing.assert_array_equal(widen_borders(one), one)


def test_unknown_voxels_stay_unknown_between_neurites():
    labels = np.repeat([[1, 1, IGNORE, 2, 2]], 3, 0)
    assert (widen_borders(labels)[:, 2] == IGNORE).all()


def test_widening_wants_sections():
    with pytest.raises(ShapeError, match="labels"):
        widen_borders(np.zeros((1, 1, 3, 3), int))


# --------------------------------------------------------------------------------------- targets


def random_labels(shape=(2, 5, 6, 29), seed=0):
    rng = np.random.default_rng(seed)
    return rng.choice([IGNORE, 0, 1, 1, 1, 2, 3], size=shape)


def reference_targets(labels, offsets, balance):
    """Voxel by voxel, on arrays of full size; NaN where the neighbour does not exist."""
    b = len(labels)
    same = np.full((len(offsets), *labels.shape), np.nan)
    known = np.zeros(same.shape, bool)
    for k, offset in enumerate(offsets):
        for i, z, y, x in np.ndindex(labels.shape):
            other = (z + offset[0], y + offset[1], x + offset[2])
            if min(other) < 0:
                continue
            p, q = labels[i, z, y, x], labels[(i, *other)]
            same[k, i, z, y, x] = float(p == q and p > 0 and q > 0)
            known[k, i, z, y, x] = p != IGNORE and q != IGNORE
    exists = ~np.isnan(same)
    weight = np.zeros(same.shape)
    for k in range(len(offsets)):
        for i in range(b):
            if balance == "channel":
                part = (k,)
                counted = known[part]
            elif balance == "patch":
                part = (slice(None), i)
                counted = known[part]
            else:
                part = (slice(None), i)
                counted = known[part] | ~exists[part]
            f = np.nansum(same[part] * (counted & exists[part])) / max(1, counted.sum())
            if f <= 0 or f >= 1:
                positive = negative = 1.0
            else:
                f = min(max(f, 0.05), 0.99)
                positive, negative = (1, f / (1 - f)) if f > 0.5 else ((1 - f) / f, 1)
            weight[k, i] = np.where(same[k, i] == 1, positive, negative)
    return same, known, weight


@pytest.mark.parametrize("balance", ["channel", "patch", "published"])
def test_targets_against_loops(balance):
    labels = random_labels()
    got = affinity_targets(torch.from_numpy(labels), TEACHER_OFFSETS, balance)
    same, known, weight = reference_targets(labels, TEACHER_OFFSETS, balance)
    for k, offset in enumerate(TEACHER_OFFSETS):
        crop = (k, slice(None), *(slice(-step, None) for step in offset))
        np.testing.assert_array_equal(got[k].same.numpy(), same[crop])
        np.testing.assert_array_equal(got[k].known.numpy(), known[crop])
        np.testing.assert_allclose(got[k].weight.numpy(), weight[crop], rtol=1e-5)
        assert got[k].weight.dtype == torch.float32


@pytest.mark.parametrize(("positives", "weights"), [
    (9, (1.0, 9.0)), (5, (1.0, 1.0)), (2, (4.0, 1.0)), (0, (None, 1.0)), (10, (1.0, None)),
])  # fmt: skip
def test_weights_of_known_fractions(positives, weights):
    # pairs along z of two sections: the first `positives` columns agree
    labels = torch.ones(1, 2, 1, 10, dtype=torch.int64)
    labels[0, 1, 0, positives:] = 2
    (target,) = affinity_targets(labels, [(-1, 0, 0)])
    for value, weight in zip((1, 0), weights, strict=True):
        found = target.weight[target.same == value]
        assert (len(found) == 0) == (weight is None)
        if weight is not None:
            torch.testing.assert_close(found, torch.full_like(found, weight))


def test_rare_classes_weigh_no_more_than_the_limits():
    labels = torch.ones(1, 2, 1, 1000, dtype=torch.int64)
    labels[0, 1, 0, 0] = 2
    (target,) = affinity_targets(labels, [(-1, 0, 0)])
    assert target.weight.max().item() == pytest.approx(99, rel=1e-4)
    labels[0, 1, 0, :] = 2
    labels[0, 1, 0, 0] = 1
    (target,) = affinity_targets(labels, [(-1, 0, 0)])
    assert target.weight.max().item() == pytest.approx(19, rel=1e-4)


def test_an_offset_longer_than_the_patch_has_no_targets():
    (target,) = affinity_targets(torch.ones(1, 2, 4, 4, dtype=torch.int64), [(-4, 0, 0)])
    assert target.same.numel() == target.known.numel() == target.weight.numel() == 0


def test_targets_want_a_batch():
    with pytest.raises(ShapeError, match="B, D, H, W"):
        affinity_targets(torch.ones(3, 4, 4, dtype=torch.int64), [(-1, 0, 0)])
