"""The store: one zarr group per run, written section by section, so that a run can be resumed.

::

    RUN.zarr/                  attribute "napari_cad": format, signature, config, volume, ...
    ├─ affinities/0            (3, Z, Y, X) uint8, chunks (3, 1, 512, 512); an OME-Zarr image
    ├─ fragments/0             (Z, Y, X) uint32, unique over the volume, 0 = background; the same
    ├─ marks/STAGE             (Z,) int64: −1, or how many things the stage made of the section
    ├─ edges/Z                 (n, 9) float64: edges inside section Z and to section Z − 1
    ├─ fragment_table/Z        (n, 11) float64: size, bounding box and centroid of each fragment
    ├─ graph/…                 columns of the whole region graph; see `stored_graph`
    ├─ agglomeration/FUNCTION/ merge history, merge tree, join scores, and, where small segments
    │                          have been absorbed, the forest; see `stored_agglomeration`
    ├─ embedding_rgb/VARIANT   embedding maps, where asked for; see `napari_cad.core.stored_maps`
    └─ scratch                 while a run goes on only; see `napari_cad.core.scratch`

A section's arrays are written before its mark, and zarr replaces a chunk in one step; so what is
marked is whole. This module is the only one that knows the layout.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
import zarr
from zarr.codecs import BloscCodec
from zarr.errors import ContainsArrayError, GroupNotFoundError

from napari_cad.core import stored_agglomeration, stored_graph
from napari_cad.core.absorption import SpanningForest, spanning_forest
from napari_cad.core.columns import CHUNK_ROWS, read_column, write_column
from napari_cad.core.config import SegmentationConfig
from napari_cad.core.errors import StoreError, StoreMismatchError
from napari_cad.core.locations import (
    Location,
    address,
    as_path,
    is_free,
    location,
    remote_errors,
    remove,
)
from napari_cad.core.merge_tree import MergeHistory, MergeTree
from napari_cad.core.region_graph import (
    EDGE_COLUMNS,
    EDGE_TYPES,
    FRAGMENT_COLUMNS,
    EdgeTable,
    RegionGraph,
)
from napari_cad.core.scratch import Scratch
from napari_cad.core.stored_maps import StoredMap

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from napari_cad.core.checkpoint_metadata import CheckpointMetadata
    from napari_cad.core.projection import Which
    from napari_cad.core.stored_graph import GraphColumns
    from napari_cad.core.volume import EMVolume

#: Version of the layout; raised when an older package could not read the store rightly.
FORMAT = 2

#: Attribute of the group that makes it a store.
ATTRIBUTE = "napari_cad"

Stage = Literal["affinities", "fragments", "edges"]
STAGES: tuple[Stage, ...] = ("affinities", "fragments", "edges")

_CHUNK = 512
_NOT_DONE = -1
_AFFINITY_CODEC = BloscCodec(typesize=1, cname="zstd", clevel=3, shuffle="bitshuffle")
_FRAGMENT_CODEC = BloscCodec(typesize=4, cname="zstd", clevel=3, shuffle="shuffle")


def run_signature(
    volume: EMVolume, checkpoint_sha256: str, config: SegmentationConfig, precision: str
) -> dict[str, Any]:
    """Everything that decides the voxels of a run; two runs with one signature may share a store.

    The threshold and the merge function are not in it: they can be changed afterwards. Tile and
    batch are not either: they change the result by rounding at most.

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
    }
    # absent where they are not used, so that runs made before there were these can go on
    if fit := config.fit.recorded():
        signature["fit"] = fit
    if config.augmentation != "none":
        signature["augmentation"] = config.augmentation
    return signature


def is_store(path: str | Path) -> bool:
    """Whether `path`, or URL, is the folder of a store; reads its metadata only.

    Raises
    ------
    StoreError
        If it is a URL and nothing answers there.
    """
    place = location(path)
    try:
        if not (as_path(place) / "zarr.json").is_file():
            return False
    except remote_errors() as error:
        raise StoreError(f"{place} cannot be looked at ({error})") from error
    try:
        return ATTRIBUTE in zarr.open_group(place, mode="r").attrs
    except (GroupNotFoundError, ContainsArrayError, ValueError):
        return False


