from __future__ import annotations

import heapq

import mahotas
import numpy as np
import pytest
from scipy import ndimage

from napari_cad.core import fragments as module
from napari_cad.core._watershed import flood, squared_distance
from napari_cad.core.config import FragmentConfig
from napari_cad.core.errors import ConfigError, ShapeError
from napari_cad.core.fragments import distance_watershed, section_fragments


def boundary(affinities):
    """1 − (A_y + A_x) / 2 of stored affinities, in float64."""
    real = (affinities.astype(np.float64) + 0.5) / 256
    return 1 - (real[1] + real[2]) / 2


def reference_recipe(affinities, threshold=0.5):
    """The published recipe as it stands: mahotas throughout."""
    b = boundary(affinities)
    seeds, n = mahotas.label(mahotas.regmax(mahotas.distance(b < threshold)))
    return mahotas.cwatershed(b, seeds), seeds, n


def reference_flood(height, seeds):
    """Lowest pixels first, of equally high ones the one that was reached first, with a heap."""
    labels = seeds.copy()
    queue = [(height[p], i, p) for i, p in enumerate(zip(*np.nonzero(seeds), strict=True))]
    heapq.heapify(queue)
    n_reached = len(queue)
    while queue:
        _, _, (y, x) = heapq.heappop(queue)
        for p in ((y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)):
            inside = 0 <= p[0] < height.shape[0] and 0 <= p[1] < height.shape[1]
            if inside and not labels[p]:
                labels[p] = labels[y, x]
                heapq.heappush(queue, (height[p], n_reached, p))
                n_reached += 1
    return labels


def reference_pass_heights(height, seeds, allowed=None):
    """For every pixel, the lowest height over which some seed can reach it (4-neighbours)."""
    level = np.where(seeds > 0, height, np.inf)
    queue = [(level[p], p) for p in zip(*np.nonzero(seeds), strict=True)]
    heapq.heapify(queue)
    while queue:
        h, (y, x) = heapq.heappop(queue)
        if h > level[y, x]:
            continue
        for p in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= p[0] < height.shape[0] and 0 <= p[1] < height.shape[1]):
                continue
            if allowed is not None and allowed[p] != allowed[y, x]:
                continue
            over = max(h, height[p])
            if over < level[p]:
                level[p] = over
                heapq.heappush(queue, (over, p))
    return level


def smooth_affinities(seed, shape=(61, 83)):
    """Random affinities with structures of a few pixels, over the whole range."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((3, *shape)), (0, 3, 3))
    ranks = noise.ravel().argsort().argsort().reshape(noise.shape)
    return (ranks * 256 // noise.size).astype(np.uint8)


@pytest.fixture(params=["AC34 1", "AC34 3", "CremiB 2", "wafer4 0", "smooth 1", "smooth 2"])
def affinities(request):
    name, number = request.param.split()
    if name == "smooth":
        return smooth_affinities(int(number))
    shared_dir = request.getfixturevalue("shared_dir")
    with np.load(shared_dir / "golden" / "published_students.npz") as golden:
        real = golden[f"{name}/affinities"][:, int(number), :96, :112]
    return np.minimum(255, np.floor(256 * real)).astype(np.uint8)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_same_seeds_as_the_published_recipe(affinities, threshold):
    _, expected, n = reference_recipe(affinities, threshold)

    seeds = module._seeds(boundary(affinities) < threshold)

    assert seeds.max() == n > 1
    np.testing.assert_array_equal(seeds > 0, expected > 0)
    labels = distance_watershed(affinities, boundary_threshold=threshold)
    np.testing.assert_array_equal(np.unique(labels), np.arange(1, n + 1))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_the_published_recipe_pixel_for_pixel(affinities, threshold):
    expected, _, _ = reference_recipe(affinities, threshold)

    labels = distance_watershed(affinities, boundary_threshold=threshold)

    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("name", ["AC34", "CremiA", "wafer4"])
def test_the_published_recipe_on_whole_real_crops(shared_dir, name):
    with np.load(shared_dir / "golden" / "published_students.npz") as golden:
        real = golden[f"{name}/affinities"]
    stored = np.minimum(255, np.floor(256 * real)).astype(np.uint8)

    for section in np.moveaxis(stored, 1, 0):
        np.testing.assert_array_equal(distance_watershed(section), reference_recipe(section)[0])


@pytest.mark.parametrize("outside", [1, 3, 40, 700])
@pytest.mark.parametrize("shape", [(23, 31), (1, 40), (40, 1), (7, 300)])
def test_distances_are_those_to_the_nearest_pixel_outside(shape, outside):
    rng = np.random.default_rng(outside)
    inside = np.ones(shape, bool)
    inside.flat[rng.integers(0, inside.size, outside)] = False
    points = np.argwhere(~inside)
    expected = [((points - p) ** 2).sum(axis=1).min() for p in np.ndindex(shape)]

    np.testing.assert_array_equal(squared_distance(inside).ravel(), expected)


def test_distances_in_a_section_too_long_for_32_bits():
    inside = np.ones((2, 50_000), bool)
    inside[0, 0] = False

    assert squared_distance(inside)[1, -1] == 49_999**2 + 1


@pytest.mark.parametrize("n_levels", [1, 2, 5, 511])
@pytest.mark.parametrize("shape", [(23, 31), (1, 40), (40, 1)])
def test_flooding_takes_pixels_in_the_order_of_a_heap(shape, n_levels):
    """Random heights, nearly all of them ties: whatever is not in that order shows."""
    rng = np.random.default_rng(n_levels)
    heights = rng.integers(0, n_levels, shape).astype(np.uint16)
    seeds = np.where(rng.random(shape) < 0.1, rng.permutation(heights.size).reshape(shape) + 1, 0)
    before = heights.copy(), seeds.copy()

    labels = flood(heights, seeds)

    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels, reference_flood(heights, seeds))
    np.testing.assert_array_equal(labels, mahotas.cwatershed(heights, seeds))
    np.testing.assert_array_equal(heights, before[0])
    np.testing.assert_array_equal(seeds, before[1])


def test_a_flat_neurite_is_shared_out_evenly():
    """Two cells joined by a wide neck, all of one height: neither seed may take the other's."""
    inside = np.zeros((41, 81), bool)
    y, x = np.mgrid[:41, :81]
    for centre in (20, 60):
        inside |= (y - 20) ** 2 + (x - centre) ** 2 < 19**2
    inside |= (abs(y - 20) < 8) & (x > 20) & (x < 60)
    affinities = np.where(inside, 255, 0).astype(np.uint8)[None].repeat(3, axis=0)

    labels = distance_watershed(affinities)

    left, right = labels[20, 20], labels[20, 60]
    assert left != right
    assert (labels[inside & (x < 38)] == left).all()
    assert (labels[inside & (x > 42)] == right).all()


