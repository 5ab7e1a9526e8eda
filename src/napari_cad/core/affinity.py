"""Embeddings to affinities: the one map from cosine similarity to affinity in this package.

Channels are ordered z, y, x for the offsets (−1, 0, 0), (0, −1, 0), (0, 0, −1); the value is
stored at the later voxel; 1 means the two voxels belong to the same neuron.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_cad.core.errors import ShapeError
from napari_cad.core.stored_affinity import LEVELS, dequantise

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

__all__ = [
    "LEVELS",
    "OFFSETS",
    "dequantise",
    "pair_affinities",
    "quantise",
]

#: Neighbour vectors (dz, dy, dx) in voxels: channel i relates p to p + OFFSETS[i].
OFFSETS = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))

#: Rows of which affinities are made at once on a CPU: a few megabytes for sections of 1024 voxels.
_ROWS_AT_ONCE = 32


def pair_affinities(embedding_prev: Tensor, embedding: Tensor) -> Tensor:
    """Affinities of one pair of sections.

    The cosine similarity of two embeddings with its negative part cut off, as in the published
    configuration ("trunc"): no temperature, no sigmoid. The in-section channels come from the
    later section's embedding alone.

    Parameters
    ----------
    embedding_prev, embedding : Tensor, shape (B, E, H, W), float
        Of sections z − 1 and z *of the same pair*; need not be normalised.

    Returns
    -------
    Tensor, shape (B, 3, H, W), float32 in [0, 1]
        Channel 0 between the sections, channels 1 and 2 along y and x within section z. The first
        row of channel 1 and the first column of channel 2, which have no neighbour, repeat the
        third one (reflection); where there are fewer than three rows or columns, the last one,
        and 1 where there is only one.

    Raises
    ------
    ShapeError
        If the two are not of one shape (B, E, H, W): torch would stretch the smaller one.
    """
    if embedding_prev.ndim != 4 or embedding_prev.shape != embedding.shape:
        raise ShapeError(
            "the embeddings of a pair have one shape (batch, channels, height, width), got "
            f"{tuple(embedding_prev.shape)} and {tuple(embedding.shape)}"
        )
    # pixel by pixel, so strips of rows give the same; on a CPU they stay in its cache
    rows = _ROWS_AT_ONCE if embedding.device.type == "cpu" else embedding.shape[2]
    strips = zip(*(torch.split(e, rows, dim=2) for e in (embedding_prev, embedding)), strict=True)
    return _affinities_of_strips(strips)


def _affinities_of_strips(strips: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Affinities of one pair of sections, of which the embeddings come strip by strip."""
    z, y, x = [], [], []
    above = None
    for strip_prev, strip in strips:
        # float32 whatever the autocast type: 16 products summed in half precision would lose bins
        prev = F.normalize(strip_prev.float(), dim=1, eps=1e-12)
        current = F.normalize(strip.float(), dim=1, eps=1e-12)
        if above is not None:
            y.append((current[:, :, :1] * above).sum(1))
        z.append((prev * current).sum(1))
        y.append((current[:, :, 1:] * current[:, :, :-1]).sum(1))
        x.append((current[:, :, :, 1:] * current[:, :, :, :-1]).sum(1))
        above = current[:, :, -1:]
    affinities = [
        torch.cat(z, dim=1),
        _fill_first(torch.cat(y, dim=1), dim=1),
        _fill_first(torch.cat(x, dim=1), dim=2),
    ]
    return torch.stack(affinities, dim=1).clamp_(0.0, 1.0)


def _fill_first(values: Tensor, dim: int) -> Tensor:
    """Put the missing first row or column before `values` by reflection."""
    n = values.shape[dim]
    if n == 0:
        shape = list(values.shape)
        shape[dim] = 1
        return values.new_ones(shape)
    first = values.narrow(dim, min(1, n - 1), 1)
    return torch.cat([first, values], dim=dim)


def quantise(affinities: Tensor) -> Tensor:
    """Affinities as they are stored.

    Parameters
    ----------
    affinities : Tensor, any shape, float in [0, 1]
        As `pair_affinities` makes them.

    Returns
    -------
    Tensor, same shape, uint8
        min(255, floor(256 a)): the histogram bin of the published merge function, so that
        quantising takes nothing from it.
    """
    return (affinities * LEVELS).clamp_(0, LEVELS - 1).to(torch.uint8)
