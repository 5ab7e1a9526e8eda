"""Choosing one of the runs that are open in the viewer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QSizePolicy

from napari_cad.core.errors import StoreError
from napari_cad.viewer.layers import METADATA_KEY
from napari_cad.viewer.state import state_of
from napari_cad.widgets._form import tooltip

if TYPE_CHECKING:
    from napari.components import ViewerModel


class RunChooser(QComboBox):
    """A list of open runs of one volume and one checkpoint, with "none" before them.

    Parameters
    ----------
    viewer : ViewerModel
        Whose layers belong to runs.

    Attributes
    ----------
    changed : Signal
        (), when another run is chosen.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setToolTip(
            tooltip(
                "A run of this image with this checkpoint: maps use its settings, and its store "
                "keeps the colours, so that they are the same next time. Runs are listed when "
                "they are open in the viewer."
            )
        )
        self.addItem("none (nothing is kept)", None)
        self._told: str | None = None
        self.currentIndexChanged.connect(self._on_changed)

    def value(self) -> str | None:
        """Give the path of the run's store, or None."""
        run: str | None = self.currentData()
        return run

    def offer(self, shape: tuple[int, ...] | None, checkpoint: str | None) -> None:
        """List the runs of a volume with this shape by a checkpoint of this name.

        Whether they fit exactly is found out by the job. A new one is chosen by itself.
        """
        fitting = [run for run in self._open_runs() if self._fits(run, shape, checkpoint)]
        known = [self.itemData(i) for i in range(1, self.count())]
        if fitting == known:
            return
        chosen = self.value()
        self.blockSignals(True)
        while self.count() > 1:
            self.removeItem(1)
        for run in fitting:
            self.addItem(Path(run).name, run)
            self.setItemData(self.count() - 1, run, Qt.ItemDataRole.ToolTipRole)
        new = [run for run in fitting if run not in known]
        wanted = new[-1] if new else chosen
        self.setCurrentIndex(max(0, self.findData(wanted)))
        self.blockSignals(False)
        self._on_changed()

    def _on_changed(self) -> None:
        if self.value() != self._told:
            self._told = self.value()
            self.changed.emit()

    def _open_runs(self) -> list[str]:
        tags = [layer.metadata.get(METADATA_KEY) or {} for layer in self._viewer.layers]
        runs = [tag.get("run") for tag in tags if tag.get("role") in ("affinities", "segments")]
        return list(dict.fromkeys(run for run in runs if run))

    def _fits(self, run: str, shape: tuple[int, ...] | None, checkpoint: str | None) -> bool:
        try:
            store = state_of(self._viewer).store(run)
        except (StoreError, OSError):
            return False  # it has been removed meanwhile
        return store.shape == shape and store.settings["checkpoint"].get("name") == checkpoint
