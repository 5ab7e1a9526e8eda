"""Where a training run goes."""

from __future__ import annotations

from pathlib import Path

from psygnal import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QToolButton, QWidget

from napari_cad.core.errors import ConfigError
from napari_cad.widgets._form import tooltip

#: Every training run has one.
_CONFIG = "config.json"


class FolderChooser(QWidget):
    """The path of a run's folder: proposed, until the person changes it.

    Parameters
    ----------
    text : str
        What it is, for the tooltip.

    Attributes
    ----------
    changed : Signal
        (), when another path is shown.
    """

    changed = Signal()

    def __init__(self, text: str) -> None:
        super().__init__()
        self.path = QLineEdit()
        self.path.setToolTip(tooltip(text))
        self.browse = QToolButton()
        self.browse.setText("…")
        self.browse.setToolTip("Choose a run, or a folder for a new one")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.path)
        row.addWidget(self.browse)
        self.setFocusProxy(self.path)
        self._proposed: tuple[Path, str] | None = None
        self._typed = False
        self.path.textEdited.connect(self._on_edited)
        self.browse.clicked.connect(self._on_browse)

    def propose(self, folder: Path, stem: str) -> None:
        """Show a path that holds no run yet, unless the person has chosen one."""
        if self._typed or (folder, stem) == self._proposed:
            return
        self._proposed = (folder, stem)
        self._show(_unused(folder, stem))

    def value(self, *, must_be_new: bool) -> Path:
        """Give the path.

        Parameters
        ----------
        must_be_new : bool
            Take another path than the proposed one where that holds a run by now.

        Raises
        ------
        ConfigError
            If there is none, it is a file, or a path that the person chose holds a run although
            it must not.
        """
        text = self.path.text().strip()
        if not text:
            raise ConfigError("Choose where the run is to be stored.")
        path = Path(text).expanduser()
        if path.is_file():
            raise ConfigError(f"{path} is a file: the run becomes a folder, choose another name.")
        if must_be_new and (path / _CONFIG).exists():
            if self._typed or self._proposed is None:
                raise ConfigError(
                    f"{path} holds a training run already: continue it, or choose another folder."
                )
            path = _unused(*self._proposed)
            self._show(path)
        return path.absolute()

    def holds_run(self) -> bool:
        """Whether there is a run in the folder that is shown."""
        text = self.path.text().strip()
        return bool(text) and (Path(text).expanduser() / _CONFIG).exists()

    def _on_edited(self, text: str) -> None:
        self._typed = bool(text.strip())
        self.path.setToolTip(text)
        self.changed.emit()

    def _on_browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(
            self, "Folder of a training run", str(Path(self.path.text()).parent)
        )
        if folder:
            self._typed = True
            self._show(Path(folder))

    def _show(self, path: Path) -> None:
        self.path.setText(str(path))
        self.path.setToolTip(str(path))
        self.path.setCursorPosition(len(str(path)))  # its end says more than its beginning
        self.changed.emit()


def _unused(folder: Path, stem: str) -> Path:
    path, number = folder / stem, 1
    while (path / _CONFIG).exists():
        number += 1
        path = folder / f"{stem}_{number}"
    return path
