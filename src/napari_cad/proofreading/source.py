"""What a session works on: a region graph with join scores, and the voxels behind it.

From a store everything is there. From plain arrays the graph is enough; what else is given adds
features: fragments and affinities let a fragment be divided, sizes make ranks and statistics
count voxels instead of fragments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_cad.core.errors import ShapeError, StoreError
from napari_cad.core.merge_tree import MergeHistory, MergeTree, union_by_size
from napari_cad.core.region_graph import FRAGMENT_COLUMNS
from napari_cad.core.store import SegmentationStore
from napari_cad.core.stored_agglomeration import graph_digest

if TYPE_CHECKING:
    import numpy.typing as npt


class ArrayLike(Protocol):
    """What is asked of fragments and affinities: numpy, zarr, h5py and dask arrays all do."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent along each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    def __getitem__(self, key: Any) -> Any:
        """Values, as anything that np.asarray takes."""


@dataclass(frozen=True, eq=False)
class ProofreadingSource:
    """A segmentation to be corrected. Make one with `from_store` or `from_arrays`.

    Attributes
    ----------
    n_fragments : int
        Highest fragment id.
    u, v : ndarray, shape (n,), uint32
        Fragments of each edge, u < v, sorted by (u, v), no pair twice.
    mean : ndarray, shape (n,), float32 in (0, 1)
        Mean affinity of the contacts.
    area : ndarray, shape (n,), uint32
        Number of contacts, in voxel faces.
    position : ndarray, shape (n, 3), float32
        Place of the contact, (z, y, x) in voxels.
    join_score : ndarray, shape (n,), float32
        Edge score at which the two fragments first come together, inf = never.
    threshold : float
        To begin with.
    sizes : ndarray, shape (n_fragments + 1,), int64
        Voxels of each fragment; 1 where they are not known.
    boxes : ndarray, shape (n_fragments + 1, 6), int32, or None
        Half-open bounding box of each fragment: z, y, x start, then z, y, x stop.
    centroids : ndarray, shape (n_fragments + 1, 3), float32, or None
        (z, y, x) in voxels.
    fragments : array-like, shape (Z, Y, X), uint32, or None
        Fragment ids, 0 = background.
    affinities : array-like, shape (3, Z, Y, X), uint8, or None
        As in a store: channels z, y, x, level q stands for (q + 0.5) / 256.
    voxel_size : tuple of float, or None
        (z, y, x) in nm.
    signature : dict
        Tells this segmentation from every other; JSON-able.
    notes : tuple of str
        What cannot be done with it, for the person.
    labels : str
        Hash of the labels that it was made from, whatever the evidence; empty if from a store.
    first, ending, first_ending : ndarray, integer, or None
        Edges by fragment, see `napari_cad.core.stored_graph`; None = they are made when needed.
    run : tuple of (str, str, float), or None
        Store, merge function and threshold, where all this is mapped into memory from a store:
        nothing of it has been read, and another process maps it instead of getting it sent.
    """

    n_fragments: int
    u: npt.NDArray[np.uint32]
    v: npt.NDArray[np.uint32]
    mean: npt.NDArray[np.float32]
    area: npt.NDArray[np.uint32]
    position: npt.NDArray[np.float32]
    join_score: npt.NDArray[np.float32]
    threshold: float
    sizes: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int32] | None = None
    centroids: npt.NDArray[np.float32] | None = None
    fragments: ArrayLike | None = None
    affinities: ArrayLike | None = None
    voxel_size: tuple[float, float, float] | None = None
    signature: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    labels: str = ""
    first: npt.NDArray[np.int64] | None = None
    ending: npt.NDArray[np.integer[Any]] | None = None
    first_ending: npt.NDArray[np.int64] | None = None
    run: tuple[str, str, float] | None = None
    _tree: list[MergeTree] = field(init=False, default_factory=list, repr=False)

    def __reduce__(self) -> Any:
        if self.run is not None:
            return _mapped_again, self.run
        return super().__reduce__()

    def base_lut(self, threshold: float) -> npt.NDArray[np.uint32]:
        """Fragment → segment at a threshold, before any edit.

        Parameters
        ----------
        threshold : float
            Agglomeration threshold, an edge score.

        Returns
        -------
        ndarray, shape (n_fragments + 1,), uint32
            lut[0] = 0; the id of a segment is the smallest of its fragments' ids.
        """
        return self.merge_tree().lut(threshold)

    def merge_tree(self) -> MergeTree:
        """Give the merge tree, made on the first call where the source came without one."""
        if not self._tree:
            self._tree.append(
                spanning_merge_tree(self.n_fragments, self.u, self.v, self.join_score)
            )
        return self._tree[0]

    @classmethod
    def from_store(
        cls,
        store: SegmentationStore,
        merge_function: str | None = None,
        *,
        threshold: float | None = None,
    ) -> ProofreadingSource:
        """Take everything from a finished run.

        Parameters
        ----------
        store : SegmentationStore
            Of a finished run.
        merge_function : str, optional
            By default the one last chosen.
        threshold : float, optional
            To begin with; by default the one last chosen.

        Raises
        ------
        StoreError
            If the run is not finished.
        """
        merge_function = merge_function or store.merge_function
        threshold = store.threshold if threshold is None else threshold
        if not store.absorb and (mapped := _mapped(store, merge_function, threshold)) is not None:
            return mapped
        graph = store.region_graph()
        table = store.fragment_table()
        n = graph.n_fragments
        columns = {name: table[:, i] for i, name in enumerate(FRAGMENT_COLUMNS)}
        rows = columns["id"].astype(np.int64)
        sizes = np.zeros(n + 1, np.int64)
        boxes = np.zeros((n + 1, 6), np.int32)
        centroids = np.zeros((n + 1, 3), np.float32)
        sizes[rows] = columns["size"]
        bounds = [f"{axis}_{end}" for end in ("start", "stop") for axis in "zyx"]
        for i, name in enumerate(bounds):
            boxes[rows, i] = columns[name]
        for i, axis in enumerate("zyx"):
            centroids[rows, i] = columns[axis]
        source = cls.from_arrays(
            graph.u,
            graph.v,
            graph.mean,
            store.join_scores(merge_function),
            threshold=threshold,
            n_fragments=n,
            area=graph.area,
            position=graph.position,
            sizes=sizes,
            boxes=boxes,
            centroids=centroids,
            fragments=store.fragments,
            affinities=store.affinities,
            voxel_size=store.voxel_size,
            signature={"store": _content(store), "merge_function": merge_function},
        )
        source._tree.append(store.merge_tree(merge_function))
        return source

    @classmethod
    def from_arrays(
        cls,
        u: npt.ArrayLike,
        v: npt.ArrayLike,
        mean: npt.ArrayLike,
        join_score: npt.ArrayLike,
        *,
        threshold: float = 0.5,
        n_fragments: int | None = None,
        area: npt.ArrayLike | None = None,
        position: npt.ArrayLike | None = None,
        sizes: npt.ArrayLike | None = None,
        boxes: npt.NDArray[np.int32] | None = None,
        centroids: npt.NDArray[np.float32] | None = None,
        fragments: ArrayLike | None = None,
        affinities: ArrayLike | None = None,
        voxel_size: tuple[float, float, float] | None = None,
        signature: dict[str, Any] | None = None,
        notes: tuple[str, ...] = (),
        labels: str = "",
    ) -> ProofreadingSource:
        """Make one from the columns of a region graph.

        Parameters
        ----------
        u, v : array-like, shape (n,), integer
            Ids of the two fragments of each edge, in any order, counted from 1.
        mean : array-like, shape (n,), float in [0, 1]
            Mean affinity of each edge.
        join_score : array-like, shape (n,), float
            Edge score at which its fragments first come together, inf = never.
        threshold : float
            To begin with.
        n_fragments : int, optional
            Highest fragment id; by default the highest in an edge.
        area : array-like, shape (n,), optional
            Contacts of each edge in voxel faces; by default 1.
        position : array-like, shape (n, 3), optional
            (z, y, x) in voxels; by default not a number.
        sizes, boxes, centroids, fragments, affinities, voxel_size, signature, notes, labels
            As in the class; the graph itself is added to the signature.

        Raises
        ------
        ShapeError
            If columns differ in length, an id is below 1 or above `n_fragments`, an edge leads
            from a fragment to itself, or a pair stands there twice.
        """
        low, high = _ordered_pairs(u, v)
        n_edges = len(low)
        columns: dict[str, Any] = {
            "mean": np.asarray(mean, np.float32),
            "join_score": np.asarray(join_score, np.float32),
            "area": np.ones(n_edges, np.uint32) if area is None else np.asarray(area, np.uint32),
            "position": (
                np.full((n_edges, 3), np.nan, np.float32)
                if position is None
                else np.asarray(position, np.float32)
            ),
        }
        for name, column in columns.items():
            if len(column) != n_edges:
                raise ShapeError(f"{n_edges} edges need as many of {name}, got {len(column)}")
        highest = int(high.max(initial=0))
        n = highest if n_fragments is None else n_fragments
        if highest > n:
            raise ShapeError(f"an edge names fragment {highest}, but there are {n}")
        key = low.astype(np.uint64) << np.uint64(32) | high
        if (key[1:] <= key[:-1]).any():
            order = np.argsort(key, kind="stable")
            key, low, high = key[order], low[order], high[order]
            columns = {name: column[order] for name, column in columns.items()}
            if (key[1:] == key[:-1]).any():
                raise ShapeError("an edge stands there twice: unite the rows of each pair first")
        voxels = np.ones(n + 1, np.int64) if sizes is None else np.asarray(sizes, np.int64)
        if len(voxels) != n + 1:
            raise ShapeError(f"{n} fragments need {n + 1} sizes (0 first), got {len(voxels)}")
        return cls(
            n_fragments=n,
            u=low,
            v=high,
            threshold=float(threshold),
            sizes=voxels,
            boxes=boxes,
            centroids=centroids,
            fragments=fragments,
            affinities=affinities,
            voxel_size=voxel_size,
            signature={
                **(signature or {}),
                "graph": graph_digest(n, low, high, columns["join_score"]),
            },
            notes=notes,
            labels=labels,
            **columns,
        )


