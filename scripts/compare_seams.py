#!/usr/bin/env python3
"""Seam scores of a student and of a 3D network in sliding windows, on one real section.

    python scripts/compare_seams.py VOLUME --section 40 --region 256 [--teacher FILE]

Without a teacher's file a small one is trained here, for a few minutes, on the synthetic sample
(seed 0): enough for its embeddings to follow membranes, far from the published teacher. It is
kept where --save says. Seam score = mean change of the embedding from one voxel to the next across
the borders of windows, over the same away from them; both networks are measured at the same places.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from napari_cad.core.config import InferenceConfig
from napari_cad.core.readers import open_volume
from napari_cad.core.seam_job import ComparedMap, SeamsMeasured, WindowConfig, compare_seams
from napari_cad.core.segmentation_job import SegmentationOptions
from napari_cad.core.synthetic import synthetic_em
from napari_cad.core.teacher import (
    TEACHER_OFFSETS,
    TeacherMetadata,
    TeacherNetwork,
    save_teacher,
)
from napari_cad.training.losses import teacher_loss
from napari_cad.training.targets import affinity_targets, widen_borders

WIDTHS = (8, 12, 16)
PATCH = (6, 48, 48)


def main() -> None:
    """Parse the command line, train if need be, compare and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("volume", type=Path)
    parser.add_argument("--section", type=int, default=40)
    parser.add_argument("--region", type=int, default=256)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--steps", type=int, default=250, help="of the small teacher's training")
    parser.add_argument("--save", type=Path, help="where the small teacher is kept")
    parser.add_argument("--window", type=int, nargs=3, default=(8, 64, 32), metavar="N",
                        help="depth, height and width, stride of the windows")  # fmt: skip
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        teacher = arguments.teacher
        if teacher is None:
            teacher = arguments.save or Path(folder) / "teacher.safetensors"
            train_small_teacher(teacher, arguments.steps)
        depth, size, stride = arguments.window
        windows = WindowConfig(depth, size, stride, "both", arguments.region)
        compare(arguments, str(teacher), windows)


def train_small_teacher(path: Path, steps: int) -> None:
    """Train on random patches of the synthetic sample, with the teacher's loss of the method."""
    started = time.monotonic()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    sample = synthetic_em((24, 256, 256), seed=0)
    image = torch.from_numpy(sample.raw.astype(np.float32) / 255)
    labels = torch.from_numpy(widen_borders(sample.labels).astype(np.int64))
    teacher = TeacherNetwork(WIDTHS, norm_momentum=0.05)
    optimiser = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    losses = []
    for step in range(steps):
        corner = [rng.integers(0, n - p + 1) for n, p in zip(image.shape, PATCH, strict=True)]
        box = tuple(slice(c, c + p) for c, p in zip(corner, PATCH, strict=True))
        targets = affinity_targets(labels[box][None], TEACHER_OFFSETS)
        loss = teacher_loss(teacher(image[box][None, None]), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {np.mean(losses[-50:]):.2f}", flush=True)
    metadata = TeacherMetadata(
        name="small teacher",
        widths=WIDTHS,
        voxel_size=sample.voxel_size,
        training_data="synthetic_em((24, 256, 256), seed=0)",
        notes=f"{steps} steps of one patch of {PATCH}; for trying things out.",
    )
    save_teacher(path, teacher.eval(), metadata)
    minutes = (time.monotonic() - started) / 60
    print(f"trained {sum(p.numel() for p in teacher.parameters())} parameters, {minutes:.1f} min")


def compare(arguments: argparse.Namespace, teacher: str, windows: WindowConfig) -> None:
    """Print a row for each network, way of blending and axis."""
    volume = open_volume(arguments.volume)
    options = SegmentationOptions(inference=InferenceConfig(device="auto"))
    events = compare_seams(
        volume, arguments.checkpoint, teacher, options, windows, arguments.section
    )
    depth, size, _ = arguments.window
    print(
        f"{volume.name}, section {arguments.section}, {windows.region}² around its middle; windows "
        f"{depth} × {size} × {size}, stride {windows.windows()[1]}"
    )
    print("| network | blending | axis | across | away | seam score |")
    print("| --- | --- | --- | --- | --- | --- |")
    for event in events:
        if isinstance(event, ComparedMap):
            print(f"<!-- {event.source}: {event.seconds:.1f} s -->")
        if isinstance(event, SeamsMeasured):
            for name, score in (("2D student", event.student), ("3D network", event.teacher)):
                for axis in range(2):
                    print(
                        f"| {name} | {event.blending} | {'yx'[axis]} | {score.across[axis]:.4f} | "
                        f"{score.away[axis]:.4f} | {score.ratio[axis]:.2f} |"
                    )


if __name__ == "__main__":
    main()
