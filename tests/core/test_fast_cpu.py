"""The network as it runs on a CPU, against the network as it is drawn."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from napari_cad.core import fast_cpu
from napari_cad.core._vectors import LANES
from napari_cad.core.affinity import dequantise, pair_affinities, quantise
from napari_cad.core.checkpoint import load_checkpoint
from napari_cad.core.fast_cpu import FastStudent
from napari_cad.core.network import StudentNetwork, TileWindow, fold_batch_norm

#: Rounding of a few hundred float32 products, and of what is taken for half of them.
ROUNDING = {"rtol": 0, "atol": 5e-6}


def folded_network(width: int = 4, embedding_dim: int = 5) -> StudentNetwork:
    """A network of which no bias is zero, so that a border padded wrongly is seen."""
    torch.manual_seed(0)
    network = StudentNetwork(width, embedding_dim)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.3, 1)
            nn.init.normal_(module.bias, 0, 0.3)
    return fold_batch_norm(network)


def encode(network: FastStudent | StudentNetwork, pair: torch.Tensor) -> list:
    return [network.encode_section(pair[:, i : i + 1]) for i in (0, 1)]


def embed(network: FastStudent, pair: torch.Tensor, window=None) -> tuple[torch.Tensor, ...]:
    return network.embed_pair(*encode(network, pair), window)


@torch.inference_mode()
@pytest.mark.parametrize("strip_rows", [2, 6, 32, 128])
@pytest.mark.parametrize("size", [(16, 16), (48, 80), (80, 16)])
def test_strips_equal_the_plain_network(size, strip_rows, monkeypatch):
    monkeypatch.setattr(fast_cpu, "STRIP_ROWS", strip_rows)
    network = folded_network()
    pair = torch.rand(1, 2, *size)
    for made, expected in zip(embed(FastStudent(network), pair), network(pair), strict=True):
        torch.testing.assert_close(made, expected, **ROUNDING)


@torch.inference_mode()
@pytest.mark.parametrize(("width", "embedding_dim"), [(1, 1), (3, 16), (16, 16)])
def test_any_width(width, embedding_dim):
    network = folded_network(width, embedding_dim)
    pair = torch.rand(1, 2, 48, 32)
    for made, expected in zip(embed(FastStudent(network), pair), network(pair), strict=True):
        torch.testing.assert_close(made, expected, **ROUNDING)


@torch.inference_mode()
def test_a_tile_equals_that_of_the_plain_network():
    network = folded_network()
    pair = torch.rand(1, 2, 48, 32)
    window = TileWindow(16, 32, 96, 128)
    expected = network.embed_pair(
        network.encode_section(pair[:, :1]), network.encode_section(pair[:, 1:]), window
    )
    made = embed(FastStudent(network), pair, window)
    for one, other in zip(made, expected, strict=True):
        torch.testing.assert_close(one, other, **ROUNDING)


@torch.inference_mode()
def test_several_sections_are_encoded_as_each_alone():
    fast = FastStudent(folded_network())
    sections = torch.rand(3, 1, 32, 48)
    together = fast.encode_section(sections)
    for i, alone in enumerate(sections.split(1)):
        for made, expected in zip(together, fast.encode_section(alone), strict=True):
            assert torch.equal(made[i : i + 1], expected)


@torch.inference_mode()
def test_features_written_over_others_are_those_of_fresh_memory():
    fast = FastStudent(folded_network())
    first, second = torch.rand(2, 1, 1, 32, 48)
    expected = [one.clone() for one in fast.encode_section(second)]
    spare = fast.encode_section(first)
    made = fast.encode_section(second, overwrite=spare)
    assert made.full.data_ptr() == spare.full.data_ptr()
    for one, other in zip(made, expected, strict=True):
        assert torch.equal(one, other)
    other_size = fast.encode_section(torch.rand(1, 1, 16, 16), overwrite=spare)
    assert other_size.full.shape == (1, 4, 16, 16)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["AC34", "CremiA", "CremiB", "CremiC", "wafer4"])
def test_affinities_equal_the_published_implementation(shared_dir, name):
    golden = np.load(shared_dir / "golden" / "published_students.npz")
    network = load_checkpoint(shared_dir / "checkpoints" / f"{name}.ckpt").build()
    fast = FastStudent(fold_batch_norm(network))
    raw = torch.from_numpy(golden["raw"][1:3].astype(np.float32) / 255)[:, None, None]
    prev, current = (fast.encode_section(section) for section in raw)
    expected = golden[f"{name}/affinities"][:, 2]
    embeddings = fast.embed_pair(prev, current)
    np.testing.assert_allclose(pair_affinities(*embeddings)[0], expected, rtol=0, atol=1e-4)
    stored = fast.pair_affinities(prev, current)[0].numpy()
    np.testing.assert_allclose(dequantise(stored), expected, rtol=0, atol=0.5 / 256 + 1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("strip_rows", [16, 32, 128])
@pytest.mark.parametrize("embedding_dim", [1, 5, 16, 20])
def test_affinities_are_stored_as_those_of_the_plain_network(
    strip_rows, embedding_dim, monkeypatch
):
    monkeypatch.setattr(fast_cpu, "STRIP_ROWS", strip_rows)
    network = folded_network(embedding_dim=embedding_dim)
    pair = torch.rand(1, 2, 80, 48)
    fast = FastStudent(network)
    made = fast.pair_affinities(*encode(fast, pair))
    exact = pair_affinities(*network(pair))
    assert made.dtype == torch.uint8
    assert made.shape == exact.shape
    # an affinity at the edge of a level may fall to either side
    assert ((made != quantise(exact - 1e-5)) & (made != quantise(exact + 1e-5))).sum() == 0


@torch.inference_mode()
def test_the_number_of_threads_changes_no_bit():
    network, pair = folded_network(), torch.rand(1, 2, 144, 48)
    made = []
    threads = torch.get_num_threads()
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            made.append(embed(FastStudent(network), pair))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*made, strict=True):
        assert torch.equal(one, other)


@torch.inference_mode()
def test_an_error_in_a_strip_is_raised_when_all_strips_are_done(monkeypatch):
    fast = FastStudent(folded_network())

    def fail(*_args):
        raise MemoryError("no memory for a strip")

    monkeypatch.setattr(fast_cpu.kernels, "halve", fail)
    with pytest.raises(MemoryError, match="for a strip"):
        fast.encode_section(torch.rand(1, 1, 144, 16))


@pytest.mark.skipif(LANES < 16, reason="this processor has no wider vectors than the narrow ones")
def test_narrow_vectors_on_a_processor_with_wide_ones(tmp_path):
    """The kernels of processors without AVX-512, compiled here for one of them."""
    test = "test_affinities_are_stored_as_those_of_the_plain_network[5-32]"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::{test}"],
        env=os.environ
        | {
            "NUMBA_CPU_NAME": "haswell",
            "NUMBA_CPU_FEATURES": "+avx2,+fma",
            "NUMBA_CACHE_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr
