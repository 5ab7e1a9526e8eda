from __future__ import annotations

import json

import numpy as np
import pytest

from napari_cad.core.errors import ConfigError, ShapeError
from napari_cad.core.projection import EmbeddingBasis, fit_basis, sample_voxels


@pytest.fixture
def samples():
    """Four sections with three strong directions among eight, and an offset."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    scale = np.array([5, 3, 2, 0.3, 0.2, 0.1, 0.1, 0.05])
    return [
        (rng.normal(size=(n, 8)) * scale @ directions + 4).astype(np.float32)
        for n in (300, 5, 200, 120)
    ]


def slow_components(voxels):
    """Principal components from the covariance matrix, rows by falling variance."""
    variance, vectors = np.linalg.eigh(np.cov(voxels.astype(np.float64), rowvar=False))
    order = np.argsort(variance)[::-1]
    return vectors[:, order].T, variance[order] / variance.sum()


@pytest.mark.parametrize("normalised", [False, True])
def test_it_is_the_pca_of_all_samples_at_once(samples, normalised):
    voxels = np.concatenate(samples).astype(np.float64)
    if normalised:
        voxels = voxels / np.linalg.norm(voxels, axis=1, keepdims=True)
    components, ratio = slow_components(voxels)
    basis = fit_basis(samples, "embedding", normalised=normalised)
    np.testing.assert_allclose(basis.mean, voxels.mean(0), atol=1e-5)
    np.testing.assert_allclose(basis.explained, ratio[:3], rtol=1e-4)
    for got, expected in zip(basis.components, components, strict=False):
        assert abs(np.dot(got, expected)) == pytest.approx(1, abs=1e-4)


def test_sign_and_order_are_fixed(samples):
    basis = fit_basis(samples, "embedding")
    for component in basis.components:
        assert component[np.argmax(np.abs(component))] > 0
    assert list(basis.explained) == sorted(basis.explained, reverse=True)
    assert fit_basis(samples, "embedding") == basis
    # the mirror image of the data has the mirror image of the components, up to the sign
    mirrored = fit_basis([-part for part in samples], "embedding")
    np.testing.assert_allclose(mirrored.components, basis.components, atol=1e-6)


def test_an_added_section_hardly_moves_the_colours(samples):
    one, more = fit_basis(samples, "embedding"), fit_basis([*samples, samples[0][:50]], "embedding")
    embedding = samples[2].T.reshape(8, 20, 10)
    difference = one.project(embedding).astype(int) - more.project(embedding)
    assert np.abs(difference).max() < 16


@pytest.mark.parametrize("normalised", [False, True])
def test_projection_is_the_slow_one(samples, normalised):
    basis = fit_basis(samples, "embedding", normalised=normalised)
    embedding = np.random.default_rng(1).normal(4, 3, (8, 7, 9)).astype(np.float32)
    rgb = basis.project(embedding)
    assert rgb.shape == (7, 9, 3)
    assert rgb.dtype == np.uint8
    for y in range(7):
        for x in range(9):
            vector = embedding[:, y, x].astype(np.float64)
            if normalised:
                vector /= np.linalg.norm(vector)
            for c in range(3):
                level = np.dot(basis.components[c], vector - np.asarray(basis.mean))
                level = 255 * (level - basis.low[c]) / (basis.high[c] - basis.low[c])
                assert abs(float(rgb[y, x, c]) - np.clip(level, 0, 255)) <= 0.51


def test_the_sample_fills_the_colours_but_for_its_tails(samples):
    basis = fit_basis(samples, "embedding", normalised=False)
    voxels = np.concatenate(samples)
    rgb = basis.project(np.ascontiguousarray(voxels.T[:, :, None]))
    for c in range(3):
        assert 0.005 < np.mean(rgb[..., c] == 0) < 0.02
        assert 0.005 < np.mean(rgb[..., c] == 255) < 0.02


@pytest.mark.parametrize("n_channels", [1, 2])
def test_fewer_than_three_channels(n_channels):
    part = np.random.default_rng(0).normal(size=(50, n_channels)).astype(np.float32)
    basis = fit_basis([part], "embedding", normalised=False)
    rgb = basis.project(np.ascontiguousarray(part.T[:, :, None]))
    assert sum(basis.explained) == pytest.approx(1)
    assert not rgb[..., n_channels:].any()
    assert np.ptp(rgb[..., 0]) == 255


def test_equal_voxels_are_black_and_no_error():
    basis = fit_basis([np.ones((40, 4), np.float32)], "embedding")
    assert basis.explained == (0, 0, 0)
    assert not basis.project(np.ones((4, 3, 3), np.float32)).any()


def test_json_both_ways(samples):
    basis = fit_basis(samples, "embedding_prev", normalised=False, sections=[1, 4])
    again = EmbeddingBasis.from_json(json.loads(json.dumps(basis.to_json())))
    assert again == basis
    assert (again.which, again.normalised, again.sections) == ("embedding_prev", False, (1, 4))


def test_what_is_no_basis_is_refused(samples):
    values = fit_basis(samples, "embedding").to_json()
    with pytest.raises(ConfigError, match="no basis"):
        EmbeddingBasis.from_json({**values, "colour": 1})
    with pytest.raises(ConfigError, match="embedding_prev"):
        EmbeddingBasis.from_json({**values, "which": "both"})
    with pytest.raises(ConfigError, match="three components"):
        EmbeddingBasis.from_json({**values, "mean": [0.0]})
    with pytest.raises(ShapeError, match="8, Y, X"):
        EmbeddingBasis.from_json(values).project(np.zeros((7, 2, 2), np.float32))
    with pytest.raises(ShapeError, match="two voxels"):
        fit_basis([np.zeros((1, 3), np.float32)], "embedding")


def test_sampled_voxels_lie_on_a_grid():
    embedding = np.arange(2 * 20 * 30, dtype=np.float32).reshape(2, 20, 30)
    taken = sample_voxels(embedding, 24)
    assert 12 <= len(taken) <= 24
    places = {tuple(v) for v in taken.tolist()}
    assert places <= {tuple(v) for v in embedding.reshape(2, -1).T.tolist()}
    assert len(sample_voxels(embedding, 10**6)) == 600
