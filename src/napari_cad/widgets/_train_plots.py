"""The loss curve of a training, and a section as the student sees it before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_cad.widgets._plots import _Plot

if TYPE_CHECKING:
    import numpy.typing as npt
    from qtpy.QtGui import QPaintEvent

    from napari_cad.training.fine_tune_config import Compared

_LOSS = QColor("#4c8dff")
_VALIDATION = QColor("#e0a030")
_CAPTION = 16
_GAP = 3
#: Pixels for the numbers at both sides of the curve, and above and below its highest and lowest.
_SIDE = 42
_ABOVE = 6


class LossPlot(_Plot):
    """Loss over steps as a line, VOI of the validations as dots with a scale of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[tuple[int, float]] = []
        self.scores: list[tuple[int, float]] = []
        self.steps = 1
        self.setToolTip(
            "Line, and numbers on the left: loss of the training patches. Dots, and numbers on the "
            "right: VOI, of the sections that are named below. Each goes from its lowest to its "
            "highest value."
        )

    def clear(self, steps: int) -> None:
        """Begin a curve over so many steps."""
        self.losses, self.scores, self.steps = [], [], max(1, steps)
        self.update()

    def go_on(self, step: int, steps: int) -> None:
        """Go on from a step, towards so many: what is drawn beyond it will be done again."""
        self.losses = [point for point in self.losses if point[0] <= step]
        self.scores = [point for point in self.scores if point[0] <= step]
        self.steps = max(1, steps)
        self.update()

    def add_loss(self, step: int, loss: float) -> None:
        """Add a point of the line."""
        self.losses.append((step, loss))
        self.update()

    def add_score(self, step: int, voi: float) -> None:
        """Add a dot."""
        self.scores.append((step, voi))
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw both from step 0 to the last."""
        painter, frame = QPainter(self), self._frame()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(self.palette().mid().color())
        below = QPointF(0, _ABOVE)
        painter.drawLine(frame.bottomLeft() + below, frame.bottomRight() + below)
        line = self._places(self.losses, frame)
        painter.setPen(QPen(_LOSS, 2))
        painter.drawPolyline(QPolygonF(line))
        painter.setPen(QPen(_VALIDATION, 1.5))
        painter.setBrush(_VALIDATION)
        for dot in self._places(self.scores, frame):
            painter.drawEllipse(dot, 3, 3)
        for points, colour, flag in (
            (self.losses, _LOSS, Qt.AlignmentFlag.AlignLeft),
            (self.scores, _VALIDATION, Qt.AlignmentFlag.AlignRight),
        ):
            if points:
                self._draw_ends(painter, frame, [value for _, value in points], colour, flag)
        said = [f"loss {self.losses[-1][1]:.3f}"] if self.losses else []
        said += [f"VOI {self.scores[-1][1]:.3f}"] if self.scores else []
        self._text(painter, " · ".join(said), Qt.AlignmentFlag.AlignLeft)
        self._text(painter, f"step {self.steps}", Qt.AlignmentFlag.AlignRight)

    def _frame(self) -> QRectF:
        return super()._frame().adjusted(_SIDE, _ABOVE, -_SIDE, -_ABOVE)

    def _places(self, points: list[tuple[int, float]], frame: QRectF) -> list[QPointF]:
        values = [value for _, value in points]
        lowest, highest = min(values, default=0.0), max(values, default=0.0)
        span = highest - lowest
        return [
            QPointF(
                frame.left() + frame.width() * step / self.steps,
                frame.bottom() - frame.height() * ((value - lowest) / span if span else 0.5),
            )
            for step, value in points
        ]

    def _draw_ends(
        self,
        painter: QPainter,
        frame: QRectF,
        values: list[float],
        colour: QColor,
        flag: Qt.AlignmentFlag,
    ) -> None:
        """Write the highest and the lowest value beside the frame; once where they are one."""
        painter.setPen(colour)
        lowest, highest = min(values), max(values)
        ends = ((0.0, highest), (1.0, lowest)) if highest > lowest else ((0.5, lowest),)
        for depth, value in ends:
            middle = frame.top() + depth * frame.height()
            row = QRectF(2, middle - _CAPTION / 2, self.width() - 4, _CAPTION)
            painter.drawText(row, flag | Qt.AlignmentFlag.AlignVCenter, f"{value:.3f}")


class BeforeAfter(QWidget):
    """Image and truth, and affinities and segments of the student before and now."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Compared | None = None
        self.after: Compared | None = None
        self._rows: list[list[tuple[str, QImage]]] = []
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.setToolTip(
            "Affinities to the section before, the row before and the column before as red, green "
            "and blue: white inside neurites, dark at membranes."
        )
        self.setVisible(False)

    def clear(self) -> None:
        """Show nothing."""
        self.before = self.after = None
        self._rows = []
        self.setVisible(False)

    def show_section(self, compared: Compared) -> None:
        """Show the section as the student sees it at a step; the first one stays as before."""
        if self.before is None:
            self.before = compared
        self.after = compared
        image, old, old_segments, truth = np.split(self.before.picture, 4, axis=1)
        _, new, new_segments, _ = np.split(compared.picture, 4, axis=1)
        then, now = _caption(self.before), _caption(compared)
        self._rows = [
            [("image", _picture(image)), (then, _picture(old)), ("", _picture(old_segments))],
            [("truth", _picture(truth)), (now, _picture(new)), ("", _picture(new_segments))],
        ]
        self.setVisible(True)
        self.updateGeometry()
        self.setFixedHeight(self.heightForWidth(self.width()))
        self.update()

    def heightForWidth(self, width: int) -> int:
        """Two rows of three pictures, with captions."""
        if not self._rows:
            return 0
        picture = self._rows[0][0][1]
        side = (width - 2 * _GAP) / 3
        return int(2 * (side * picture.height() / picture.width() + _CAPTION))

    def resizeEvent(self, event: Any) -> None:
        """Keep the pictures' proportions."""
        super().resizeEvent(event)
        if self._rows and self.height() != self.heightForWidth(self.width()):
            self.setFixedHeight(self.heightForWidth(self.width()))

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw them."""
        if not self._rows:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.setPen(self.palette().windowText().color())
        side, height = (self.width() - 2 * _GAP) / 3, self.height() / 2
        for i, row in enumerate(self._rows):
            for j, (text, picture) in enumerate(row):
                left, top = j * (side + _GAP), i * height
                wide = 2 * side if j == 1 else side  # its caption is that of the next one too
                painter.drawText(QRectF(left, top, wide, _CAPTION), 0, text)
                painter.drawImage(
                    QRectF(left, top + _CAPTION, side, height - _CAPTION),
                    picture,
                    QRectF(picture.rect()),
                )


def measured_text(before: Compared, after: Compared) -> str:
    """Say what VOI was measured, on which sections, and what it tells.

    Parameters
    ----------
    before, after : Compared
        The first and the last one of a run.

    Returns
    -------
    str
        A few sentences.
    """
    then, now = before.scores["voi"], after.scores["voi"]
    if after.kept_out:
        what = "the sections that are kept out"
    else:
        what = "the section shown and those beside it that are labelled"
    said = f"VOI, lower is better, of {what}: {then:.3f} {_when(before)}"
    if after.step != before.step:
        said += f", {now:.3f} {_when(after)}" + (", which is worse" if now > then else "")
    if not after.kept_out:
        said += (
            ". These were trained on too, for nothing is kept out: it does not say how well other "
            "sections go"
        )
    return f"{said}."


def _when(compared: Compared) -> str:
    return "before" if compared.step == 0 else f"at step {compared.step}"


def _caption(compared: Compared) -> str:
    return f"{_when(compared).removeprefix('at ')}: VOI {compared.scores['voi']:.3f}"


def _picture(array: npt.NDArray[np.uint8]) -> QImage:
    array = np.ascontiguousarray(array)
    height, width = array.shape[:2]
    return QImage(array.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
