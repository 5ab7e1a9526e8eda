"""How much main memory a run may take, and what that leaves for each of its parts.

While it predicts, a run consists of the calling process with the network and of worker processes
that make fragments; afterwards the network is gone and a child process agglomerates. Given a limit
for all of them together, the plan gives up speed in this order: worker processes beyond the first,
then whole sections (the network sees tiles instead, with the same result), then the last worker.
What is left when all is given up is the least that a run needs, and a limit below it is refused.

On a cluster the limit is one of each worker, which does one thing at a time, but keeps the network
while it makes fragments.

The constants are resident memory as measured on Linux (benchmarks/bench_memory.py), rounded up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_cad.core.errors import ConfigError
from napari_cad.core.tiling import smallest_tile

if TYPE_CHECKING:
    from napari_cad.core.config import InferenceConfig, SegmentationConfig

_MIB = 1 << 20

#: Of the calling process with torch and everything else that it imports, before the first section.
CALLER = 450 * _MIB
#: Of a process that makes fragments or agglomerates, before it has read anything.
WORKER = 200 * _MIB
#: What a worker of a cluster has besides: dask (18 MiB when idle), and what it sends and receives.
DASK = 100 * _MIB
#: Of one section on its way through the calling process: as read, mapped, padded, predicted and
#: compressed. Bytes per voxel.
CALLER_PER_VOXEL = 32
#: Of one section whose fragments and edges are made. Bytes per voxel.
FRAGMENTS_PER_VOXEL = 80

#: Peak memory of one pair in float32 on a CPU: bytes per voxel of a section and channel of width,
#: measured on whole sections of 512² to 2048².
STEP_PER_VOXEL_AND_CHANNEL = 48

#: The same per voxel of a tile: tiles at the border of a section have other sizes than those
#: inside, and the maps of one size are kept until those of the next are there. Measured: 72.
TILE_PER_VOXEL_AND_CHANNEL = 80

#: Side of the smallest tile that a plan counts on: of still smaller ones most would be halo.
_SMALLEST_TILE = 512

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}I": 1 << (10 * i) for i, unit in enumerate("KMGT", 1)}


@dataclass(frozen=True)
class MemoryPlan:
    """What a run may use.

    Attributes
    ----------
    workers : int
        Processes that make fragments; 0 makes them in the calling process.
    step : int
        Bytes that a step of the network may take.
    """

    workers: int
    step: int


def parse_memory(text: str) -> int:
    """Read an amount of memory.

    Parameters
    ----------
    text : str
        Such as 4GB, 900 MB, 3.5GiB or 2G; GB is 10⁹ bytes, GiB 2³⁰.

    Returns
    -------
    int
        In bytes.

    Raises
    ------
    ConfigError
        If it is none, or not positive.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?I?)B?\s*", text.upper())
    if found is None or found[2] not in _UNITS or float(found[1]) == 0:
        raise ConfigError(f"expected an amount of memory such as 4GB or 900MB, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2]])


def format_memory(n_bytes: int) -> str:
    """Write an amount of memory for people, rounded up to 10 MB."""
    tens = -(-n_bytes // 10**7)
    return f"{tens / 100:g} GB" if tens >= 100 else f"{10 * tens} MB"


def plan_memory(
    memory: int,
    size: tuple[int, int],
    inference: InferenceConfig,
    *,
    width: int,
    workers: int,
    network_size: tuple[int, int] | None = None,
    besides: int = 0,
) -> MemoryPlan:
    """Divide a limit among the parts of a run.

    Parameters
    ----------
    memory : int
        Bytes of main memory for all processes of the run together.
    size : tuple of int
        Height and width of a section, in voxels.
    inference : InferenceConfig
        Tile and halo.
    width : int
        Of the student; 0 where it does not run in the main memory.
    workers : int
        As many processes as are wanted for fragments.
    network_size : tuple of int, optional
        Height and width at which the network sees a section, if not its own.
    besides : int
        Bytes that something else in the calling process takes.

    Returns
    -------
    MemoryPlan
        With as many workers as leave enough for whole sections; with fewer otherwise.

    Raises
    ------
    ConfigError
        If it cannot be done, naming the least memory that it can be done with.
    """
    voxels = size[0] * size[1]
    height, length = network_size or size
    caller = CALLER + besides + CALLER_PER_VOXEL * max(voxels, height * length)
    worker = WORKER + FRAGMENTS_PER_VOXEL * voxels
    smallest = inference.tile or max(_SMALLEST_TILE, smallest_tile(inference.halo))
    whole = STEP_PER_VOXEL_AND_CHANNEL * width * height * length
    smallest_step = TILE_PER_VOXEL_AND_CHANNEL * width * smallest**2
    if inference.tile is not None:  # the person's own
        whole = min(whole, smallest_step)
    tiled = min(whole, smallest_step)

    def left(n_workers: int) -> int:
        # without workers the calling process makes the fragments, beside the network's own maps
        fragments = n_workers * worker if n_workers else FRAGMENTS_PER_VOXEL * voxels
        return memory - caller - fragments

    for n_workers in range(workers, -1, -1):
        if left(n_workers) >= (whole if n_workers > 1 else tiled):
            return MemoryPlan(n_workers, left(n_workers))
    raise ConfigError(
        f"sections of {size[0]} × {size[1]} voxels need at least "
        f"{format_memory(memory - left(0) + tiled)} of memory with this checkpoint, got "
        f"{format_memory(memory)}: allow that much, or segment a crop"
    )


def within_memory(
    config: SegmentationConfig,
    size: tuple[int, int],
    network_size: tuple[int, int],
    width: int,
    *,
    there: bool = False,
) -> SegmentationConfig:
    """Let a run keep its own limit.

    Parameters
    ----------
    config : SegmentationConfig
        Its `memory` is the limit; None changes nothing.
    size, network_size, width
        As for `plan_memory`.
    there : bool
        Whether the limit is one of each worker of a cluster.

    Returns
    -------
    SegmentationConfig
        With the workers, and the memory of a step, that the limit allows.

    Raises
    ------
    ConfigError
        As `plan_memory`.
    """
    if config.memory is None:
        return config
    wanted = 0 if there else config.n_workers
    plan = plan_memory(
        config.memory,
        size,
        config.inference,
        width=width,
        workers=wanted,
        network_size=network_size,
        besides=DASK if there else 0,
    )
    workers = config.workers if plan.workers == wanted else plan.workers
    return replace(config, workers=workers, inference=replace(config.inference, memory=plan.step))


def agglomeration_share(memory: int, *, there: bool = False) -> int:
    """Give what of a limit is left for agglomeration, when prediction has given its memory back.

    Parameters
    ----------
    memory : int
        Bytes of main memory for all processes of the run together.
    there : bool
        Whether a worker of a cluster agglomerates, whose own limit it is.

    Returns
    -------
    int
        Bytes; at least 1.
    """
    return max(1, memory - CALLER - WORKER - (DASK if there else 0))
