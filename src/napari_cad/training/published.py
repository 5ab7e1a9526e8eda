"""What the published code computes for L_CAD and L_FGI, quirk by quirk.

For comparisons only: an ablation of published against recommended feature grafting needs both.
The recommended definitions are in `napari_cad.training.losses`. The quirks:

(a) In L_FGI neither embedding is normalised; the raw dot product is cut to [0, 1], so there is no
    gradient where it is outside.
(b) The sum over distances is overwritten by each one, so only the largest distance whose sections
    exist counts; the last pair has none.
(c) For distances of 2 and more, the targets are read at the section after the student's, as if the
    distance were 1: they are those of another pair of sections.
(d) Distance 1 has only the term of the pair's later section. Its target is right.
(e) The columns that L_CAD leaves out are counted by a variable that L_FGI has meanwhile set to 27,
    so from the second pair on L_CAD does not see the first 27 columns.

There is no ignore mask either: voxels without truth count as different from everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from napari_cad.core.affinity import pair_affinities
from napari_cad.core.teacher import TEACHER_OFFSETS, teacher_affinities
from napari_cad.training.losses import Z_CHANNELS
from napari_cad.training.targets import class_weights

if TYPE_CHECKING:
    from torch import Tensor

    from napari_cad.training.losses import PairEmbeddings

#: What quirk (e) leaves out.
STALE_COLUMNS = 27


class PublishedTargets(NamedTuple):
    """Targets and class weights of all twelve offsets; each (12, B, D, H, W), float32.

    At the borders of the patch, where there is no neighbour, the target is 0.
    """

    same: Tensor
    weight: Tensor


def published_targets(labels: Tensor) -> PublishedTargets:
    """Make targets of the size of the patch, as the published loader does.

    Parameters
    ----------
    labels : Tensor, shape (B, D, H, W), integer
        Ids; 0 and below are background.

    Returns
    -------
    PublishedTargets
        Weighted by one positive fraction per patch, over all offsets and voxels.
    """
    same = torch.zeros((len(TEACHER_OFFSETS), *labels.shape), device=labels.device)
    for channel, (dz, dy, dx) in zip(same, TEACHER_OFFSETS, strict=True):
        d, h, w = labels.shape[1:]
        if d + dz > 0 and h + dy > 0 and w + dx > 0:
            later = labels[:, -dz:, -dy:, -dx:]
            earlier = labels[:, : d + dz, : h + dy, : w + dx]
            channel[:, -dz:, -dy:, -dx:] = (later == earlier) & (later > 0)
    fraction = same.transpose(0, 1).flatten(1).mean(1)[:, None, None, None]
    return PublishedTargets(same, class_weights(same > 0, fraction))


def published_cross_loss(
    pairs: PairEmbeddings,
    teacher_embedding: Tensor,
    targets: PublishedTargets,
    *,
    detach_teacher: bool = False,
    stale_columns: bool = True,
) -> Tensor:
    """L_CAD as published.

    Parameters
    ----------
    pairs : PairEmbeddings
        Of the student.
    teacher_embedding : Tensor, shape (B, E, D, H, W), float
        Of the teacher for the same patch.
    targets : PublishedTargets
        Only the weights of the first three channels are used.
    detach_teacher : bool
        Give the teacher no gradient; the published code does.
    stale_columns : bool
        Quirk (e). Without it, the first column is left out in every pair, as was meant.

    Returns
    -------
    Tensor, scalar
        Sum over pairs and channels.
    """
    if detach_teacher:
        teacher_embedding = teacher_embedding.detach()
    wanted = teacher_affinities(teacher_embedding)
    loss = wanted.new_zeros(())
    for z in range(pairs.prev.shape[1]):
        first = STALE_COLUMNS if stale_columns and z > 0 else 1
        found = pair_affinities(pairs.prev[:, z], pairs.current[:, z])[..., first:]
        weight = targets.weight[:3, :, z + 1, :, first:].transpose(0, 1)
        loss = loss + _wmse(found, wanted[:, :, z + 1, :, first:], weight)
    return loss


def published_interaction_loss(
    pairs: PairEmbeddings,
    teacher_embedding: Tensor,
    targets: PublishedTargets,
    *,
    detach_teacher: bool = False,
) -> Tensor:
    """L_FGI as published, with quirks (a) to (d).

    Parameters
    ----------
    pairs : PairEmbeddings
        Of the student.
    teacher_embedding : Tensor, shape (B, E, D, H, W), float
        Of the teacher for the same patch.
    targets : PublishedTargets
        Those along z are used.
    detach_teacher : bool
        Give the teacher no gradient; the published code does.

    Returns
    -------
    Tensor, scalar
        Sum over pairs.
    """
    if detach_teacher:
        teacher_embedding = teacher_embedding.detach()
    teacher = teacher_embedding.float().transpose(1, 2)
    depth = teacher.shape[1]
    loss = teacher.new_zeros(())
    for z in range(depth - 1):
        value = teacher.new_zeros(())
        for s, channel in enumerate(Z_CHANNELS, start=1):
            if z + 1 + s >= depth:
                break
            same, weight = targets.same[channel], targets.weight[channel]
            later = (pairs.current[:, z].float() * teacher[:, z + 1 + s]).sum(1).clamp(0.0, 1.0)
            value = _wmse(later, same[:, z + 2], weight[:, z + 2])
            if s > 1:
                earlier = (pairs.prev[:, z].float() * teacher[:, z + s]).sum(1).clamp(0.0, 1.0)
                value = value + _wmse(earlier, same[:, z + 1], weight[:, z + 1])
        loss = loss + value
    return loss


def _wmse(found: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Divide the weighted squared error by batch and area; channels are summed."""
    area = found.shape[0] * found.shape[-2] * found.shape[-1]
    return (weight * (found - wanted) ** 2).sum() / max(1, area)
