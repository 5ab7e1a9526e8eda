"""Our inference against the same network evaluated plainly, in one run, on one pair of sections.

    python benchmarks/bench_inference.py [--size 1024] [--rounds 7]

Plain: the network as it is drawn, torch eager, batch norm unfolded, default memory layout, both
sections encoded for the pair, memory as torch and the system handle it by default. Ours: what
`segment` does, see `napari_cad.core.fast_cpu` and `napari_cad.core.torch_memory`; the encoding of
the earlier section is reused from the pair before. Both go from uint8 sections to stored
affinities. Each has a process of its own, since how torch gets its memory is set once per process;
they take turns, round by round. Medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


def sections(size: int) -> np.ndarray:
    """Three random sections; the network does the same work on any."""
    return np.random.default_rng(0).integers(0, 256, (3, size, size), np.uint8)


def plain(size: int) -> Iterator[np.ndarray]:
    """Give the affinities of the pair (0, 1), again and again."""
    import torch

    from napari_cad.core.affinity import pair_affinities, quantise
    from napari_cad.core.network import StudentNetwork

    torch.manual_seed(0)
    network = StudentNetwork().eval()
    stack = sections(size)
    while True:
        with torch.inference_mode():
            pair = torch.from_numpy(stack[None, :2].astype(np.float32) / 255)
            affinities = quantise(pair_affinities(*network(pair)))
        yield affinities[0].numpy()


def ours(size: int) -> Iterator[np.ndarray]:
    """Give the same pair as part of a volume, so that section 0 is encoded already."""
    from napari_cad.core.torch_memory import use_huge_pages

    use_huge_pages()
    import torch

    from napari_cad.core.config import InferenceConfig
    from napari_cad.core.inference import AffinityPredictor
    from napari_cad.core.intensity import IntensityMapping
    from napari_cad.core.network import StudentNetwork
    from napari_cad.core.volume import EMVolume

    torch.manual_seed(0)
    predictor = AffinityPredictor(StudentNetwork().eval(), InferenceConfig(device="cpu"))
    # section 1 follows section 0, then the same two once more, and so on
    volume = EMVolume.from_array(np.tile(sections(size)[:2], (500, 1, 1)))
    made = predictor.predict(volume, IntensityMapping("limits", 0, 255))
    next(made)
    for section in made:
        yield section.affinities


def serve(name: str, size: int) -> None:
    """In a child process: one pair for every line read; its seconds and a checksum are written."""
    work = {"plain": plain, "ours": ours}[name](size)
    print(int(next(work).astype(np.int64).sum()), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        next(work)
        print(time.perf_counter() - started, flush=True)


def main() -> None:
    """Let both take turns, and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", choices=("plain", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.size)
        return
    command = [sys.executable, __file__, "--size", str(options.size), "--serve"]
    children = {
        name: subprocess.Popen(
            [*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("plain", "ours")
    }
    sums = {name: int(child.stdout.readline()) for name, child in children.items()}
    difference = abs(sums["plain"] - sums["ours"]) / (3 * options.size**2)
    assert difference < 0.01, f"they must compute the same: {difference} levels apart on average"
    times: dict[str, list[float]] = {name: [] for name in children}
    for _ in range(options.rounds + 1):
        for name, child in children.items():
            child.stdin.write("next\n")
            child.stdin.flush()
            times[name].append(float(child.stdout.readline()))
    for child in children.values():
        child.stdin.close()
        child.wait()
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    print(
        f"one pair of {options.size}² on the CPU: "
        + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in medians.items())
    )
    print(f"ratio {medians['plain'] / medians['ours']:.2f}")


if __name__ == "__main__":
    main()
