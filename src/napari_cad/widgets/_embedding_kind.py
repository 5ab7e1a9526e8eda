"""Which embedding is shown, scaled or not, and how much of its variance the colours show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QComboBox, QLabel, QSizePolicy, QWidget

from napari_cad.widgets._form import form_layout, tooltip

if TYPE_CHECKING:
    from napari_cad.core.projection import EmbeddingBasis, Which

_WHICH: dict[Which, tuple[str, str]] = {
    "embedding": (
        "as the later section of (z − 1, z)",
        "The embedding that this section's affinities come from. The first section is paired with "
        "itself.",
    ),
    "embedding_prev": (
        "as the earlier section of (z, z + 1)",
        "The embedding that the next section's affinity along z comes from. It lives in another "
        "space and has colours of its own. The last section is paired with itself.",
    ),
}

#: Red, green and blue, as they are seen on a dark ground.
_COLOURS = ("#e5534b", "#57ab5a", "#539bf5")


class EmbeddingKind(QWidget):
    """A form of three rows.

    Attributes
    ----------
    changed : Signal
        (), when another kind is chosen.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.which = QComboBox()
        for which, (text, about) in _WHICH.items():
            self.which.addItem(text, which)
            last = self.which.count() - 1
            self.which.setItemData(last, tooltip(about), Qt.ItemDataRole.ToolTipRole)
        self.which.setToolTip(tooltip("Which of a section's two embeddings is shown."))
        # a long name must not make the dock wider
        self.which.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.normalised = QCheckBox("Scale to length 1")
        self.normalised.setChecked(True)
        self.normalised.setToolTip(
            tooltip(
                "Affinities know the directions of embeddings only. Raw embeddings differ in "
                "length too."
            )
        )
        self.explained = QLabel()
        self.explained.setToolTip(
            tooltip(
                "How much of the variance of the embeddings each colour shows. What is missing "
                "cannot be seen here, though the network uses it."
            )
        )
        form = form_layout(self)
        form.addRow("Embedding", self.which)
        form.addRow("", self.normalised)
        form.addRow("Variance", self.explained)
        self.which.currentIndexChanged.connect(self._on_changed)
        self.normalised.toggled.connect(self._on_changed)

    def value(self) -> tuple[Which, bool]:
        """Give the embedding, and whether it is scaled to length 1."""
        return self.which.currentData(), self.normalised.isChecked()

    def show_explained(self, basis: EmbeddingBasis | None) -> None:
        """Show the shares of variance of a basis, or that there is none yet."""
        if basis is None:
            self.explained.setText("–")
            return
        shares = " + ".join(
            f'<span style="color: {colour}">■</span> {100 * share:.0f}'
            for colour, share in zip(_COLOURS, basis.explained, strict=True)
        )
        self.explained.setText(f"{shares} = {100 * sum(basis.explained):.0f} %")

    def _on_changed(self) -> None:
        self.changed.emit()