def test_every_pixel_is_flooded_over_the_lowest_pass(affinities):
    height = boundary(affinities)
    _, seeds, _ = reference_recipe(affinities)

    labels = distance_watershed(affinities)

    np.testing.assert_array_equal(
        reference_pass_heights(height, seeds, allowed=labels),
        reference_pass_heights(height, seeds),
    )


def test_fragments_are_connected(affinities):
    labels = distance_watershed(affinities)

    n_pieces = sum(ndimage.label(labels == i)[1] for i in np.unique(labels))
    assert n_pieces == labels.max()


def test_the_image_border_is_no_boundary():
    # one vertical boundary: the farthest pixels from it are the outer columns
    affinities = np.full((3, 9, 21), 255, np.uint8)
    affinities[1:, :, 10] = 0

    seeds = module._seeds(boundary(affinities) < 0.5)

    assert seeds.max() == 2
    np.testing.assert_array_equal(np.unique(np.nonzero(seeds)[1]), [0, 20])


def test_diagonal_maxima_are_two_seeds():
    # two squares that touch at a corner: 8-connected labels would make them one
    affinities = np.zeros((3, 2, 2), np.uint8)
    affinities[:, [0, 1], [0, 1]] = 255

    assert distance_watershed(affinities).max() == 2 == reference_recipe(affinities)[2]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (5, 3), (40, 40)])
@pytest.mark.parametrize("value", [0, 255], ids=["all boundary", "no boundary"])
def test_a_section_without_contrast_is_one_fragment(shape, value):
    affinities = np.full((3, *shape), value, np.uint8)

    labels = distance_watershed(affinities)

    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels, np.ones(shape))
    np.testing.assert_array_equal(labels, reference_recipe(affinities)[0])


@pytest.mark.parametrize("shape", [(1, 60), (60, 1), (2, 30)])
def test_thin_sections(shape):
    rng = np.random.default_rng(0)
    affinities = rng.integers(0, 256, (3, *shape), np.uint8)

    labels = distance_watershed(affinities)

    assert labels.max() == reference_recipe(affinities)[2] > 1
    np.testing.assert_array_equal(np.unique(labels), np.arange(1, labels.max() + 1))


@pytest.mark.parametrize("threshold", [0.0, 1 / 512, 0.25, 0.499, 0.5, 0.501, 0.9, 1.0])
def test_the_threshold_is_exact(threshold):
    """All sums of two stored affinities, against the real numbers they stand for."""
    y, x = np.mgrid[:256, :256].astype(np.uint8)
    affinities = np.stack([y, y, x])
    n = reference_recipe(affinities, threshold)[2]

    assert distance_watershed(affinities, boundary_threshold=threshold).max() == n


def test_only_in_section_affinities_count_and_nothing_is_changed():
    affinities = smooth_affinities(3)
    other = affinities.copy()
    other[0] = 7
    before = affinities.copy()

    labels = distance_watershed(affinities)

    np.testing.assert_array_equal(distance_watershed(other), labels)
    np.testing.assert_array_equal(affinities, before)


def test_strided_and_read_only_affinities():
    affinities = smooth_affinities(4)
    expected = distance_watershed(affinities)
    turned = np.asfortranarray(affinities)
    turned.flags.writeable = False

    np.testing.assert_array_equal(distance_watershed(turned), expected)


def test_the_config_reaches_the_kernel():
    affinities = smooth_affinities(5)

    labels = section_fragments(affinities, FragmentConfig(boundary_threshold=0.3))

    np.testing.assert_array_equal(labels, distance_watershed(affinities, boundary_threshold=0.3))
    assert labels.max() != distance_watershed(affinities).max()


@pytest.mark.parametrize("shape", [(2, 8, 8), (8, 8), (3, 0, 8), (3, 2, 8, 8)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ShapeError, match=r"\(3, height, width\)"):
        distance_watershed(np.zeros(shape, np.uint8))


def test_wrong_types_and_thresholds_are_refused():
    with pytest.raises(ShapeError, match="uint8"):
        distance_watershed(np.zeros((3, 8, 8), np.float32))
    with pytest.raises(ConfigError, match="boundary_threshold"):
        distance_watershed(np.zeros((3, 8, 8), np.uint8), boundary_threshold=1.5)
