"""Patches of the volumes, drawn by number.

Patch number n is a function of the seed and n alone. So the position in the data is one number,
a killed run goes on with the patches that it would have had, and neither the number of worker
processes nor their order changes anything.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from napari_cad.core.errors import ConfigError, VolumeError
from napari_cad.training.augment import augment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from napari_cad.training.data import TrainingVolume, Triple
    from napari_cad.training.data_config import AugmentConfig, DataConfig

#: Patches that are looked at to find out whether a volume has anything to learn from.
_CHECKED_PATCHES = 8


class PatchDataset(Dataset[tuple["Tensor", "Tensor"]]):
    """All patches that a seed gives, by number.

    Parameters
    ----------
    volumes : sequence of TrainingVolume
        At least one with a positive weight.
    data : DataConfig
        Size of the patches and how they are drawn.
    augmentation : AugmentConfig
        How they are varied.
    seed : int
        Another seed gives other patches.

    Raises
    ------
    ConfigError
        If there is no volume, all weights are 0, or a patch is larger than a volume.
    VolumeError
        If a volume has no two neighbouring voxels of the same neurite.
    """

    def __init__(
        self,
        volumes: Sequence[TrainingVolume],
        data: DataConfig,
        augmentation: AugmentConfig,
        seed: int,
    ) -> None:
        used = [volume for volume in volumes if volume.weight > 0]
        if not used:
            raise ConfigError(
                "there is nothing to learn from: give at least one volume with a weight above 0"
            )
        for volume in used:
            if any(p > n for p, n in zip(data.patch, volume.shape, strict=True)):
                raise ConfigError(
                    f"a patch of {data.patch} is larger than {volume.name} with {volume.shape}: "
                    "make data.patch smaller"
                )
        self.volumes = used
        self.data = data
        self.augmentation = augmentation
        self.seed = seed
        weights = np.array([volume.weight for volume in used])
        self._probabilities = weights / weights.sum()
        for volume in used:
            self._check_pairs(volume)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Make patch number `number`.

        Returns
        -------
        image : Tensor, shape (D, H, W), float32 in [0, 1]
            Augmented.
        labels : Tensor, shape (D, H, W), int32
            Ids, 0 = border, `IGNORE` = no truth.
        """
        rng = np.random.default_rng([self.seed, number])
        volume = self.volumes[int(rng.choice(len(self.volumes), p=self._probabilities))]
        start = self._start(volume, rng)
        margin = self.data.margin
        start = (start[0], start[1] - margin, start[2] - margin)
        depth, height, width = self.data.patch
        size = (depth, height + 2 * margin, width + 2 * margin)
        image, labels = augment(
            volume.read_image(start, size),
            volume.read_labels(start, size),
            margin,
            self.augmentation,
            rng,
        )
        return torch.from_numpy(image), torch.from_numpy(labels)

    def _start(self, volume: TrainingVolume, rng: np.random.Generator) -> Triple:
        return volume.random_start(
            self.data.patch, rng, balanced=self.data.balanced, min_labelled=self.data.min_labelled
        )

    def _check_pairs(self, volume: TrainingVolume) -> None:
        rng = np.random.default_rng(self.seed)
        for _ in range(_CHECKED_PATCHES):
            labels = volume.read_labels(self._start(volume, rng), self.data.patch)
            for axis in range(3):
                later, earlier = np.moveaxis(labels, axis, 0)[1:], np.moveaxis(labels, axis, 0)[:-1]
                if ((later == earlier) & (later > 0)).any():
                    return
        raise VolumeError(
            f"{volume.name}: no two neighbouring voxels have the same label in {_CHECKED_PATCHES} "
            "patches, so there is no positive pair to learn from: are the labels an instance "
            "segmentation of this stack?"
        )


class _Steps:
    """Numbers of the patches of each step, from one step on, without end."""

    def __init__(self, first: int, batch: int, rank: int, world: int) -> None:
        self.first, self.batch, self.rank, self.world = first, batch, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first
        while True:
            begin = (step * self.world + self.rank) * self.batch
            yield list(range(begin, begin + self.batch))
            step += 1


def batches(
    dataset: PatchDataset,
    *,
    first_step: int = 0,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of patches, one per step, without end.

    Parameters
    ----------
    dataset : PatchDataset
        Its settings say how many patches a batch has and how many processes make them.
    first_step : int
        Step to begin with.
    rank, world : int
        Number of this process among those that train together, and how many there are; each gets
        other patches.
    pin_memory : bool
        For faster copies to a GPU.

    Yields
    ------
    image : Tensor, shape (B, D, H, W), float32 in [0, 1]
    labels : Tensor, shape (B, D, H, W), int32
    """
    loader = DataLoader(
        dataset,
        batch_sampler=_Steps(first_step, dataset.data.batch, rank, world),
        num_workers=dataset.data.workers,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_interrupts,
    )
    return iter(loader)


def _ignore_interrupts(_worker: int) -> None:
    """Leave it to the main process what Ctrl-C, which a terminal sends to all, is to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
