"""What this machine can do at most, and what that means for the network on one pair of sections.

    python benchmarks/roofline.py [--size 1024] [--rounds 7]

Measured, with all threads, the best of the rounds: float32 products per second in a large matrix
product and in the fastest of several convolutions, and bytes per second of a copy that no cache
holds. Counted: the products of the network, as it is drawn and as `napari_cad.core.fast_cpu` does
them, and the bytes of the maps that it keeps whole. The bound is the longer of the two times; then
what it takes, measured in the same run.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from napari_cad.core.fast_cpu import FastStudent
from napari_cad.core.network import StudentNetwork, fold_batch_norm

if TYPE_CHECKING:
    from collections.abc import Callable

#: (channels, height = width) of the convolutions; 3×3, as many channels out as in.
CONVOLUTIONS = ((32, 512), (64, 256), (128, 128))

#: Of every whole map of one pair: channels, pixels of the section per pixel of the map, and how
#: often it is written or read. Features: written for one section, read for both.
WHOLE_MAPS = (
    (1, 1, 1),  # image
    (16, 1, 3),  # features, full: written; read by the decoder of each section
    (16, 4, 2),  # the same, halved
    (32, 4, 5),  # features, half: written; read by each decoder and on the way down
    (64, 16, 4),  # quarter: halved features, written and read; and the result
    (64, 16, 2),  # quarter, between the convolutions
    (128, 16, 2),  # quarter, joined with what is up-sampled
    (32, 16, 8),  # quarter, decoded: between and result, read for both decoders
    (128, 64, 10),  # eighth and sixteenth
    (32, 4, 2),  # half, decoded, of both decoders
    (3 / 4, 1, 1),  # stored affinities: three bytes
)


def fastest(work: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of some rounds."""
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def matrix_product(rounds: int) -> float:
    """GMAC/s of a product of matrices that are large, but within the cache."""
    n = 2048
    a, b = torch.rand(2, n, n)
    out = torch.empty(n, n)
    return n**3 / fastest(lambda: torch.mm(a, b, out=out), rounds) / 1e9


def convolution(channels: int, size: int, rounds: int) -> float:
    """GMAC/s of a 3×3 convolution of torch, channels last."""
    x = torch.rand(1, channels, size, size).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)
    seconds = fastest(lambda: F.conv2d(x, weight, padding=1), rounds)
    return 9 * channels**2 * size**2 / seconds / 1e9


def copy(rounds: int) -> float:
    """GB/s read and written by a copy of 256 MB."""
    source, target = torch.rand(2, 2**26)
    return 2 * source.nbytes / fastest(lambda: target.copy_(source), rounds) / 1e9


def products(size: int) -> tuple[float, float]:
    """GMAC of one pair, with one of its sections encoded already: 3×3 and 1×1 convolutions."""
    network = StudentNetwork().eval()
    sums = {3: 0, 1: 0}

    def count(conv: nn.Conv2d, _inputs: object, made: torch.Tensor) -> None:
        sums[conv.kernel_size[0]] += conv.weight.numel() * made[0, 0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    side = 64
    features = network.encode_section(torch.rand(1, 1, side, side))
    network.embed_pair(features, features)
    return tuple(sums[kernel] * (size / side) ** 2 / 1e9 for kernel in (3, 1))


def one_pair(size: int, rounds: int) -> float:
    """Seconds of one pair, with one of its sections encoded already."""
    student = FastStudent(fold_batch_norm(StudentNetwork()))
    section = torch.rand(1, 1, size, size)
    prev = spare = student.encode_section(section)

    def step() -> None:
        nonlocal prev, spare
        current = student.encode_section(section, overwrite=None if spare is prev else spare)
        student.pair_affinities(prev, current)
        prev, spare = current, prev

    return fastest(step, rounds)


@torch.inference_mode()
def main() -> None:
    """Measure, count, and write both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads")
    rates = {"matrix product": matrix_product(options.rounds)}
    for channels, size in CONVOLUTIONS:
        name = f"convolution, {channels} channels, {size}²"
        rates[name] = convolution(channels, size, options.rounds)
    for name, rate in rates.items():
        print(f"{name}: {rate:.0f} GMAC/s")
    bandwidth = copy(options.rounds)
    print(f"copy: {bandwidth:.1f} GB/s")

    spatial, pointwise = products(options.size)
    best = max(rates.values())
    bytes_moved = sum(4 * c / scale * times for c, scale, times in WHOLE_MAPS) * options.size**2
    traffic = bytes_moved / 1e9 / bandwidth
    print(f"one pair of {options.size}²:")
    for name, amount in (
        ("as it is drawn", spatial + pointwise),
        ("with half the products of 3×3 convolutions", spatial / 2 + pointwise),
    ):
        print(f"  {name}: {amount:.1f} GMAC, {amount / best:.3f} s at the best rate above")
    print(f"  whole maps: {bytes_moved / 1e9:.2f} GB, {traffic:.3f} s at the rate of the copy")
    bound = max((spatial / 2 + pointwise) / best, traffic)
    measured = one_pair(options.size, options.rounds)
    print(f"  bound {bound:.3f} s, measured {measured:.3f} s: {bound / measured:.0%} of the limit")


if __name__ == "__main__":
    main()
