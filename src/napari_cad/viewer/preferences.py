"""What a person has set once and for all, in napari's preferences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: The name under which napari knows this plugin.
PLUGIN = "napari-cad"

#: In a list of choices: leave it to the checkpoint.
AS_CHECKPOINT = "as the checkpoint says"


@dataclass(frozen=True)
class Preferences:
    """Defaults of the widgets; what is None is left to the checkpoint or the machine.

    Attributes
    ----------
    device, precision : str
        See `napari_cad.core.config.InferenceConfig`.
    merge_function : str or None
        A key of `napari_cad.core.agglomerations.AGGLOMERATIONS`.
    threshold : float or None
        In (0, 1].
    workers : int or None
        Processes that make fragments and edges.
    checkpoint_folder : Path or None
        Its checkpoints are listed beside the embedded and the published ones.
    store_folder : Path or None
        Where the stores of runs go.
    """

    device: str = "auto"
    precision: str = "auto"
    merge_function: str | None = None
    threshold: float | None = None
    workers: int | None = None
    checkpoint_folder: Path | None = None
    store_folder: Path | None = None


def preferences() -> Preferences:
    """Read what the person has set, as it is now.

    Returns
    -------
    Preferences
        The defaults where napari is older than 0.9, which has no preferences of plugins.
    """
    try:
        from napari.settings import get_plugin_settings

        settings = get_plugin_settings(PLUGIN)
    except (ImportError, KeyError):  # an older napari; the plugin is not registered
        return Preferences()
    run, folders = settings.segmentation, settings.folders
    merge_function = run.merge_function
    return Preferences(
        device=run.device,
        precision=run.precision,
        merge_function=None if merge_function == AS_CHECKPOINT else merge_function,
        threshold=run.threshold or None,
        workers=run.workers or None,
        checkpoint_folder=_folder(folders.checkpoints),
        store_folder=_folder(folders.stores),
    )


def _folder(text: str) -> Path | None:
    return Path(text.strip()).expanduser() if text.strip() else None
