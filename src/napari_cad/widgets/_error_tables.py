"""The tables of an evaluation: errors, neurites, segments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal
from qtpy.QtWidgets import QTabWidget, QVBoxLayout, QWidget

from napari_cad.viewer.error_layers import ids_text
from napari_cad.widgets._table import ColumnsTable

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.core.error_report import ErrorReport, ObjectCost

ERROR_HEADINGS = {
    "#": "Its number, by cost. It stands beside the arrow.",
    "Error": "A split: one neurite in two segments. A merge: two neurites in one segment.",
    "VOI": "What it adds to the variation of information, in bits.",
    "Voxels": "Labelled voxels of the smaller side.",
    "Truth": "The neurite that is split, or the two that are merged.",
    "Segments": "The two segments that one neurite is in, or the one that merges.",
    "Where": "Section, row and column.",
    "Cause": (
        "Contact: a wrong cut or a wrong join there; its join score. Fragment: one fragment is in "
        "both neurites, so that no threshold helps. Apart: the two sides touch nowhere in this "
        "stack."
    ),
}

_NEURITE_HEADINGS = {
    "Neurite": "Id in the truth.",
    "VOI split": "Its share in bits.",
    "Voxels": "Labelled voxels.",
    "Parts": "Number of segments of that size in it.",
    "Segments": "Those segments, the largest first.",
}

_SEGMENT_HEADINGS = {
    "Segment": "Id in the segmentation.",
    "VOI merge": "Its share in bits.",
    "Voxels": "Labelled voxels.",
    "Neurites": "Number of neurites of that size in it.",
    "Which": "Those neurites, the largest first.",
}

_BITS = "{:.4f}".format

#: Parts that are named in a cell.
_MOST_PARTS = 12


class ErrorTables(QWidget):
    """Three tables as tabs, worst first.

    Attributes
    ----------
    error_chosen : Signal
        (int), place of an error in the report.
    object_chosen : Signal
        (str, int), "neurite" or "segment" and its id.
    """

    error_chosen = Signal(int)
    object_chosen = Signal(str, int)

    def __init__(self) -> None:
        super().__init__()
        self.errors = ColumnsTable(ERROR_HEADINGS, {"VOI": _BITS})
        self.neurites = ColumnsTable(_NEURITE_HEADINGS, {"VOI split": _BITS, "Neurite": str})
        self.segments = ColumnsTable(_SEGMENT_HEADINGS, {"VOI merge": _BITS, "Segment": str})
        self.tabs = QTabWidget()
        for index, (table, name, about) in enumerate(
            (
                (self.errors, "Errors", "Every place where it went wrong."),
                (self.neurites, "Split neurites", "The neurites that are in several segments."),
                (self.segments, "Merging segments", "The segments that hold several neurites."),
            )
        ):
            self.tabs.addTab(table, name)
            self.tabs.setTabToolTip(index, about)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.tabs)
        self.errors.chosen.connect(self._on_error)
        self.neurites.chosen.connect(self._on_neurite)
        self.segments.chosen.connect(self._on_segment)
        self._report: ErrorReport | None = None

    def show_report(self, report: ErrorReport | None) -> None:
        """Fill the tables; empty them where there is no report."""
        self._report = report
        self.errors.set_columns(_error_columns(report))
        self.neurites.set_columns(_object_columns(() if report is None else report.neurites))
        self.segments.set_columns(_object_columns(() if report is None else report.segments))

    def _on_error(self, row: int) -> None:
        self.error_chosen.emit(row)

    def _on_neurite(self, row: int) -> None:
        if self._report is not None:
            self.object_chosen.emit("neurite", self._report.neurites[row].id)

    def _on_segment(self, row: int) -> None:
        if self._report is not None:
            self.object_chosen.emit("segment", self._report.segments[row].id)


def _error_columns(report: ErrorReport | None) -> list[npt.NDArray[Any]]:
    errors = () if report is None else report.errors
    return [
        np.arange(1, len(errors) + 1),
        _texts(error.kind for error in errors),
        np.array([error.cost for error in errors], np.float64),
        np.array([error.voxels for error in errors], np.int64),
        _texts(ids_text(error.truth) for error in errors),
        _texts(ids_text(error.segments) for error in errors),
        _texts(" ".join(str(round(p)) for p in error.position) for error in errors),
        _texts(error.cause + _score_text(error.score) for error in errors),
    ]


def _score_text(score: float) -> str:
    if np.isnan(score):
        return ""
    return f" {score:.2f}" if np.isfinite(score) else " (never joined)"


def _object_columns(objects: tuple[ObjectCost, ...]) -> list[npt.NDArray[Any]]:
    return [
        np.array([o.id for o in objects], np.uint64),
        np.array([o.cost for o in objects], np.float64),
        np.array([o.voxels for o in objects], np.int64),
        np.array([len(o.parts) for o in objects], np.int64),
        _texts(", ".join(str(part) for part, _ in o.parts[:_MOST_PARTS]) for o in objects),
    ]


def _texts(values: Any) -> npt.NDArray[Any]:
    return np.array(list(values), object)
