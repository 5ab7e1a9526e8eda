"""Train the student that the package ships as its default checkpoint.

The student alone, without a teacher: the in-section and between-section affinity losses on pairs
of sections drawn from sections 0–69 of the SNEMI3D training volume (Kasthuri et al. 2015, AC4) and
from the synthetic generator. Nothing else is read: not sections 70–99, no published checkpoint.

    python scripts/train_default_student.py --data ../shared/data/snemi3d_ac4 --run runs/default
    python scripts/train_default_student.py --run runs/default --export student.safetensors

The run is resumed where it stopped; the learning rate is constant and falls to zero over the last
`--decay` of `--steps` steps, so that a finished run can be taken up again with a larger `--steps`
from the state kept before the fall (`before_decay.pt`).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import scipy.ndimage as ndi
import torch
import torch.nn.functional as F

from napari_cad.core.network import StudentNetwork

TRAIN_SECTIONS = slice(0, 70)
PATCH = 160
MARGIN = 40  # read around a patch, so that rotation and shift find data in the corners
LEARNING_RATE = 2e-3
EMA_DECAY = 0.998


def load_real(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Sections 0–69 and their labels with two-pixel borders; uint8 and uint16, (70, Y, X)."""
    import imageio.v3 as iio
    import tifffile

    names = sorted((folder / "raw").glob("*.png"))[TRAIN_SECTIONS]
    raw = np.stack([iio.imread(name) for name in names])
    labels = tifffile.imread(folder / "labels.tif")[TRAIN_SECTIONS]
    return raw, np.stack([widen_borders(section) for section in labels])


def widen_borders(labels: np.ndarray) -> np.ndarray:
    """Set to 0 each pixel whose 3×3 window holds two different positive ids."""
    highest = ndi.maximum_filter(labels, size=3, mode="mirror")
    no_background = np.where(labels > 0, labels, labels.max() + 1)
    lowest = ndi.minimum_filter(no_background, size=3, mode="mirror")
    return np.where((highest > 0) & (lowest < highest), 0, labels)


