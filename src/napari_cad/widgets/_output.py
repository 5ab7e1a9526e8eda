"""Where the store of a run goes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_cad.core.errors import ConfigError
from napari_cad.viewer.places import work_folder
from napari_cad.viewer.preferences import preferences
from napari_cad.widgets._form import tooltip

if TYPE_CHECKING:
    from napari_cad.core.volume import EMVolume


def default_store_path(volume: EMVolume, checkpoint: str) -> Path:
    """Choose a place for a run: the preferred folder, else beside the volume's file, else our own.

    Parameters
    ----------
    volume : EMVolume
        The name of its file or of itself is the first half of the name.
    checkpoint : str
        Its name is the second half, so that two checkpoints do not share a store.

    Returns
    -------
    Path
        The same for the same volume and checkpoint, so that a run can go on where it stopped.
    """
    name, folder = volume.name, work_folder() / "runs"
    if volume.source is not None:
        beside = Path(volume.source.path)
        name = beside.stem if beside.is_file() else beside.name.removesuffix(".zarr")
        if os.access(beside.parent, os.W_OK):
            folder = beside.parent
    folder = preferences().store_folder or folder
    stem = "_".join(re.sub(r"[^\w.-]+", "-", part).strip("-") for part in (name, checkpoint))
    return folder / f"{stem}.zarr"


class OutputChooser(QWidget):
    """The path of the store: proposed, until the person changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.path = QLineEdit()
        self.path.setToolTip(
            tooltip(
                "Folder for the store with affinities, fragments and region graph. A run that was "
                "stopped goes on there."
            )
        )
        self.browse = QToolButton()
        self.browse.setText("…")
        self.browse.setToolTip("Choose another place")
        self.overwrite = QCheckBox("Begin anew")
        self.overwrite.setToolTip(
            tooltip("Remove the store of an earlier run at this place instead of going on with it.")
        )
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.path)
        row.addWidget(self.browse)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(row)
        layout.addWidget(self.overwrite)
        self.setFocusProxy(self.path)
        self._typed = False
        self.path.textEdited.connect(self._on_edited)
        self.browse.clicked.connect(self._on_browse)

    def propose(self, path: Path) -> None:
        """Show a path, unless the person has chosen one."""
        if not self._typed:
            self._show(path)

    def value(self) -> Path:
        """Give the path of the store.

        Raises
        ------
        ConfigError
            If there is none, or it is the path of a file.
        """
        text = self.path.text().strip()
        if not text:
            raise ConfigError("Choose where the result is to be stored.")
        path = Path(text).expanduser()
        if path.is_file():
            raise ConfigError(f"{path} is a file: the store becomes a folder, choose another name.")
        return path.absolute()

    def _on_edited(self, text: str) -> None:
        self._typed = bool(text.strip())
        self.path.setToolTip(text)

    def _on_browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(
            self, "Folder in which to put the store", str(Path(self.path.text()).parent)
        )
        if folder:
            self._typed = True
            self._show(Path(folder) / (Path(self.path.text()).name or "run.zarr"))

    def _show(self, path: Path) -> None:
        self.path.setText(str(path))
        self.path.setToolTip(str(path))
        self.path.setCursorPosition(len(str(path)))  # its end says more than its beginning
