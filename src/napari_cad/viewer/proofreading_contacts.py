"""Places of contacts: of what is selected, of a cut, or of a question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.viewer.proofreading import Proofreader

    #: Places, affinities and areas.
    Columns = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.uint32]]


class SessionContacts:
    """The contacts that are drawn, a moment after they are known: colours are to be seen first.

    Parameters
    ----------
    proofreader : Proofreader
        Whose session it is.

    Attributes
    ----------
    wanted : bool
        Whether a person wants to see those of the selected segments.
    """

    def __init__(self, proofreader: Proofreader) -> None:
        self._owner = proofreader
        self.wanted = False
        self._stale = False
        self._coming: Columns | None = None

    def show(
        self,
        position: npt.NDArray[np.float32],
        affinity: npt.NDArray[np.float32],
        area: npt.NDArray[np.uint32],
    ) -> None:
        """Show some places, and no others.

        Parameters
        ----------
        position : ndarray, shape (n, 3), float32
            (z, y, x) in voxels; those that are not numbers are left out.
        affinity : ndarray, shape (n,), float32 in [0, 1]
            The higher, the brighter.
        area : ndarray, shape (n,), uint32
            In voxel faces; of too many the largest are drawn.
        """
        self._coming = (position, affinity, area)
        self._owner.follow_soon()

    def forget(self) -> None:
        """Show none, or those of the selected segments where they are wanted."""
        self.show(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, np.uint32))
        self.follow()

    def want(self, wanted: bool) -> None:
        """Show those of the selected segments from now on, or no more."""
        self.wanted = wanted
        self.forget()

    def follow(self) -> None:
        """Work those of the selected segments out anew: segments or selection are others now."""
        self._stale = self.wanted

    def draw(self) -> None:
        """Draw what is to be shown."""
        owner = self._owner
        if self._stale and not owner.split_mode.active:
            self._stale = False
            self._coming = self._of_selection()
        if self._coming is not None:
            owner.layers.show_contacts(*self._coming)
            self._coming = None

    def _of_selection(self) -> Columns:
        session, owner = self._owner.session, self._owner
        edges = [session.contacts_of(segment) for segment in owner.living(owner.selection)]
        chosen = np.unique(np.concatenate(edges)) if edges else np.zeros(0, np.int64)
        graph = session.graph
        return graph.position[chosen], graph.mean[chosen], graph.area[chosen]
