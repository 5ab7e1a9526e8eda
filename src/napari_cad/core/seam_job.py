"""The student's embedding map beside that of a 3D network in sliding windows, in a child process.

The student sees a whole section at once; a 3D network sees windows, and their borders show in its
embeddings. Both maps are made for one section and one region of it, and the seams of both are
measured at the same places: where the windows of the 3D network meet.
"""

from __future__ import annotations

import queue
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from napari_cad.core.errors import ConfigError
from napari_cad.core.events import Event
from napari_cad.core.volume import VolumeSource

# what imports torch is imported where it is needed: the viewer imports the events

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from napari_cad.core.seams import SeamScore
    from napari_cad.core.segmentation_job import SegmentationOptions
    from napari_cad.core.volume import EMVolume

    F32 = npt.NDArray[np.float32]

#: Name of the job, as `JobProcess` wants it.
COMPARE = f"{__name__}:compare_seams"

#: What a map comes from: the student, or the 3D network with or without blending.
Source = Literal["student", "gaussian", "none"]

#: Voxels of a map that its colours are fitted on.
_SAMPLED_VOXELS = 65_536


@dataclass(frozen=True)
class WindowConfig:
    """Windows of the 3D network; the defaults are the published ones."""

    depth: int = field(
        default=18,
        metadata={"help": "Sections that the 3D network sees at once.", "min": 1, "max": 256},
    )
    size: int = field(
        default=160,
        metadata={
            "help": "Height and width of a window; for most 3D networks a multiple of 16.",
            "unit": "voxels",
            "min": 8,
            "max": 2048,
        },
    )
    stride: int = field(
        default=80,
        metadata={
            "help": "From one window to the next, in the section; along z it is the same share of "
            "the depth.",
            "unit": "voxels",
            "min": 4,
            "max": 2048,
        },
    )
    blending: str = field(
        default="none",
        metadata={
            "help": "How overlapping windows are put together: none takes the window whose centre "
            "is nearest, gaussian the mean of all, weighted by the distance to their centres.",
            "choices": ("none", "gaussian", "both"),
        },
    )
    region: int | None = field(
        default=512,
        metadata={
            "help": "Side of the square, around the middle of the view, that is compared; the 3D "
            "network takes many times as long as the student. By default the whole section.",
            "unit": "voxels",
            "min": 32,
        },
    )

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.size:
            raise ConfigError(
                f"a stride of {self.stride} with windows of {self.size} would leave voxels out: "
                "use at most the window"
            )

    @property
    def blendings(self) -> tuple[Literal["gaussian", "none"], ...]:
        """The one or two ways of blending that are asked for."""
        if self.blending == "both":
            return ("none", "gaussian")
        return ("gaussian",) if self.blending == "gaussian" else ("none",)

    def windows(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Window and stride, each (z, y, x)."""
        depth_stride = max(1, round(self.depth * self.stride / self.size))
        return (self.depth, self.size, self.size), (depth_stride, self.stride, self.stride)


@dataclass(frozen=True)
class WindowsDone(Event):
    """So many windows of one way of blending are done."""

    blending: str
    done: int
    total: int


@dataclass(frozen=True, eq=False)
class ComparedMap(Event):
    """A map of the region: colours of its own, `rgb` of shape (h, w, 3), uint8."""

    source: Source
    z: int
    corner: tuple[int, int]
    rgb: npt.NDArray[np.uint8]
    seconds: float


@dataclass(frozen=True, eq=False)
class SeamsMeasured(Event):
    """Seams of both maps at the borders of the windows; axes y and x of the region."""

    blending: Literal["gaussian", "none"]
    z: int
    corner: tuple[int, int]
    student: SeamScore
    teacher: SeamScore


def compare_seams(
    volume: EMVolume | VolumeSource,
    checkpoint: str,
    teacher: str,
    options: SegmentationOptions,
    windows: WindowConfig,
    z: int,
    centre: tuple[float, float] | None = None,
) -> Iterator[Event]:
    """Map one section by the student and by a 3D network, and measure the seams of both.

    Parameters
    ----------
    volume : EMVolume or VolumeSource
        The volume, or where to open it. Sections around `z` are read.
    checkpoint : str
        Of the student: default, the name of a published one, or a path.
    teacher : str
        Path of a 3D teacher.
    options : SegmentationOptions
        The student's intensity mapping, and the device of both. The 3D network has a mapping of
        its own.
    windows : WindowConfig
        Windows, blending and region.
    z : int
        The section.
    centre : tuple of float, optional
        (y, x) of the middle of the region; by default that of the section.

    Yields
    ------
    Event
        `ComparedMap` of the student, then for each way of blending `WindowsDone`, `ComparedMap`
        and `SeamsMeasured`.

    Raises
    ------
    NapariCadError
        See `open_source`, `resolve_checkpoint`, `load_teacher` and `iter_section_embeddings`.
    """
    from napari_cad.core.device import pick_device
    from napari_cad.core.embedding import SectionEmbedder, pair_of
    from napari_cad.core.readers import open_source
    from napari_cad.core.registry import resolve_checkpoint
    from napari_cad.core.seams import seam_score
    from napari_cad.core.segmentation_job import default_intensity
    from napari_cad.core.sliding_window import WindowGrid
    from napari_cad.core.teacher import load_teacher

    if isinstance(volume, VolumeSource):
        volume = open_source(volume)
    loaded = resolve_checkpoint(checkpoint)
    network, metadata = load_teacher(teacher)
    rows, columns = region_of(volume.shape, windows.region, centre)
    corner = (rows[0], columns[0])

    started = time.monotonic()
    intensity = options.config(volume, loaded.metadata).intensity.resolve(volume)
    embedder = SectionEmbedder(loaded.build(), volume, intensity, options.inference)
    whole = embedder.one(*pair_of(z, "embedding", volume.n_sections), "embedding")
    student = whole[:, slice(*rows), slice(*columns)]
    seconds = time.monotonic() - started
    yield ComparedMap("student", z, corner, _colours(student), seconds)

    device = pick_device(options.inference.device, options.inference.precision)
    window, stride = windows.windows()
    region = volume.crop(y=rows, x=columns)
    settings: dict[str, Any] = {
        "window": window,
        "stride": stride,
        "sections": (z, z + 1),
        "intensity": default_intensity(volume, metadata).resolve(volume),
    }
    for blending in windows.blendings:
        started = time.monotonic()
        progress: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        # the windows are a loop of their own: in a thread, so that this one can tell how it goes
        with ThreadPoolExecutor(1) as thread:
            future = thread.submit(
                _teacher_embedding, region, network.to(device.name), settings, blending, progress
            )
            while not future.done() or not progress.empty():
                try:
                    yield WindowsDone(blending, *progress.get(timeout=0.1))
                except queue.Empty:
                    continue
        embedding = future.result()
        seconds = time.monotonic() - started
        yield ComparedMap(blending, z, corner, _colours(embedding), seconds)
        grid = WindowGrid(region.shape, window, stride)
        borders = [grid.borders(axis, blending) for axis in (1, 2)]
        scores = [seam_score(e, borders) for e in (student, embedding)]
        yield SeamsMeasured(blending, z, corner, *scores)


def region_of(
    shape: tuple[int, int, int], side: int | None, centre: tuple[float, float] | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Place a square in a section.

    Parameters
    ----------
    shape : tuple of int
        (Z, Y, X) of the volume.
    side : int, optional
        Of the square; None is the whole section.
    centre : tuple of float, optional
        (y, x) of its middle, moved as far as it takes for the square to lie inside.

    Returns
    -------
    rows, columns : tuple of int
        Half-open ranges.
    """
    spans = []
    for axis, length in enumerate(shape[1:]):
        size = length if side is None else min(side, length)
        middle = length / 2 if centre is None else centre[axis]
        start = min(max(round(middle - size / 2), 0), length - size)
        spans.append((start, start + size))
    return spans[0], spans[1]


def _teacher_embedding(
    region: EMVolume,
    network: Any,
    settings: dict[str, Any],
    blending: Literal["gaussian", "none"],
    progress: queue.SimpleQueue[tuple[int, int]],
) -> F32:
    from napari_cad.core.sliding_window import iter_section_embeddings

    def report(done: int, total: int) -> None:
        progress.put((done, total))

    sections = iter_section_embeddings(
        region.data, network, blending=blending, progress=report, **settings
    )
    ((_, embedding),) = sections
    return embedding


def _colours(embedding: F32) -> npt.NDArray[np.uint8]:
    """Colour a map by the principal components of its own embeddings."""
    from napari_cad.core.projection import fit_basis, sample_voxels

    return fit_basis([sample_voxels(embedding, _SAMPLED_VOXELS)], "embedding").project(embedding)
