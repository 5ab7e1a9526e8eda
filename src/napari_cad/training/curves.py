"""Curves of a run: lines of JSON always, tensorboard where it is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_cad.training.run_folder import RunFolder


class Curves:
    """Writes the points of a run's curves.

    Parameters
    ----------
    folder : RunFolder
        Where they are written.
    step : int
        Of the run now; what was written for later steps is forgotten.
    """

    def __init__(self, folder: RunFolder, step: int) -> None:
        self._folder = folder
        folder.rewind(step)
        self._writer = _tensorboard_writer(str(folder.tensorboard), step)

    def add_losses(self, step: int, losses: Mapping[str, float], **more: float) -> None:
        """Write a point of the loss curve."""
        self._folder.append(self._folder.curve, {"step": step, **losses, **more})
        for name, value in losses.items():
            self._add(f"loss/{name}", value, step)
        if "learning_rate" in more:
            self._add("learning_rate", more["learning_rate"], step)

    def add_validation(self, step: int, scores: Mapping[str, float], best: bool) -> None:
        """Write a validation."""
        self._folder.append(self._folder.validation, {"step": step, **scores, "best": best})
        for name, value in scores.items():
            self._add(f"validation/{name}", value, step)

    def close(self) -> None:
        """Write everything out."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, name: str, value: float, step: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar(name, value, step)


def _tensorboard_writer(folder: str, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # tensorboard is optional
        return None
    return SummaryWriter(folder, purge_step=step + 1)
