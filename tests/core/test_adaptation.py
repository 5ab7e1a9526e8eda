from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from napari_cad.core.adaptation import (
    WINDOW,
    adapt,
    blend_statistics,
    measure_statistics,
    statistic_names,
)
from napari_cad.core.checkpoint import load_checkpoint
from napari_cad.core.errors import ConfigError, VolumeError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.network import StudentNetwork
from napari_cad.core.preprocessing import Preprocessing
from napari_cad.core.readers import open_volume
from napari_cad.core.volume import EMVolume

PREPROCESSING = Preprocessing(IntensityMapping("limits", 0, 255))


@pytest.fixture(scope="module")
def network() -> StudentNetwork:
    torch.manual_seed(0)
    return StudentNetwork(width=2, embedding_dim=3).eval()


@pytest.fixture(scope="module")
def volume() -> EMVolume:
    return EMVolume.from_array(np.random.default_rng(0).integers(0, 256, (5, 64, 96), np.uint8))


def reference(network: StudentNetwork, volume: EMVolume, pairs) -> dict[str, torch.Tensor]:
    """Mean and variance of what comes into each batch norm, averaged over the calls."""
    training = StudentNetwork(network.width, network.embedding_dim)
    training.load_state_dict(network.state_dict())
    training.train()
    seen: dict[str, list[torch.Tensor]] = {}
    for name, module in training.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0].clone())
            )
    with torch.no_grad():
        for z in pairs:
            pair = np.stack([volume.section(z - 1), volume.section(z)]).astype(np.float32) / 255
            training(torch.from_numpy(pair)[None])
    made = {}
    for name, calls in seen.items():
        made[f"{name}.running_mean"] = torch.stack([c.mean((0, 2, 3)) for c in calls]).mean(0)
        made[f"{name}.running_var"] = torch.stack([c.var((0, 2, 3)) for c in calls]).mean(0)
    return made


def test_statistics_are_the_averages_of_what_the_norms_see(network, volume):
    measured = measure_statistics(network, volume, PREPROCESSING, 3)
    assert measured.sections == (1, 3, 4)
    expected = reference(network, volume, measured.sections)
    assert measured.values.keys() == expected.keys() == set(statistic_names(network))
    for name, value in expected.items():
        torch.testing.assert_close(measured.values[name], value, rtol=1e-4, atol=1e-6)


def test_the_network_is_left_as_it_is(network, volume):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    adapt(network, volume, PREPROCESSING, strength=1.0, n_sections=2)
    after = network.state_dict()
    assert not network.training
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in network.parameters())


def test_measuring_again_gives_the_same_bits(network, volume):
    one, two = (measure_statistics(network, volume, PREPROCESSING, 4) for _ in range(2))
    assert all(torch.equal(one.values[name], two.values[name]) for name in one.values)


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_strength_blends_means_and_variances(network, volume, strength):
    statistics = measure_statistics(network, volume, PREPROCESSING, 2)
    blended = blend_statistics(network, statistics, strength).state_dict()
    for name, trained in network.state_dict().items():
        expected = trained
        if name in statistics.values:
            expected = (1 - strength) * trained + strength * statistics.values[name]
        torch.testing.assert_close(blended[name], expected)


def test_strength_0_measures_nothing(network):
    empty = EMVolume.from_array(np.zeros((3, 64, 64), np.uint8))
    assert adapt(network, empty, PREPROCESSING, strength=0.0) is network


def test_a_strength_outside_0_to_1_is_refused(network, volume):
    statistics = measure_statistics(network, volume, PREPROCESSING, 1)
    with pytest.raises(ConfigError, match=r"from 0 to 1, got 1\.5"):
        blend_statistics(network, statistics, 1.5)


def test_missing_sections_are_passed_over(network):
    array = np.random.default_rng(0).integers(0, 256, (12, 32, 32), np.uint8)
    array[[0, 5, 6, 11]] = 0
    used = measure_statistics(network, EMVolume.from_array(array), PREPROCESSING, 3).sections
    assert len(used) == 3
    assert not {0, 1, 5, 6, 7, 11} & set(used)


def test_an_empty_stack_has_nothing_to_adapt_to(network):
    with pytest.raises(VolumeError, match="one value only"):
        measure_statistics(
            network, EMVolume.from_array(np.full((3, 64, 64), 7, np.uint8)), PREPROCESSING
        )


@pytest.mark.parametrize("shape", [(1, 40, 40), (2, 1, 1), (3, 16, 17), (2, WINDOW + 30, 33)])
def test_any_size_can_be_measured(network, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if shape == (2, 1, 1):  # one voxel has one value
        with pytest.raises(VolumeError):
            measure_statistics(network, EMVolume.from_array(array), PREPROCESSING)
        return
    values = measure_statistics(network, EMVolume.from_array(array), PREPROCESSING).values
    assert all(bool(value.isfinite().all()) for value in values.values())


def test_full_adaptation_undoes_a_change_of_contrast(shared_dir):
    """What it is for: darker and flatter by half, a student still tells boundaries apart."""
    raw = open_volume(shared_dir / "data" / "snemi3d_ac4" / "raw").crop((0, 3), (0, 128), (0, 128))
    trained = load_checkpoint(shared_dir / "checkpoints" / "AC34.ckpt").build()
    flat = Preprocessing(IntensityMapping("limits", -100, 900))
    pair = torch.from_numpy(np.stack([flat(raw.section(z)) for z in (1, 2)]))[None]
    plain = torch.from_numpy(np.stack([PREPROCESSING(raw.section(z)) for z in (1, 2)]))[None]

    def correlation(network: StudentNetwork) -> float:
        with torch.inference_mode():
            wanted, got = (
                nn.functional.normalize(n(image)[1][0], dim=0)
                for n, image in ((trained, plain), (network, pair))
            )
        # neighbours along x: the affinity, without its cut-off
        maps = [(e[:, :, 1:] * e[:, :, :-1]).sum(0).ravel().numpy() for e in (wanted, got)]
        return float(np.corrcoef(maps)[0, 1])

    adapted = adapt(trained, raw, flat, strength=1.0, n_sections=2)
    as_is, repaired = correlation(trained), correlation(adapted)
    assert repaired > 0.7
    assert repaired > as_is + 0.1
