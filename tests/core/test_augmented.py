"""Test-time augmentation against affinities that look the same from everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from napari_cad.core.augmented import AugmentedPredictor
from napari_cad.core.config import AUGMENTATIONS
from napari_cad.core.errors import ConfigError
from napari_cad.core.inference import AffinityPredictor, SectionAffinities
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.network import StudentNetwork
from napari_cad.core.volume import EMVolume

INTENSITY = IntensityMapping("limits", 0, 255)


def difference(a, b):
    return 255 - np.abs(a.astype(int) - b.astype(int))


def affinities_of(prev, current):
    """Affinity = 1 − difference of the grey values: knows no direction. Voxel by voxel."""
    height, width = current.shape
    made = np.zeros((3, height, width), np.uint8)
    made[0] = difference(prev, current)
    for y in range(height):
        for x in range(width):
            if y > 0:
                made[1, y, x] = difference(current[y - 1, x], current[y, x])
            if x > 0:
                made[2, y, x] = difference(current[y, x - 1], current[y, x])
    made[1, 0] = made[1, min(2, height - 1)] if height > 1 else 255
    made[2, :, 0] = made[2, :, min(2, width - 1)] if width > 1 else 255
    return made


@dataclass
class Undirected:
    """A predictor without preferences."""

    device: str = "cpu"
    pairs: int = 0

    def predict(self, volume, intensity, sections=None):
        for z in range(volume.n_sections) if sections is None else sections:
            self.pairs += 1
            made = affinities_of(volume.section(max(z - 1, 0)), volume.section(z))
            yield SectionAffinities(z, made)


def stack(shape, seed=0):
    return EMVolume.from_array(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 4, 4), (2, 1, 6), (2, 2, 1), (2, 1, 1)])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_views_of_something_undirected_are_all_alike(name, shape):
    volume = stack(shape)

    made = list(AugmentedPredictor(Undirected(), name).predict(volume, INTENSITY))

    for section, expected in zip(made, Undirected().predict(volume, INTENSITY), strict=True):
        assert section.z == expected.z
        np.testing.assert_array_equal(section.affinities, expected.affinities)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_resuming_anywhere_gives_the_same(name):
    volume = stack((5, 32, 32))
    network = StudentNetwork(width=4)
    predictor = AugmentedPredictor(AffinityPredictor(network.eval()), name)

    whole = [made.affinities for made in predictor.predict(volume, INTENSITY)]

    for z in (2, 4):
        (part,) = predictor.predict(volume, INTENSITY, [z])
        np.testing.assert_array_equal(part.affinities, whole[z])


class Directed(Undirected):
    """A predictor that says the grey value of the later voxel, plus one further along an axis."""

    def predict(self, volume, intensity, sections=None):
        for z in range(volume.n_sections) if sections is None else sections:
            prev, current = volume.section(max(z - 1, 0)) // 2, volume.section(z) // 2
            channels = [current, current + np.roll(current, 1, 0), prev + np.roll(current, 2, 1)]
            yield SectionAffinities(z, np.stack(channels))


def test_every_view_counts():
    volume = stack((3, 32, 32))
    base = Directed()
    expected = [made.affinities.astype(int) for made in base.predict(volume, INTENSITY)]
    means = {
        name: [
            made.affinities.astype(int)
            for made in AugmentedPredictor(base, name).predict(volume, INTENSITY)
        ]
        for name in AUGMENTATIONS
    }

    np.testing.assert_array_equal(means["none"], expected)
    assert len({np.array(mean).tobytes() for mean in means.values()}) == len(AUGMENTATIONS)


@pytest.mark.parametrize(("name", "pairs"), [("none", 4), ("order", 9), ("flips", 16), ("all", 72)])
def test_a_pair_is_looked_at_once_per_view(name, pairs):
    undirected = Undirected()

    list(AugmentedPredictor(undirected, name).predict(stack((4, 8, 8)), INTENSITY))

    assert undirected.pairs == pairs  # from below there is one pair more than sections


@pytest.mark.parametrize("name", ["flips", "all"])
def test_a_section_is_read_once(name):
    grey = stack((4, 5, 6)).section
    read = []

    class Counted(EMVolume):
        def section(self, z):
            read.append(z)
            return super().section(z)

    volume = Counted.from_array(np.stack([grey(z) for z in range(4)]))
    list(AugmentedPredictor(Undirected(), name).predict(volume, INTENSITY))

    assert sorted(read) == [0, 1, 2, 3]


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(
        ConfigError, match=r"one of none, order, flips, dihedral, all, got 'mirror'"
    ):
        AugmentedPredictor(Undirected(), "mirror")
