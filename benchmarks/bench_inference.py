"""Our inference against the same network evaluated plainly, in one run, on one pair of sections.

    python benchmarks/bench_inference.py [--size 1024] [--rounds 5]

Plain: the network as it is drawn, torch eager, batch norm unfolded, default memory layout, both
sections encoded for the pair. Ours: folded, channels_last, the encoding of the earlier section
reused from the pair before. Both go from uint8 sections to stored affinities. Rounds alternate;
medians.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from napari_cad.core.affinity import pair_affinities, quantise
from napari_cad.core.config import InferenceConfig
from napari_cad.core.inference import AffinityPredictor
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.network import StudentNetwork
from napari_cad.core.volume import EMVolume


def main() -> None:
    """Time both and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    torch.manual_seed(0)
    network = StudentNetwork().eval()
    rng = np.random.default_rng(0)
    shape = (options.rounds + 2, options.size, options.size)
    volume = EMVolume.from_array(rng.integers(0, 256, shape, np.uint8))
    intensity = IntensityMapping("limits", 0, 255)
    predictor = AffinityPredictor(network, InferenceConfig(device=options.device, batch=1))
    ours = predictor.predict(volume, intensity)
    plain_network = network.to(predictor.device.name)

    def plain(z: int) -> np.ndarray:
        with torch.inference_mode():
            pair = np.stack([intensity(volume.section(z - 1)), intensity(volume.section(z))])
            embeddings = plain_network(torch.from_numpy(pair[None]).to(predictor.device.name))
            return quantise(pair_affinities(*embeddings))[0].cpu().numpy()

    next(ours)
    next(ours)
    plain(1)
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for z in range(2, shape[0]):
        started = time.perf_counter()
        expected = plain(z)
        times["plain"].append(time.perf_counter() - started)
        started = time.perf_counter()
        got = next(ours).affinities
        times["ours"].append(time.perf_counter() - started)
        assert np.abs(expected.astype(int) - got).max() <= 1, "they must compute the same"
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"one pair of {options.size}² on {predictor.device.name}, {torch.get_num_threads()} threads"
    )
    print(f"plain {medians['plain']:.2f} s, ours {medians['ours']:.2f} s")
    print(f"ratio {medians['plain'] / medians['ours']:.2f}")


if __name__ == "__main__":
    main()
