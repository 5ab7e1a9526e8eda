"""A segmentation from plain values: what the command line, the viewer and Python all call.

It fills in what the person left open: the intensity mapping, merge function and threshold that the
checkpoint recommends.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.binning import QUICK, binned
from napari_cad.core.config import (
    AgglomerationConfig,
    FitConfig,
    FragmentConfig,
    InferenceConfig,
    SegmentationConfig,
)
from napari_cad.core.events import Warned
from napari_cad.core.torch_memory import use_huge_pages
from napari_cad.core.volume import VolumeSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_cad.core.checkpoint_metadata import CheckpointMetadata
    from napari_cad.core.events import Event
    from napari_cad.core.intensity import IntensityMapping
    from napari_cad.core.teacher import TeacherMetadata
    from napari_cad.core.volume import EMVolume

#: How far voxel sizes may differ before a warning, as a ratio.
_VOXEL_SIZE_RATIO = 1.5


@dataclass(frozen=True)
class SegmentationOptions:
    """What a person chooses; None leaves it to the checkpoint.

    Attributes
    ----------
    intensity : IntensityMapping, optional
        By default the checkpoint's; for data that is not uint8 its limits become percentiles.
    invert : bool
        Exchange black and white, whichever mapping it is: membranes are bright.
    merge_function : str, optional
    threshold : float, optional
        Edge score in [0, 1].
    absorb : int
        Segments of fewer voxels join a neighbour; see `napari_cad.core.absorption`.
    inference : InferenceConfig
    fragments : FragmentConfig
    fit : FitConfig
        How the student is fitted to the stack; by default not at all.
    workers : int, optional
        See `SegmentationConfig`.
    memory : int, optional
        Bytes of main memory that all processes of the run together may take; with a scheduler,
        each worker.
    augmentation : str
        Views of each pair that are averaged; see `napari_cad.core.augmented`.
    bin : int
        How many voxels along y and x become one before anything else; 2 is a quick look, in
        less than half the time. See `napari_cad.core.binning`.
    scheduler : str, optional
        Address of a dask scheduler whose workers do the run; by default this machine does it.
    """

    intensity: IntensityMapping | None = None
    merge_function: str | None = None
    threshold: float | None = None
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    fragments: FragmentConfig = field(default_factory=FragmentConfig)
    workers: int | None = None
    fit: FitConfig = field(default_factory=FitConfig)
    absorb: int = 0
    augmentation: str = "none"
    memory: int | None = None
    bin: int = 1
    scheduler: str | None = None
    invert: bool = False

    def config(self, volume: EMVolume, checkpoint: CheckpointMetadata) -> SegmentationConfig:
        """Fill in what was left open.

        Raises
        ------
        ConfigError
            If a value is not allowed.
        """
        return SegmentationConfig(
            intensity=chosen_intensity(volume, checkpoint, self.intensity, invert=self.invert),
            inference=self.inference,
            fragments=self.fragments,
            agglomeration=AgglomerationConfig(
                checkpoint.merge_function if self.merge_function is None else self.merge_function,
                checkpoint.threshold if self.threshold is None else self.threshold,
                self.absorb,
            ),
            workers=self.workers,
            fit=_fit_of_binned(self.fit, self.bin),
            augmentation=self.augmentation,
            memory=self.memory,
        )


def _fit_of_binned(fit: FitConfig, factor: int) -> FitConfig:
    """Make of a fit to a stack the same fit to the stack binned by `factor`.

    Smoothing is in voxels, which have become larger. Where the network was to see the sections
    smaller, binning has done so already, in part or altogether; it never sees them larger for it.
    """
    rescale = fit.rescale if fit.rescale >= 1 else min(1.0, fit.rescale * factor)
    return replace(fit, smooth=fit.smooth / factor, rescale=rescale)


def default_intensity(
    volume: EMVolume, checkpoint: CheckpointMetadata | TeacherMetadata
) -> IntensityMapping:
    """Choose the intensity mapping where the person does not.

    The checkpoint's own for uint8, whose range means something. Wider types seldom use their
    range (12-bit data in uint16 would all be black), so they are mapped by percentiles.

    Returns
    -------
    IntensityMapping
        Not resolved.
    """
    if volume.dtype != np.uint8 and checkpoint.intensity.method == "dtype":
        return replace(checkpoint.intensity, method="percentiles")
    return checkpoint.intensity


def chosen_intensity(
    volume: EMVolume,
    checkpoint: CheckpointMetadata,
    given: IntensityMapping | None,
    *,
    invert: bool,
) -> IntensityMapping:
    """Give the mapping that the person chose, or the default one, inverted on request.

    Returns
    -------
    IntensityMapping
        Not resolved. Without `invert` it may be inverted too, where the mapping itself says so.
    """
    mapping = given or default_intensity(volume, checkpoint)
    return replace(mapping, invert=True) if invert else mapping


def segmentation_job(
    volume: EMVolume | VolumeSource,
    checkpoint: str,
    store_path: str | Path,
    options: SegmentationOptions | None = None,
    *,
    overwrite: bool = False,
) -> Iterator[Event]:
    """Segment a volume; all arguments can be pickled, so that it can run in a child process.

    Parameters
    ----------
    volume : EMVolume or VolumeSource
        The volume, or where to open it.
    checkpoint : str
        default, the name of a published checkpoint, or a path.
    store_path : path or URL
        Where the store is or will be.
    options : SegmentationOptions, optional
        What the person chose.
    overwrite : bool
        See `segment_volume`.

    Yields
    ------
    Event
        See `segment_volume`, and a warning where the checkpoint wants another voxel size.

    Raises
    ------
    NapariCadError
        See `segment_volume`, `open_source` and `resolve_checkpoint`.
    """
    use_huge_pages()
    from napari_cad.core.pipeline import segment_volume
    from napari_cad.core.readers import open_source
    from napari_cad.core.registry import resolve_checkpoint

    if isinstance(volume, VolumeSource):
        volume = open_source(volume)
    options = options or SegmentationOptions()
    volume = binned(volume, options.bin)
    loaded = resolve_checkpoint(checkpoint)
    config = options.config(volume, loaded.metadata)
    yield from _voxel_size_warning(volume, loaded.metadata, config.fit.rescale)
    yield from segment_volume(
        volume, loaded, config, store_path, overwrite=overwrite, scheduler=options.scheduler
    )


def own_size_rescale(volume: EMVolume, checkpoint: CheckpointMetadata) -> float:
    """In-plane factor that gives a stack the voxel size of a checkpoint's training data.

    Returns
    -------
    float
        Volume's voxel size over the checkpoint's (mean of y and x); 1 where either is not known.
    """
    if volume.voxel_size is None or checkpoint.voxel_size is None:
        return 1.0
    here, there = (sum(sizes[1:]) / 2 for sizes in (volume.voxel_size, checkpoint.voxel_size))
    return here / there


def _voxel_size_warning(
    volume: EMVolume, checkpoint: CheckpointMetadata, rescale: float
) -> Iterator[Warned]:
    """Say so where the network sees much finer or coarser voxels than in training."""
    if volume.voxel_size is None or checkpoint.voxel_size is None:
        return
    ratios = [a / b for a, b in zip(volume.voxel_size[1:], checkpoint.voxel_size[1:], strict=True)]
    seen = [ratio / rescale for ratio in ratios]
    if _alike(seen):
        return
    here, there = (
        " × ".join(f"{size:g}" for size in sizes[1:])
        for sizes in (volume.voxel_size, checkpoint.voxel_size)
    )
    if volume.bin > 1 and _alike([ratio / volume.bin for ratio in seen]):
        yield Warned(
            f"Binned by {volume.bin}, the voxels of this volume are {here} nm (y × x), those that "
            f"{checkpoint.name} was trained on {there} nm: this is a quick look, expect worse "
            "results than of a run at full resolution."
        )
        return
    at = f", rescaled by {rescale:g}" if rescale != 1 else ""
    wanted = own_size_rescale(volume, checkpoint)
    advice = f"Rescaling by {wanted:.3g} would make them alike"
    factor = round(1 / wanted)
    if factor >= QUICK and _alike([ratio * factor for ratio in ratios]):
        advice += f", and so would binning by {factor} (“Quick look” is {QUICK}), in less time"
    yield Warned(
        f"The voxels of this volume are {here} nm (y × x){at}, those that {checkpoint.name} "
        f"was trained on {there} nm: expect worse results than on data of its own size. {advice}."
    )


def _alike(ratios: list[float]) -> bool:
    """Whether voxel sizes are near enough to those of the training data to say nothing."""
    return all(1 / _VOXEL_SIZE_RATIO <= ratio <= _VOXEL_SIZE_RATIO for ratio in ratios)
