"""Choosing what to learn from: an image and labels in the viewer, or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_cad.core.errors import ConfigError
from napari_cad.training.data_config import VOLUME_FILE, VolumeConfig
from napari_cad.training.fine_tune_config import Truth
from napari_cad.viewer.volumes import sendable, volume_from_layer
from napari_cad.widgets._form import form_layout, tooltip
from napari_cad.widgets._image import ImageChooser
from napari_cad.widgets._labels import training_labels_chooser
from napari_cad.widgets._section_list import parse_sections

if TYPE_CHECKING:
    from napari.components import ViewerModel

_LAYERS, _FOLDER = "layers", "folder"


class TruthForm(QWidget):
    """What to learn from.

    Parameters
    ----------
    viewer : ViewerModel
        Whose layers are offered.

    Attributes
    ----------
    changed : Signal
        (), when another image or folder is chosen.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self.source = QComboBox()
        self.source.addItem("layers of this viewer", _LAYERS)
        self.source.addItem("a folder of training data", _FOLDER)
        self.source.setToolTip(
            tooltip("A folder as the Proofread widget saves it, or one made by hand.")
        )
        self.image = ImageChooser(viewer)
        self.labels = training_labels_chooser(viewer)
        self.labels.setToolTip(
            tooltip("One positive id per neurite; it must have the image's shape.")
        )
        self.meaning = QComboBox()
        self.meaning.addItem("the border between neurites", "dense")
        self.meaning.addItem("not labelled", "sparse")
        self.meaning.addItem("none of the labelled", "complete")
        self.meaning.setToolTip(
            tooltip(
                "Where every neurite is labelled, 0 is the border. Where only parts of some are "
                "painted, 0 is not labelled, and nothing is learned there. Where those that are "
                "labelled are whole, 0 is none of them: they are told from what surrounds them."
            )
        )
        self.sections = _line(
            "all with labels",
            "Sections whose labels are right, such as 0-3, 7; those of the others are not looked "
            "at.",
        )
        self.validation = _line(
            "the last fifth",
            "Labelled sections that are not learned from: they choose the best weights and show "
            "the progress. By default the last fifth, at least two, of six or more.",
        )
        self.folder = QLineEdit()
        self.folder.setToolTip(
            tooltip(f"It holds an image, labels and a {VOLUME_FILE} that names them.")
        )
        self.browse = QToolButton()
        self.browse.setText("…")
        self.browse.setToolTip("Choose a folder")
        self._parts = {_LAYERS: QWidget(), _FOLDER: QWidget()}
        self._lay_out()
        self.source.currentIndexChanged.connect(self._on_source)
        self.image.changed.connect(self.changed)
        self.folder.textChanged.connect(self._on_folder)
        self.browse.clicked.connect(self._on_browse)
        self._on_source()

    def _lay_out(self) -> None:
        layers, row = form_layout(self._parts[_LAYERS]), QHBoxLayout()
        layers.addRow("Image", self.image)
        layers.addRow("Labels", self.labels)
        layers.addRow("Label 0 is", self.meaning)
        layers.addRow("Sections", self.sections)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.folder)
        row.addWidget(self.browse)
        folder = QWidget()
        folder.setLayout(row)
        form_layout(self._parts[_FOLDER]).addRow("Folder", folder)
        top, bottom = QWidget(), QWidget()
        form_layout(top).addRow("Learn from", self.source)
        form_layout(bottom).addRow("Keep out", self.validation)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for part in (top, *self._parts.values(), bottom):
            column.addWidget(part)

    def truth(self) -> Truth | str:
        """Give what to learn from, ready to be sent to a job: a folder goes as its path.

        Raises
        ------
        NapariCadError
            If nothing is chosen, or it cannot be learned from; the message says what to do.
        """
        if self.source.currentData() == _FOLDER:
            return self._folder()
        image, layer = self.image.volume(), self.labels.layer
        if layer is None:
            raise ConfigError(
                "Open or paint labels first: there is no labels layer of three axes (z, y, x)."
            )
        labels = volume_from_layer(layer)
        if labels.shape != image.shape:
            raise ConfigError(
                f"The labels “{labels.name}” have the shape {labels.shape}, the image "
                f"“{image.name}” {image.shape}: choose labels of this image."
            )
        return Truth(
            sendable(image),
            sendable(labels),
            sparse=self.meaning.currentData() != "dense",
            complete=self.meaning.currentData() == "complete",
            labelled=parse_sections(self.sections.text()),
        )

    def kept_out(self) -> tuple[int, ...] | None:
        """Give the sections to validate on; None where it is left open."""
        return parse_sections(self.validation.text())

    def name(self) -> str:
        """Give a short name of what is chosen."""
        if self.source.currentData() == _FOLDER:
            return Path(self.folder.text().strip()).name
        return "" if self.image.layer is None else self.image.layer.name

    def choose_folder(self, folder: str) -> None:
        """Choose a folder as the person would."""
        self.source.setCurrentIndex(self.source.findData(_FOLDER))
        self.folder.setText(folder)

    def _folder(self) -> str:
        text = self.folder.text().strip()
        if not text:
            raise ConfigError("Choose a folder of training data first.")
        VolumeConfig.from_folder(text)  # says what is wrong with it, before anything starts
        return str(Path(text).expanduser().absolute())

    def _on_source(self) -> None:
        for name, part in self._parts.items():
            part.setVisible(name == self.source.currentData())
        self.changed.emit()

    def _on_folder(self, text: str) -> None:
        self.folder.setToolTip(text)
        self.changed.emit()

    def _on_browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(
            self, "Choose a folder of training data", self.folder.text()
        )
        if folder:
            self.folder.setText(folder)


def _line(placeholder: str, text: str) -> QLineEdit:
    line = QLineEdit()
    line.setPlaceholderText(placeholder)
    line.setToolTip(tooltip(text))
    return line
