"""The student on a CPU in float32: the same sums with fewer products, less traffic, less memory.

The network as `napari_cad.core.network` draws it writes a map of the whole section, 64 to 128 MB
for 1024² voxels, after every operation and reads it back for the next, and multiplies 68·10⁹ times.
Here

- a convolution multiplies half as often, and ReLU is part of it, see
  `napari_cad.core._cpu_kernels`;
- sections go through the wide layers in strips of rows, from the features of the encoder to the
  stored affinities, so that what lies between is never whole. A strip reads the real rows above and
  below it, and zeros only beyond the border of the section: it computes the same;
- every thread takes a strip of its own and waits for no other until a layer is done. What a strip
  comes to does not depend on which thread takes it, or how many there are.

Only last bits differ from the plain network, which stays the reference in the tests.
benchmarks/bench_inference.py compares the two; docs/measurements.md says what each step brought.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from napari_cad.core import _cpu_kernels as kernels
from napari_cad.core.network import ShallowFeatures, TileWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from torch import Tensor

    from napari_cad.core.network import DoubleConv, SectionDecoder, StudentNetwork

    F32 = npt.NDArray[np.float32]
    I64 = npt.NDArray[np.int64]
    U8 = npt.NDArray[np.uint8]

#: Rows of a strip; even. Fewer repeat more of the rows at their edges, more take more memory.
STRIP_ROWS = 64

#: Rows of a strip of the deep layers, where maps are small and no row is repeated.
_DEEP_STRIP_ROWS = 2 * kernels.GROUP


#: Threads at most: each has strips in memory, and more of them would take more than
#: `memory_plan.STEP_PER_VOXEL_AND_CHANNEL` says.
_MOST_THREADS = 8


class _Maps:
    """Maps that are filled anew for every pair: made once, since fresh memory must be cleared."""

    def __init__(self) -> None:
        self._maps: dict[str, F32] = {}

    def get(self, name: str, *shape: int) -> F32:
        """Get a map to write on; what was written on it before is lost."""
        size = int(np.prod(shape))
        if name not in self._maps or self._maps[name].size < size:
            self._maps[name] = np.empty(size, np.float32)
        return self._maps[name][:size].reshape(shape)


class _MapsOfThread(threading.local, _Maps):
    """The same, for every thread its own."""


class _Crew:
    """Threads that share the strips of a layer; as many as torch would take, within reason."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(min(torch.get_num_threads(), _MOST_THREADS), "student")

    def each(self, work: Callable[[slice], None], height: int, rows: int) -> None:
        """Do `work` for every strip of so many rows; come back when all are done."""
        starts = range(0, height, rows)
        futures = [self._pool.submit(work, slice(y, min(y + rows, height))) for y in starts]
        wait(futures)
        for future in futures:
            future.result()


def _around(rows: slice, n: int, height: int) -> slice:
    """Rows with `n` more on either side, within the section."""
    return slice(max(rows.start - n, 0), min(rows.stop + n, height))


def _n_rows(rows: slice) -> int:
    return int(rows.stop - rows.start)


class _Convolution:
    """A 3×3 convolution and ReLU."""

    def __init__(self, conv: nn.Module) -> None:
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        self.channels = conv.out_channels
        self._weights = kernels.weights_of_points(conv.weight.numpy())
        self._bias = kernels.padded_bias(conv.bias.numpy())

    def __call__(self, x: F32, first: int, out: F32) -> None:
        kernels.convolve(x, first, self._weights, self._bias, out)


class _DoubleConvolution:
    """Twice a convolution and ReLU."""

    def __init__(self, stage: DoubleConv) -> None:
        self.first, self.second = _Convolution(stage[0]), _Convolution(stage[3])

    def strip(self, x: F32, top: int, rows: slice, height: int, out: F32, maps: _Maps) -> None:
        """Write `rows` of the result on `out`.

        `x` begins with row `top` of the section and has two more than `rows` on either side, but
        for the border of the section.
        """
        middle = _around(rows, 1, height)
        between = maps.get("between", _n_rows(middle), x.shape[1], self.first.channels)
        self.first(x, middle.start - top, between)
        self.second(between, rows.start - middle.start, out)

    def joined_strip(
        self, skip: F32, doubling: _Doubling, rows: slice, out: F32, maps: _Maps
    ) -> None:
        """Do the same for a map of the encoder and one that is up-sampled to its size."""
        height, width, _ = skip.shape
        read = _around(rows, 2, height)
        joined = maps.get("joined", _n_rows(read), width, skip.shape[2] + doubling.channels)
        doubling.join(skip, read, joined)
        self.strip(joined, read.start, rows, height, out, maps)


