"""From labels to what the losses compare with: same or different, known or not, class weights.

Labels of a patch are integers: a positive id per neurite, 0 for the border between neurites, which
differs from everything, `IGNORE` where there is no truth, and `OTHER` where all that is known is
that it is none of the labelled neurites. A target says of a voxel and its neighbour whether they
are of the same neurite; it is known where both have a truth, but not between two `OTHER`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from napari_cad.core.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

#: Label of voxels without truth: no loss looks at them.
IGNORE = -1

#: Label of voxels that are none of the labelled neurites, and of which nothing else is known.
OTHER = -2

#: Over what the positive fraction behind the class weights is taken; see `affinity_targets`.
Balance = Literal["channel", "patch", "published"]

#: The positive fraction is kept in this range, so negatives weigh at most 99, positives 19.
_FRACTION_RANGE = (0.05, 0.99)


def widen_borders(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Draw a border of two voxels between touching neurites.

    Parameters
    ----------
    labels : ndarray, shape (Y, X) or (Z, Y, X), integer
        Left as it is. Values of 0 and below are no ids.

    Returns
    -------
    ndarray, same shape and type
        0 in each voxel with an id whose 3×3 window within the section holds two or more different
        ids; all else as it was.

    Raises
    ------
    ShapeError
        If `labels` has another number of axes.
    """
    if labels.ndim not in (2, 3):
        raise ShapeError(f"labels have shape (Y, X) or (Z, Y, X), got {labels.shape}")
    # no id is above the highest value of its type: unlike max() + 1, this cannot overflow
    no_id = np.where(labels > 0, labels, np.iinfo(labels.dtype).max)
    lowest, highest = _extreme(no_id, np.minimum), _extreme(labels, np.maximum)
    return np.where((labels > 0) & (lowest < highest), 0, labels).astype(labels.dtype)


def _extreme(values: npt.NDArray[Any], function: np.ufunc) -> npt.NDArray[Any]:
    """Minimum or maximum of each 3×3 window within the section.

    At the rim the window is cut off, which for an extreme is the same as reflecting. Many times
    faster than scipy's filters, and exact for 64-bit ids, which those turn into float64.
    """
    for axis in (-2, -1):
        out = values.copy()
        n = values.shape[axis]
        low = [slice(None)] * values.ndim
        high = list(low)
        low[axis], high[axis] = slice(0, n - 1), slice(1, n)
        function(out[tuple(low)], values[tuple(high)], out=out[tuple(low)])
        function(out[tuple(high)], values[tuple(low)], out=out[tuple(high)])
        values = out
    return values


@dataclass(frozen=True)
class AffinityTarget:
    """What the affinities of one offset should be.

    All three have the shape (B, D − |dz|, H − |dy|, W − |dx|) of `offset_cosine`: only voxels
    whose neighbour exists.

    Parameters
    ----------
    same : Tensor, float32
        1 where both voxels have the same positive id, else 0.
    known : Tensor, bool
        False where either voxel has no truth, or both are `OTHER`.
    weight : Tensor, float32
        Class weight; the same for all unknown voxels as for a negative one.
    """

    same: Tensor
    known: Tensor
    weight: Tensor


def affinity_targets(
    labels: Tensor, offsets: Sequence[Sequence[int]], balance: Balance = "channel"
) -> list[AffinityTarget]:
    """Make the targets of several offsets.

    The class weights follow from a positive fraction f, kept in [0.05, 0.99]: where f > 0.5,
    positives weigh 1 and negatives f / (1 − f), otherwise positives (1 − f) / f and negatives 1,
    so that both classes weigh alike in sum. Where there is only one class, everything weighs 1.

    Parameters
    ----------
    labels : Tensor, shape (B, D, H, W), integer
        Ids; 0 = border, `IGNORE` = no truth, `OTHER` = none of the ids.
    offsets : sequence of (dz, dy, dx)
        Each component 0 or negative.
    balance : {"channel", "patch", "published"}
        "channel": f of each offset by itself, over the known voxels of the batch. "patch": one f
        per patch, over the known voxels of all offsets. "published": the same, but voxels without
        a neighbour count as negatives.

    Returns
    -------
    list of AffinityTarget
        One per offset, in order.

    Raises
    ------
    ShapeError
        If `labels` does not have four axes.
    """
    if labels.ndim != 4:
        raise ShapeError(f"labels have shape (B, D, H, W), got {tuple(labels.shape)}")
    pairs = [_same_and_known(labels, offset) for offset in offsets]
    if balance == "channel":
        weights = [class_weights(same, _fraction(same.sum(), known.sum())) for same, known in pairs]
    else:
        positives = torch.stack([same.flatten(1).sum(1) for same, _ in pairs]).sum(0)
        counts = torch.stack([known.flatten(1).sum(1) for _, known in pairs]).sum(0)
        if balance == "published":
            voxels = labels[0].numel()
            missing = sum(voxels - known[0].numel() for _, known in pairs)
            counts = counts + missing
        fraction = _fraction(positives, counts)[:, None, None, None]
        weights = [class_weights(same, fraction) for same, _ in pairs]
    return [
        AffinityTarget(same.float(), known, weight)
        for (same, known), weight in zip(pairs, weights, strict=True)
    ]


def class_weights(same: Tensor, fraction: Tensor) -> Tensor:
    """Weights of positives and negatives.

    Parameters
    ----------
    same : Tensor, bool
        Which are positive.
    fraction : Tensor, float
        The positive fraction f, broadcast to `same`; 0 or 1 says that there is only one class.

    Returns
    -------
    Tensor, shape of `same`, float32
        See `affinity_targets`.
    """
    one_class = (fraction <= 0) | (fraction >= 1)
    f = fraction.clamp(*_FRACTION_RANGE)
    positive = torch.where(f > 0.5, torch.ones_like(f), (1 - f) / f)
    negative = torch.where(f > 0.5, f / (1 - f), torch.ones_like(f))
    positive = torch.where(one_class, 1.0, positive)
    negative = torch.where(one_class, 1.0, negative)
    return torch.where(same, positive, negative)


def _fraction(positives: Tensor, counts: Tensor) -> Tensor:
    return positives.float() / counts.clamp(min=1).float()


def _same_and_known(labels: Tensor, offset: Sequence[int]) -> tuple[Tensor, Tensor]:
    later, earlier = labels, labels
    for axis, step in enumerate(offset, start=1):
        size = labels.shape[axis]
        length = max(0, size + step)
        later = later.narrow(axis, size - length, length)
        earlier = earlier.narrow(axis, 0, length)
    known = (later != IGNORE) & (earlier != IGNORE) & ~((later == OTHER) & (earlier == OTHER))
    same = (later == earlier) & (later > 0)
    return same, known