def _ordered_pairs(
    u: npt.ArrayLike, v: npt.ArrayLike
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Both ends of edges, the lower id first."""
    a, b = np.asarray(u), np.asarray(v)
    if a.ndim != 1 or a.shape != b.shape:
        raise ShapeError(f"u and v are two lists of one length, got {a.shape} and {b.shape}")
    low, high = np.minimum(a, b), np.maximum(a, b)
    if low.size and (low.min() < 1 or high.max() > np.iinfo(np.uint32).max):
        raise ShapeError(
            f"fragment ids are 1 … 2³² − 1 (0 is background, without edges), got {low.min()} to "
            f"{high.max()}"
        )
    if (low == high).any():
        raise ShapeError(f"fragment {low[low == high][0]} has an edge to itself")
    return low.astype(np.uint32), high.astype(np.uint32)


def _mapped(
    store: SegmentationStore, merge_function: str, threshold: float
) -> ProofreadingSource | None:
    """Map everything of a run; None where an older version has made it, or it is not local."""
    graph = store.graph_columns
    if graph is None or not isinstance(graph.u, np.memmap):
        return None
    try:
        join_score, digest = store.numbered_join_scores(merge_function)
    except StoreError:
        return None
    content = {"store": _content(store), "merge_function": merge_function, "graph": digest}
    source = ProofreadingSource(
        n_fragments=store.n_fragments,
        u=graph.u,
        v=graph.v,
        mean=graph.mean,
        area=graph.area,
        position=graph.position,
        join_score=join_score,
        threshold=float(threshold),
        sizes=graph.size,
        boxes=graph.box,
        centroids=graph.centroid,
        fragments=store.fragments,
        affinities=store.affinities,
        voxel_size=store.voxel_size,
        signature=content,
        first=graph.first,
        ending=graph.ending,
        first_ending=graph.first_ending,
        run=(str(store.path), merge_function, float(threshold)),
    )
    source._tree.append(store.merge_tree(merge_function))
    return source


def _mapped_again(run: str, merge_function: str, threshold: float) -> ProofreadingSource:
    """Map a run in another process."""
    store = SegmentationStore.open(run)
    return ProofreadingSource.from_store(store, merge_function, threshold=threshold)


def _content(store: SegmentationStore) -> dict[str, Any]:
    """Signature of a store without where its volume lies, which may change."""
    signature = dict(store.settings["signature"])
    volume = dict(signature.get("volume", {}))
    signature["volume"] = {k: v for k, v in volume.items() if k not in ("path", "dataset")}
    return signature


def spanning_merge_tree(
    n_fragments: int,
    u: npt.NDArray[np.uint32],
    v: npt.NDArray[np.uint32],
    score: npt.NDArray[np.floating[Any]],
) -> MergeTree:
    """Make a merge tree from edges and scores alone: joining goes by the cheapest edge first.

    Parameters
    ----------
    n_fragments : int
        Highest fragment id.
    u, v : ndarray, shape (n,), uint32
        Fragments of each edge.
    score : ndarray, shape (n,), floating
        At which each edge joins its two fragments, if nothing did before; inf = never.

    Returns
    -------
    MergeTree
        Of a minimum spanning forest of the edges; seconds for millions of them.
    """
    ever = np.flatnonzero(np.isfinite(score))
    order = ever[np.argsort(score[ever], kind="stable")]
    chosen = union_by_size(u, v, np.ones(n_fragments + 1, np.uint32), order).edge
    history = MergeHistory(u[chosen], v[chosen], score[chosen].astype(np.float32))
    return MergeTree.from_history(n_fragments, history)
