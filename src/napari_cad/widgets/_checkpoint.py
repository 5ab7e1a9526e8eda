"""Choosing a checkpoint: the embedded one, a published one, or a file."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFileDialog, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_cad.core.published import PUBLISHED
from napari_cad.viewer.checkpoints import DEFAULT, checkpoints_in, describe_checkpoint, short_title
from napari_cad.viewer.preferences import preferences
from napari_cad.viewer.state import state_of
from napari_cad.widgets._form import tooltip

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_cad.core.checkpoint_metadata import CheckpointMetadata

_OTHER = "file"
#: Characters about the training data that are shown without asking.
_NOTE_LENGTH = 28
#: Files that a person may choose.
FILTER = "Checkpoints (*.safetensors *.ckpt *.pt *.pth);;All files (*)"


class CheckpointChooser(QWidget):
    """A list of checkpoints, and a line about the one that is chosen.

    Parameters
    ----------
    viewer : ViewerModel, optional
        All lists of one viewer show the same choice; without it a list is on its own.

    Attributes
    ----------
    changed : Signal
        (), when another one is chosen.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel | None = None) -> None:
        super().__init__()
        self._state = None if viewer is None else state_of(viewer)
        self._folder = preferences().checkpoint_folder
        self.combo = QComboBox()
        self.combo.setToolTip(
            "The trained student network. It fits images like those it was trained on."
        )
        self.combo.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.combo.addItem("Default (embedded)", DEFAULT)
        for name, published in PUBLISHED.items():
            self.combo.addItem(f"{name} (published)", name)
            self._set_tooltip(f"{published.notes} Licence: {published.licence}.")
        for path in checkpoints_in(self._folder):
            self.combo.addItem(short_title(str(path)), str(path))
            self._set_tooltip(str(path))
        self.combo.addItem("File…", _OTHER)
        self._set_tooltip("A published .ckpt file or one of our .safetensors files.")
        self._note = QLabel()
        self._note.setWordWrap(True)
        self._note.setEnabled(False)  # a quiet colour, whatever the theme
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.combo)
        layout.addWidget(self._note)
        self.setFocusProxy(self.combo)
        self._chosen = DEFAULT
        self._describe()
        self.combo.activated.connect(self._on_activated)
        if self._state is not None:
            self._state.checkpoint_chosen.connect(self._on_chosen)
            self._on_chosen(self._state.checkpoint or DEFAULT)

    def value(self) -> str:
        """Give "default", the name of a published checkpoint, or a path."""
        return self._chosen

    def label(self) -> str:
        """Give a short name of the choice, fit for a file name."""
        metadata, title = self.metadata(), short_title(self._chosen)
        if metadata is None or "/" in title:  # of a training run: the name is that of others too
            return title
        return metadata.name

    def metadata(self) -> CheckpointMetadata | None:
        """Give what the checkpoint says about itself, if it does."""
        return self._metadata

    def choose(self, name_or_path: str) -> None:
        """Choose a checkpoint as the person would."""
        if self._state is None:
            self._choose(name_or_path)
        else:
            self._state.choose_checkpoint(name_or_path)

    def _on_chosen(self, name_or_path: str) -> None:
        """Follow a choice that was made here or in another widget."""
        if name_or_path != self._chosen:
            self._choose(name_or_path)
        else:  # the person has left the list of files without choosing one
            self.combo.setCurrentIndex(self.combo.findData(name_or_path))

    def _choose(self, name_or_path: str) -> None:
        index = self.combo.findData(name_or_path)
        if index < 0:
            index = self.combo.count() - 1
            self.combo.insertItem(index, short_title(name_or_path), name_or_path)
            self.combo.setItemData(index, name_or_path, Qt.ItemDataRole.ToolTipRole)
        self.combo.setCurrentIndex(index)
        self._chosen = name_or_path
        self._describe()
        self.changed.emit()

    def _on_activated(self, index: int) -> None:
        chosen = self.combo.itemData(index)
        if chosen == _OTHER:
            path, _ = QFileDialog.getOpenFileName(
                self, "Choose a checkpoint", str(self._folder or ""), FILTER
            )
            chosen = path or self._chosen
        self.choose(chosen)

    def _describe(self) -> None:
        metadata = self._metadata = describe_checkpoint(self._chosen)
        if metadata is None:
            self._note.setText("It does not say what it was trained on.")
            return
        size = metadata.voxel_size
        voxels = "" if size is None else f"{' × '.join(f'{n:g}' for n in size)} nm, "
        data = textwrap.shorten(metadata.training_data, _NOTE_LENGTH, placeholder="…")
        self._note.setText(f"Trained on {voxels}{data}")
        self._note.setToolTip(tooltip(f"{metadata.training_data}. {metadata.notes}"))

    def _set_tooltip(self, text: str) -> None:
        last = self.combo.count() - 1
        self.combo.setItemData(last, tooltip(text), Qt.ItemDataRole.ToolTipRole)
