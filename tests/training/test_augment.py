from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from napari_cad.training.augment import augment
from napari_cad.training.data_config import AugmentConfig
from napari_cad.training.targets import IGNORE

MARGIN = 6


def patch(depth=3, size=16, margin=MARGIN):
    """A stack of which the labels can be told from the image: label = 1 + 4 · intensity."""
    n = size + 2 * margin
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 4, (depth, -(-n // 7), -(-n // 7)))
    labels = 1 + coarse.repeat(7, 1).repeat(7, 2)[:, :n, :n].astype(np.int32)
    return ((labels - 1) / 4).astype(np.float32), labels


def only(**settings):
    return dataclasses.replace(AugmentConfig.none(), **settings)


def inner(array):
    return array[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def test_nothing_is_a_crop():
    image, labels = patch()
    got_image, got_labels = augment(
        image, labels, MARGIN, AugmentConfig.none(), np.random.default_rng(0)
    )
    np.testing.assert_array_equal(got_image, inner(image))
    np.testing.assert_array_equal(got_labels, inner(labels))


def test_the_input_is_left_alone_and_the_output_is_new():
    image, labels = patch()
    before = image.copy(), labels.copy()
    for seed in range(20):
        got = augment(image, labels, MARGIN, AugmentConfig(), np.random.default_rng(seed))
        assert not np.shares_memory(got[0], image)
        assert not np.shares_memory(got[1], labels)
        assert got[0].flags.c_contiguous
        assert got[1].flags.c_contiguous
        assert got[0].dtype == np.float32
        assert got[1].dtype == np.int32
        assert got[0].shape == got[1].shape == (3, 16, 16)
        assert got[0].min() >= 0
        assert got[0].max() <= 1
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_chance_is_the_generator_alone():
    image, labels = patch()
    results = [
        augment(image, labels, MARGIN, AugmentConfig(), np.random.default_rng(seed))
        for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert not np.array_equal(results[0][0], results[2][0])


def test_flips_give_the_sixteen_symmetries():
    image, labels = patch()
    base = inner(labels)
    expected = {
        np.ascontiguousarray(flat.transpose(axes)).tobytes()
        for z in (1, -1)
        for y in (1, -1)
        for x in (1, -1)
        for flat in [base[::z, ::y, ::x]]
        for axes in ((0, 1, 2), (0, 2, 1))
    }
    found = set()
    for seed in range(200):
        got_image, got_labels = augment(
            image, labels, MARGIN, only(flip=True), np.random.default_rng(seed)
        )
        np.testing.assert_array_equal(got_image, ((got_labels - 1) / 4).astype(np.float32))
        found.add(got_labels.tobytes())
    assert found == expected
    assert len(found) == 16


@pytest.mark.parametrize(
    "settings",
    [
        {"rotate": 1.0, "zoom": 0.33, "stretch": 0.1},
        {"elastic": 1.0},
        {"misalign": 1.0},
        {"rotate": 1.0, "elastic": 1.0, "misalign": 1.0, "zoom": 0.2},
    ],
)
def test_image_and_labels_move_together(settings):
    image, labels = patch(size=32, margin=16)
    for seed in range(10):
        got_image, got_labels = augment(
            image, labels, 16, only(**settings), np.random.default_rng(seed)
        )
        known = got_labels != IGNORE
        assert known.mean() > 0.8
        # inside a flat region linear and nearest interpolation agree
        agree = np.abs(got_image - (got_labels - 1) / 4) < 1e-3
        assert agree[known].mean() > 0.6
        assert set(np.unique(got_labels)) <= {IGNORE, 1, 2, 3, 4}


def test_a_rotation_is_about_the_centre_and_by_the_angle_drawn():
    size = 33
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    image = (0.5 + 0.01 * y + 0.02 * x).astype(np.float32)[None]
    got, _ = augment(
        image, np.ones(image.shape, np.int32), 6, only(rotate=1.0), np.random.default_rng(5)
    )
    rng = np.random.default_rng(5)
    assert rng.random() < 1
    angle = rng.uniform(0, 2 * np.pi)
    yy, xx = y[6:-6, 6:-6], x[6:-6, 6:-6]
    turned = (np.cos(angle) * yy - np.sin(angle) * xx, np.sin(angle) * yy + np.cos(angle) * xx)
    np.testing.assert_allclose(got[0], 0.5 + 0.01 * turned[0] + 0.02 * turned[1], atol=1e-4)


def test_outside_of_what_was_read_there_is_no_truth():
    image, labels = patch(margin=0)
    hit = 0
    for seed in range(10):
        got_image, got_labels = augment(
            image, labels, 0, only(rotate=1.0), np.random.default_rng(seed)
        )
        hit += (got_labels == IGNORE).any()
        assert (got_labels != 0).all()
        assert np.isfinite(got_image).all()
    assert hit > 5


def test_a_misaligned_section_or_all_from_one_on_are_shifted():
    depth, n = 5, 16 + 2 * MARGIN
    ramp = np.broadcast_to(np.linspace(0, 1, n, dtype=np.float32), (depth, n, n))
    step = 1 / (n - 1)
    kinds = set()
    for seed in range(60):
        got, _ = augment(
            ramp, np.ones(ramp.shape, np.int32), MARGIN, only(misalign=1.0, misalign_most=4.0),
            np.random.default_rng(seed),
        )  # fmt: skip
        shift = (got[:, 8, 8] - ramp[0, 0, MARGIN + 8]) / step
        assert np.abs(shift).max() <= 4.001
        moved = tuple(np.abs(shift) > 1e-3)
        kinds.add(moved)
        assert len(set(np.round(shift[np.abs(shift) > 1e-3], 3))) <= 1
    singles = {tuple(z == i for z in range(depth)) for i in range(depth)}
    tails = {tuple(z >= i for z in range(depth)) for i in range(depth)}
    assert kinds <= singles | tails
    assert len(kinds & singles) >= 4
    assert len(kinds & tails) >= 4


def test_missing_sections_are_blank_and_have_no_truth():
    image, labels = patch(depth=200)
    got_image, got_labels = augment(
        image, labels, MARGIN, only(missing=0.2), np.random.default_rng(0)
    )
    blank = np.array([(s == s[0, 0]).all() for s in got_image])
    ignored = (got_labels == IGNORE).all((1, 2))
    np.testing.assert_array_equal(blank, ignored)
    assert 20 < blank.sum() < 60
    np.testing.assert_array_equal(got_image[~blank], inner(image)[~blank])
    np.testing.assert_array_equal(got_labels[~blank], inner(labels)[~blank])


@pytest.mark.parametrize("name", ["contrast", "section_contrast", "defocus", "noise"])
def test_intensities_change_and_labels_do_not(name):
    image, labels = patch(depth=6)
    got_image, got_labels = augment(
        image, labels, MARGIN, only(**{name: 1.0}), np.random.default_rng(1)
    )
    np.testing.assert_array_equal(got_labels, inner(labels))
    change = got_image - inner(image)
    assert all(np.abs(section).max() > 0.005 for section in change)
    if name == "defocus":
        assert all(g.std() < i.std() for g, i in zip(got_image, inner(image), strict=True))


def test_elastic_warps_are_as_strong_as_published():
    n = 64
    ramp = np.broadcast_to(np.linspace(0, 1, n + 40, dtype=np.float32), (1, n + 40, n + 40))
    deviations = []
    for seed in range(20):
        got, _ = augment(
            ramp, np.ones(ramp.shape, np.int32), 20, only(elastic=1.0), np.random.default_rng(seed)
        )
        deviations.append(((got[0] - ramp[0, 20:-20, 20:-20]) * (n + 39)).std())
    assert np.mean(deviations) == pytest.approx(0.65, rel=0.15)
