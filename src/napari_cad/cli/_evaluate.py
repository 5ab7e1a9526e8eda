"""`napari-cad evaluate`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from napari_cad.cli._options import Json, Sections, parse_range
from napari_cad.core.error_report import LEAST_VOXELS

if TYPE_CHECKING:
    from napari_cad.core.error_report import ErrorReport
    from napari_cad.core.evaluation import SectionRange, StoreEvaluation
    from napari_cad.core.metrics import Scores
    from napari_cad.core.volume import EMVolume


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
            "volume, the truth of the whole volume will do; for a quick look, that of the full "
            "resolution.",
        ),
    ],
    sections: Sections = None,
    errors: Annotated[
        int,
        typer.Option(
            "--errors",
            metavar="N",
            min=0,
            help="List the N errors that cost most: what is split or merged, and where.",
        ),
    ] = 0,
    least_voxels: Annotated[
        int,
        typer.Option("--least-voxels", metavar="N", min=1, help="Smallest error to list."),
    ] = LEAST_VOXELS,
    as_json: Json = False,
) -> None:
    """Score a run or labels against ground truth.

    VOI split is H(segmentation | truth) in bits, the cost of false splits; VOI merge is
    H(truth | segmentation), the cost of false merges; VOI is their sum, 0 is perfect. ARAND is the
    adapted Rand error, 0 is perfect. Truth label 0 is not counted, label 0 of the segmentation is
    an ordinary label. For a run, the whole curve over the threshold comes from one table.
    """
    from napari_cad.core.evaluation import evaluate_labels, evaluate_store, store_contingency
    from napari_cad.core.evaluation_job import run_errors
    from napari_cad.core.readers import open_volume
    from napari_cad.core.store import SegmentationStore, is_store

    wanted, truth_volume = parse_range(sections, "--sections"), open_volume(truth)
    report = None
    if is_store(run_or_labels):
        store = SegmentationStore.open(run_or_labels)
        table = store_contingency(store, truth_volume, wanted)
        result = evaluate_store(store, truth_volume, wanted, table)
        values, text = result.to_json(), _curve_text(result)
        if store.bin > 1:
            at = "run" if truth_volume.shape == store.shape else "truth"
            values |= {"bin": store.bin, "compared_at_resolution_of": at}
            text = f"{_binned_text(store.bin, at)}\n\n{text}"
        if errors:
            report = run_errors(store, table, least_voxels=least_voxels)
    else:
        labels = open_volume(run_or_labels)
        scores = evaluate_labels(labels, truth_volume, wanted)
        values, text = scores.to_json(), f"{_HEADER}\n{_row('', scores)}"
        if errors:
            report = _label_errors(labels, truth_volume, wanted, least_voxels)
    if report is not None:
        listed = report.to_json()["errors"][:errors]
        values, text = values | {"errors": listed}, f"{text}\n\n{_errors_text(report, errors)}"
    typer.echo(json.dumps(values) if as_json else text)


def _binned_text(factor: int, at: str) -> str:
    """Say at which resolution a run that was binned is compared."""
    what = f"The run is binned by {factor} in y and x"
    if at == "run":
        return f"{what}, and so is the truth: compared at that resolution."
    return f"{what}. Its labels are brought up to the truth's resolution, every voxel repeated."


def _label_errors(
    labels: EMVolume, truth: EMVolume, sections: SectionRange | None, least_voxels: int
) -> ErrorReport:
    """Find the errors of labels in some sections, placed in the whole volume."""
    from napari_cad.core.evaluation_job import Evaluated, evaluate_labels

    start, stop = sections or (None, None)
    first = start or 0
    wanted = (first, labels.n_sections if stop is None else min(stop, labels.n_sections))
    *_, last = evaluate_labels(labels.crop(wanted), truth.crop(wanted), least_voxels=least_voxels)
    if not isinstance(last, Evaluated):
        raise TypeError(f"an evaluation ended with {last}")
    moved = (
        replace(error, position=(error.position[0] + first, *error.position[1:]))
        for error in last.report.errors
    )
    return replace(last.report, errors=tuple(moved))


def _errors_text(report: ErrorReport, n: int) -> str:
    """Write the worst errors, one a line."""
    lines = [
        f"{len(report.errors)} errors of {report.least_voxels} voxels and more cost "
        f"{report.located('split'):.3f} (splits) and {report.located('merge'):.3f} (merges):",
        f"{'#':>4}  {'error':<5}  {'VOI':>7}  {'voxels':>9}  {'truth':<13}  {'segments':<15}  "
        f"{'z y x':<15}  cause",
    ]
    for number, error in enumerate(report.errors[:n], 1):
        place = " ".join(str(round(p)) for p in error.position)
        lines.append(
            f"{number:>4}  {error.kind:<5}  {error.cost:>7.4f}  {error.voxels:>9,}  "
            f"{_ids(error.truth):<13}  {_ids(error.segments):<15}  {place:<15}  {error.cause}"
        )
    return "\n".join(lines)


def _ids(ids: tuple[int, int]) -> str:
    return str(ids[0]) if ids[0] == ids[1] else f"{ids[0]} | {ids[1]}"


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
