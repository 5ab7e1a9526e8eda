"""The losses of teacher, student, distillation and feature grafting.

Liu et al. (CVPR 2024), section 3 and supplement, in the definitions that this project recommends.
Where the published code computes something else, `napari_cad.training.published` has it.

In all of them a patch has D sections, and the student has seen the D − 1 pairs of consecutive
ones: pair i is (section i, section i + 1). All embeddings come raw and are normalised here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from napari_cad.core.network import ShallowFeatures
from napari_cad.core.teacher import TEACHER_OFFSETS, offset_cosine, teacher_affinities
from napari_cad.training.targets import class_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from napari_cad.core.network import StudentNetwork
    from napari_cad.training.targets import AffinityTarget

#: Channels of the teacher's offsets along z, nearest first: the distances that are grafted.
Z_CHANNELS = (0, 3, 6, 9)


class PairEmbeddings(NamedTuple):
    """What the student makes of the pairs of a patch; each (B, D − 1, E, H, W), not normalised.

    `prev[:, i]` is section i and `current[:, i]` section i + 1, both as pair i shows them.
    """

    prev: Tensor
    current: Tensor


def embed_pairs(student: StudentNetwork, image: Tensor) -> PairEmbeddings:
    """Run the student on all pairs of consecutive sections of a patch.

    The shallow encoder runs once per section. In training mode its batch norms, and those of the
    joint part, see all pairs of the batch at once; the published code runs pair after pair.

    Parameters
    ----------
    student : StudentNetwork
        Any width.
    image : Tensor, shape (B, D, H, W), float
        Intensities in [0, 1]; D at least 2, H and W multiples of 16.

    Returns
    -------
    PairEmbeddings
    """
    b, d, h, w = image.shape
    # section by section, so that the earlier and the later ones of all pairs are each one piece of
    # memory: views in the layout that the convolutions like, instead of copies in another one
    sections = image.transpose(0, 1).reshape(d * b, 1, h, w)
    shallow = student.encode_section(sections)
    prev = ShallowFeatures(*(features[:-b] for features in shallow))
    current = ShallowFeatures(*(features[b:] for features in shallow))
    shape = (d - 1, b, student.embedding_dim, h, w)
    embedding_prev, embedding = student.embed_pair(prev, current)
    return PairEmbeddings(
        embedding_prev.reshape(shape).transpose(0, 1), embedding.reshape(shape).transpose(0, 1)
    )


def affinity_error(cosine: Tensor, target: Tensor, clamped: bool = False) -> Tensor:
    """Squared error of the student's affinity max(cosine, 0), with a gradient where it is needed.

    Where the cosine is negative, the affinity is 0 whatever the weights, so the squared error of
    the affinity has no gradient, and a pair of voxels of one neurite that the student thinks
    opposite is never corrected. With t the target this is (t − c)² − (1 − t) min(c, 0)²: for
    c ≥ 0 the squared error; for c < 0 it is 0 where t = 0 and (1 − c)² where t = 1.

    Parameters
    ----------
    cosine : Tensor, float in [−1, 1]
        Of the student's embeddings.
    target : Tensor, float in [0, 1]
        The affinity it should have.
    clamped : bool
        The published (clamp(c, 0, 1) − t)², which has no gradient for c < 0.

    Returns
    -------
    Tensor, float ≥ 0
    """
    if clamped:
        return (cosine.clamp(0.0, 1.0) - target) ** 2
    return (target - cosine) ** 2 - (1 - target) * cosine.clamp(max=0.0) ** 2


def weighted_mean(error: Tensor, weight: Tensor, counted: Tensor) -> Tensor:
    """Weighted sum over the counted voxels, divided by their number; 0 where there are none.

    With all voxels counted this is the published WMSE of one channel: the sum of the weights does
    not enter.
    """
    total = torch.where(counted, weight * error, 0.0).sum()
    return total / counted.sum().clamp(min=1)


def teacher_loss(
    embedding: Tensor, targets: Sequence[AffinityTarget], nearest_weight: float = 10.0
) -> Tensor:
    """L_3D: the teacher's cosines against the targets of all twelve offsets.

    Parameters
    ----------
    embedding : Tensor, shape (B, E, D, H, W), float
        Of the teacher; need not be normalised.
    targets : sequence of AffinityTarget
        Of `TEACHER_OFFSETS`, in that order.
    nearest_weight : float
        Of the three nearest neighbours; the other offsets weigh 1. Published: 10.

    Returns
    -------
    Tensor, scalar
        Sum over offsets of the weighted mean of (cosine − target)². Nothing is clamped: negatives
        are pulled to right angles.
    """
    normalised = F.normalize(embedding.float(), dim=1, eps=1e-12)
    loss = normalised.new_zeros(())
    for k, (offset, target) in enumerate(zip(TEACHER_OFFSETS, targets, strict=True)):
        error = (offset_cosine(normalised, offset) - target.same) ** 2
        weight = nearest_weight if k < 3 else 1.0
        loss = loss + weight * weighted_mean(error, target.weight, target.known)
    return loss


def pair_cosines(pairs: PairEmbeddings) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines of all pairs along z, y and x.

    Parameters
    ----------
    pairs : PairEmbeddings
        Of the student.

    Returns
    -------
    z, y, x : Tensor, shapes (B, D−1, H, W), (B, D−1, H−1, W), (B, D−1, H, W−1), float32
        Between the sections of each pair, and within its later section. Only voxels whose
        neighbour exists; the value is that of the later voxel.
    """
    prev = F.normalize(pairs.prev.float(), dim=2, eps=1e-12)
    current = F.normalize(pairs.current.float(), dim=2, eps=1e-12)
    z = (prev * current).sum(2)
    y = (current[..., 1:, :] * current[..., :-1, :]).sum(2)
    x = (current[..., 1:] * current[..., :-1]).sum(2)
    return z, y, x


