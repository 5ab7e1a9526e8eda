"""Two small plots, drawn by hand: nothing to import, nothing to wait for while a slider moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_cad.core.live_segmentation import size_histogram

if TYPE_CHECKING:
    import numpy.typing as npt
    from qtpy.QtGui import QPaintEvent

    from napari_cad.core.live_segmentation import Curve

_HEIGHT = 90
_MARGIN = 16


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

    def show_sizes(self, sizes: npt.NDArray[Any]) -> None:
        """Count and draw the sizes of all segments, in voxels."""
        self.counts = size_histogram(sizes)
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw one bar for a quarter of a power of ten."""
        painter, frame = QPainter(self), self._frame()
        heights = np.log1p(self.counts) / max(1e-9, float(np.log1p(self.counts.max(initial=1))))
        width = frame.width() / len(heights)
        for i, height in enumerate(heights.tolist()):
            bar = QRectF(frame.left() + i * width, frame.bottom(), max(1.0, width - 1), 0)
            bar.setTop(frame.bottom() - height * frame.height())
            painter.fillRect(bar, self.palette().highlight())
        self._text(painter, "1", Qt.AlignmentFlag.AlignLeft)
        largest = 10 ** (len(heights) / 4)
        self._text(painter, f"{largest:.0e} voxels", Qt.AlignmentFlag.AlignRight)


class CurvePlot(_Plot):
    """VOI over the threshold, its lowest point, and where the slider stands."""

    def __init__(self) -> None:
        super().__init__()
        self.curve: Curve | None = None
        self.threshold = 0.5
        self.setToolTip("VOI over the threshold, against the truth; lower is better.")
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
        voi = np.array([self.curve.scores[t].voi for t in thresholds])
        # all merged is far worse than anything of interest: cut it off
        top = min(float(voi.max()), 4 * float(voi.min()) + 1e-9)

        def place(threshold: float, value: float) -> QPointF:
            height = min(value, top) / top
            return QPointF(
                frame.left() + threshold * frame.width(), frame.bottom() - height * frame.height()
            )

        points = [place(t, v) for t, v in zip(thresholds, voi.tolist(), strict=True)]
        painter.setPen(QPen(self.palette().highlight().color(), 2))
        painter.drawPolyline(QPolygonF(points))
        best = points[thresholds.index(self.curve.best)]
        painter.setPen(self.palette().windowText().color())
        painter.drawEllipse(best, 4, 4)
        painter.setPen(QPen(self.palette().windowText().color(), 1, Qt.PenStyle.DashLine))
        painter.drawLine(place(self.threshold, 0), place(self.threshold, top))
        self._text(painter, "threshold 0", Qt.AlignmentFlag.AlignLeft)
        self._text(painter, "1", Qt.AlignmentFlag.AlignRight)
