"""The teacher over a volume, window by window, and how much its windows show.

A 3D network sees a window of the volume at a time. Windows that overlap are blended with the
weights that the method's authors use; without blending, each voxel comes from the one window whose
centre is nearest, and the borders between windows can be seen: `seam_score` says how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import torch
import torch.nn.functional as F

from napari_cad.core.device import ran_out_of_memory
from napari_cad.core.errors import ConfigError, DeviceMemoryError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.seams import SeamScore, seam_score, unit_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from napari_cad.core.volume import ArrayLike

    F32 = npt.NDArray[np.float32]

__all__ = [
    "Blending",
    "SeamScore",
    "WindowGrid",
    "blending_weights",
    "iter_section_embeddings",
    "seam_score",
    "sliding_window_embedding",
]

#: How the voxels that several windows cover are put together.
Blending = Literal["gaussian", "none"]

#: Published: window, its stride, and what is at least reflected around the volume; (z, y, x).
PUBLISHED_WINDOW = (18, 160, 160)
PUBLISHED_STRIDE = (10, 80, 80)
PUBLISHED_MARGIN = (4, 15, 15)

Triple = tuple[int, int, int]


class VolumeNetwork(Protocol):
    """What can be run over a volume: the teacher, or anything of its form."""

    embedding_dim: int

    @property
    def size_multiple(self) -> int:
        """Height and width of a window are multiples of this."""

    @property
    def training(self) -> bool:
        """Whether the network is in training mode."""

    def __call__(self, stack: Tensor, /) -> Tensor:
        """Map (B, 1, D, H, W) to (B, E, D, H, W)."""

    def train(self, mode: bool = True) -> Any:
        """Enter or leave training mode."""

    def parameters(self) -> Iterator[Any]:
        """Weights; they tell on which device to run."""


@dataclass(frozen=True)
class WindowGrid:
    """Where the windows lie on a volume.

    Parameters
    ----------
    shape : tuple of int
        (Z, Y, X) of the volume, in voxels.
    window : tuple of int
        (D, H, W) that the network sees at once.
    stride : tuple of int
        From one window to the next; where it is smaller than the window, windows overlap.
    margin : tuple of int
        Least number of voxels reflected around the volume, so that its border is not the border
        of a window. On top of it comes what is missing for the windows to fit, shared between
        both ends.

    Raises
    ------
    ConfigError
        If a number is not positive (the margin: negative), or the stride is longer than the
        window, which would leave voxels out.
    """

    shape: Triple
    window: Triple = PUBLISHED_WINDOW
    stride: Triple = PUBLISHED_STRIDE
    margin: Triple = PUBLISHED_MARGIN

    def __post_init__(self) -> None:
        if min(*self.shape, *self.window, *self.stride) < 1 or min(self.margin) < 0:
            raise ConfigError(
                "volume, window and stride have positive sizes and the margin no negative one, "
                f"got {self.shape}, {self.window}, {self.stride} and {self.margin}"
            )
        if any(s > w for s, w in zip(self.stride, self.window, strict=True)):
            raise ConfigError(
                f"a stride of {self.stride} is longer than the window {self.window} and would "
                "leave voxels out: use at most the window"
            )

    def starts(self, axis: int) -> list[int]:
        """First voxel of each window along an axis, in voxels of the volume; may be negative."""
        size, window, stride = self.shape[axis], self.window[axis], self.stride[axis]
        beyond = max(0, size + 2 * self.margin[axis] - window)
        count = -(-beyond // stride) + 1
        covered = window + (count - 1) * stride
        first = -((covered - size) // 2)
        return [first + i * stride for i in range(count)]

    def owned(self, axis: int) -> list[tuple[int, int]]:
        """Half-open range of the voxels nearest to each window's centre; they partition the axis.

        Where two centres are equally far, the later window has the voxel.
        """
        starts = self.starts(axis)
        overlap = self.window[axis] - self.stride[axis]
        cuts = [0, *(start + overlap // 2 for start in starts[1:]), self.shape[axis]]
        cuts = [min(max(cut, 0), self.shape[axis]) for cut in cuts]
        return list(pairwise(cuts))

    def borders(self, axis: int, blending: Blending) -> list[int]:
        """Where windows show along an axis: p says that the border is between p − 1 and p.

        Without blending these are the places where one window takes over from another; with
        blending, all places inside the volume where a window begins or ends.
        """
        size = self.shape[axis]
        if blending == "none":
            places = {stop for _, stop in self.owned(axis)}
        else:
            starts = self.starts(axis)
            places = {*starts, *(start + self.window[axis] for start in starts)}
        return sorted(place for place in places if 0 < place < size)


def blending_weights(window: Triple) -> F32:
    """Weight of a window's voxels: 1e-6 + exp(−r² / (2 · 0.2²)).

    Parameters
    ----------
    window : tuple of int
        (D, H, W).

    Returns
    -------
    ndarray, shape (D, H, W), float32 in (0, 1]
        r is the Euclidean norm of the coordinates, which go from −1 to 1 along each axis (0 along
        an axis of one voxel). As the method's authors blend the teacher's windows.
    """
    axes = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in window]
    squares = [axis**2 for axis in axes]
    r2 = squares[0][:, None, None] + squares[1][:, None] + squares[2]
    return (1e-6 + np.exp(-r2 / (2 * 0.2**2))).astype(np.float32)


def iter_section_embeddings(
    volume: ArrayLike,
    network: VolumeNetwork,
    *,
    window: Triple = PUBLISHED_WINDOW,
    stride: Triple = PUBLISHED_STRIDE,
    margin: Triple = PUBLISHED_MARGIN,
    blending: Blending = "gaussian",
    sections: tuple[int, int] | None = None,
    intensity: Callable[[Any], F32] | None = None,
    normalise: bool = True,
    batch: int = 1,
    autocast: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, F32]]:
    """Embed a volume in overlapping windows, section by section.

    Memory holds one layer of windows: 4 (E + 1) bytes per voxel of `window[0]` sections, whatever
    the number of sections. Crop the volume in y and x to bound it there.

    Parameters
    ----------
    volume : array_like, shape (Z, Y, X)
        Intensities as in the file; read one layer of windows at a time.
    network : VolumeNetwork
        Usually a `TeacherNetwork`; run in evaluation mode on the device its weights are on, and
        left in the mode it was in.
    window, stride, margin : tuple of int
        See `WindowGrid`; the defaults are the published ones.
    blending : {"gaussian", "none"}
        "gaussian": the weighted mean of all windows over a voxel, by `blending_weights`. "none":
        the window whose centre is nearest.
    sections : tuple of int, optional
        Half-open range to embed; the windows lie as they do for the whole volume, and only those
        that touch the range are computed. By default all.
    intensity : callable, optional
        Maps (D, Y, X) values to float32 in [0, 1]; by default an `IntensityMapping` by type.
    normalise : bool
        Scale each window's embeddings to length 1 before they are blended, and the blend again.
    batch : int
        Windows at once.
    autocast : torch.dtype, optional
        Type for mixed precision, for example torch.bfloat16 on CUDA.
    progress : callable, optional
        Called with the number of windows done and of all windows.

    Yields
    ------
    z : int
        Index of the section.
    embedding : ndarray, shape (E, Y, X), float32
        Newly made.

    Raises
    ------
    ConfigError
        If a setting is not allowed, or the window's height or width is no multiple of what the
        network needs.
    DeviceMemoryError
        If the windows do not fit the device's memory.
    """
    shape = (int(volume.shape[0]), int(volume.shape[1]), int(volume.shape[2]))
    grid = WindowGrid(shape, window, stride, margin)
    _check(grid, network, blending, batch)
    first, last = (0, shape[0]) if sections is None else sections
    if not 0 <= first < last <= shape[0]:
        raise ConfigError(
            f"sections must lie in 0:{shape[0]} and hold at least one, got {first}:{last}"
        )
    return _embed_layers(
        volume, network, grid, blending, (first, last), intensity or IntensityMapping(),
        normalise, batch, autocast, progress,
    )  # fmt: skip


def sliding_window_embedding(volume: ArrayLike, network: VolumeNetwork, **settings: Any) -> F32:
    """Embed a block of a volume in overlapping windows.

    Parameters
    ----------
    volume : array_like, shape (Z, Y, X)
        Intensities as in the file.
    network : VolumeNetwork
        Usually a `TeacherNetwork`.
    **settings
        As of `iter_section_embeddings`.

    Returns
    -------
    ndarray, shape (E, Z, Y, X), float32
        64 bytes per voxel for 16 channels: for a block, not for a stack. Z is the length of
        `sections` where that is given.

    Raises
    ------
    ConfigError, DeviceMemoryError
        As of `iter_section_embeddings`.
    """
    first, last = settings.get("sections") or (0, int(volume.shape[0]))
    embeddings = iter_section_embeddings(volume, network, **settings)
    _, height, width = (int(n) for n in volume.shape)
    block = np.empty((network.embedding_dim, last - first, height, width), np.float32)
    for z, embedding in embeddings:
        block[:, z - first] = embedding
    return block


def _check(grid: WindowGrid, network: VolumeNetwork, blending: str, batch: int) -> None:
    if blending not in get_args(Blending):
        raise ConfigError(
            f"blending must be one of {', '.join(get_args(Blending))}, got {blending!r}"
        )
    if batch < 1:
        raise ConfigError(f"batch must be at least 1, got {batch}")
    multiple = network.size_multiple
    if grid.window[1] % multiple or grid.window[2] % multiple:
        raise ConfigError(
            f"height and width of a window must be multiples of {multiple} for this network, got "
            f"{grid.window[1:]}"
        )


def _embed_layers(
    volume: ArrayLike,
    network: VolumeNetwork,
    grid: WindowGrid,
    blending: Blending,
    sections: tuple[int, int],
    intensity: Callable[[Any], F32],
    normalise: bool,
    batch: int,
    autocast: torch.dtype | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[int, F32]]:
    depth = grid.window[0]
    _, height, width = grid.shape
    layers = _layers(grid, blending, sections)
    columns = [(y, x) for y in range(len(grid.starts(1))) for x in range(len(grid.starts(2)))]
    weights = blending_weights(grid.window)
    # plane z of the volume is kept at z % depth: a layer reaches over depth planes at most
    total = np.zeros((depth, network.embedding_dim, height, width), np.float32)
    weight = np.zeros((depth, height, width), np.float32)
    pending, done = sections[0], 0
    for index, (start, kept) in enumerate(layers):
        images = _read_layer(volume, grid, start, intensity)
        for at in range(0, len(columns), batch):
            some = columns[at : at + batch]
            stacks = np.stack([_cut(images, grid, y, x) for y, x in some])
            embeddings = _run(network, stacks, normalise, autocast)
            for (y, x), embedding in zip(some, embeddings, strict=True):
                spans = (kept, *(_kept(grid, blending, a, i) for a, i in ((1, y), (2, x))))
                if all(a < b for a, b in spans):
                    window_start = (start, grid.starts(1)[y], grid.starts(2)[x])
                    _add(total, weight, embedding, weights, spans, window_start, blending)
            done += len(some)
            if progress is not None:
                progress(done, len(layers) * len(columns))
        # what the next layer does not touch is finished
        until = layers[index + 1][1][0] if index + 1 < len(layers) else sections[1]
        for z in range(pending, until):
            place = z % depth
            embedding = total[place] / weight[place]
            if normalise:
                embedding = unit_length(embedding)
            yield z, embedding
            total[place], weight[place] = 0, 0
        pending = max(pending, until)


def _kept(grid: WindowGrid, blending: Blending, axis: int, index: int) -> tuple[int, int]:
    """Voxels of the volume that window number `index` contributes to along an axis."""
    if blending == "none":
        return grid.owned(axis)[index]
    start = grid.starts(axis)[index]
    return max(0, start), min(grid.shape[axis], start + grid.window[axis])


def _layers(
    grid: WindowGrid, blending: Blending, sections: tuple[int, int]
) -> list[tuple[int, tuple[int, int]]]:
    """First section and contributed range of the layers of windows that touch `sections`."""
    layers = []
    for index, start in enumerate(grid.starts(0)):
        low, high = _kept(grid, blending, 0, index)
        low, high = max(low, sections[0]), min(high, sections[1])
        if low < high:
            layers.append((start, (low, high)))
    return layers


def _reflected(start: int, length: int, size: int) -> npt.NDArray[np.intp]:
    """Give the indices start … start + length − 1, mirrored at the first and the last voxel."""
    if size == 1:
        return np.zeros(length, np.intp)
    period = 2 * (size - 1)
    index = np.abs(np.arange(start, start + length) % period)
    return np.where(index < size, index, period - index).astype(np.intp)


def _read_layer(
    volume: ArrayLike, grid: WindowGrid, start: int, intensity: Callable[[Any], F32]
) -> F32:
    """Read the sections of one layer, reflected along z; (D, Y, X)."""
    index = _reflected(start, grid.window[0], grid.shape[0])
    low = int(index.min())
    values = np.asarray(volume[low : int(index.max()) + 1])
    return intensity(values)[index - low]


def _cut(images: F32, grid: WindowGrid, y: int, x: int) -> F32:
    rows = _reflected(grid.starts(1)[y], grid.window[1], grid.shape[1])
    columns = _reflected(grid.starts(2)[x], grid.window[2], grid.shape[2])
    return images[:, rows[:, None], columns]


def _run(network: VolumeNetwork, stacks: F32, normalise: bool, autocast: torch.dtype | None) -> F32:
    """Embeddings (B, E, D, H, W) of the windows (B, D, H, W)."""
    parameter = next(network.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    was_training = network.training
    network.train(False)
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=autocast, enabled=autocast is not None),
        ):
            embedding = network(torch.from_numpy(stacks[:, None]).to(device)).float()
            if normalise:
                embedding = F.normalize(embedding, dim=1, eps=1e-12)
            result: F32 = embedding.cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        raise DeviceMemoryError(
            f"{device} has too little memory for {len(stacks)} windows of {stacks.shape[1:]} at "
            "once: lower the batch, then the window"
        ) from error
    finally:
        network.train(was_training)
    return result


def _add(
    total: F32,
    weight: F32,
    embedding: F32,
    weights: F32,
    spans: Sequence[tuple[int, int]],
    start: Triple,
    blending: Blending,
) -> None:
    """Add what a window contributes to the planes of the volume."""
    (z_low, z_high), (y_low, y_high), (x_low, x_high) = spans
    inside_y = slice(y_low - start[1], y_high - start[1])
    inside_x = slice(x_low - start[2], x_high - start[2])
    for z in range(z_low, z_high):
        place, inside_z = z % len(total), z - start[0]
        part = embedding[:, inside_z, inside_y, inside_x]
        if blending == "none":
            total[place, :, y_low:y_high, x_low:x_high] = part
            weight[place, y_low:y_high, x_low:x_high] = 1
        else:
            share = weights[inside_z, inside_y, inside_x]
            total[place, :, y_low:y_high, x_low:x_high] += share * part
            weight[place, y_low:y_high, x_low:x_high] += share
