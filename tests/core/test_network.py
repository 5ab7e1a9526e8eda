"""The student network: its arithmetic against the published implementation's results."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from napari_cad.core.affinity import pair_affinities
from napari_cad.core.checkpoint import load_checkpoint, published_keys
from napari_cad.core.network import (
    DoubleConv,
    ShallowFeatures,
    StudentNetwork,
    TileWindow,
    fold_batch_norm,
)

NAMES = ("AC34", "CremiA", "CremiB", "CremiC", "wafer4")
TOLERANCE = 1e-4

#: Where the middle values of `GOLDEN_NOISE` lie: (channel, z, y, x).
GOLDEN_PLACES = (
    (0, 0, 10, 20),
    (0, 2, 100, 37),
    (1, 1, 0, 5),
    (1, 1, 200, 201),
    (2, 2, 128, 0),
    (2, 2, 255, 255),
)

#: On default_rng(0) noise (3, 256, 256): means of the channels z, y, x; values at those places;
#: channels 0–3 of section 1's own embedding at (64, 64). From the published implementation.
GOLDEN_NOISE = {
    "AC34": (
        (0.969914, 0.965049, 0.965399),
        (0.971347, 0.978519, 0.942307, 0.933838, 0.970504, 0.834237),
        (3.95684, 2.35521, 0.77964, 3.28447),
    ),
    "CremiA": (
        (0.010288, 0.012154, 0.011095),
        (0, 0.049322, 0, 0, 0.544387, 0.357012),
        (0.07805, 0.29442, 0.21543, 0.77545),
    ),
    "CremiB": (
        (0.011612, 0.255504, 0.262563),
        (0.089245, 0, 0, 0.317076, 0.705488, 0.361900),
        (-0.17846, -0.05903, 0.19786, 0.11164),
    ),
    "CremiC": (
        (0.062083, 0.109365, 0.117214),
        (0.189339, 0.006378, 0.065564, 0, 0.498032, 0.601766),
        (0.00335, 0.38977, -0.03857, 0.52002),
    ),
    "wafer4": (
        (0.981905, 0.988691, 0.988779),
        (0.976900, 0.983233, 0.970729, 0.994355, 0.992496, 0.974277),
        (0.34512, 0.32242, 0.39442, 0.30052),
    ),
}


def random_network(width: int = 4, embedding_dim: int = 16, seed: int = 0) -> StudentNetwork:
    """A network whose batch norms have statistics and weights unlike those of a fresh one."""
    torch.manual_seed(seed)
    network = StudentNetwork(width, embedding_dim)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


def pairs_of(stack: np.ndarray) -> torch.Tensor:
    """(Z, H, W) uint8 → (Z, 2, H, W) in [0, 1]; section 0 is paired with itself."""
    sections = torch.from_numpy(stack.astype(np.float32) / 255)
    return torch.stack([sections[[max(z - 1, 0), z]] for z in range(len(sections))])


@pytest.fixture(scope="module")
def golden(shared_dir):
    with np.load(shared_dir / "golden" / "published_students.npz") as file:
        return dict(file)


@pytest.fixture(scope="module", params=NAMES)
def published(request, shared_dir):
    checkpoint = load_checkpoint(shared_dir / "checkpoints" / f"{request.param}.ckpt")
    return request.param, checkpoint.build()


def _as_published(network: StudentNetwork) -> StudentNetwork:
    return network


def _folded_channels_last(network: StudentNetwork) -> StudentNetwork:
    return fold_batch_norm(network).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("prepare", [_as_published, _folded_channels_last])
def test_affinities_equal_the_published_implementation(published, golden, prepare):
    name, network = published
    with torch.inference_mode():
        made = pair_affinities(*prepare(network)(pairs_of(golden["raw"])))
    expected = golden[f"{name}/affinities"].swapaxes(0, 1)
    np.testing.assert_allclose(made.numpy(), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("prepare", [_as_published, fold_batch_norm, _folded_channels_last])
def test_embeddings_equal_the_published_implementation(shared_dir, golden, prepare):
    network = prepare(load_checkpoint(shared_dir / "checkpoints" / "AC34.ckpt").build())
    with torch.inference_mode():
        made = network(pairs_of(golden["raw"])[2:3])
    for tensor, key in zip(made, ("AC34/embedding_prev", "AC34/embedding"), strict=True):
        np.testing.assert_allclose(tensor[0].numpy(), golden[key], rtol=0, atol=TOLERANCE)


def test_golden_numbers_on_noise(published):
    name, network = published
    means, values, embedding_values = GOLDEN_NOISE[name]
    noise = np.random.default_rng(0).integers(0, 256, (3, 256, 256), np.uint8)
    # in the memory layout that is faster; its arithmetic is the same
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        prev, now = network(pairs_of(noise))
        made = pair_affinities(prev, now).numpy().swapaxes(0, 1)
    np.testing.assert_allclose(made.mean((1, 2, 3)), means, rtol=0, atol=TOLERANCE)
    at_places = [made[place] for place in GOLDEN_PLACES]
    np.testing.assert_allclose(at_places, values, rtol=0, atol=TOLERANCE)
    embedding = now[1, :4, 64, 64].numpy()
    np.testing.assert_allclose(embedding, embedding_values, rtol=0, atol=TOLERANCE)


def test_swapping_the_sections_does_not_swap_the_embeddings(shared_dir, golden):
    network = load_checkpoint(shared_dir / "checkpoints" / "CremiB.ckpt").build()
    pair = pairs_of(golden["raw"])[2:3, :, :96, :96]
    with torch.inference_mode():
        prev, now = network(pair)
        swapped_prev, swapped_now = network(pair.flip(1))
    assert (swapped_prev - now).abs().max() > 0.1
    assert (swapped_now - prev).abs().max() > 0.1


def test_names_of_entries_match_both_ways(shared_dir):
    keys = published_keys()
    ours = set(StudentNetwork().state_dict())
    # read without our loader, so that this does not depend on it
    path = shared_dir / "checkpoints" / "CremiC.ckpt"
    theirs = set(torch.load(path, weights_only=True, map_location="cpu")["model_weights"])
    assert set(keys) == ours
    assert set(keys.values()) == theirs
    assert len(keys) == len(theirs) == 158


def test_names_of_entries_do_not_depend_on_the_width():
    assert set(StudentNetwork(8, 12).state_dict()) == set(published_keys())


def test_number_of_parameters_and_buffers():
    network = StudentNetwork()
    assert sum(p.numel() for p in network.parameters()) == 900_816
    assert sum(b.numel() for b in network.buffers()) == 2_262


def test_multiplications_per_pixel():
    network = StudentNetwork().eval()
    products = 0

    def count(module: nn.Conv2d, _inputs: object, output: torch.Tensor) -> None:
        nonlocal products
        products += output.numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 2, 32, 48))
    assert products == 70_432 * 32 * 48


@pytest.mark.parametrize("prepare", [_as_published, _folded_channels_last])
def test_a_cached_encoding_gives_the_same_bits(prepare):
    network = prepare(random_network(16))
    stack = torch.rand(4, 1, 1, 48, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        encoded = [network.encode_section(section) for section in stack]
        for z in range(1, len(stack)):
            cached = network.embed_pair(encoded[z - 1], encoded[z])
            direct = network(torch.cat([stack[z - 1], stack[z]], dim=1))
            assert torch.equal(cached[0], direct[0])
            assert torch.equal(cached[1], direct[1])


def test_an_encoding_holds_one_section_at_two_resolutions():
    features = random_network(4).encode_section(torch.rand(2, 1, 32, 48))
    assert isinstance(features, ShallowFeatures)
    assert features.full.shape == (2, 4, 32, 48)
    assert features.half.shape == (2, 8, 16, 24)


def test_pairs_of_a_batch_do_not_touch_each_other():
    network = random_network(4)
    pairs = torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        together = network(pairs)[1]
        alone = torch.cat([network(pair[None])[1] for pair in pairs])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("width", "embedding_dim"), [(8, 16), (8, 6), (1, 1)])
def test_width_and_embedding_dimension(width, embedding_dim):
    network = random_network(width, embedding_dim)
    with torch.inference_mode():
        prev, now = network(torch.rand(2, 2, 16, 48))
    assert prev.shape == now.shape == (2, embedding_dim, 16, 48)
    # the last stage keeps the published number of channels
    assert network.decoder.stage_full[3].out_channels == 32


@pytest.mark.parametrize(
    "shape", [(2, 16, 16), (1, 1, 16, 16), (1, 3, 16, 16), (1, 2, 16, 24), (1, 2, 250, 250)]
)
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape|multiples of 16"):
        random_network(1)(torch.zeros(shape))


def test_folding_changes_only_rounding_and_leaves_the_network():
    network = random_network(8)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    pair = torch.rand(1, 2, 32, 32, generator=torch.Generator().manual_seed(3))
    folded = fold_batch_norm(network)
    with torch.inference_mode():
        expected, made = network(pair), folded(pair)
    assert expected[0].abs().max() > 0.05  # otherwise the tolerance below says nothing
    for a, b in zip(expected, made, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def test_folding_works_from_training_mode_and_keeps_the_number_type():
    network = random_network(2).double().train()
    folded = fold_batch_norm(network)
    assert network.training
    assert not folded.training
    pair = torch.rand(1, 2, 16, 16, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(pair)[1], network.eval()(pair)[1])


def test_a_window_over_the_whole_section_changes_nothing():
    network = random_network(4)
    sections = torch.rand(2, 1, 1, 64, 48, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        prev, now = (network.encode_section(s) for s in sections)
        plain = network.embed_pair(prev, now)
        windowed = network.embed_pair(prev, now, TileWindow(0, 0, 64, 48))
    for a, b in zip(plain, windowed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_block_of_two_convolutions():
    block = DoubleConv(3, 5)
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
    assert [type(layer) for layer in block] == kinds
    assert block(torch.rand(1, 3, 7, 9)).shape == (1, 5, 7, 9)
