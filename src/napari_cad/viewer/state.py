"""What the widgets of one viewer share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from psygnal import Signal

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_cad.core.store import SegmentationStore
    from napari_cad.viewer.fits import ChosenFit
    from napari_cad.viewer.proofreading import Proofreader

_STATES: WeakKeyDictionary[ViewerModel, ViewerState] = WeakKeyDictionary()


@dataclass(frozen=True)
class StepReport:
    """How far a step of the work is.

    Attributes
    ----------
    text : str
        One short line.
    running : bool
        Whether a job goes on.
    run : str or None
        Path of the store that it is about; without layers of it the report no longer holds.
    """

    text: str
    running: bool = False
    run: str | None = None


class ViewerState:
    """The runs that are open in a viewer, what is chosen to work on, and how far the work is.

    Attributes
    ----------
    run_begun : Signal
        (str), the path of the store of a run that is about to be made, or gone on with.
    run_finished : Signal
        (str), the path of the store of a run that has just ended with a segmentation.
    image_chosen : Signal
        (Image), the layer that a person has chosen in one of the widgets.
    checkpoint_chosen : Signal
        (str), the checkpoint that a person has chosen in one of the widgets.
    step_reported : Signal
        (str), the step that there is a new report of.
    fit_chosen : Signal
        (), how to fit a checkpoint to an image has been chosen: see `fit_for`.
    fit_wanted : Signal
        (list), somebody wants to see the widget for fitting; one that comes up puts itself into
        the list.
    proofreader : Proofreader or None
        The proofreading session that is open in the viewer.
    warm : bool
        Whether what napari does slowly the first time has been done.
    """

    run_begun = Signal(str)
    run_finished = Signal(str)
    image_chosen = Signal(object)
    checkpoint_chosen = Signal(str)
    step_reported = Signal(str)
    fit_chosen = Signal()
    fit_wanted = Signal(list)

    def __init__(self) -> None:
        self._stores: dict[str, SegmentationStore] = {}
        self._image: ReferenceType[Image] | None = None
        self._reports: dict[str, StepReport] = {}
        self.checkpoint: str | None = None
        self._fits: WeakKeyDictionary[Image, dict[str, ChosenFit]] = WeakKeyDictionary()
        self.proofreader: Proofreader | None = None
        self.warm = False

    @property
    def image(self) -> Image | None:
        """The image that a person has chosen; it may no longer be in the viewer."""
        return None if self._image is None else self._image()

    def choose_image(self, layer: Image) -> None:
        """Tell all widgets which image to work on."""
        self._image = ref(_unwrapped(layer))
        self.image_chosen.emit(layer)

    def choose_checkpoint(self, name_or_path: str) -> None:
        """Tell all widgets which checkpoint to work with."""
        self.checkpoint = name_or_path
        self.checkpoint_chosen.emit(name_or_path)

    def choose_fit(self, layer: Image, checkpoint: str, chosen: ChosenFit | None) -> None:
        """Tell all widgets how to fit a checkpoint to an image; None: not at all."""
        fits = self._fits.setdefault(_unwrapped(layer), {})
        if chosen is None:
            fits.pop(checkpoint, None)
        else:
            fits[checkpoint] = chosen
        self.fit_chosen.emit()

    def fit_for(self, layer: Image | None, checkpoint: str) -> ChosenFit | None:
        """Give what was chosen for a checkpoint and an image, if anything was."""
        return None if layer is None else self._fits.get(_unwrapped(layer), {}).get(checkpoint)

    def report(
        self, step: str, text: str, *, running: bool = False, run: str | None = None
    ) -> None:
        """Say how far a step is, for whoever shows it.

        Parameters
        ----------
        step : str
            "fit", "segment", "agglomerate", "proofread", "evaluate" or "export".
        text : str
            One short line; empty where there is nothing to say any more.
        running : bool
            Whether a job goes on.
        run : str, optional
            Path of the store that it is about.
        """
        report = StepReport(text, running, run)
        if self._reports.get(step) != report:
            self._reports[step] = report
            self.step_reported.emit(step)

    def report_of(self, step: str) -> StepReport | None:
        """Give the last report of a step."""
        return self._reports.get(step)

    def store(self, run: str) -> SegmentationStore:
        """Open the store of a run for reading, or give the one that is open.

        Parameters
        ----------
        run : str
            Path of the store, as it stands in the metadata of a run's layers.

        Raises
        ------
        StoreError
            If it cannot be opened.
        """
        # zarr takes half a second to import, which a widget that opens has not
        from napari_cad.core.store import SegmentationStore

        if run not in self._stores:
            self._stores[run] = SegmentationStore.open(run)
        return self._stores[run]

    def forget(self, run: str) -> None:
        """Open the store of a run anew next time: it has changed, or is about to."""
        self._stores.pop(run, None)


def state_of(viewer: ViewerModel) -> ViewerState:
    """Give the state of a viewer; it lives as long as the viewer does."""
    viewer = _unwrapped(viewer)
    if viewer not in _STATES:
        _STATES[viewer] = ViewerState()
    return _STATES[viewer]


def _unwrapped(thing: Any) -> Any:
    """Give what a proxy stands for: plugins are given proxies, which are made anew each time."""
    return getattr(thing, "__wrapped__", thing)
