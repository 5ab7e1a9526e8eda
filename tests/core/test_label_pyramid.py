"""Coarser labels: the mode of every block, and what is planned for which voxels."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest

from napari_cad.core.label_pyramid import (
    Level,
    PyramidBuilder,
    mode_of_blocks,
    pyramid_levels,
)

Array = np.ndarray[Any, Any]


def reference(sections: Array) -> Array:
    """One block at a time, by the definition."""
    _, height, width = sections.shape
    out = np.empty((-(-height // 2), -(-width // 2)), sections.dtype)
    for y, x in product(*map(range, out.shape)):
        counts = Counter(sections[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist())
        out[y, x] = min(counts, key=lambda label: (-counts[label], label == 0, label))
    return out


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ([[7, 7], [7, 7]], 7),
        ([[0, 0], [0, 9]], 0),  # more often than any other
        ([[0, 0], [9, 9]], 9),  # as often: a label before the background
        ([[9, 9], [0, 0]], 9),
        ([[9, 9], [4, 4]], 4),  # the smallest of the labels
        ([[4, 9], [9, 4]], 4),
        ([[9, 0], [3, 5]], 3),  # all once
        ([[0, 3], [3, 5]], 3),
    ],
)
def test_the_most_frequent_label(block: list[list[int]], expected: int) -> None:
    sections = np.array([block], np.uint16)
    assert mode_of_blocks(sections).tolist() == [[expected]] == reference(sections).tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 8), (2, 8, 9), (2, 1, 5), (1, 33, 34)])
def test_modes_are_those_of_the_reference(dtype: Any, shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(0)
    for n_labels in (2, 3, 9):  # ties are frequent
        sections = random.integers(0, n_labels, shape).astype(dtype)
        sections[sections == 1] = np.iinfo(dtype).max  # nothing wraps
        made = mode_of_blocks(sections)
        assert made.dtype == dtype
        np.testing.assert_array_equal(made, reference(sections))


def test_the_input_is_left_alone_and_may_be_a_view() -> None:
    sections = np.random.default_rng(1).integers(0, 3, (2, 12, 10)).astype(np.uint32)
    copy = sections.copy()
    view = sections[:, ::2, 1:]
    np.testing.assert_array_equal(mode_of_blocks(view), reference(view))
    np.testing.assert_array_equal(sections, copy)


def test_sections_are_joined_once_voxels_are_about_isotropic() -> None:
    levels = pyramid_levels((100, 5000, 3000), (30.0, 6.0, 6.0))
    assert levels == [
        Level((100, 5000, 3000), (1, 1, 1), 1),
        Level((100, 2500, 1500), (1, 2, 2), 1),
        Level((100, 1250, 750), (1, 4, 4), 1),  # 30 × 24 × 24 nm
        Level((50, 625, 375), (2, 8, 8), 2),
        Level((25, 313, 188), (4, 16, 16), 2),
    ]
    assert levels[3].scale((30.0, 6.0, 6.0)) == [60, 48, 48]
    assert levels[3].translation((30.0, 6.0, 6.0), (300, 0, 12)) == [315, 21, 33]


def test_without_a_voxel_size_sections_stay() -> None:
    assert [level.factor for level in pyramid_levels((9, 2000, 10), None)] == [
        (1, 1, 1),
        (1, 2, 2),
        (1, 4, 4),
    ]
    assert pyramid_levels((9, 512, 10), (1, 1, 1)) == [Level((9, 512, 10))]


def test_a_single_section_is_never_joined() -> None:
    assert [level.shape[0] for level in pyramid_levels((1, 1025, 10), (1, 1, 1))] == [1, 1, 1]


def test_sections_come_as_they_go_and_the_last_of_an_odd_number_alone() -> None:
    random = np.random.default_rng(2)
    sections = random.integers(0, 4, (5, 9, 6)).astype(np.uint32)
    levels = [
        Level((5, 9, 6)),
        Level((3, 5, 3), (2, 2, 2), 2),
        Level((2, 3, 2), (4, 4, 4), 2),
    ]
    written: list[tuple[int, int]] = []
    made = [np.zeros(level.shape, np.uint32) for level in levels]

    def write(level: int, z: int, labels: Array) -> None:
        written.append((level, z))
        made[level][z] = labels

    builder = PyramidBuilder(levels, write)
    for section in sections:
        builder.add(section)
    assert written == [
        (0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (1, 1), (2, 0), (0, 4), (1, 2), (2, 1),
    ]  # fmt: skip
    np.testing.assert_array_equal(made[0], sections)
    for before, level in ((made[0], made[1]), (made[1], made[2])):
        for z in range(len(level)):
            np.testing.assert_array_equal(level[z], reference(before[2 * z : 2 * z + 2]))