class _Doubling:
    """Where a map is sampled that is up-sampled by two, bilinearly, corners aligned.

    Parameters
    ----------
    x : ndarray, shape (h, w, C), float32
        The map.
    stride : int
        How many voxels of the section one pixel of it stands for.
    window : TileWindow, optional
        Where it lies in the whole section, if it is that of a tile.
    """

    def __init__(self, x: F32, stride: int, window: TileWindow | None) -> None:
        height, width, _ = x.shape
        if window is None:
            window = TileWindow(0, 0, height * stride, width * stride)
        self._x, self.channels = x, x.shape[2]
        self._rows = _positions(height, window.y_start // stride, window.section_height // stride)
        self._columns = _positions(width, window.x_start // stride, window.section_width // stride)

    def join(self, skip: F32, rows: slice, out: F32) -> None:
        """Write `rows` of `skip` and, behind them on the channel axis, of the map up-sampled."""
        channels = skip.shape[2]
        out[:, :, :channels] = skip[rows]
        low, weight = self._rows
        kernels.double(self._x, low[rows], weight[rows], *self._columns, out, channels)


def _positions(length: int, start: int, full_length: int) -> tuple[I64, F32]:
    """Give the pixel before each position of a doubled axis, and the weight of the one after it.

    Rounded as torch does it, so that a thousand pixels from the corner they are still the same.
    """
    step = np.float32(full_length - 1) / np.float32(2 * full_length - 1)
    at = np.arange(2 * start, 2 * (start + length), dtype=np.float32) * step - np.float32(start)
    at = np.clip(at, 0, length - 1)  # only in the halo does a tile look beyond itself
    low = at.astype(np.int64)
    return low, (at - low).astype(np.float32)


class _FastDecoder:
    """A `SectionDecoder`; the maps it makes have the `name` of the section."""

    def __init__(self, decoder: SectionDecoder, name: str) -> None:
        self._name = name
        self._half = _DoubleConvolution(decoder.stage_half)
        self._full = _DoubleConvolution(decoder.stage_full)
        assert decoder.head.bias is not None
        self._head = kernels.in_blocks(decoder.head.weight.numpy()[:, :, 0, 0].T)
        self._head_bias = kernels.padded_bias(decoder.head.bias.numpy())
        self._maps = _Maps()

    def half_map(self, height: int, width: int) -> F32:
        """Map of what `decode_half` makes."""
        return self._maps.get("half", height, width, self._half.second.channels)

    def decode_half(self, joint: _Doubling, skip: F32, rows: slice, maps: _Maps) -> None:
        """Write rows of the `half_map`."""
        half = self.half_map(*skip.shape[:2])
        self._half.joined_strip(skip, joint, rows, half[rows], maps)

    def embed(self, half: _Doubling, skip: F32, rows: slice, maps: _Maps) -> F32:
        """Give rows of the embedding, with the channels that fill the last block."""
        n, width = _n_rows(rows), skip.shape[1]
        decoded = maps.get("decoded", n, width, self._full.second.channels)
        self._full.joined_strip(skip, half, rows, decoded, maps)
        embedding = maps.get(self._name, n, width, len(self._head_bias))
        kernels.project(decoded, self._head, self._head_bias, embedding)
        return embedding


class FastStudent:
    """A folded student on the CPU.

    Not for several threads at once: it writes on the same maps again and again.

    Parameters
    ----------
    folded : StudentNetwork
        As `fold_batch_norm` makes it, on the CPU, float32.

    Attributes
    ----------
    width, embedding_dim : int
        As of the network.
    """

    def __init__(self, folded: StudentNetwork) -> None:
        self.width = folded.width
        self.embedding_dim = folded.embedding_dim
        self._encode_full = _DoubleConvolution(folded.encode_full)
        self._encode_half = _DoubleConvolution(folded.encode_half)
        self._encode_quarter = _DoubleConvolution(folded.encode_quarter)
        self._encode_eighth = _DoubleConvolution(folded.encode_eighth)
        self._encode_sixteenth = _DoubleConvolution(folded.encode_sixteenth)
        self._decode_eighth = _DoubleConvolution(folded.decode_eighth)
        self._decode_quarter = _DoubleConvolution(folded.decode_quarter)
        self._decoder_prev = _FastDecoder(folded.decoder_prev, "previous")
        self._decoder = _FastDecoder(folded.decoder, "current")
        self._crew = _Crew()
        self._maps, self._strip_maps = _Maps(), _MapsOfThread()

    def encode_section(
        self, section: Tensor, overwrite: ShallowFeatures | None = None
    ) -> ShallowFeatures:
        """Encode sections as `StudentNetwork.encode_section` does.

        Parameters
        ----------
        section : Tensor, shape (B, 1, H, W), float32
            As there.
        overwrite : ShallowFeatures, optional
            Features that are needed no more: those of one section may be written over them.

        Returns
        -------
        ShallowFeatures
        """
        if len(section) > 1:
            ones = [self.encode_section(one) for one in torch.split(section, 1)]
            return ShallowFeatures(*(torch.cat(maps) for maps in zip(*ones, strict=True)))
        _, _, height, width = section.shape
        f = self.width
        if overwrite is None or not _can_hold(overwrite.full, f, height, width):
            overwrite = ShallowFeatures(
                _new_map(f, height, width), _new_map(2 * f, height // 2, width // 2)
            )
        image, full, half = _as_map(section), _as_map(overwrite.full), _as_map(overwrite.half)
        pooled = self._maps.get("pooled", height // 2, width // 2, f)

        def encode_full(rows: slice) -> None:
            self._encode_full.strip(image, 0, rows, height, full[rows], self._strip_maps)
            kernels.halve(full[rows], pooled[rows.start // 2 : rows.stop // 2], 0)

        def encode_half(rows: slice) -> None:
            self._encode_half.strip(pooled, 0, rows, height // 2, half[rows], self._strip_maps)

        self._crew.each(encode_full, height, STRIP_ROWS)
        self._crew.each(encode_half, height // 2, STRIP_ROWS)
        return overwrite

    def pair_affinities(
        self, prev: ShallowFeatures, current: ShallowFeatures, window: TileWindow | None = None
    ) -> Tensor:
        """Affinities of one pair, as `quantise` makes them of `affinity.pair_affinities`.

        Parameters
        ----------
        prev, current : ShallowFeatures
            Of section z − 1 and of section z; a batch of one.
        window : TileWindow, optional
            Where the features lie in the whole section, if they are those of a tile.

        Returns
        -------
        Tensor, shape (1, 3, H, W), uint8
        """
        height, width = prev.full.shape[2:]
        out = np.empty((3, height, width), np.uint8)
        borders: dict[int, F32] = {}  # rows of the embedding that meet another strip's

        def compare(rows: slice, embedding_prev: F32, embedding: F32) -> None:
            kernels.affinities(embedding_prev, embedding, *(channel[rows] for channel in out))
            for row in (rows.start, rows.stop - 1):
                borders[row] = embedding[row - rows.start].copy()

        self._embed(prev, current, window, compare)
        for row in range(STRIP_ROWS, height, STRIP_ROWS):
            kernels.compare(borders[row - 1], borders[row], out[1, row])
        # what has no neighbour repeats the third one, as `affinity.pair_affinities` has it
        out[1, 0] = out[1, 2]
        out[2, :, 0] = out[2, :, 2]
        return torch.from_numpy(out[None])

    def embed_pair(
        self, prev: ShallowFeatures, current: ShallowFeatures, window: TileWindow | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embed both sections of one pair as `StudentNetwork.embed_pair` does."""
        height, width = prev.full.shape[2:]
        out = np.empty((2, height, width, self.embedding_dim), np.float32)

        def keep(rows: slice, *embeddings: F32) -> None:
            for whole, strip in zip(out, embeddings, strict=True):
                whole[rows] = strip[:, :, : self.embedding_dim]

        self._embed(prev, current, window, keep)
        of_prev, of_current = (torch.from_numpy(one[None]).permute(0, 3, 1, 2) for one in out)
        return of_prev, of_current

    def _embed(
        self,
        prev: ShallowFeatures,
        current: ShallowFeatures,
        window: TileWindow | None,
        use: Callable[[slice, F32, F32], None],
    ) -> None:
        """Embed both sections of one pair; `use` gets strip by strip, in no order."""
        height, width = prev.full.shape[2:]
        joint = _Doubling(self._join(prev, current, window), 4, window)
        decoders = self._decoder_prev, self._decoder
        skips = [_as_map(features.half) for features in (prev, current)]

        def decode_half(rows: slice) -> None:
            for decoder, skip in zip(decoders, skips, strict=True):
                decoder.decode_half(joint, skip, rows, self._strip_maps)

        self._crew.each(decode_half, height // 2, STRIP_ROWS)
        halves = [_Doubling(one.half_map(height // 2, width // 2), 2, window) for one in decoders]
        full_skips = [_as_map(features.full) for features in (prev, current)]

        def decode_full(rows: slice) -> None:
            parts = zip(decoders, halves, full_skips, strict=True)
            use(rows, *(one.embed(half, skip, rows, self._strip_maps) for one, half, skip in parts))

        self._crew.each(decode_full, height, STRIP_ROWS)

    def _join(
        self, prev: ShallowFeatures, current: ShallowFeatures, window: TileWindow | None
    ) -> F32:
        """Give what both decoders start from, (H/4, W/4, 2f)."""
        halves = [_as_map(features.half) for features in (prev, current)]
        quarter = self._deep(self._encode_quarter, self._halved(*halves), "quarter")
        eighth = self._deep(self._encode_eighth, self._halved(quarter), "eighth")
        x = self._deep(self._encode_sixteenth, self._halved(eighth), "sixteenth")
        joined = self._joined(eighth, _Doubling(x, 16, window))
        x = self._deep(self._decode_eighth, joined, "eighth, decoded")
        joined = self._joined(quarter, _Doubling(x, 8, window))
        return self._deep(self._decode_quarter, joined, "joint")

    def _deep(self, stage: _DoubleConvolution, x: F32, name: str) -> F32:
        """Give the result of a stage of which no map is large; `name` is that of its map."""
        height, width, _ = x.shape
        first, second = stage.first, stage.second
        between = self._maps.get("between", height, width, first.channels)
        out = self._maps.get(name, height, width, second.channels)
        self._crew.each(lambda y: first(x, y.start, between[y]), height, _DEEP_STRIP_ROWS)
        self._crew.each(lambda y: second(between, y.start, out[y]), height, _DEEP_STRIP_ROWS)
        return out

    def _halved(self, *maps: F32) -> F32:
        """Give maps of one shape side by side on the channel axis, the maximum of 2×2 pixels."""
        height, width, channels = maps[0].shape
        out = self._maps.get("halved", height // 2, width // 2, len(maps) * channels)

        def halve(rows: slice) -> None:
            for i, x in enumerate(maps):
                kernels.halve(x[2 * rows.start : 2 * rows.stop], out[rows], i * channels)

        self._crew.each(halve, height // 2, _DEEP_STRIP_ROWS)
        return out

    def _joined(self, skip: F32, doubling: _Doubling) -> F32:
        height, width, channels = skip.shape
        out = self._maps.get("joined", height, width, channels + doubling.channels)
        self._crew.each(lambda y: doubling.join(skip, y, out[y]), height, _DEEP_STRIP_ROWS)
        return out


def _new_map(channels: int, height: int, width: int) -> Tensor:
    """Make an empty map, channels last whatever its sizes."""
    return torch.from_numpy(np.empty((1, height, width, channels), np.float32)).permute(0, 3, 1, 2)


def _can_hold(x: Tensor, channels: int, height: int, width: int) -> bool:
    """Whether a tensor has this shape, channels last."""
    return x.shape == (1, channels, height, width) and x[0].permute(1, 2, 0).is_contiguous()


def _as_map(x: Tensor) -> F32:
    """Give a batch of one as the kernels take it; a copy only where it is not channels last."""
    made: F32 = x[0].permute(1, 2, 0).contiguous().numpy()
    return made
