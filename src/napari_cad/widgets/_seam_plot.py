"""A plot of how much embeddings change from one voxel to the next, over the position."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

if TYPE_CHECKING:
    from qtpy.QtGui import QPaintEvent

    from napari_cad.core.seams import SeamScore

STUDENT, TEACHER = "#57ab5a", "#e5834b"

_HEIGHT = 150
_TEXT = 16


class SeamPlot(QWidget):
    """The profiles of student and 3D network along one axis, and where the windows meet."""

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(_HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip(
            "Mean change of the embedding from one voxel to the next, over the position in the "
            "region. Dotted lines are where windows meet: a seam is a peak there."
        )
        self._scores: tuple[SeamScore, SeamScore] | None = None
        self._axis = 1

    def show_scores(self, scores: tuple[SeamScore, SeamScore] | None, axis: int) -> None:
        """Draw the scores of student and 3D network along axis y (0) or x (1), or nothing."""
        self._scores = scores
        self._axis = axis
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw both profiles over each other, with the same scale."""
        if self._scores is None:
            return
        profiles = [score.profile[self._axis] for score in self._scores]
        top = max(float(np.nanmax(profile)) for profile in profiles) * 1.05
        if not top > 0:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        frame = QRectF(self.rect()).adjusted(2, _TEXT, -2, -_TEXT)
        width = frame.width() / max(1, len(profiles[0]) - 1)
        text = self.palette().windowText().color()
        faint = QColor(text)
        faint.setAlphaF(0.45)
        painter.setPen(QPen(faint, 1, Qt.PenStyle.DotLine))
        for border in self._scores[0].borders[self._axis]:
            x = frame.left() + border * width
            painter.drawLine(QPointF(x, frame.top()), QPointF(x, frame.bottom()))
        # the student above: its line is the flatter one
        for profile, colour in zip(reversed(profiles), (TEACHER, STUDENT), strict=True):
            painter.setPen(QPen(QColor(colour), 1.3))
            points = [
                QPointF(frame.left() + i * width, frame.bottom() - v / top * frame.height())
                for i, v in enumerate(profile.tolist())
                if v == v  # the first has no predecessor
            ]
            painter.drawPolyline(QPolygonF(points))
        painter.setPen(text)
        low, high = Qt.AlignmentFlag.AlignBottom, Qt.AlignmentFlag.AlignTop
        painter.drawText(self.rect(), Qt.AlignmentFlag.AlignLeft | low, "0")
        painter.drawText(
            self.rect(),
            Qt.AlignmentFlag.AlignRight | low,
            f"{'yx'[self._axis]} = {len(profiles[0])}",
        )
        painter.drawText(self.rect(), Qt.AlignmentFlag.AlignLeft | high, f"change, up to {top:.2g}")