class SegmentationStore:
    """A run on disk. Make one with `create` or `open`.

    Attributes
    ----------
    path : Path, or str for a URL
    settings : dict
        The attributes as they stand in the file: format, signature, config, volume, checkpoint.
    """

    def __init__(self, path: Location, group: zarr.Group) -> None:
        self.path = path
        self._group = group
        self.settings: dict[str, Any] = cast("dict[str, Any]", group.attrs[ATTRIBUTE])
        self._trees: dict[tuple[str, int], MergeTree] = {}

    # ---------------------------------------------------------------- making and opening

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        volume: EMVolume,
        checkpoint: CheckpointMetadata,
        config: SegmentationConfig,
        signature: dict[str, Any],
        overwrite: bool = False,
    ) -> Self:
        """Make an empty store.

        Parameters
        ----------
        path : path or URL
            A folder that does not exist yet; by custom it ends in .zarr.
        volume : EMVolume
            Gives shape, voxel size, origin and name; none of it is copied.
        checkpoint : CheckpointMetadata
            Kept for the record.
        config : SegmentationConfig
            With a resolved intensity mapping.
        signature : dict
            From `run_signature`.
        overwrite : bool
            Remove a store that is there. Anything that is no store is never removed.

        Raises
        ------
        StoreError
            If something is in the way, or the folder cannot be written.
        """
        place = location(path)
        if not is_free(place):
            if not is_store(place):
                raise StoreError(f"expected a free place for the store, but {path} is in the way")
            if not overwrite:
                raise StoreError(f"{path} is a store already: open it, or allow to overwrite it")
            remove(place)
        group = zarr.open_group(place, mode="a", zarr_format=3)
        n_sections, height, width = volume.shape
        chunk = (min(_CHUNK, height), min(_CHUNK, width))
        _image_group(group, "affinities", volume, channels=True).create_array(
            "0",
            shape=(3, n_sections, height, width),
            chunks=(3, 1, *chunk),
            dtype="uint8",
            compressors=_AFFINITY_CODEC,
            dimension_names=("c", "z", "y", "x"),
        )
        _image_group(group, "fragments", volume, channels=False).create_array(
            "0",
            shape=(n_sections, height, width),
            chunks=(1, *chunk),
            dtype="uint32",
            compressors=_FRAGMENT_CODEC,
            dimension_names=("z", "y", "x"),
        )
        marks = group.create_group("marks")
        for stage in STAGES:
            marks.create_array(
                stage,
                shape=(n_sections,),
                chunks=(1,),
                dtype="int64",
                fill_value=_NOT_DONE,
                compressors=None,
            )
        for name in ("edges", "fragment_table", "agglomeration"):
            group.create_group(name)
        # last, so that a store that was cut short while it was made is not taken for one
        group.attrs[ATTRIBUTE] = {
            "format": FORMAT,
            "signature": signature,
            "config": config.to_json(),
            "volume": {
                "name": volume.name,
                "shape": list(volume.shape),
                "dtype": volume.dtype.name,
                "voxel_size": None if volume.voxel_size is None else list(volume.voxel_size),
                "origin": list(volume.origin),
                "source": None if volume.source is None else volume.source.to_json(),
                **({} if volume.bin == 1 else {"bin": volume.bin}),
            },
            "checkpoint": checkpoint.to_json(),
        }
        return cls(place, group)

    @classmethod
    def open(cls, path: str | Path, mode: Literal["r", "a"] = "r") -> Self:
        """Open a store that exists.

        Raises
        ------
        StoreError
            If there is none, or a newer version of the package made it.
        """
        place = location(path)
        if not is_store(place):
            raise StoreError(
                f"expected a napari-cad store (a folder that a run has made), got {path}"
                f"{', which does not exist' if is_free(place) else ''}"
            )
        store = cls(place, zarr.open_group(place, mode="r" if mode == "r" else "r+"))
        if store.settings["format"] > FORMAT:
            raise StoreError(
                f"{path} has store format {store.settings['format']}, this napari-cad reads up to "
                f"{FORMAT}: install a newer one"
            )
        return store

    def check_signature(self, signature: dict[str, Any]) -> None:
        """Refuse to go on with another volume, checkpoint or setting.

        Where the volume's file lies does not matter, only what is in it.

        Raises
        ------
        StoreMismatchError
            Naming each difference with both values.
        """
        ours, theirs = _flat(self.settings["signature"]), _flat(signature)
        differing = [
            f"{key}: the store has {ours.get(key)!r}, this run {theirs.get(key)!r}"
            for key in sorted(ours.keys() | theirs.keys())
            if key not in ("volume.path", "volume.dataset") and ours.get(key) != theirs.get(key)
        ]
        if differing:
            raise StoreMismatchError(
                f"{self.path} was made from another volume, checkpoint or setting "
                f"({'; '.join(differing)}): choose another place, or overwrite it"
            )

    # ---------------------------------------------------------------- what it is about

    @property
    def address(self) -> str:
        """Absolute path or URL, by which another process opens it."""
        return address(self.path)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) in voxels."""
        return cast("tuple[int, int, int]", tuple(self.settings["volume"]["shape"]))

    @property
    def n_sections(self) -> int:
        """Z."""
        return self.shape[0]

    @property
    def name(self) -> str:
        """Name of the volume."""
        return cast("str", self.settings["volume"]["name"])

    @property
    def voxel_size(self) -> tuple[float, float, float] | None:
        """(z, y, x) in nm; None = not known."""
        size = self.settings["volume"]["voxel_size"]
        return None if size is None else (size[0], size[1], size[2])

    @property
    def origin(self) -> tuple[float, float, float]:
        """(z, y, x) in nm of the first voxel."""
        z, y, x = self.settings["volume"]["origin"]
        return z, y, x

    @property
    def bin(self) -> int:
        """How many voxels of the stack along y and x are one of the run's: 2 in a quick look."""
        return int(self.settings["volume"].get("bin", 1))

    @property
    def config(self) -> SegmentationConfig:
        """The settings of the run, with the intensity mapping as it was resolved."""
        return SegmentationConfig.from_json(self.settings["config"])

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

    # ---------------------------------------------------------------- sections

    @cached_property
    def affinities(self) -> zarr.Array[Any]:
        """Array (3, Z, Y, X) uint8, channels z, y, x; level q stands for (q + 0.5) / 256."""
        return self._array("affinities/0")

    @cached_property
    def fragments(self) -> zarr.Array[Any]:
        """Array (Z, Y, X) uint32, ids unique over the volume, 0 where not yet made."""
        return self._array("fragments/0")

    def _array(self, name: str) -> zarr.Array[Any]:
        return cast("zarr.Array[Any]", self._group[name])

    def counts(self, stage: Stage, sections: slice = slice(None)) -> npt.NDArray[np.int64]:
        """How many things a stage made of each section, shape (Z,); −1 where it is not done."""
        return cast("npt.NDArray[np.int64]", self._array(f"marks/{stage}")[sections])

    def sections_done(self, stage: Stage) -> npt.NDArray[np.bool_]:
        """Which sections a stage has finished, shape (Z,), bool."""
        return np.not_equal(self.counts(stage), _NOT_DONE)

    def is_done(self, stage: Stage, z: int) -> bool:
        """Whether a stage has finished section `z`."""
        return int(cast("Any", self._array(f"marks/{stage}")[z])) != _NOT_DONE

    def _mark(self, stage: Stage, z: int, count: int) -> None:
        self._array(f"marks/{stage}")[z] = count

    def write_affinities(self, z: int, affinities: npt.NDArray[np.uint8]) -> None:
        """Write and mark the affinities of a section, shape (3, Y, X), uint8."""
        self.affinities[:, z] = affinities
        self._mark("affinities", z, 1)

    def read_affinities(self, z: int) -> npt.NDArray[np.uint8]:
        """Affinities of a section, shape (3, Y, X), uint8."""
        return cast("npt.NDArray[np.uint8]", self.affinities[:, z])

    def write_fragments(self, z: int, fragments: npt.NDArray[np.uint32], count: int) -> None:
        """Write and mark the fragments of a section, shape (Y, X), with volume-unique ids."""
        self.fragments[z] = fragments
        self._mark("fragments", z, count)

    def read_fragments(self, z: int) -> npt.NDArray[np.uint32]:
        """Fragments of a section, shape (Y, X), uint32."""
        return cast("npt.NDArray[np.uint32]", self.fragments[z])

    @property
    def scratch(self) -> Scratch:
        """Fragments on their way to volume-unique ids."""
        return Scratch(self._group, self.shape)

    def embedding_map(self, which: Which, *, normalised: bool = True) -> StoredMap:
        """Give the embedding map of one of a section's two embeddings, made or to be made."""
        return StoredMap(self._group, self.shape, which, normalised=normalised)

    @property
    def embedding_rgb(self) -> zarr.Array[Any] | None:
        """Array (Z, Y, X, 3) uint8: the map of the embeddings that affinities come from."""
        return self.embedding_map("embedding").rgb

    def write_edges(
        self, z: int, edges: EdgeTable, fragment_table: npt.NDArray[np.float64]
    ) -> None:
        """Write and mark the edges that belong to section `z`, and the table of its fragments."""
        self._write_table(f"edges/{z}", edges.to_array())
        self._write_table(f"fragment_table/{z}", fragment_table)
        self._mark("edges", z, len(edges))

    def _write_table(self, name: str, table: npt.NDArray[Any]) -> None:
        write_column(self._group, name, table, mapped=False)

    def read_edges(self, z: int) -> EdgeTable:
        """Edges inside section `z` and between it and section z − 1."""
        return EdgeTable.from_array(cast("Any", self._array(f"edges/{z}")[:]))

    def read_edge_columns(self, z: int, *names: str) -> dict[str, npt.NDArray[Any]]:
        """Read some columns of `read_edges`, by the names in `EDGE_COLUMNS`.

        Read a million rows at a time, so that the whole table of a large section is never there.
        """
        table = self._array(f"edges/{z}")
        n = table.shape[0]
        at = [EDGE_COLUMNS.index(name) for name in names]
        columns = {name: np.empty(n, EDGE_TYPES.get(name, np.float32)) for name in names}
        for start in range(0, n, CHUNK_ROWS):
            rows = cast("npt.NDArray[Any]", table[start : start + CHUNK_ROWS])
            for column, i in zip(columns.values(), at, strict=True):
                column[start : start + len(rows)] = rows[:, i]
        return columns

    def fragment_table(self) -> npt.NDArray[np.float64]:
        """Size, bounding box and centroid of every fragment.

        Returns
        -------
        ndarray, shape (n_fragments, 11), float64
            Columns as in `napari_cad.core.region_graph.FRAGMENT_COLUMNS`; row i is fragment i + 1.

        Raises
        ------
        StoreError
            If the run has not got that far.
        """
        self._require("edges")
        tables = [self.read_fragment_table(z) for z in range(self.n_sections)]
        return np.concatenate([np.zeros((0, len(FRAGMENT_COLUMNS))), *tables])

    def read_fragment_table(self, z: int) -> npt.NDArray[np.float64]:
        """Rows of `fragment_table` for the fragments of section `z`."""
        return cast("npt.NDArray[np.float64]", self._array(f"fragment_table/{z}")[:])

    def fragment_sizes(self) -> npt.NDArray[np.int64]:
        """Voxels by fragment id, shape (n_fragments + 1,), int64; do not write into it."""
        columns = self.graph_columns
        if columns is not None:
            return columns.size
        table = self.fragment_table()
        sizes = np.zeros(self.n_fragments + 1, np.int64)
        sizes[table[:, 0].astype(np.intp)] = table[:, FRAGMENT_COLUMNS.index("size")]
        return sizes

    @property
    def graph_columns(self) -> GraphColumns | None:
        """Columns of the region graph, mapped; None where no agglomeration has written them."""
        graph = self._group.get("graph")
        if graph is None or not stored_graph.is_whole(cast("zarr.Group", graph)):
            return None
        return stored_graph.read(cast("zarr.Group", graph))

    @property
    def fragment_offsets(self) -> npt.NDArray[np.int64]:
        """Shape (Z + 1,): fragments of section z have the ids offsets[z] + 1 … offsets[z + 1].

        Sections that are not done count as empty.
        """
        counts = np.maximum(self.counts("fragments"), 0)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    @property
    def n_fragments(self) -> int:
        """Number of fragments so far, which is also the highest id."""
        return int(self.fragment_offsets[-1])

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

    def require_edges(self) -> None:
        """Raise a `StoreError` unless all sections have their edges."""
        self._require("edges")

    def forget_agglomerations(self) -> None:
        """Forget what was read of agglomerations: another process has written one."""
        self._trees.clear()

    def _require(self, stage: Stage) -> None:
        missing = int((~self.sections_done(stage)).sum())
        if missing:
            raise StoreError(
                f"{self.path} is not finished: {missing} of {self.n_sections} sections have no "
                f"{stage} yet; run the same segmentation again and it goes on where it stopped"
            )

    # ---------------------------------------------------------------- agglomeration

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
        name = f"agglomeration/{merge_function or self.merge_function}/forest"
        if name not in self._group:
            join_score = self._agglomeration_column("join_score", merge_function)
            forest = spanning_forest(self.region_graph(), join_score, self.fragment_sizes())
            if not self._group.read_only:
                self._write_table(name, forest.to_array())
            return forest
        return SpanningForest.from_array(self.n_fragments, cast("Any", self._array(name)[:]))

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


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _image_group(parent: zarr.Group, name: str, volume: EMVolume, *, channels: bool) -> zarr.Group:
    """Make a group with the metadata of an OME-Zarr 0.5 image, so that other viewers open it."""
    space: dict[str, Any] = {"type": "space"}
    if volume.voxel_size is not None:
        space["unit"] = "nanometer"
    axes: list[dict[str, Any]] = [{"name": axis, **space} for axis in "zyx"]
    scale = list(volume.voxel_size or (1.0, 1.0, 1.0))
    origin = list(volume.origin)
    if channels:
        axes = [{"name": "c", "type": "channel"}, *axes]
        scale, origin = [1.0, *scale], [0.0, *origin]
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if any(origin):
        transforms.append({"type": "translation", "translation": origin})
    multiscales = {
        "name": name,
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": transforms}],
    }
    group = parent.create_group(name)
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [multiscales]}
    group.attrs["ome"] = ome
    return group
