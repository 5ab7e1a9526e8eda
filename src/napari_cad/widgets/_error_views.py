"""Errors in 3D, and two segmentations side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtCore import QObject

from napari_cad.core.errors import JobError
from napari_cad.viewer.error_layers import segmentation_key
from napari_cad.viewer.in_3d import In3D
from napari_cad.viewer.mesh_layers import SegmentMeshes
from napari_cad.viewer.side_by_side import SideBySide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.components import ViewerModel
    from qtpy.QtWidgets import QWidget

    from napari_cad.widgets._evaluation import Evaluation

#: Errors whose segments are shown as surfaces, at most.
_MOST_ERRORS = 12


class ErrorViews(QObject):
    """Other ways to look at evaluations than the section on screen.

    Parameters
    ----------
    viewer : ViewerModel
        Where they are shown.
    parent : QWidget
        Its owner.

    Attributes
    ----------
    progress : Signal
        (str, int, int), of the meshes; see `SegmentMeshes`.
    shown : Signal
        (int), the number of meshes that have come.
    failed : Signal
        (JobError).
    """

    progress = Signal(str, int, int)
    shown = Signal(int)
    failed = Signal(JobError)

    def __init__(self, viewer: ViewerModel, parent: QWidget) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._widget = parent
        self._meshes: dict[str, SegmentMeshes] = {}
        self._side_by_side = SideBySide(viewer)
        self._in_3d = In3D(viewer, self)
        self._evaluations: list[Evaluation] = []
        viewer.dims.events.ndisplay.connect(self._show_again)

    @property
    def beside(self) -> bool:
        """Whether segmentations are side by side now."""
        return self._side_by_side.active

    def show_meshes(self, evaluations: Sequence[Evaluation]) -> None:
        """Show the segments of the worst errors that have arrows as surfaces, in 3D.

        Raises
        ------
        VolumeError
            If there are none.
        """
        for evaluation in evaluations:
            if evaluation.report is not None:
                errors = evaluation.report.errors
                worst = [errors[number - 1] for number in evaluation.shown[:_MOST_ERRORS]]
                ids = [segment for error in worst for segment in error.segments]
                self._meshes_of(evaluation).show(evaluation.layer, ids)

    def show_side_by_side(self, evaluations: Sequence[Evaluation]) -> bool:
        """Show evaluations in cells of their own; fewer than two end it.

        Returns
        -------
        bool
            Whether they are side by side now.
        """
        self._evaluations = list(evaluations)
        if len(evaluations) < 2:
            self._side_by_side.end()
            return False
        groups = []
        for evaluation in evaluations:
            meshes = self._meshes.get(segmentation_key(evaluation.layer))
            surface = None if meshes is None else meshes.surface
            about = (surface, evaluation.layers.arrows, evaluation.layers.places)
            groups.append([evaluation.layer, *(layer for layer in about if layer is not None)])
        self._side_by_side.show(groups)
        return True

    def _meshes_of(self, evaluation: Evaluation) -> SegmentMeshes:
        key = segmentation_key(evaluation.layer)
        if key not in self._meshes:
            meshes = self._meshes[key] = SegmentMeshes(self._viewer, self._widget)
            meshes.progress.connect(self._on_progress)
            meshes.coming.connect(self._in_3d.hide)
            meshes.shown.connect(self._on_shown)
            meshes.failed.connect(self._on_failed)
        return self._meshes[key]

    def _on_progress(self, text: str, done: int, total: int) -> None:
        self.progress.emit(text, done, total)

    def _on_failed(self, error: JobError) -> None:
        self.failed.emit(error)

    def _on_shown(self, n: int) -> None:
        if n:
            self._in_3d.enter()
        self._show_again()
        self.shown.emit(n)

    def _show_again(self) -> None:
        """Take surfaces that have come, or another number of dimensions, into account."""
        if self.beside:
            there = self._viewer.layers
            self.show_side_by_side([e for e in self._evaluations if e.layer in there])
