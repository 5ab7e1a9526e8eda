"""How well a student fits a stack, without labels: whether it sees the same upside down.

A stack has no up and no down, but the network does: a section pair goes in as (z − 1, z), and for
the reversed stack as (z + 1, z), with the two decoders in each other's place. So a small crop is
segmented twice, as it is and reversed along z, and the two segmentations are compared. What the
network recognises it recognises both ways; what it makes up it makes up differently.

The measure is normalised mutual information, 1 − VOI / (H₁ + H₂), where VOI is that between the two
segmentations and H their entropies in bits: 1 if they are the same, 0 if one tells nothing about
the other, or if nothing is told apart at all. Unlike VOI itself it does not reward merging
everything. It is taken over the crop, and section by section; the geometric mean of the two is the
agreement, so that a student that tells nothing but sections apart gets none. How it was chosen, and
where it fails: docs/fit.md.

Where a student fits, single crops give 0.95 on average with a standard deviation of 0.02 to 0.03
(SNEMI3D, the students trained on it; docs/measurements.md), and one that is half myelin, in which
there is nothing to tell apart, gives 0.85. So `judge_fit` looks twice before it says that a student
does not fit, and then allows two standard errors, 2 σ / √n, below the limit for a large stack. σ is
that of students that fit, measured, as in a control chart (Shewhart, "Economic Control of Quality
of Manufactured Product", 1931), and not that of the crops at hand: where a student does not fit,
they scatter up to seven times as much, which would excuse it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_cad.core.agglomeration import MergeTree, agglomerate_graph
from napari_cad.core.config import FragmentConfig
from napari_cad.core.errors import VolumeError
from napari_cad.core.fragments import section_fragments
from napari_cad.core.metrics import contingency, voi
from napari_cad.core.region_graph import RegionGraph, section_edges
from napari_cad.core.volume import EMVolume, spread_sections
from napari_cad.core.windows import window_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from napari_cad.core.inference import AffinityPredictor
    from napari_cad.core.intensity import IntensityMapping
    from napari_cad.core.preprocessing import Preprocessing

#: Agglomeration thresholds over which the agreement is averaged: the range of useful ones.
THRESHOLDS = (0.2, 0.3, 0.4, 0.5)

#: Sections of a crop: two that are compared, and one more on either side that they are paired with.
CROP_SECTIONS = 4

#: Crops that settings are ranked by: with two of them, chance decides between settings that are
#: about equal (docs/fit.md). The same ones decide whether a student fits.
N_CROPS = 4

#: Crops of a first look, which is enough where a student fits.
_FIRST_LOOK = 2

#: Agreement of a student that fits, averaged over a large stack, at least. Measured: 0.93 to 0.96
#: for students on the kind of data that they were trained on, 0.59 to 0.88 for five students, as
#: they are, on stacks from elsewhere.
PLAUSIBLE = 0.9

#: Standard deviation from crop to crop where a student fits. Measured: 0.02 to 0.03.
_SPREAD = 0.03

#: Standard errors that chance is allowed: one side of a confidence interval of 95 %.
_STANDARD_ERRORS = 2

#: Crops tried for each one wanted, where sections are missing.
_TRIES = 4


def sample_crops(volume: EMVolume, n: int = N_CROPS, size: int = 256) -> list[EMVolume]:
    """Read a few small crops spread over a stack.

    Parameters
    ----------
    volume : EMVolume
        Of at least two sections.
    n : int
        How many; crops with a section of one value (a missing one) are passed over for others.
    size : int
        Side of a crop in voxels, less where the sections are smaller.

    Returns
    -------
    list of EMVolume
        In memory, of at most `CROP_SECTIONS` sections each. The same volume gives the same crops.

    Raises
    ------
    VolumeError
        If there is one section only, or all crops tried have an empty one.
    """
    if volume.n_sections < 2:
        raise VolumeError(
            f"{volume.name} has one section: whether a student fits is judged by comparing "
            "sections, so at least two are needed"
        )
    depth = min(CROP_SECTIONS, volume.n_sections)
    n_starts = volume.n_sections - depth + 1
    # the middle of each n-th of the stack: the ends are where sections are damaged
    wanted = [int((2 * i + 1) * n_starts / (2 * n)) for i in range(n)]
    crops: list[EMVolume] = []
    for i, z in enumerate([*wanted, *spread_sections(n_starts, _TRIES * n)]):
        if len(crops) == n:
            break
        box = (slice(z, z + depth), *window_at(volume.shape[1:], i, size))
        data = np.ascontiguousarray(np.asarray(volume.data[box]), dtype=volume.dtype)
        if all(section.min() != section.max() for section in data):
            crops.append(EMVolume.from_array(data, name=f"{volume.name}, section {z}"))
    if not crops:
        raise VolumeError(
            f"{volume.name}: every part looked at has an empty section; leave the empty ones out"
        )
    return crops


def reversal_agreement(
    predictor: AffinityPredictor,
    preprocessing: Preprocessing | IntensityMapping,
    crops: Sequence[EMVolume],
    fragments: FragmentConfig | None = None,
    *,
    merge_function: str = "median",
) -> float:
    """Compare the segmentations of crops as they are and reversed along z.

    Parameters
    ----------
    predictor : AffinityPredictor
        The student, adapted or not.
    preprocessing : Preprocessing or IntensityMapping
        Resolved for the volume.
    crops : sequence of EMVolume
        See `sample_crops`.
    fragments : FragmentConfig, optional
        The recipe of fragments.
    merge_function : str
        One that works on the region graph.

    Returns
    -------
    float in [0, 1]
        See `agreement`, averaged over `THRESHOLDS` and crops; higher is better.
    """
    recipe = fragments or FragmentConfig()
    stacks: list[npt.NDArray[np.uint32]] = []
    graphs: list[RegionGraph] = []
    offset = 0
    for crop in crops:
        for reverse in (False, True):
            affinities = _compared_affinities(predictor, preprocessing, crop, reverse=reverse)
            labels, graph = _fragments_and_edges(affinities, recipe, offset)
            offset = graph.n_fragments
            stacks.append(labels[::-1] if reverse else labels)
            graphs.append(graph)
    # all at once: the graphs do not touch, and starting waterz costs more than running it
    graph = RegionGraph.concatenate(graphs, n_fragments=offset)
    tree = MergeTree.from_history(offset, agglomerate_graph(graph, merge_function))
    luts = [tree.lut(threshold) for threshold in THRESHOLDS]
    pairs = list(zip(stacks[::2], stacks[1::2], strict=True))
    return float(np.mean([agreement(lut[a], lut[b]) for lut in luts for a, b in pairs]))


class Judgement(NamedTuple):
    """Whether a student fits a stack.

    Attributes
    ----------
    agreement : float
        See `reversal_agreement`.
    limit : float
        What a student that fits has at least, by so few crops.
    """

    agreement: float
    limit: float

    @property
    def fits(self) -> bool:
        """Whether the agreement is that of a student that fits, chance allowed for."""
        return self.agreement >= self.limit


def judge_fit(
    predictor: AffinityPredictor,
    preprocessing: Preprocessing | IntensityMapping,
    volume: EMVolume,
    fragments: FragmentConfig | None = None,
) -> Judgement:
    """Judge whether a student fits a stack.

    Two crops are looked at first. Where they agree less than is plausible, that may be chance, and
    the `N_CROPS` that settings are ranked by decide.

    Parameters
    ----------
    predictor : AffinityPredictor
        The student, adapted or not.
    preprocessing : Preprocessing or IntensityMapping
        Resolved for the volume.
    volume : EMVolume
        Of at least two sections.
    fragments : FragmentConfig, optional
        The recipe of fragments.

    Returns
    -------
    Judgement

    Raises
    ------
    VolumeError
        See `sample_crops`.
    """
    for n in (_FIRST_LOOK, N_CROPS):
        crops = sample_crops(volume, n)
        found = reversal_agreement(predictor, preprocessing, crops, fragments)
        if found >= PLAUSIBLE:
            break
    return Judgement(found, lowest_plausible(volume, crops))


def lowest_plausible(volume: EMVolume, crops: Sequence[EMVolume]) -> float:
    """Give the lowest agreement that a student that fits may have on some crops by chance.

    Parameters
    ----------
    volume : EMVolume
        The stack.
    crops : sequence of EMVolume
        Of it; they count for no more than fit into it, since in a small one they overlap.

    Returns
    -------
    float
        Two standard errors below what is plausible for a large stack.
    """
    room = math.prod(volume.shape) / math.prod(crops[0].shape)
    return PLAUSIBLE - _STANDARD_ERRORS * _SPREAD / math.sqrt(min(len(crops), room))


def agreement(one: npt.NDArray[np.integer], other: npt.NDArray[np.integer]) -> float:
    """Compare two segmentations of a stack.

    Parameters
    ----------
    one, other : ndarray, shape (Z, Y, X), integer
        Segment ids; 0 is a segment like any other.

    Returns
    -------
    float in [0, 1]
        √(I · J), where I is the mutual information of the two, and J that of their sections by
        themselves, averaged; see `mutual_information`. 1 if they are the same.
    """
    sections = [mutual_information(a, b) for a, b in zip(one, other, strict=True)]
    return math.sqrt(mutual_information(one, other) * float(np.mean(sections)))


def mutual_information(
    one: npt.NDArray[np.integer], other: npt.NDArray[np.integer]
) -> float:  # symmetric, so neither is the truth
    """Normalised mutual information of two segmentations.

    Parameters
    ----------
    one, other : ndarray, same shape, integer
        Segment ids; 0 is a segment like any other.

    Returns
    -------
    float in [0, 1]
        2 I / (H₁ + H₂), which is 1 − VOI / (H₁ + H₂); 0 where both are a single segment.
    """
    table = contingency(truth=one, segmentation=other, ignore=())
    entropies = [_entropy(ids, table.count) for ids in (table.truth, table.segmentation)]
    if sum(entropies) == 0:
        return 0.0
    return min(1.0, max(0.0, 1 - sum(voi(table)) / sum(entropies)))  # rounding aside


def _entropy(ids: npt.NDArray[np.uint64], count: npt.NDArray[np.int64]) -> float:
    """Entropy in bits of a segmentation, from its id and voxel count in every table row."""
    _, place = np.unique(ids, return_inverse=True)
    share = np.bincount(place, weights=count) / count.sum()
    return float(-(share * np.log2(share)).sum())


def _compared_affinities(
    predictor: AffinityPredictor,
    preprocessing: Preprocessing | IntensityMapping,
    crop: EMVolume,
    *,
    reverse: bool,
) -> list[npt.NDArray[np.uint8]]:
    """Affinities of the inner sections, in the order of the (reversed) crop.

    The outer ones are there to be paired with; a crop that is too short for that does without.
    """
    if reverse:
        crop = EMVolume.from_array(np.asarray(crop.data)[::-1])
    depth = crop.n_sections
    inner = range(1, depth - 1) if depth == CROP_SECTIONS else range(depth)
    return [made.affinities for made in predictor.predict(crop, preprocessing, inner)]


def _fragments_and_edges(
    affinities: list[npt.NDArray[np.uint8]], recipe: FragmentConfig, offset: int
) -> tuple[npt.NDArray[np.uint32], RegionGraph]:
    """Fragments (Z, Y, X) with ids from `offset` + 1 on, and their region graph."""
    labels: list[npt.NDArray[np.uint32]] = []
    tables = []
    for z, section in enumerate(affinities):
        labels.append(section_fragments(section, recipe) + np.uint32(offset))
        offset = int(labels[-1].max())
        tables.append(section_edges(labels[-1], section, z, labels[-2] if z else None))
    return np.stack(labels), RegionGraph.concatenate(tables, n_fragments=offset)
