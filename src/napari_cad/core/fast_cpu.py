"""The student on a CPU in float32: the same arithmetic with less traffic and less memory.

The network as `napari_cad.core.network` draws it writes a map of the whole section, 64 to 128 MB
for 1024² voxels, after every operation and reads it back for the next. Here

- ReLU is part of the convolution (oneDNN has the two in one, and torch's own compiler uses it);
- the convolution of [skip, up-sampled] is the sum of one over each: the two are never joined;
- what both decoders take from the joint features is up-sampled once;
- a section goes through each pair of convolutions in strips of rows, and on to its affinities, so
  that the widest maps are never whole. A strip reads the real rows above and below it, and zeros
  only beyond the border of the section: it computes the same.

Only last bits differ from the plain network, which stays the reference in the tests.
benchmarks/bench_inference.py compares the two; docs/measurements.md says what each step brought.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from napari_cad.core.network import ShallowFeatures, double

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from napari_cad.core.network import DoubleConv, SectionDecoder, StudentNetwork, TileWindow

#: Rows of a strip; even. Fewer repeat more of the rows at their edges, more take more memory.
STRIP_ROWS = 64


@cache
def has_fused_convolution() -> bool:
    """Whether this torch has oneDNN's convolutions with what follows them, and they are right.

    They are operators without a promise: one that is missing, refuses, or computes something else
    must not matter.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator) for shape in ((1, 4, 6, 8), (4, 4, 3, 3), (4,))
    )
    expected = F.relu(2 * F.conv2d(x, weight, padding=1) + bias[:, None, None])
    try:
        made = _fused_convolution([x, x], [weight, weight], bias, [1, 1], relu=True)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(made, expected, rtol=0, atol=1e-4)


def _fused_convolution(
    maps: list[Tensor], weights: list[Tensor], bias: Tensor | None, pad: list[int], *, relu: bool
) -> Tensor:
    """Sum of the convolutions of several maps; every one adds to the result of those before it."""
    ones, end = [1, 1], "relu" if relu else "none"
    first = torch.ops.mkldnn._convolution_pointwise
    add = torch.ops.mkldnn._convolution_pointwise_.binary
    last = len(maps) - 1
    out: Tensor = first(
        maps[0], weights[0], bias, pad, ones, ones, 1, "none" if last else end, [], ""
    )
    for i in range(1, last + 1):
        unary = "relu" if relu and i == last else None
        out = add(out, maps[i], weights[i], None, pad, ones, ones, 1, "add", 1.0, unary, [], "")
    return out


def _plain_convolution(
    maps: list[Tensor], weights: list[Tensor], bias: Tensor | None, pad: list[int], *, relu: bool
) -> Tensor:
    """Do the same with what every torch has."""
    out = F.conv2d(maps[0], weights[0], bias, padding=pad)
    for x, weight in zip(maps[1:], weights[1:], strict=True):
        out += F.conv2d(x, weight, padding=pad)
    return out.relu_() if relu else out


class _Convolution:
    """A convolution of a folded network, over one map or over several that it never joins."""

    def __init__(self, conv: nn.Module, *channels: int, relu: bool = True) -> None:
        assert isinstance(conv, nn.Conv2d)
        self._weights = [
            part.contiguous(memory_format=torch.channels_last)
            for part in torch.split(conv.weight, list(channels) or conv.in_channels, dim=1)
        ]
        self._bias = conv.bias
        self._border = conv.kernel_size[0] // 2
        self._relu = relu

    def __call__(self, *maps: Tensor, pad_rows: bool = True) -> Tensor:
        convolve = _fused_convolution if has_fused_convolution() else _plain_convolution
        pad = [self._border if pad_rows else 0, self._border]
        return convolve(list(maps), self._weights, self._bias, pad, relu=self._relu)

    def rows(self, maps: list[Tensor], have: slice, want: slice, height: int) -> Tensor:
        """Rows `want` of the result, from maps of which only the rows `have` are given.

        `have` is one row more than `want` on either side, but for the border of the section.
        There the convolution pads; a row that it makes of padding where there is no border, on
        the other side of the strip, is not among those wanted.
        """
        at_border = have.start == 0 or have.stop == height
        made = self(*maps, pad_rows=at_border)
        first = have.start if at_border else have.start + 1
        return made[:, :, want.start - first : want.stop - first]


