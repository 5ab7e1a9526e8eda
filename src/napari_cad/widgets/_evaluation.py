"""An evaluation that is shown: of which layers, and what was found."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.segment_export import write_csv
from napari_cad.viewer.error_layers import error_features

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_cad.core.error_report import ErrorReport, SegmentationError
    from napari_cad.core.metrics import ContingencyTable
    from napari_cad.viewer.error_layers import ErrorLayers
    from napari_cad.viewer.placement import Placement


@dataclass
class Evaluation:
    """What is known of one segmentation; it outlives its layers.

    Attributes
    ----------
    layer, truth : Labels
        What was compared.
    layers : ErrorLayers
        Where the errors are shown.
    placement : Placement
        Of the segmentation.
    lut : ndarray or None
        Of a run's segments, as they were when it began.
    table : ContingencyTable or None
        Fragments and truth of a run.
    report : ErrorReport or None
        None until it is done.
    shown : list of int
        Numbers of the errors that have an arrow.
    """

    layer: Labels
    truth: Labels
    layers: ErrorLayers
    placement: Placement
    lut: Any
    table: ContingencyTable | None = None
    report: ErrorReport | None = None
    shown: list[int] = field(default_factory=list)


def belongs(error: SegmentationError, kind: str, identity: int) -> bool:
    """Whether it is an error of this "neurite" or "segment"."""
    if kind == "neurite":
        return error.kind == "split" and identity in error.truth
    return error.kind == "merge" and identity in error.segments


def scores_text(report: ErrorReport) -> str:
    """Scores, and how much of them the listed errors explain, as rich text."""
    scores = report.scores
    located = {kind: report.located(kind) for kind in ("split", "merge")}
    rest = scores.voi - sum(located.values())
    return (
        f"<b>VOI {scores.voi:.3f}</b> = split {scores.voi_split:.3f} + merge "
        f"{scores.voi_merge:.3f} bits &nbsp; <b>ARAND {scores.arand:.3f}</b><br>"
        f"{len(report.errors)} errors cost {located['split']:.3f} (splits) and "
        f"{located['merge']:.3f} (merges), {rest:.3f} lies along boundaries and in smaller ones."
    )


def write_report(path: str, report: ErrorReport) -> None:
    """Write the errors as CSV, or the whole report where the path ends in .json.

    Raises
    ------
    OSError, StoreError
        If the file cannot be written.
    """
    if path.lower().endswith(".json"):
        Path(path).write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
        return
    columns = error_features(report.errors, range(1, len(report.errors) + 1))
    places = np.array([error.position for error in report.errors]).reshape(-1, 3)
    write_csv(path, columns | dict(zip("zyx", places.T, strict=True)))
