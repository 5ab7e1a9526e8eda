"""Any labels as fragments: what `find_errors` needs, from one pass over the sections.

Labels from elsewhere have no fragments and no region graph. Their pieces do as well: a *piece* is
what hangs together in one section, of one label and one true neurite. Like fragments, pieces never
leave their section, so the edges between them are found two sections at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from napari_cad.core.errors import ShapeError
from napari_cad.core.metrics import ContingencyTable, contingency
from napari_cad.core.region_graph import (
    FRAGMENT_COLUMNS,
    RegionGraph,
    section_edges,
    section_fragment_table,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    Ints = npt.NDArray[np.integer[Any]]

#: Voxels by which neurites are grown into the unlabelled space between them, to see who touches.
GROW = 8


@dataclass(frozen=True, eq=False)
class LabelPieces:
    """Pieces as `find_errors` wants them; affinities in the graph mean nothing.

    Attributes
    ----------
    table : ContingencyTable
        Of pieces and truth.
    graph : RegionGraph
        Edges between pieces.
    lut : ndarray, shape (n pieces + 1,), uint64
        Piece to label.
    measured : ndarray, shape (n pieces, 11), float64
        Columns as in `napari_cad.core.region_graph.FRAGMENT_COLUMNS`.
    """

    table: ContingencyTable
    graph: RegionGraph
    lut: npt.NDArray[np.uint64]
    measured: npt.NDArray[np.float64]

    @property
    def centroids(self) -> npt.NDArray[np.float64]:
        """(z, y, x) of each piece in voxels, shape (n pieces + 1, 3); row 0 is of nothing."""
        return np.concatenate([np.zeros((1, 3)), self.measured[:, 8:]])


class PieceCollector:
    """Takes sections in their order and makes `LabelPieces` of them.

    Parameters
    ----------
    grow : int
        Neurites whose labels leave a membrane unlabelled touch nowhere. For finding contacts, and
        for nothing else, unlabelled voxels nearer than this to a neurite count as its own.
    """

    def __init__(self, grow: int = GROW) -> None:
        self._grow = grow
        self._n = 0
        self._prev: npt.NDArray[np.uint32] | None = None
        self._tables: list[ContingencyTable] = []
        self._edges: list[Any] = []
        self._labels = [np.zeros(1, np.uint64)]
        self._measured = [np.zeros((0, len(FRAGMENT_COLUMNS)))]

    def add(self, z: int, truth: Ints, labels: Ints) -> None:
        """Take the next section.

        Parameters
        ----------
        z : int
            Its index, one more than that of the section before.
        truth, labels : ndarray, shape (Y, X), integer and not negative
            0 in the truth is unlabelled.

        Raises
        ------
        ShapeError
            If the shapes differ.
        """
        from skimage.measure import label as connected
        from skimage.segmentation import expand_labels

        if truth.shape != labels.shape:
            raise ShapeError(
                f"expected truth and labels of one shape, got {truth.shape} and {labels.shape}"
            )
        _, neurite = np.unique(truth, return_inverse=True)  # 0 stays 0 where there is one
        if self._grow and not truth.all():
            neurite = cast("Any", expand_labels)(neurite.reshape(truth.shape), self._grow)
        values, label = np.unique(labels, return_inverse=True)
        pair = neurite.reshape(truth.shape) * len(values) + label.reshape(truth.shape)
        local = cast("Any", connected)(pair, background=-1, connectivity=1)
        pieces = (local + self._n).astype(np.uint32)
        measured = section_fragment_table(pieces, z)
        self._tables.append(contingency(truth, pieces))
        # no affinities: the contacts alone count
        nothing = np.zeros((3, *pieces.shape), np.uint8)
        self._edges.append(section_edges(pieces, nothing, z, self._prev))
        of_piece = np.zeros(len(measured), np.uint64)
        of_piece[local.ravel() - 1] = labels.ravel().astype(np.uint64)
        self._labels.append(of_piece)
        self._measured.append(measured)
        self._n += len(measured)
        self._prev = pieces

    def finish(self) -> LabelPieces:
        """Put the sections together."""
        return LabelPieces(
            ContingencyTable.total(self._tables),
            RegionGraph.concatenate(self._edges, n_fragments=self._n),
            np.concatenate(self._labels),
            np.concatenate(self._measured),
        )


def label_pieces(sections: Iterable[tuple[Ints, Ints]], grow: int = GROW) -> LabelPieces:
    """Make pieces of all sections.

    Parameters
    ----------
    sections : iterable of (truth, labels)
        See `PieceCollector.add`.
    grow : int
        See `PieceCollector`.
    """
    collector = PieceCollector(grow)
    for z, (truth, labels) in enumerate(sections):
        collector.add(z, truth, labels)
    return collector.finish()
