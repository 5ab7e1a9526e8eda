from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_cad.core.affinity import pair_affinities
from napari_cad.core.config import InferenceConfig
from napari_cad.core.embedding import (
    PairEmbeddings,
    SectionEmbedder,
    pair_of,
    sample_embeddings,
    similarity_maps,
)
from napari_cad.core.errors import ShapeError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.network import StudentNetwork
from napari_cad.core.preprocessing import Preprocessing
from napari_cad.core.volume import EMVolume

CPU = InferenceConfig(device="cpu", precision="float32")
SHAPE = (4, 40, 53)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return StudentNetwork(2, 5).eval()


@pytest.fixture(scope="module")
def volume():
    return EMVolume.from_array(np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8))


def slow_pair(network, volume, z_prev, z):
    """Straight through the network, with the same padding."""
    pair = volume.data[[z_prev, z]].astype(np.float32) / 255
    padded = np.pad(pair, ((0, 0), (4, 4), (5, 6)), mode="reflect")
    with torch.inference_mode():
        both = network(torch.from_numpy(padded[None]))
    return [e[0, :, 4:44, 5:58].numpy() for e in both]


@pytest.mark.parametrize(("z_prev", "z"), [(0, 0), (0, 1), (2, 3)])
def test_a_pair_is_what_the_network_gives(network, volume, z_prev, z):
    pair = SectionEmbedder(network, volume, IntensityMapping(), CPU).pair(z_prev, z)
    prev, current = slow_pair(network, volume, z_prev, z)
    np.testing.assert_allclose(pair.embedding_prev, prev, atol=1e-5)
    np.testing.assert_allclose(pair.embedding, current, atol=1e-5)
    assert pair.embedding.dtype == np.float32


@pytest.mark.parametrize(("z_prev", "z"), [(0, 0), (1, 2)])
def test_one_of_a_pair_is_what_both_have(network, volume, z_prev, z):
    embedder = SectionEmbedder(network, volume, IntensityMapping(), CPU)
    both = embedder.pair(z_prev, z)
    for which in ("embedding", "embedding_prev"):
        np.testing.assert_array_equal(embedder.one(z_prev, z, which), both.of(which))


def test_the_two_embeddings_of_a_section_come_from_two_pairs(network, volume):
    embedder = SectionEmbedder(network, volume, IntensityMapping(), CPU)
    assert pair_of(1, "embedding", 4) == (0, 1)
    assert pair_of(1, "embedding_prev", 4) == (1, 2)
    later = embedder.one(0, 1, "embedding")
    earlier = embedder.one(1, 2, "embedding_prev")
    assert not np.allclose(later, earlier)


def test_at_the_ends_a_section_is_paired_with_itself():
    assert pair_of(0, "embedding", 4) == (0, 0)
    assert pair_of(3, "embedding_prev", 4) == (3, 3)
    assert pair_of(3, "embedding", 4) == (2, 3)
    assert pair_of(0, "embedding_prev", 1) == (0, 0)


def test_other_pairs_are_refused(network, volume):
    embedder = SectionEmbedder(network, volume, IntensityMapping(), CPU)
    with pytest.raises(ShapeError, match="consecutive"):
        embedder.pair(0, 2)
    with pytest.raises(ShapeError, match="consecutive"):
        embedder.pair(2, 1)


def test_the_order_in_which_sections_are_asked_for_does_not_matter(network, volume):
    embedder = SectionEmbedder(network, volume, IntensityMapping(), CPU)
    for z in (3, 1, 2, 0, 1):
        fresh = SectionEmbedder(network, volume, IntensityMapping(), CPU)
        for which in ("embedding", "embedding_prev"):
            pair = pair_of(z, which, 4)
            np.testing.assert_array_equal(embedder.one(*pair, which), fresh.one(*pair, which))


