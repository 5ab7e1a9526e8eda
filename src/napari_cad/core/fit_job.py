"""Fitting in a child process: a server of previews for whoever moves a slider, and suggestions.

The server goes on until it is cancelled. It answers the last request only. An answer that rests on
statistics of a few small windows is followed by the exact one when nobody wants anything else.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_cad.core.errors import NapariCadError
from napari_cad.core.events import Event
from napari_cad.core.torch_memory import use_huge_pages
from napari_cad.core.volume import VolumeSource

# what imports torch is imported where it is needed: the viewer imports the messages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from napari_cad.core.config import FitConfig, InferenceConfig
    from napari_cad.core.fit_settings import FitGrid, FitSuggested, SettingScored
    from napari_cad.core.intensity import IntensityMapping
    from napari_cad.core.volume import EMVolume

#: Names of the jobs, as `JobProcess` wants them.
SERVE_PREVIEWS = f"{__name__}:serve_previews"
SUGGEST = f"{__name__}:suggest_settings"


@dataclass(frozen=True)
class WantedPreview:
    """Ask for one; replaces the request before, as far as it has not been answered.

    Attributes
    ----------
    number : int
        Comes back with the answer.
    z : int
        The section; affinities along z are those to section z − 1.
    rows, columns : tuple of int
        (start, stop) of the crop, in voxels.
    checkpoint : str
        As `resolve_checkpoint` takes it.
    intensity : IntensityMapping, optional
        By default the checkpoint's, as in a run.
    fit : FitConfig
    """

    number: int
    z: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    checkpoint: str
    intensity: IntensityMapping | None
    fit: FitConfig


@dataclass(frozen=True, eq=False)
class PreviewMade(Event):
    """One section, or a crop of it, under a setting.

    Attributes
    ----------
    wanted : WantedPreview
        What it answers.
    affinities : ndarray, shape (3, Y, X), uint8
        Channels z, y, x, as in a store.
    rgb : ndarray, shape (Y, X, 3), uint8
        The embedding map. The same setting has the same colours in all sections.
    fragments : ndarray, shape (Y, X), uint32
        Ids 1…n.
    rough : bool
        Whether the statistics are measured on a few small windows only; the exact ones follow.
    seconds : float
        What it took in the job.
    """

    wanted: WantedPreview
    affinities: npt.NDArray[np.uint8]
    rgb: npt.NDArray[np.uint8]
    fragments: npt.NDArray[np.uint32]
    rough: bool
    seconds: float


@dataclass(frozen=True)
class PreviewFailed(Event):
    """A setting that cannot be shown, and why; others may be asked for."""

    wanted: WantedPreview
    message: str


def serve_previews(
    volume: EMVolume | VolumeSource,
    inference: InferenceConfig,
    requests: queue.SimpleQueue[Any],
) -> Iterator[Event]:
    """Answer requests for previews until there comes a None.

    Parameters
    ----------
    volume : EMVolume or VolumeSource
        The volume, or where to open it.
    inference : InferenceConfig
        Where the network runs.
    requests : queue
        Of `WantedPreview`; see `napari_cad.core.jobs.Requests`.

    Yields
    ------
    Event
        `PreviewMade`, perhaps twice for a request, or `PreviewFailed`.

    Raises
    ------
    NapariCadError
        See `open_source` and `pick_device`.
    """
    use_huge_pages()
    from napari_cad.core.fit_preview import PreviewMaker
    from napari_cad.core.readers import open_source

    if isinstance(volume, VolumeSource):
        volume = open_source(volume)
    maker = PreviewMaker(volume, inference)
    rough: WantedPreview | None = None
    while True:
        # a step takes as long as a preview, so that is the longest that a request waits
        wanted = _newest(requests, otherwise=rough)
        if wanted is None:
            return
        try:
            if wanted is rough and not maker.measure(wanted):
                continue
            made = maker.make(wanted)
        except NapariCadError as error:
            yield PreviewFailed(wanted, str(error))
            rough = None
            continue
        yield made
        rough = wanted if made.rough else None


def suggest_settings(
    volume: EMVolume | VolumeSource,
    checkpoints: Sequence[str],
    intensity: IntensityMapping | None = None,
    grid: FitGrid | None = None,
    inference: InferenceConfig | None = None,
    n_crops: int | None = None,
) -> Iterator[SettingScored | FitSuggested]:
    """Try settings and rank them; see `napari_cad.core.fit.suggest`."""
    use_huge_pages()
    from napari_cad.core.fit import suggest

    more: dict[str, Any] = {} if n_crops is None else {"n_crops": n_crops}
    yield from suggest(
        volume, checkpoints, intensity=intensity, grid=grid, inference=inference, **more
    )


def _newest(
    requests: queue.SimpleQueue[Any], otherwise: WantedPreview | None
) -> WantedPreview | None:
    """Give the last request, having emptied the queue; None where it is to end.

    Where there is none, it gives `otherwise` at once, or waits for one.
    """
    newest = requests.get() if otherwise is None else otherwise
    while newest is not None:
        try:
            newest = requests.get(block=False)
        except queue.Empty:
            break
    found: WantedPreview | None = newest
    return found
