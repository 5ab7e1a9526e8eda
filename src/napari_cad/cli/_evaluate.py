"""`napari-cad evaluate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from napari_cad.cli._options import Json, Sections, parse_range

if TYPE_CHECKING:
    from napari_cad.core.evaluation import StoreEvaluation
    from napari_cad.core.metrics import Scores


def evaluate(
    run_or_labels: Annotated[
        str,
        typer.Argument(metavar="RUN_OR_LABELS", help="A finished store, or a volume of labels."),
    ],
    truth: Annotated[
        str,
        typer.Argument(
            metavar="TRUTH",
            help="Ground truth labels, 0 = unlabelled and not counted. For a run on a part of a "
            "volume, the truth of the whole volume will do.",
        ),
    ],
    sections: Sections = None,
    as_json: Json = False,
) -> None:
    """Score a run or labels against ground truth.

    VOI split is H(segmentation | truth) in bits, the cost of false splits; VOI merge is
    H(truth | segmentation), the cost of false merges; VOI is their sum, 0 is perfect. ARAND is the
    adapted Rand error, 0 is perfect. Truth label 0 is not counted, label 0 of the segmentation is
    an ordinary label. For a run, the whole curve over the threshold comes from one table.
    """
    from napari_cad.core.evaluation import evaluate_labels, evaluate_store
    from napari_cad.core.readers import open_volume
    from napari_cad.core.store import SegmentationStore, is_store

    wanted, truth_volume = parse_range(sections, "--sections"), open_volume(truth)
    if is_store(run_or_labels):
        result = evaluate_store(SegmentationStore.open(run_or_labels), truth_volume, wanted)
        typer.echo(json.dumps(result.to_json()) if as_json else _curve_text(result))
        return
    scores = evaluate_labels(open_volume(run_or_labels), truth_volume, wanted)
    if as_json:
        typer.echo(json.dumps(scores.to_json()))
    else:
        typer.echo(f"{_HEADER}\n{_row('', scores)}")


_HEADER = f"{'threshold':>9}  {'VOI split':>9}  {'VOI merge':>9}  {'VOI':>6}  {'ARAND':>6}"


def _row(threshold: str, scores: Scores, note: str = "") -> str:
    return (
        f"{threshold:>9}  {scores.voi_split:>9.3f}  {scores.voi_merge:>9.3f}  "
        f"{scores.voi:>6.3f}  {scores.arand:>6.3f}{note}"
    )


def _curve_text(result: StoreEvaluation) -> str:
    lines = [_HEADER]
    for threshold, scores in result.curve.items():
        is_best = threshold == result.best_threshold
        note = "  lowest VOI (chosen by the truth: no test score)" if is_best else ""
        lines.append(_row(f"{threshold:.2f}", scores, note))
    lines += ["", "at the run's own threshold:", _row(f"{result.threshold:g}", result.scores)]
    return "\n".join(lines)
