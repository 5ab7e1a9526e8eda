"""The store: one zarr group per run, written section by section, so that a run can be resumed.

`store_layout` says what lies where and makes an empty store, `section_store` reads and writes
sections; here are the graph of all sections, its agglomerations and the segments. Nothing else
knows the layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from napari_cad.core import stored_agglomeration, stored_graph
from napari_cad.core.absorption import SpanningForest, spanning_forest
from napari_cad.core.columns import read_column
from napari_cad.core.errors import StoreError
from napari_cad.core.merge_tree import MergeHistory, MergeTree
from napari_cad.core.region_graph import FRAGMENT_COLUMNS, RegionGraph
from napari_cad.core.section_store import SectionStore
from napari_cad.core.store_layout import ATTRIBUTE, STAGES, is_store
from napari_cad.core.tiling import RECEPTIVE_RADIUS

if TYPE_CHECKING:
    import numpy.typing as npt
    import zarr

    from napari_cad.core.config import SegmentationConfig
    from napari_cad.core.locations import Location
    from napari_cad.core.stored_graph import GraphColumns
    from napari_cad.core.volume import EMVolume

__all__ = ["STAGES", "SegmentationStore", "is_store", "run_signature"]


#: Recipe of what a stage makes, raised with every change after which the same input gives other
#: numbers, rounding apart. A run of another recipe is not gone on with: it would be made of both.
RECIPES = {
    # 1: among equally high pixels that with the nearest seed comes first; 2: the first come, as
    # published. Versions between did not record theirs and count as 1.
    "fragments": 2,
    # 1: approximate areas of contacts where pixels are not square; 2: exact
    "edges": 2,
}


def run_signature(
    volume: EMVolume, checkpoint_sha256: str, config: SegmentationConfig, precision: str
) -> dict[str, Any]:
    """Everything that decides the voxels of a run; two runs with one signature may share a store.

    The threshold and the merge function are not in it: they can be changed afterwards. Tile and
    batch are not either: they change the result by rounding at most, unless the halo of a tile is
    narrower than what the network looks at.

    Parameters
    ----------
    volume : EMVolume
        A few of its sections are read.
    checkpoint_sha256 : str
        Of the checkpoint's file.
    config : SegmentationConfig
        With a resolved intensity mapping.
    precision : str
        Arithmetic of the network: float32, bfloat16 or float16.

    Returns
    -------
    dict
        Plain values that `json` can write.
    """
    signature = {
        "volume": volume.signature(),
        "checkpoint": checkpoint_sha256,
        "intensity": config.intensity.to_json(),
        "precision": precision,
        "fragments": config.fragments.to_json(),
        "recipe": RECIPES,
    }
    # absent where they are not used, so that runs made before there were these can go on
    if fit := config.fit.recorded():
        signature["fit"] = fit
    if config.augmentation != "none":
        signature["augmentation"] = config.augmentation
    if config.inference.halo < RECEPTIVE_RADIUS:
        signature["tiles"] = {"tile": config.inference.tile, "halo": config.inference.halo}
    return signature


class SegmentationStore(SectionStore):
    """A run on disk. Make one with `create` or `open`.

    Attributes
    ----------
    path : Path, or str for a URL
    settings : dict
        The attributes as they stand in the file: format, signature, config, volume, checkpoint.
    """

    def __init__(self, path: Location, group: zarr.Group) -> None:
        super().__init__(path, group)
        self._trees: dict[tuple[str, int], MergeTree] = {}

    # ---------------------------------------------------------------- what was chosen last

    @property
    def merge_function(self) -> str:
        """The merge function last chosen."""
        return cast("str", self.settings["config"]["agglomeration"]["merge_function"])

    @property
    def threshold(self) -> float:
        """The agglomeration threshold last chosen."""
        return cast("float", self.settings["config"]["agglomeration"]["threshold"])

    @property
    def absorb(self) -> int:
        """Segments of fewer voxels are joined to a neighbour; 0 = none."""
        return int(self.settings["config"]["agglomeration"].get("absorb", 0))

    def choose_agglomeration(self, merge_function: str, threshold: float, absorb: int = 0) -> None:
        """Remember which merge function, threshold and limit of absorbing to show."""
        settings = dict(self.settings)
        chosen = {"merge_function": merge_function, "threshold": threshold}
        settings["config"] = {
            **settings["config"],
            "agglomeration": chosen | ({"absorb": absorb} if absorb else {}),
        }
        self._group.attrs[ATTRIBUTE] = settings
        self.settings = settings

    # ---------------------------------------------------------------- the graph

    @property
    def graph_columns(self) -> GraphColumns | None:
        """Columns of the region graph, mapped; None where no agglomeration has written them."""
        graph = self._group.get("graph")
        if graph is None or not stored_graph.is_whole(cast("zarr.Group", graph)):
            return None
        return stored_graph.read(cast("zarr.Group", graph))

    def fragment_sizes(self) -> npt.NDArray[np.int64]:
        """Voxels by fragment id, shape (n_fragments + 1,), int64; do not write into it."""
        columns = self.graph_columns
        if columns is not None:
            return columns.size
        table = self.fragment_table()
        sizes = np.zeros(self.n_fragments + 1, np.int64)
        sizes[table[:, 0].astype(np.intp)] = table[:, FRAGMENT_COLUMNS.index("size")]
        return sizes

    def region_graph(self) -> RegionGraph:
        """Read the region graph of the whole volume.

        Raises
        ------
        StoreError
            If the run has not got that far.
        """
        self._require("edges")
        tables = [self.read_edges(z) for z in range(self.n_sections)]
        return RegionGraph.concatenate(tables, n_fragments=self.n_fragments)

    # ---------------------------------------------------------------- agglomeration

    def forget_agglomerations(self) -> None:
        """Forget what was read of agglomerations: another process has written one."""
        self._trees.clear()

    def has_agglomeration(self, merge_function: str) -> bool:
        """Whether the merge history of this merge function is there, whole."""
        group = self._group.get(f"agglomeration/{merge_function}")
        return group is not None and stored_agglomeration.is_whole(cast("zarr.Group", group))

    @property
    def agglomerations(self) -> list[str]:
        """Merge functions whose merge history is there, whole."""
        names = cast("zarr.Group", self._group["agglomeration"]).group_keys()
        return sorted(name for name in names if self.has_agglomeration(name))

    def write_agglomeration(
        self, merge_function: str, history: MergeHistory, *, record: dict[str, Any] | None = None
    ) -> None:
        """Write a merge history and what follows from it: merge tree and join scores.

        The edges are read section by section, so the graph is never in memory.

        Parameters
        ----------
        merge_function : str
            Its name.
        history : MergeHistory
            Of the whole volume.
        record : dict, optional
            How it was made, see `agglomeration_record`; by default {"exact": True}.

        Raises
        ------
        StoreError
            If sections are missing.
        """
        self._require("edges")
        graph = self._group.require_group("graph")
        if not stored_graph.is_whole(graph):
            stored_graph.write(self, graph)
        columns = stored_graph.read(graph)
        tree = MergeTree.from_history(self.n_fragments, history)
        group = self._group.create_group(f"agglomeration/{merge_function}", overwrite=True)
        self._trees.clear()
        sections = (self.read_edge_columns(z, "u", "v") for z in range(self.n_sections))
        stored_agglomeration.write(
            group,
            history,
            tree.with_sizes(columns.size),
            columns,
            ((edges["u"], edges["v"]) for edges in sections),
            int(self.counts("edges").sum()),
            {"exact": True} if record is None else record,
        )

    def agglomeration_record(self, merge_function: str | None = None) -> dict[str, Any]:
        """Tell how an agglomeration (by default the one last chosen) was made.

        Returns
        -------
        dict
            "exact": whether it is what waterz gives on the whole volume. If not, "parts": first
            section of each part, and "conservative_score": up to which they were merged alone.
        """
        return stored_agglomeration.record(self._agglomeration(merge_function))

    def _agglomeration(self, merge_function: str | None) -> zarr.Group:
        merge_function = merge_function or self.merge_function
        if not self.has_agglomeration(merge_function):
            raise StoreError(
                f"{self.path} has no agglomeration by {merge_function} yet: run it first"
            )
        return cast("zarr.Group", self._group[f"agglomeration/{merge_function}"])

    def _agglomeration_column(self, name: str, merge_function: str | None) -> npt.NDArray[Any]:
        return read_column(self._agglomeration(merge_function), name)

    def numbered_join_scores(self, merge_function: str) -> tuple[npt.NDArray[np.float32], str]:
        """Join scores in the order of `graph_columns`, mapped, and the digest of that graph.

        Raises
        ------
        StoreError
            If this version has not made the agglomeration.
        """
        group = self._agglomeration(merge_function)
        if "numbered_join_score" not in group:
            raise StoreError(f"{self.path} has no columns of its graph: an older version made it")
        digest = cast("str", group.attrs["digest"])
        return read_column(group, "numbered_join_score"), digest

    def merge_history(
        self, merge_function: str | None = None, absorb: int | None = None
    ) -> MergeHistory:
        """Merge history of a merge function (by default the one last chosen).

        What is absorbed, by default as last chosen, comes first.
        """
        absorb = self.absorb if absorb is None else absorb
        if absorb:
            return self.spanning_forest(merge_function).history(absorb)
        return MergeHistory(
            *(self._agglomeration_column(name, merge_function) for name in ("a", "b", "score"))
        )

    def join_scores(
        self, merge_function: str | None = None, absorb: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Join score of every edge of the region graph, in its order, float32.

        inf = never; −inf inside what has been absorbed. Arguments as for `merge_history`.
        """
        absorb = self.absorb if absorb is None else absorb
        if absorb:
            graph = self.region_graph()
            return self.merge_tree(merge_function, absorb).join_scores(graph.u, graph.v)
        return self._agglomeration_column("join_score", merge_function)

    def merge_tree(self, merge_function: str | None = None, absorb: int | None = None) -> MergeTree:
        """Give the merge tree, from which the segments at any threshold follow; made once.

        Arguments as for `merge_history`. Where nothing is absorbed, it lies in the store and is
        mapped into memory, which takes no time; unless an older version wrote the agglomeration.
        """
        key = (merge_function or self.merge_function, self.absorb if absorb is None else absorb)
        if key not in self._trees:
            self._trees[key] = self._make_tree(*key)
        return self._trees[key]

    def _make_tree(self, merge_function: str, absorb: int) -> MergeTree:
        if not absorb:
            columns = stored_agglomeration.read_tree(self._agglomeration(merge_function))
            if columns is not None:
                return MergeTree(columns, reopen=(_open_tree, (self.path, merge_function)))
        history = self.merge_history(merge_function, absorb)
        return MergeTree.from_history(self.n_fragments, history)

    def spanning_forest(self, merge_function: str | None = None) -> SpanningForest:
        """Give what absorbing needs; it is kept in the store, where that is open for writing."""
        group = self._agglomeration(merge_function)
        forest = self.kept_forest(merge_function)
        # before there were marks, one that was cut short looked like any other
        if forest is not None and (
            stored_agglomeration.has_marked_forest(group)
            or forest.is_plausible(self._n_merges(merge_function))
        ):
            return forest
        forest = self.made_forest(merge_function)
        if not self._group.read_only:
            stored_agglomeration.write_forest(group, forest)
        return forest

    def _n_merges(self, merge_function: str | None) -> int:
        return len(self.merge_tree(merge_function, absorb=0).columns.running_score)

    def made_forest(self, merge_function: str | None = None) -> SpanningForest:
        """Make what `spanning_forest` gives anew, with the region graph in memory."""
        join_score = self._agglomeration_column("join_score", merge_function)
        return spanning_forest(self.region_graph(), join_score, self.fragment_sizes())

    def kept_forest(self, merge_function: str | None = None) -> SpanningForest | None:
        """Read what is kept for `spanning_forest`, unless it was not written to its end."""
        group = self._agglomeration(merge_function)
        return stored_agglomeration.read_forest(group, self.n_fragments)

    def lut(self, threshold: float | None = None) -> npt.NDArray[np.uint32]:
        """Fragment → segment at a threshold (by default the one last chosen).

        Returns
        -------
        ndarray, shape (n_fragments + 1,), uint32
            lut[0] = 0; the id of a segment is the smallest of its fragments' ids.
        """
        threshold = self.threshold if threshold is None else threshold
        tree = self._trees.get((self.merge_function, self.absorb))
        if tree is not None:
            return tree.lut(threshold)
        if self.absorb:
            return self.spanning_forest().lut(threshold, self.absorb)
        return self.merge_tree().lut(threshold)


def _open_tree(path: Location, merge_function: str) -> MergeTree:
    """Map a merge tree in another process."""
    return SegmentationStore.open(path).merge_tree(merge_function, absorb=0)
