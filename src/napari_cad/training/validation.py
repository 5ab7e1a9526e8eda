"""How good a student is on volumes that it does not learn from, by a fixed rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_cad.core.affinity import OFFSETS
from napari_cad.core.agglomeration import MergeTree, agglomerate_graph
from napari_cad.core.config import FragmentConfig, InferenceConfig
from napari_cad.core.errors import ConfigError
from napari_cad.core.evaluation import coloured
from napari_cad.core.fragments import section_fragments
from napari_cad.core.inference import AffinityPredictor
from napari_cad.core.metrics import ContingencyTable, Scores, contingency
from napari_cad.core.region_graph import RegionGraph, section_edges
from napari_cad.core.stored_affinity import dequantise
from napari_cad.training.losses import weighted_mean
from napari_cad.training.targets import affinity_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from napari_cad.core.network import StudentNetwork
    from napari_cad.training.config import ValidationConfig
    from napari_cad.training.data import TrainingVolume

    Picture = npt.NDArray[np.uint8]

#: The published merge function.
MERGE_FUNCTION = "median"


@dataclass(frozen=True)
class Validation:
    """Outcome of a validation.

    Parameters
    ----------
    loss : float
        Class-weighted squared error of the affinities, as L_slice: mean over sections, summed
        over channels.
    scores : Scores
        At the fixed threshold; with several volumes, the means of theirs.
    picture : ndarray, shape (Y, 4 X, 3), uint8
        Image, affinities (z, y, x as red, green, blue), segments and truth of a middle section of
        the first volume.
    """

    loss: float
    scores: Scores
    picture: Picture

    def to_json(self) -> dict[str, float]:
        """Loss and scores as plain values."""
        return {"loss": self.loss, **self.scores.to_json()}


def validate(
    student: StudentNetwork,
    volumes: Sequence[TrainingVolume],
    *,
    size: int | None = 512,
    threshold: float = 0.5,
    inference: InferenceConfig | None = None,
) -> Validation:
    """Segment volumes and compare with their truth.

    The recipe is that of a segmentation with the published merge function at a fixed threshold.
    The truth is not widened for the scores; only voxels without truth are left out of them.

    Parameters
    ----------
    student : StudentNetwork
        Left as it is; a copy runs, in evaluation mode.
    volumes : sequence of TrainingVolume
        At least one.
    size : int, optional
        Side of the middle of the sections that is looked at, in voxels; None is all.
    threshold : float
        Agglomeration threshold.
    inference : InferenceConfig, optional
        Where the network runs.

    Returns
    -------
    Validation
    """
    predictor = AffinityPredictor(student, inference)
    results = [_validate_one(predictor, volume, size, threshold) for volume in volumes]
    losses, scores, pictures = zip(*results, strict=True)
    mean = Scores(*(float(np.mean([getattr(s, name) for s in scores])) for name in _SCORE_NAMES))
    return Validation(float(np.mean(losses)), mean, pictures[0])


_SCORE_NAMES = ("voi_split", "voi_merge", "arand")


def check_validation(volumes: Sequence[TrainingVolume], config: ValidationConfig) -> None:
    """Make sure, before hours of training, that there is something to validate on.

    Parameters
    ----------
    volumes : sequence of TrainingVolume
        To validate on.
    config : ValidationConfig
        How.

    Raises
    ------
    ConfigError
        If a volume has no truth in the middle of its sections, or the loss is to choose the best
        weights and a volume has a single section, of which it does not say anything.
    """
    for volume in volumes:
        if config.select == "loss" and volume.shape[0] < 2:
            raise ConfigError(
                f"{volume.name}: the loss of a validation needs two neighbouring sections, got one:"
                " take more, or set validation.select to voi"
            )
        rows, columns = (_middle(n, config.size) for n in volume.shape[1:])
        sections = range(volume.shape[0])
        if not any(volume.read_truth(z)[rows, columns].any() for z in sections):
            raise ConfigError(
                f"{volume.name}: the middle of its {len(sections)} sections, which would be "
                "validated on, has no labels: take other sections, or make validation.size larger"
            )


@dataclass(frozen=True)
class ScoreCurve:
    """How good a student is on a volume, over agglomeration thresholds.

    Parameters
    ----------
    loss : float
        Of the affinities, before anything is segmented; as that of `Validation`.
    scores : dict of float to Scores
        By threshold.
    """

    loss: float
    scores: dict[float, Scores]


def score_curve(
    student: StudentNetwork,
    volume: TrainingVolume,
    thresholds: Sequence[float],
    *,
    size: int | None = None,
    inference: InferenceConfig | None = None,
) -> ScoreCurve:
    """Segment a volume once and score it at several thresholds.

    Parameters
    ----------
    student, volume, size, inference
        As of `validate`.
    thresholds : sequence of float
        Agglomeration thresholds.

    Returns
    -------
    ScoreCurve
        Thresholds in their order.
    """
    segmented = _segment(AffinityPredictor(student, inference), volume, size)
    return ScoreCurve(segmented.loss, {t: segmented.scores(t) for t in thresholds})


@dataclass(frozen=True)
class _Segmented:
    """Fragments of a volume against its truth, how they merge, and one section of it all."""

    tree: MergeTree
    table: ContingencyTable
    loss: float
    shown: list[Any]

    def scores(self, threshold: float) -> Scores:
        return Scores.of(self.table.relabelled(self.tree.lut(threshold)))


def _validate_one(
    predictor: AffinityPredictor, volume: TrainingVolume, size: int | None, threshold: float
) -> tuple[float, Scores, Picture]:
    segmented = _segment(predictor, volume, size)
    lut = segmented.tree.lut(threshold)
    grey, affinities, own, truth = segmented.shown
    parts = [
        np.repeat((grey[..., None] * 255).astype(np.uint8), 3, axis=2),
        np.moveaxis(affinities, 0, 2),
        coloured(lut[own]),
        coloured(truth.astype(np.int64)),
    ]
    return segmented.loss, segmented.scores(threshold), np.concatenate(parts, axis=1)


def _segment(predictor: AffinityPredictor, volume: TrainingVolume, size: int | None) -> _Segmented:
    window = [_middle(n, size) for n in volume.shape[1:]]
    image = volume.image.crop(y=window[0], x=window[1])
    start = (window[0].start, window[1].start)
    side = (window[0].stop - start[0], window[1].stop - start[1])

    tables, overlaps, losses = [], [], []
    fragments, n_fragments = None, 0
    shown: list[Any] = []
    for section in predictor.predict(image, volume.intensity):
        z, affinities = section.z, section.affinities
        truth = volume.read_truth(z)[window[0], window[1]]
        own = section_fragments(affinities, FragmentConfig()) + np.uint32(n_fragments)
        n_fragments = int(own.max())
        tables.append(section_edges(own, affinities, z, fragments))
        overlaps.append(contingency(truth, own))
        fragments = own
        if z > 0:
            labels = volume.read_labels((z - 1, *start), (2, *side))
            losses.append(affinity_loss(affinities, labels))
        if z == image.n_sections // 2:
            shown = [volume.intensity(image.section(z)), affinities, own, truth]

    graph = RegionGraph.concatenate(tables, n_fragments)
    tree = MergeTree.from_history(n_fragments, agglomerate_graph(graph, MERGE_FUNCTION))
    loss = float(np.mean(losses)) if losses else float("nan")
    return _Segmented(tree, ContingencyTable.total(overlaps), loss, shown)


def affinity_loss(affinities: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32]) -> float:
    """Class-weighted squared error of the affinities of a section.

    Parameters
    ----------
    affinities : ndarray, shape (3, Y, X), uint8
        Of the later section; q means (q + 0.5) / 256.
    labels : ndarray, shape (2, Y, X), int32
        Truth of both sections, as `TrainingVolume.read_labels` gives it.

    Returns
    -------
    float
        Sum over channels of the weighted mean over known voxels with a neighbour.
    """
    found = torch.from_numpy(dequantise(affinities))
    z, y, x = affinity_targets(torch.from_numpy(labels[None]), OFFSETS)
    pairs = (
        (found[0], z.same[0, 0], z.weight[0, 0], z.known[0, 0]),
        (found[1, 1:], y.same[0, 1], y.weight[0, 1], y.known[0, 1]),
        (found[2, :, 1:], x.same[0, 1], x.weight[0, 1], x.known[0, 1]),
    )
    parts = [weighted_mean((a - same) ** 2, weight, known) for a, same, weight, known in pairs]
    return float(torch.stack(parts).sum())


def _middle(length: int, size: int | None) -> slice:
    if size is None or size >= length:
        return slice(0, length)
    start = (length - size) // 2
    return slice(start, start + size)
