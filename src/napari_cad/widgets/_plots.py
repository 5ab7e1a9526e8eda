"""Two small plots, drawn by hand: nothing to import, nothing to wait for while a slider moves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

if TYPE_CHECKING:
    import numpy.typing as npt
    from qtpy.QtGui import QPaintEvent

    from napari_cad.core.live_segmentation import Curve

_HEIGHT = 90
_MARGIN = 16
#: Of the second of two lines.
_SECOND = "#ff9d2e"


class _Plot(QWidget):
    """A fixed height, the palette's colours, and a frame to draw in."""

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(_HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def _frame(self) -> QRectF:
        return QRectF(self.rect()).adjusted(2, 2, -2, -_MARGIN)

    def _text(self, painter: QPainter, text: str, flag: Qt.AlignmentFlag) -> None:
        painter.setPen(self.palette().windowText().color())
        painter.drawText(self.rect(), flag | Qt.AlignmentFlag.AlignBottom, text)


class SizeHistogram(_Plot):
    """How many segments there are of each size, both on a logarithmic axis."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: npt.NDArray[Any] = np.zeros(1, np.int64)
        self.setToolTip("Number of segments by size in voxels; both axes are logarithmic.")

    def show_counts(self, counts: npt.NDArray[Any]) -> None:
        """Draw how many segments there are of each size; see `size_histogram`."""
        self.counts = counts
        self.update()

    def right_end(self) -> str:
        """Say where the axis ends, in one digit; nothing where there are no segments."""
        if not self.counts.any():
            return ""
        largest = 10 ** (len(self.counts) / 4)
        digit = 10 ** math.floor(math.log10(largest) + 1e-9)
        return f"{round(largest / digit) * digit:,} voxels"

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw one bar for a quarter of a power of ten."""
        if not self.counts.any():
            return
        painter, frame = QPainter(self), self._frame()
        heights = np.log1p(self.counts) / max(1e-9, float(np.log1p(self.counts.max(initial=1))))
        width = frame.width() / len(heights)
        for i, height in enumerate(heights.tolist()):
            bar = QRectF(frame.left() + i * width, frame.bottom(), max(1.0, width - 1), 0)
            bar.setTop(frame.bottom() - height * frame.height())
            painter.fillRect(bar, self.palette().highlight())
        self._text(painter, "1", Qt.AlignmentFlag.AlignLeft)
        self._text(painter, self.right_end(), Qt.AlignmentFlag.AlignRight)


class CurvePlot(_Plot):
    """VOI and ARAND over the threshold, where VOI is lowest, and where the slider stands."""

    def __init__(self) -> None:
        super().__init__()
        self.curve: Curve | None = None
        self.threshold = 0.5
        self.setToolTip(
            "VOI and ARAND over the threshold, against the truth, each on its own scale; lower "
            "is better. Circles stand where VOI is lowest."
        )
        self.setVisible(False)

    def show_curve(self, curve: Curve | None) -> None:
        """Draw a curve, or nothing."""
        self.curve = curve
        self.setVisible(curve is not None)
        self.update()

    def show_threshold(self, threshold: float) -> None:
        """Move the mark of the slider."""
        self.threshold = threshold
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the curve from threshold 0 to 1."""
        if self.curve is None:
            return
        painter, frame = QPainter(self), self._frame()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        thresholds = list(self.curve.scores)
        scores = self.curve.scores.values()
        x = frame.left() + np.array(thresholds) * frame.width()
        best = thresholds.index(self.curve.best)
        lines = (
            ("VOI", [score.voi for score in scores], self.palette().highlight().color()),
            ("ARAND", [score.arand for score in scores], QColor(_SECOND)),
        )
        for name, values, colour in lines:
            # all merged is far worse than anything of interest: cut it off
            top = min(max(values), 4 * min(values)) + 1e-9
            y = frame.bottom() - np.minimum(values, top) / top * frame.height()
            points = [QPointF(*place) for place in zip(x.tolist(), y.tolist(), strict=True)]
            painter.setPen(QPen(colour, 2))
            painter.drawPolyline(QPolygonF(points))
            flag = Qt.AlignmentFlag.AlignLeft if name == "VOI" else Qt.AlignmentFlag.AlignRight
            middle = self.rect().adjusted(self.width() // 3, 0, -self.width() // 3, 0)
            painter.drawText(middle, flag | Qt.AlignmentFlag.AlignBottom, name)
            painter.setPen(self.palette().windowText().color())
            painter.drawEllipse(points[best], 4, 4)
        slider = frame.left() + self.threshold * frame.width()
        painter.setPen(QPen(self.palette().windowText().color(), 1, Qt.PenStyle.DashLine))
        painter.drawLine(QPointF(slider, frame.top()), QPointF(slider, frame.bottom()))
        self._text(painter, "threshold 0", Qt.AlignmentFlag.AlignLeft)
        self._text(painter, "1", Qt.AlignmentFlag.AlignRight)
