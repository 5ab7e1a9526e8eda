"""The region graph of a session: that of the store, and what divided fragments add to it.

Ids only ever grow. A fragment that is divided is not changed but *retired*, and its parts are new
fragments with new edges behind the others; undoing brings it back and retires the parts. So the
number of an edge and the id of a fragment mean the same thing for as long as the session lives,
on every branch of its history, and can stand in a log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_cad.proofreading.growing import GrowingArray

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.proofreading.patch import FragmentPatch
    from napari_cad.proofreading.source import ProofreadingSource

    Ids = npt.NDArray[np.integer]


class EditableGraph:
    """A region graph to which fragments and edges can be added.

    Parameters
    ----------
    source : ProofreadingSource
        Its columns are used as they are, not copied.
    """

    def __init__(self, source: ProofreadingSource) -> None:
        n = source.n_fragments
        self.n_base_fragments = n
        self.n_base_edges = len(source.u)
        self._u = GrowingArray(source.u)
        self._v = GrowingArray(source.v)
        self._join = GrowingArray(source.join_score)
        self._mean = GrowingArray(source.mean)
        self._area = GrowingArray(source.area)
        self._position = GrowingArray(source.position)
        self._size = GrowingArray(source.sizes)
        alive = np.ones(n + 1, np.bool_)
        alive[0] = False
        self._alive = GrowingArray(alive)
        #: The fragment of the store that a later fragment was made from, 0 = from background.
        self._root = GrowingArray(np.zeros(0, np.uint32))
        # edges of the store are sorted by (u, v): those that begin at fragment f are in one range
        self._first = _starts(source.u, n) if source.first is None else source.first
        self._ending, self._first_ending = source.ending, source.first_ending

    @property
    def n_fragments(self) -> int:
        """Highest fragment id, retired ones included."""
        return len(self._alive) - 1

    @property
    def n_edges(self) -> int:
        """Number of edges, those of retired fragments included."""
        return len(self._u)

    @property
    def u(self) -> npt.NDArray[np.uint32]:
        """Lower fragment of each edge."""
        return self._u.values

    @property
    def v(self) -> npt.NDArray[np.uint32]:
        """Higher fragment of each edge."""
        return self._v.values

    @property
    def join(self) -> npt.NDArray[np.float32]:
        """Join score of each edge; inf = never."""
        return self._join.values

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        """Mean affinity of each edge, in (0, 1)."""
        return self._mean.values

    @property
    def area(self) -> npt.NDArray[np.uint32]:
        """Contacts of each edge, in voxel faces."""
        return self._area.values

    @property
    def position(self) -> npt.NDArray[np.float32]:
        """Place of each edge, (z, y, x) in voxels, shape (n_edges, 3)."""
        return self._position.values

    @property
    def size(self) -> npt.NDArray[np.int64]:
        """Size of each fragment in voxels, shape (n_fragments + 1,)."""
        return self._size.values

    @property
    def alive(self) -> npt.NDArray[np.bool_]:
        """Which fragments there are now, shape (n_fragments + 1,); false for 0."""
        return self._alive.values

    def register(self, patch: FragmentPatch) -> None:
        """Append the fragments and edges of a patch; its fragments do not live yet.

        Raises
        ------
        ValueError
            If the patch was made for another state of the graph.
        """
        if (patch.first_fragment, patch.first_edge) != (self.n_fragments + 1, self.n_edges):
            raise ValueError(
                f"a patch for fragment {patch.first_fragment}, edge {patch.first_edge} came when "
                f"the next ones are {self.n_fragments + 1} and {self.n_edges}"
            )
        for column, values in zip(self._edge_columns, _edge_values(patch), strict=True):
            column.append(values)
        self._size.append(np.asarray(patch.sizes, np.int64))
        self._alive.append(np.zeros(len(patch.parents), np.bool_))
        self._root.append(np.asarray([self.root(p) for p in patch.parents], np.uint32))

    def unregister(self, patch: FragmentPatch) -> None:
        """Forget the fragments and edges of the patch that was registered last."""
        for column in self._edge_columns:
            column.truncate(patch.first_edge)
        for column in (self._size, self._alive):
            column.truncate(patch.first_fragment)
        self._root.truncate(patch.first_fragment - self.n_base_fragments - 1)

    @property
    def _edge_columns(self) -> tuple[GrowingArray, ...]:
        return (self._u, self._v, self._join, self._mean, self._area, self._position)

    def root(self, fragment: int) -> int:
        """Find the fragment of the store that `fragment` was made from; 0 = background."""
        if fragment <= self.n_base_fragments:
            return fragment
        return int(self._root.values[fragment - self.n_base_fragments - 1])

    @property
    def roots(self) -> npt.NDArray[np.uint32]:
        """`root` of the fragments that the store does not have, in order."""
        return self._root.values

    def capacity(self, edges: Ids) -> npt.NDArray[np.float64]:
        """Weight of edges: mean affinity × contact area, in voxel faces, float64."""
        return self.mean[edges].astype(np.float64) * self.area[edges]

    def edges_within(self, fragments: Ids) -> npt.NDArray[np.int64]:
        """Edges with both ends among `fragments`.

        Parameters
        ----------
        fragments : ndarray, shape (n,), integer
            Living fragments, each once.

        Returns
        -------
        ndarray, shape (m,), int64
            Sorted edge numbers.
        """
        inside = np.zeros(self.n_fragments + 1, np.bool_)
        inside[fragments] = True
        edges = self._beginning_at(fragments)
        edges = edges[inside[self.v[edges]]]
        n = self.n_base_edges
        added = np.flatnonzero(inside[self.u[n:]] & inside[self.v[n:]])
        edges.sort()
        return np.concatenate([edges, added + n])

    def edges_around(self, fragments: Ids) -> npt.NDArray[np.int64]:
        """Edges between living fragments with at least one end among `fragments`.

        Parameters
        ----------
        fragments : ndarray, shape (n,), integer
            Living or not.

        Returns
        -------
        ndarray, shape (m,), int64
            Sorted edge numbers.
        """
        touched = np.zeros(self.n_fragments + 1, np.bool_)
        touched[fragments] = True
        n = self.n_base_edges
        added = np.flatnonzero(touched[self.u[n:]] | touched[self.v[n:]]) + n
        fragments = np.asarray(fragments)
        lower, higher = self._beginning_at(fragments), self._ending_at(fragments)
        edges = np.unique(np.concatenate([lower, higher, added]))
        alive = self.alive
        kept: npt.NDArray[np.int64] = edges[alive[self.u[edges]] & alive[self.v[edges]]]
        return kept

    def edges_between(self, a: Ids, b: Ids) -> npt.NDArray[np.int64]:
        """Edges with one end among the fragments `a` and the other among `b` (disjoint sets)."""
        side = np.zeros(self.n_fragments + 1, np.int8)
        side[a] = 1
        side[b] = 2
        edges = self._beginning_at(np.concatenate([a, b]))
        edges = edges[side[self.u[edges]] + side[self.v[edges]] == 3]
        n = self.n_base_edges
        added = np.flatnonzero(side[self.u[n:]] + side[self.v[n:]] == 3)
        edges.sort()
        return np.concatenate([edges, added + n])

    def _beginning_at(self, fragments: Ids) -> npt.NDArray[np.int64]:
        """Edges of the store whose lower end is among `fragments`."""
        return _ranges(self._first, fragments[fragments <= self.n_base_fragments])

    def _ending_at(self, fragments: Ids) -> npt.NDArray[np.int64]:
        """Edges of the store whose higher end is among `fragments`."""
        if self._ending is None or self._first_ending is None:
            v = self.v[: self.n_base_edges]
            self._ending = np.argsort(v, kind="stable")
            self._first_ending = _starts(v, self.n_base_fragments)
        places = _ranges(self._first_ending, fragments[fragments <= self.n_base_fragments])
        edges: npt.NDArray[np.int64] = self._ending[places].astype(np.int64)
        return edges


def _starts(ids: Ids, n_fragments: int) -> npt.NDArray[np.int64]:
    """Count the ids below each fragment, and all: shape (n_fragments + 2,)."""
    count = np.bincount(ids, minlength=n_fragments + 1)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])


def _ranges(first: npt.NDArray[np.int64], fragments: Ids) -> npt.NDArray[np.int64]:
    """Places from first[f] to first[f + 1] of every fragment f, one behind the other."""
    begin = first[fragments]
    count = first[fragments.astype(np.int64) + 1] - begin
    before = np.cumsum(count) - count
    result: npt.NDArray[np.int64] = np.repeat(begin - before, count) + np.arange(count.sum())
    return result


def _edge_values(patch: FragmentPatch) -> tuple[npt.NDArray[np.generic], ...]:
    """Columns of the edges of a patch, in the order of `EditableGraph._edge_columns`."""
    return (
        np.asarray(patch.u, np.uint32),
        np.asarray(patch.v, np.uint32),
        np.asarray(patch.join_score, np.float32),
        np.asarray(patch.mean, np.float32),
        np.asarray(patch.area, np.uint32),
        np.asarray(patch.position, np.float32).reshape(-1, 3),
    )