def random_pair(
    raw: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw and augment one pair: float32 (2, PATCH, PATCH) in [0, 1] and int32 labels."""
    size = PATCH + 2 * MARGIN
    z = int(rng.integers(1, raw.shape[0]))
    y = int(rng.integers(0, raw.shape[1] - size + 1))
    x = int(rng.integers(0, raw.shape[2] - size + 1))
    order = [z - 1, z] if rng.random() < 0.5 else [z, z - 1]
    image = raw[order, y : y + size, x : x + size].astype(np.float32) / 255
    truth = labels[order, y : y + size, x : x + size].astype(np.int32)

    angle, zoom = rng.uniform(0, 2 * np.pi), 1.0
    if rng.random() < 0.5:
        angle = rng.integers(4) * np.pi / 2
    else:
        zoom = np.exp(rng.uniform(np.log(0.75), np.log(1.33)))
    shifts = np.zeros((2, 2))
    if rng.random() < 0.3:  # a misaligned section
        shifts[rng.integers(2)] = rng.uniform(-5, 5, 2)
    image, truth = _resample(image, truth, angle, zoom, shifts)
    for axis in (1, 2):
        if rng.random() < 0.5:
            image, truth = np.flip(image, axis), np.flip(truth, axis)
    image = np.stack([_degrade(section, rng) for section in _shared_contrast(image, rng)])
    return np.ascontiguousarray(image, np.float32), np.ascontiguousarray(truth)


def _resample(image, truth, angle, zoom, shifts):
    grid = np.stack(
        np.meshgrid(
            np.arange(PATCH) - PATCH / 2 + 0.5, np.arange(PATCH) - PATCH / 2 + 0.5, indexing="ij"
        )
    )
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    centre = image.shape[1] / 2 - 0.5
    where = np.tensordot(rotation, grid, axes=1) + centre
    sections, truths = [], []
    for section, label, shift in zip(image, truth, shifts, strict=True):
        at = where + shift[:, None, None]
        sections.append(ndi.map_coordinates(section, at, order=1, mode="reflect"))
        truths.append(ndi.map_coordinates(label, at, order=0, mode="constant", cval=-1))
    return np.stack(sections), np.stack(truths)


def _shared_contrast(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:
        image = image * rng.uniform(0.7, 1.3) + rng.uniform(-0.15, 0.15)
    return image


def _degrade(section: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast, gamma, defocus and noise of one section."""
    if rng.random() < 0.5:
        section = section * rng.uniform(0.85, 1.15) + rng.uniform(-0.1, 0.1)
        section = np.clip(section, 0, 1) ** (2 ** rng.uniform(-0.7, 0.7))
    if rng.random() < 0.2:
        section = ndi.gaussian_filter(section, rng.uniform(0.5, 1.8))
    if rng.random() < 0.4:
        section = section + rng.normal(0, rng.uniform(0, 0.08), section.shape)
    return np.clip(section, 0, 1)


def affinity_loss(cosine: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Class-balanced squared error of one channel; voxels outside the volume (−1) do not count.

    A positive pair is pulled to cosine 1 also where the cosine is negative and its clamped
    affinity would have no gradient; a negative pair is pushed to cosine ≤ 0.
    """
    known = (a >= 0) & (b >= 0)
    same = (a == b) & (a > 0) & known
    different = known & ~same
    fraction = (same.sum() / known.sum().clamp(min=1)).clamp(0.05, 0.99)
    # both classes weigh alike, the rarer one by the weight of METHOD's class balance
    weight_same, weight_different = 0.5 / fraction, 0.5 / (1 - fraction)
    error = (
        same * weight_same * (1 - cosine) ** 2 + different * weight_different * F.relu(cosine) ** 2
    )
    return error.sum() / known.sum().clamp(min=1)


def pair_loss(network: StudentNetwork, image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """In-section and between-section loss on a batch of pairs."""
    embedding_prev, embedding = network(image)
    prev, current = F.normalize(embedding_prev, dim=1), F.normalize(embedding, dim=1)
    before, now = truth[:, 0], truth[:, 1]
    z = affinity_loss((prev * current).sum(1), before, now)
    y = affinity_loss((current[:, :, 1:] * current[:, :, :-1]).sum(1), now[:, 1:], now[:, :-1])
    x = affinity_loss((current[..., 1:] * current[..., :-1]).sum(1), now[..., 1:], now[..., :-1])
    return z + y + x


def learning_rate(step: int, steps: int, decay_steps: int) -> float:
    """Warm up over 100 steps, hold, fall to zero over the last `decay_steps`."""
    decay = min(1.0, (steps - step) / decay_steps)
    return LEARNING_RATE * min(1.0, (step + 1) / 100) * decay


def train(args: argparse.Namespace) -> None:
    """Train or resume until `--steps` or `--minutes` is reached."""
    torch.set_num_threads(args.threads)
    args.run.mkdir(parents=True, exist_ok=True)
    volumes = [load_real(args.data)]
    probabilities = [1.0 - args.synthetic_fraction]
    if args.synthetic_fraction > 0:
        from napari_cad.core.synthetic import synthetic_em

        for seed in range(args.synthetic_volumes):
            sample = synthetic_em((24, 384, 384), seed=seed)
            labels = np.stack([widen_borders(section) for section in sample.labels])
            volumes.append((sample.raw, labels))
            probabilities.append(args.synthetic_fraction / args.synthetic_volumes)

    network = StudentNetwork(args.width).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    average = {k: v.clone() for k, v in network.state_dict().items()}
    rng = np.random.default_rng(args.seed)
    step = 0
    state_path = args.run / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        average, step = state["average"], state["step"]
        rng.bit_generator.state = json.loads(state["rng"])

    def save(path: Path) -> None:
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "network": network.state_dict(),
                "average": average,
                "step": step,
                "optimiser": optimiser.state_dict(),
                "rng": json.dumps(rng.bit_generator.state),
            },
            partial,
        )
        os.replace(partial, path)

    started, losses = time.monotonic(), []
    while step < args.steps and time.monotonic() - started < 60 * args.minutes:
        if step == args.steps - args.decay:
            save(args.run / "before_decay.pt")
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.decay)
        choice = rng.choice(len(volumes), size=args.batch, p=probabilities)
        pairs = [random_pair(*volumes[i], rng) for i in choice]
        image = torch.from_numpy(np.stack([p[0] for p in pairs]))
        truth = torch.from_numpy(np.stack([p[1] for p in pairs]))
        loss = pair_loss(network, image.contiguous(memory_format=torch.channels_last), truth)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        step += 1
        losses.append(loss.item())
        decay = min(EMA_DECAY, step / (step + 10))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                if value.is_floating_point():
                    average[name].lerp_(value, 1 - decay)
                else:
                    average[name].copy_(value)
        if step % 50 == 0:
            line = {
                "step": step,
                "loss": float(np.mean(losses)),
                "minutes": (time.monotonic() - started) / 60,
            }
            losses.clear()
            with (args.run / "curve.jsonl").open("a") as curve:
                curve.write(json.dumps(line) + "\n")
            save(state_path)
    save(state_path)


def export(args: argparse.Namespace) -> None:
    """Write the averaged weights of a run as a checkpoint, in half precision."""
    from napari_cad.core.checkpoint import save_checkpoint
    from napari_cad.core.checkpoint_metadata import CheckpointMetadata

    state = torch.load(args.run / "state.pt", weights_only=True)
    network = StudentNetwork(args.width)
    network.load_state_dict(state["average"])
    metadata = CheckpointMetadata(
        name="default",
        width=args.width,
        voxel_size=(30.0, 6.0, 6.0),
        threshold=args.threshold,
        training_data="SNEMI3D training volume (Kasthuri et al. 2015, AC4; mouse somatosensory "
        "cortex, ssSEM), sections 0-69, and synthetic sections of napari-cad's own generator",
        licence="BSD-3-Clause; trained on data under the Open Data Commons Attribution License "
        "(ODC-By 1.0), cite Kasthuri et al., Cell 162 (2015)",
        notes=f"{state['step']} steps of {args.batch} pairs of {PATCH} x {PATCH} voxels, the "
        "student alone, by scripts/train_default_student.py. Expects dark membranes and the full "
        "grey range of uint8.",
    )
    save_checkpoint(args.export, network, metadata, half=True)


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--export", type=Path, help="write the averaged weights and stop")
    parser.add_argument("--threshold", type=float, default=0.5, help="recommended, for --export")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/snemi3d_ac4"))
    parser.add_argument("--run", type=Path, default=Path("runs/default"))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--decay", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--synthetic-fraction", type=float, default=0.25)
    parser.add_argument("--synthetic-volumes", type=int, default=6)
    args = parser.parse_args()
    if args.export is not None:
        export(args)
    else:
        train(args)


if __name__ == "__main__":
    main()
