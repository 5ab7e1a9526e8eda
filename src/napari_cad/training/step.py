"""One step's forward pass: both networks and all losses, as one module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from napari_cad.core.affinity import OFFSETS
from napari_cad.core.teacher import TEACHER_OFFSETS
from napari_cad.training.losses import (
    cross_loss,
    embed_pairs,
    interaction_loss,
    retention_loss,
    slice_loss,
    teacher_loss,
)
from napari_cad.training.published import (
    published_cross_loss,
    published_interaction_loss,
    published_targets,
)
from napari_cad.training.targets import affinity_targets

if TYPE_CHECKING:
    from napari_cad.core.network import StudentNetwork
    from napari_cad.core.teacher import TeacherNetwork
    from napari_cad.training.config import LossConfig
    from napari_cad.training.losses import PairEmbeddings
    from napari_cad.training.targets import AffinityTarget, Balance


class DistillationStep(nn.Module):
    """Student, teacher and their losses.

    One module, so that torch's DistributedDataParallel can wrap all of it.

    Parameters
    ----------
    student : StudentNetwork
        What is wanted.
    teacher : TeacherNetwork or None
        None trains the student alone.
    config : LossConfig
        Which losses, with what weights.
    frozen : bool
        Keep the teacher as it is: in evaluation mode and without gradients.
    start : StudentNetwork, optional
        The student as it was before the first step, whose affinities are kept where there is no
        truth; it stays in evaluation mode and gets no gradient.
    """

    def __init__(
        self,
        student: StudentNetwork,
        teacher: TeacherNetwork | None,
        config: LossConfig,
        *,
        frozen: bool = False,
        start: StudentNetwork | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.start = start
        self.config = config
        self.frozen = frozen
        if teacher is not None and frozen:
            teacher.requires_grad_(False)
        if start is not None:
            start.requires_grad_(False)

    def train(self, mode: bool = True) -> DistillationStep:
        """Enter or leave training mode; what does not learn stays in evaluation mode."""
        super().train(mode)
        if self.start is not None:
            self.start.eval()
        if self.teacher is not None and self.frozen:
            self.teacher.eval()
        return self

    def forward(
        self, image: Tensor, labels: Tensor, distil: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the losses of a batch.

        Parameters
        ----------
        image : Tensor, shape (B, D, H, W), float32 in [0, 1]
            Patches.
        labels : Tensor, shape (B, D, H, W), integer
            Their truth: ids, 0 = border, `IGNORE` = none.
        distil : bool
            Whether L_CAD and L_FGI count.

        Returns
        -------
        loss : Tensor, scalar
            What to descend.
        parts : dict of str to Tensor
            The losses that were computed, without weights: "teacher", "slice", "retention",
            "cross", "interaction"; detached.
        """
        config = self.config
        offsets = OFFSETS if self.teacher is None else TEACHER_OFFSETS
        balance: Balance = config.balance  # type: ignore[assignment]
        targets = affinity_targets(labels, offsets, balance)
        pairs = embed_pairs(self.student, image)
        n_pairs = image.shape[1] - 1 if config.sum_pairs else 1

        parts = {}
        if config.slice > 0:
            parts["slice"] = slice_loss(pairs, targets, clamped=config.clamped) * n_pairs
        if self.start is not None and config.retention > 0:
            with torch.no_grad():
                start = embed_pairs(self.start, image)
            parts["retention"] = retention_loss(pairs, start, targets) * n_pairs
        distil = distil and (config.cross > 0 or config.interaction > 0)
        if self.teacher is not None and (distil or not self.frozen):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                embedding = self.teacher(image[:, None])
            if config.teacher > 0 and not self.frozen:
                parts["teacher"] = teacher_loss(embedding, targets, config.nearest_weight)
            if distil:
                parts |= self._distillation(pairs, embedding, targets, labels, n_pairs)

        total = image.new_zeros(())
        for name, part in parts.items():
            total = total + getattr(config, name) * part
        return total, {name: part.detach() for name, part in parts.items()}

    def _distillation(
        self,
        pairs: PairEmbeddings,
        embedding: Tensor,
        targets: list[AffinityTarget],
        labels: Tensor,
        n_pairs: int,
    ) -> dict[str, Tensor]:
        config, parts = self.config, {}
        detach = config.detach_teacher
        if config.published_fgi:
            published = published_targets(labels)
            # both are sums over pairs; as means they weigh against L_slice what ours do
            scale = n_pairs / (labels.shape[1] - 1)
            if config.cross > 0:
                parts["cross"] = scale * published_cross_loss(
                    pairs, embedding, published, detach_teacher=detach
                )
            if config.interaction > 0:
                parts["interaction"] = scale * published_interaction_loss(
                    pairs, embedding, published, detach_teacher=detach
                )
            return parts
        if config.cross > 0:
            parts["cross"] = n_pairs * cross_loss(
                pairs, embedding, targets, detach_teacher=detach, clamped=config.clamped,
                unlabelled_weight=config.unlabelled_weight,
            )  # fmt: skip
        if config.interaction > 0:
            parts["interaction"] = interaction_loss(
                pairs, embedding, targets, detach_teacher=detach, clamped=config.clamped
            )
        return parts
