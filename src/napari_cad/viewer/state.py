"""What the widgets of one viewer share."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from psygnal import Signal

from napari_cad.core.store import SegmentationStore

if TYPE_CHECKING:
    from napari.components import ViewerModel

_STATES: WeakKeyDictionary[ViewerModel, ViewerState] = WeakKeyDictionary()


class ViewerState:
    """The runs that are open in a viewer.

    Attributes
    ----------
    run_finished : Signal
        (str), the path of the store of a run that has just ended with a segmentation.
    """

    run_finished = Signal(str)

    def __init__(self) -> None:
        self._stores: dict[str, SegmentationStore] = {}

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
        if run not in self._stores:
            self._stores[run] = SegmentationStore.open(run)
        return self._stores[run]

    def forget(self, run: str) -> None:
        """Open the store of a run anew next time: it has changed, or is about to."""
        self._stores.pop(run, None)


def state_of(viewer: ViewerModel) -> ViewerState:
    """Give the state of a viewer; it lives as long as the viewer does."""
    # plugins are given a proxy, which is made anew each time
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _STATES:
        _STATES[viewer] = ViewerState()
    return _STATES[viewer]
