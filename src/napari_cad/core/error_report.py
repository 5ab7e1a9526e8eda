"""The errors of a segmentation, as `napari_cad.core.segmentation_errors` reports them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from napari_cad.core.metrics import Scores

#: Smallest error that is looked for, in voxels, where nothing else is asked for.
LEAST_VOXELS = 500

Cause = Literal["contact", "fragment", "apart"]


@dataclass(frozen=True)
class SegmentationError:
    """One wrong cut or one wrong join.

    Attributes
    ----------
    kind : str
        "split" or "merge".
    cause : str
        "contact": the two sides touch here and were wrongly cut or joined. "fragment": a single
        fragment reaches into both neurites, so no choice of joins avoids the error. "apart": the
        two sides touch nowhere.
    cost : float
        What it adds to the VOI, in bits.
    voxels : int
        Labelled voxels of the smaller side that are cut off, or joined to something else.
    truth : tuple of int
        A merge: the two neurites, that of the larger side first. A split: the neurite, twice.
    segments : tuple of int
        A split: the segments of the larger and of the smaller side. A merge: the segment, twice.
    position : tuple of float
        (z, y, x) in voxels.
    area : int
        Voxel faces of the contact; 0 where there is none.
    score : float
        Join score of the contact; inf where it never joins, NaN where the score is not known or
        there is no contact.
    fragments : tuple of int
        The two fragments in contact; of a "fragment" the same one twice; 0 where there are none.
    """

    kind: Literal["split", "merge"]
    cause: Cause
    cost: float
    voxels: int
    truth: tuple[int, int]
    segments: tuple[int, int]
    position: tuple[float, float, float]
    area: int
    score: float
    fragments: tuple[int, int]


@dataclass(frozen=True)
class ObjectCost:
    """What a true neurite costs by being split, or a segment by merging.

    Attributes
    ----------
    id : int
        Of the neurite or segment.
    voxels : int
        Labelled voxels in it.
    cost : float
        Its share of VOI split (a neurite) or VOI merge (a segment), in bits.
    parts : tuple of (int, int)
        Segments in the neurite or neurites in the segment, (id, voxels), largest first; without
        those smaller than the smallest error looked for.
    """

    id: int
    voxels: int
    cost: float
    parts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ErrorReport:
    """Scores, and what they are made of; everything worst first.

    Attributes
    ----------
    scores : Scores
        Of the whole segmentation.
    n_voxels : int
        Labelled voxels.
    least_voxels : int
        Smallest error looked for.
    errors : tuple of SegmentationError
    neurites, segments : tuple of ObjectCost
        Those that cost anything.
    """

    scores: Scores
    n_voxels: int
    least_voxels: int
    errors: tuple[SegmentationError, ...]
    neurites: tuple[ObjectCost, ...]
    segments: tuple[ObjectCost, ...]

    def located(self, kind: str) -> float:
        """How much of VOI split or VOI merge the errors of that kind explain, in bits."""
        return sum(error.cost for error in self.errors if error.kind == kind)

    def to_json(self) -> dict[str, Any]:
        """Plain values that `json` can write; a score that is no finite number becomes None."""
        values = asdict(self)
        for error in values["errors"]:
            if not math.isfinite(error["score"]):  # JSON knows neither NaN nor infinity
                error["score"] = None
        return {**values, "scores": self.scores.to_json()}