def slice_loss(
    pairs: PairEmbeddings, targets: Sequence[AffinityTarget], *, clamped: bool = False
) -> Tensor:
    """L_slice: the student's affinities within and between sections against the truth.

    Parameters
    ----------
    pairs : PairEmbeddings
        Of the student.
    targets : sequence of AffinityTarget
        Of the three nearest neighbours z, y, x (further ones are not looked at).
    clamped : bool
        See `affinity_error`.

    Returns
    -------
    Tensor, scalar
        Mean over pairs of the sum over channels of the weighted mean error. The published loss is
        the sum over pairs: D − 1 times as much.
    """
    z, y, x = pair_cosines(pairs)
    loss = z.new_zeros(())
    for cosine, target in zip((z, y, x), _of_pairs(targets), strict=True):
        same, known, weight = target
        loss = loss + weighted_mean(affinity_error(cosine, same, clamped), weight, known)
    return loss


def cross_loss(
    pairs: PairEmbeddings,
    teacher_embedding: Tensor,
    targets: Sequence[AffinityTarget],
    *,
    detach_teacher: bool = False,
    clamped: bool = False,
    unlabelled_weight: float = 0.0,
) -> Tensor:
    """L_CAD: the student's affinities against the teacher's, weighted by the truth.

    Parameters
    ----------
    pairs : PairEmbeddings
        Of the student.
    teacher_embedding : Tensor, shape (B, E, D, H, W), float
        Of the teacher for the same patch; need not be normalised.
    targets : sequence of AffinityTarget
        Of the three nearest neighbours; only the weights and what is known are used.
    detach_teacher : bool
        Give the teacher no gradient. As published the two teach each other.
    clamped : bool
        See `affinity_error`.
    unlabelled_weight : float
        Weight of voxels without truth, where the teacher is the only one who knows. 0 leaves them
        out.

    Returns
    -------
    Tensor, scalar
        Mean over pairs of the sum over channels, as of `slice_loss`.
    """
    if detach_teacher:
        teacher_embedding = teacher_embedding.detach()
    z, y, x = teacher_affinities(teacher_embedding).unbind(1)
    wanted = (z[:, 1:], y[:, 1:, 1:], x[:, 1:, :, 1:])
    loss = z.new_zeros(())
    for cosine, aim, target in zip(pair_cosines(pairs), wanted, _of_pairs(targets), strict=True):
        _, known, weight = target
        if unlabelled_weight > 0:
            weight = torch.where(known, weight, unlabelled_weight)
            known = torch.ones_like(known)
        loss = loss + weighted_mean(affinity_error(cosine, aim, clamped), weight, known)
    return loss