class _DoubleConvolution:
    """Twice a convolution and ReLU."""

    def __init__(self, stage: DoubleConv, *channels: int) -> None:
        self._first = _Convolution(stage[0], *channels)
        self._second = _Convolution(stage[3])

    def __call__(self, *maps: Tensor) -> Tensor:
        return self._second(self._first(*maps))

    def strips(self, *maps: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Give the result strip by strip: which rows, and what is in them."""
        height = maps[0].shape[2]

        def clipped(start: int, stop: int) -> slice:
            return slice(max(start, 0), min(stop, height))

        for start in range(0, height, STRIP_ROWS):
            stop = start + STRIP_ROWS
            out, middle, read = (clipped(start - n, stop + n) for n in (0, 1, 2))
            x = self._first.rows([x[:, :, read] for x in maps], read, middle, height)
            yield out, self._second.rows([x], middle, out, height)


class _Maps:
    """Maps that are filled anew for every pair: made once, since fresh memory must be cleared."""

    def __init__(self) -> None:
        self._maps: dict[str, Tensor] = {}

    def get(self, name: str, like: Tensor, channels: int, height: int, width: int) -> Tensor:
        """Get a map to write on; what was written on it before is lost."""
        found = self._maps.get(name)
        if found is None or found.shape != (1, channels, height, width):
            found = self._maps[name] = _new_map(like, channels, height, width)
        return found

    def doubled(self, name: str, x: Tensor, stride: int, window: TileWindow | None) -> Tensor:
        """Up-sample `x`, see `double`."""
        if window is not None:
            return double(x, stride, window)
        _, channels, height, width = x.shape
        out = self.get(name, x, channels, 2 * height, 2 * width)
        up_sample = torch.ops.aten.upsample_bilinear2d.out
        doubled: Tensor = up_sample(x, [2 * height, 2 * width], True, 2.0, 2.0, out=out)
        return doubled


class _FastDecoder:
    """A `SectionDecoder`."""

    def __init__(self, decoder: SectionDecoder, width: int) -> None:
        self._width = width
        self._half = _DoubleConvolution(decoder.stage_half, 2 * width, 2 * width)
        self._full = _DoubleConvolution(decoder.stage_full, width, width)
        self._head = _Convolution(decoder.head, relu=False)
        self._maps = _Maps()

    def strips(
        self, doubled: Tensor, skip: ShallowFeatures, window: TileWindow | None
    ) -> Iterator[Tensor]:
        half = self._maps.get("half", doubled, self._width, *skip.half.shape[2:])
        for rows, x in self._half.strips(skip.half, doubled):
            half[:, :, rows] = x
        doubled = self._maps.doubled("doubled", half, 2, window)
        for _, x in self._full.strips(skip.full, doubled):
            yield self._head(x)


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
        f = self.width = folded.width
        self.embedding_dim = folded.embedding_dim
        self._encode_full = _DoubleConvolution(folded.encode_full)
        self._encode_half = _DoubleConvolution(folded.encode_half)
        self._encode_quarter = _DoubleConvolution(folded.encode_quarter)
        self._encode_eighth = _DoubleConvolution(folded.encode_eighth)
        self._encode_sixteenth = _DoubleConvolution(folded.encode_sixteenth)
        self._decode_eighth = _DoubleConvolution(folded.decode_eighth, 8 * f, 8 * f)
        self._decode_quarter = _DoubleConvolution(folded.decode_quarter, 4 * f, 4 * f)
        self._decoder_prev = _FastDecoder(folded.decoder_prev, f)
        self._decoder = _FastDecoder(folded.decoder, f)
        self._maps = _Maps()

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
            full, half = (torch.cat(maps) for maps in zip(*ones, strict=True))
            return ShallowFeatures(full, half)
        _, _, height, width = section.shape
        f = self.width
        if overwrite is None or overwrite.full.shape != (1, f, height, width):
            overwrite = ShallowFeatures(
                _new_map(section, f, height, width),
                _new_map(section, 2 * f, height // 2, width // 2),
            )
        pooled = self._maps.get("pooled", section, f, height // 2, width // 2)
        for rows, x in self._encode_full.strips(section):
            overwrite.full[:, :, rows] = x
            pooled[:, :, rows.start // 2 : rows.stop // 2] = F.max_pool2d(x, 2)
        for rows, x in self._encode_half.strips(pooled):
            overwrite.half[:, :, rows] = x
        return overwrite

    def embed_strips(
        self, prev: ShallowFeatures, current: ShallowFeatures, window: TileWindow | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Embed both sections of one pair, strip by strip from the top.

        Parameters
        ----------
        prev, current : ShallowFeatures
            Of section z − 1 and of section z; a batch of one.
        window : TileWindow, optional
            Where the features lie in the whole section, if they are those of a tile.

        Yields
        ------
        embedding_prev, embedding : Tensor, shape (1, E, rows, W)
            Rows of what `StudentNetwork.embed_pair` returns.
        """
        joint = self._join(prev, current, window)
        doubled = self._maps.doubled("joint", joint, 4, window)
        yield from zip(
            self._decoder_prev.strips(doubled, prev, window),
            self._decoder.strips(doubled, current, window),
            strict=True,
        )

    def _join(
        self, prev: ShallowFeatures, current: ShallowFeatures, window: TileWindow | None
    ) -> Tensor:
        pooled = torch.cat([F.max_pool2d(prev.half, 2), F.max_pool2d(current.half, 2)], dim=1)
        quarter = self._encode_quarter(pooled)
        eighth = self._encode_eighth(F.max_pool2d(quarter, 2))
        x = self._encode_sixteenth(F.max_pool2d(eighth, 2))
        x = self._decode_eighth(eighth, double(x, 16, window))
        return self._decode_quarter(quarter, double(x, 8, window))


def _new_map(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Make an empty map, channels last whatever its sizes."""
    return like.new_empty((1, height, width, channels)).permute(0, 3, 1, 2)
