"""Dividing one fragment: by seeds, and by a painted mask."""

from __future__ import annotations

import numpy as np
import pytest

from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.fragment_split import BLUE, RED, split_by_mask, split_by_seeds


def affinities_with_membrane(shape, axis, at):
    affinities = np.full((3, *shape), 250, np.uint8)
    index = [slice(None)] * 3
    index[axis] = at
    affinities[(axis, *index)] = 5
    return affinities


@pytest.mark.parametrize(("axis", "at"), [(0, 2), (1, 4), (2, 3)])
def test_the_border_between_the_parts_is_the_membrane(axis, at):
    mask = np.ones((4, 7, 8), np.bool_)
    affinities = affinities_with_membrane(mask.shape, axis, at)
    before = affinities.copy()
    red, blue = [0, 0, 0], [0, 0, 0]
    blue[axis] = mask.shape[axis] - 1
    parts, colours = split_by_seeds(mask, affinities, [tuple(red)], [tuple(blue)])
    assert sorted(colours) == [RED, BLUE]
    coordinate = np.indices(mask.shape)[axis]
    # the two voxels on either side of a low affinity have the same boundary value: either is right
    first_blue = np.array(colours)[parts - 1] == BLUE
    assert not first_blue[coordinate < at - 1].any()
    assert first_blue[coordinate > at].all()
    np.testing.assert_array_equal(affinities, before)


def test_without_affinities_it_parts_where_it_is_thin():
    mask = np.zeros((1, 11, 25), np.bool_)
    mask[0, :, :10] = mask[0, :, 15:] = mask[0, 5, :] = True
    # the seeds are far from the middle of their halves, and not at the same distance
    parts, colours = split_by_seeds(mask, None, [(0, 1, 8)], [(0, 9, 24)])
    side = np.array([0, *colours])[parts]
    # but for the rim, which is as low as the neck
    assert (side[0, :, :9] == RED).all()
    assert (side[0, :, 17:] == BLUE).all()


def test_every_voxel_has_a_part_and_each_part_is_connected():
    rng = np.random.default_rng(0)
    mask = rng.random((2, 12, 12)) < 0.7
    affinities = rng.integers(0, 256, (3, *mask.shape), np.uint8)
    inside = [tuple(voxel) for voxel in np.argwhere(mask).tolist()]
    parts, colours = split_by_seeds(mask, affinities, inside[:2], inside[-2:])
    assert ((parts > 0) == mask).all()
    assert len(colours) == parts.max()
    for number in range(1, parts.max() + 1):
        assert is_connected(parts == number)
    for colour, seeds in ((RED, inside[:2]), (BLUE, inside[-2:])):
        assert all(colours[parts[seed] - 1] == colour for seed in seeds)


def is_connected(mask):
    todo = {tuple(v) for v in np.argwhere(mask).tolist()}
    front = [todo.pop()]
    while front:
        z, y, x = front.pop()
        for d in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
            for sign in (1, -1):
                neighbour = (z + sign * d[0], y + sign * d[1], x + sign * d[2])
                if neighbour in todo:
                    todo.remove(neighbour)
                    front.append(neighbour)
    return not todo


@pytest.mark.parametrize(
    ("red", "blue", "message"),
    [
        ([(0, 0, 0)], [], "two colours"),
        ([(0, 0, 0)], [(0, 3, 3)], "does not lie in the fragment"),
        ([(0, 0, 0)], [(0, 0, 0)], "same voxel"),
    ],
)
def test_seeds_that_do_not_fit_are_refused(red, blue, message):
    mask = np.zeros((1, 4, 4), np.bool_)
    mask[0, :2] = True
    with pytest.raises(ProofreadingError, match=message):
        split_by_seeds(mask, None, red, blue)


def test_a_mask_takes_fragments_apart():
    before = np.array([[[1, 1, 1, 1, 2, 2, 0, 0]]], np.uint32)
    mask = np.array([[[0, 1, 1, 0, 1, 0, 1, 0]]], np.bool_)
    parts, painted = split_by_mask(before, mask)
    assert len(painted) == parts.max() == 6
    pieces = [parts[0, 0, columns].tolist() for columns in ([0], [1, 2], [3], [4], [5], [6])]
    assert all(len(set(piece)) == 1 for piece in pieces)
    assert len({piece[0] for piece in pieces}) == 6
    assert parts[0, 0, 7] == 0  # background that is not painted is no part
    assert [painted[piece[0] - 1] for piece in pieces] == [False, True, False, True, False, True]
    parts, painted = split_by_mask(before, mask & (before > 0), erase=True)
    assert parts[0, 0].tolist()[1:3] == [-1, -1]
    assert parts.max() == 3
    assert painted == [False] * 3