def interaction_loss(
    pairs: PairEmbeddings,
    teacher_embedding: Tensor,
    targets: Sequence[AffinityTarget],
    *,
    detach_teacher: bool = False,
    clamped: bool = False,
) -> Tensor:
    """L_FGI: affinities between the student's section and the teacher's other sections.

    Feature grafting interaction: the student's embedding of a section takes the place of the
    teacher's, and the affinities to the teacher's embeddings s = 1, 2, 3, 4 sections further on
    are compared with the truth. For pair z and distance s there are two terms: section z as the
    earlier one of the pair with z + s, and section z + 1 as the later one with z + 1 + s.

    Parameters
    ----------
    pairs : PairEmbeddings
        Of the student.
    teacher_embedding : Tensor, shape (B, E, D, H, W), float
        Of the teacher for the same patch; need not be normalised. E is that of the student.
    targets : sequence of AffinityTarget
        Of `TEACHER_OFFSETS`; those along z are used.
    detach_teacher : bool
        Give the teacher no gradient.
    clamped : bool
        See `affinity_error`.

    Returns
    -------
    Tensor, scalar
        Mean over all terms whose sections exist.
    """
    if detach_teacher:
        teacher_embedding = teacher_embedding.detach()
    prev = F.normalize(pairs.prev.float(), dim=2, eps=1e-12)
    current = F.normalize(pairs.current.float(), dim=2, eps=1e-12)
    teacher = F.normalize(teacher_embedding.float(), dim=1, eps=1e-12).transpose(1, 2)
    depth = teacher.shape[1]
    total, n_terms = prev.new_zeros(()), 0
    for s, channel in enumerate(Z_CHANNELS, start=1):
        target = targets[channel]
        # as the target of distance s, element i is about sections i and i + s
        for student, first in ((prev, 0), (current, 1)):
            count = depth - s - first
            if count < 1:
                continue
            cosine = (student[:, :count] * teacher[:, first + s :]).sum(2)
            error = affinity_error(cosine, target.same[:, first:], clamped)
            mean = weighted_mean(error, target.weight[:, first:], target.known[:, first:])
            total, n_terms = total + count * mean, n_terms + count
    return total / max(1, n_terms)


def retention_loss(
    pairs: PairEmbeddings, start: PairEmbeddings, targets: Sequence[AffinityTarget]
) -> Tensor:
    """L_keep: the student's affinities against those that it began with, where there is no truth.

    Fine-tuning on few labels forgets what they do not show: with a single labelled section, all of
    the affinities between sections. So the student as it was before serves as a teacher for what
    is not labelled, after the idea of learning without forgetting (Li and Hoiem, ECCV 2016).

    Parameters
    ----------
    pairs : PairEmbeddings
        Of the student.
    start : PairEmbeddings
        Of the student as it was before the first step; gets no gradient.
    targets : sequence of AffinityTarget
        Of the three nearest neighbours; only what is known is used.

    Returns
    -------
    Tensor, scalar
        Mean over pairs of the sum over channels, as of `slice_loss`, over the unknown voxels. Their
        class weights are those of affinities above 0.5, over the unknown voxels of the batch.
    """
    loss = pairs.current.new_zeros(())
    for cosine, before, target in zip(
        pair_cosines(pairs), pair_cosines(start), _of_pairs(targets), strict=True
    ):
        _, known, _ = target
        aim = before.detach().clamp(min=0.0)
        same = aim > 0.5
        fraction = (same & ~known).sum().float() / (~known).sum().clamp(min=1)
        loss = loss + weighted_mean(
            affinity_error(cosine, aim), class_weights(same, fraction), ~known
        )
    return loss


def _of_pairs(
    targets: Sequence[AffinityTarget],
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Targets of the pairs: the later section of pair i is section i + 1."""
    z, y, x = targets[:3]
    return [(z.same, z.known, z.weight)] + [
        (t.same[:, 1:], t.known[:, 1:], t.weight[:, 1:]) for t in (y, x)
    ]