def test_tiles_give_what_the_whole_section_gives(network):
    rng = np.random.default_rng(1)
    volume = EMVolume.from_array(rng.integers(0, 256, (2, 352, 24), np.uint8))
    tiled = InferenceConfig(device="cpu", precision="float32", tile=336, halo=144)
    whole = SectionEmbedder(network, volume, IntensityMapping(), CPU).pair(0, 1)
    pieces = SectionEmbedder(network, volume, IntensityMapping(), tiled).pair(0, 1)
    np.testing.assert_allclose(pieces.embedding, whole.embedding, atol=1e-4)
    np.testing.assert_allclose(pieces.embedding_prev, whole.embedding_prev, atol=1e-4)


def test_rescaled_sections_give_maps_of_their_own_size(network, volume):
    preprocessing = Preprocessing(IntensityMapping(), rescale=1.5)
    pair = SectionEmbedder(network, volume, preprocessing, CPU).pair(0, 1)
    assert pair.embedding.shape == (5, 40, 53)


# ---------------------------------------------------------------------- sample and basis


def test_one_sample_gives_a_basis_for_each_of_the_two(network, volume):
    samples = sample_embeddings(network, volume, IntensityMapping(), CPU)
    assert samples.sections == (1, 2, 3)
    later = samples.basis("embedding", normalised=True)
    earlier = samples.basis("embedding_prev", normalised=True)
    assert later.sections == (1, 2, 3)
    assert earlier.sections == (0, 1, 2)
    assert later.components != earlier.components
    again = sample_embeddings(network, volume, IntensityMapping(), CPU)
    assert again.basis("embedding", normalised=True) == later
    assert samples.basis("embedding", normalised=False).mean != later.mean


def test_a_missing_section_does_not_choose_colours(network, volume):
    data = volume.data.copy()
    data[2] = 0
    samples = sample_embeddings(network, EMVolume.from_array(data), IntensityMapping(), CPU)
    assert samples.sections == (1, 3)
    empty = EMVolume.from_array(np.zeros((2, 16, 16), np.uint8))
    sample_embeddings(network, empty, IntensityMapping(), CPU).basis("embedding", normalised=True)


# ---------------------------------------------------------------------- similarity


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    return PairEmbeddings(4, 5, *rng.normal(size=(2, 6, 8, 9)).astype(np.float32))


def slow_similarity(embedding, vector):
    maps = np.empty(embedding.shape[1:])
    for y, x in np.ndindex(maps.shape):
        v = embedding[:, y, x]
        maps[y, x] = np.dot(v, vector) / np.linalg.norm(v) / np.linalg.norm(vector)
    return maps


@pytest.mark.parametrize("which", ["embedding", "embedding_prev"])
def test_similarity_is_to_both_sections_of_the_one_pair(pair, which):
    maps, vector = similarity_maps(pair, which, 2, 7)
    picked = pair.of(which)[:, 2, 7]
    np.testing.assert_allclose(vector, picked / np.linalg.norm(picked), rtol=1e-5)
    np.testing.assert_allclose(maps[4], slow_similarity(pair.embedding_prev, picked), atol=1e-5)
    np.testing.assert_allclose(maps[5], slow_similarity(pair.embedding, picked), atol=1e-5)
    assert maps[5 if which == "embedding" else 4][2, 7] == pytest.approx(1)
    assert all(m.dtype == np.float32 and np.abs(m).max() <= 1 for m in maps.values())


def test_similarity_to_the_same_voxel_is_the_affinity_along_z(pair):
    maps, _ = similarity_maps(pair, "embedding", 3, 3)
    both = (torch.from_numpy(e)[None] for e in (pair.embedding_prev, pair.embedding))
    affinity = pair_affinities(*both)[0, 0, 3, 3]
    assert max(float(maps[4][3, 3]), 0) == pytest.approx(float(affinity), abs=1e-6)


def test_a_section_paired_with_itself_has_one_map(pair):
    own = PairEmbeddings(4, 4, pair.embedding_prev, pair.embedding)
    maps, _ = similarity_maps(own, "embedding", 0, 0)
    assert list(maps) == [4]
    assert maps[4][0, 0] == pytest.approx(1)
    with pytest.raises(ShapeError, match="outside"):
        similarity_maps(pair, "embedding", 8, 0)
