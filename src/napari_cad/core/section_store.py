"""The sections of a store: their voxels, tables and marks, read and written one by one.

What a run's tasks make is here; what is known only when all sections are done, the graph and its
segments, is in `napari_cad.core.store`.
"""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np

from napari_cad.core.columns import CHUNK_ROWS, write_column
from napari_cad.core.config import SegmentationConfig
from napari_cad.core.errors import StoreError, StoreMismatchError
from napari_cad.core.locations import (
    Location,
    address,
    is_free,
    location,
    remote_errors,
    remove_set_aside,
)
from napari_cad.core.region_graph import (
    EDGE_COLUMNS,
    EDGE_TYPES,
    FRAGMENT_COLUMNS,
    EdgeTable,
)
from napari_cad.core.scratch import Scratch
from napari_cad.core.store_layout import (
    ATTRIBUTE,
    FORMAT,
    NOT_DONE,
    is_store,
    make_empty,
    open_root,
    place_images,
)
from napari_cad.core.store_room import make_room
from napari_cad.core.stored_maps import StoredMap

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import zarr

    from napari_cad.core.checkpoint_metadata import CheckpointMetadata
    from napari_cad.core.projection import Which
    from napari_cad.core.store_layout import Stage
    from napari_cad.core.volume import EMVolume


class SectionStore:
    """A run on disk, section by section; `SegmentationStore` is all of it.

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
            Replace a store that is there. Anything that is no store is never removed, but for an
            empty one that was not made to its end, which needs no leave; nor is a store that the
            volume lies in, or that holds anything which no run has made.

        Raises
        ------
        StoreError
            If something is in the way, or the folder cannot be written.
        """
        place = location(path)
        make_room(place, volume, overwrite=overwrite)
        # a link stays, and what it leads to is replaced
        real = place.resolve() if isinstance(place, Path) else place
        try:
            group = make_empty(
                real, volume=volume, checkpoint=checkpoint, config=config, signature=signature
            )
        except remote_errors() as error:
            raise StoreError(f"{path} cannot be made ({error})") from error
        # the new one is there: what cannot be removed of the old one now goes with the next
        with contextlib.suppress(StoreError):
            remove_set_aside(real)
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
        store = cls(place, open_root(place, "r" if mode == "r" else "r+"))
        if store.settings["format"] > FORMAT:
            raise StoreError(
                f"{path} has store format {store.settings['format']}, this napari-cad reads up to "
                f"{FORMAT}: install a newer one"
            )
        return store

    def check_signature(self, signature: dict[str, Any]) -> None:
        """Refuse to go on with another volume, checkpoint, setting or recipe.

        Where the volume's file lies does not matter, only what is in it.

        Raises
        ------
        StoreMismatchError
            Naming each difference with both values.
        """
        ours, theirs = _flat(self.signature), _flat(signature)
        differing = {
            key: f"{key}: the store has {ours.get(key)!r}, this run {theirs.get(key)!r}"
            for key in sorted(ours.keys() | theirs.keys())
            if key not in ("volume.path", "volume.dataset") and ours.get(key) != theirs.get(key)
        }
        if not differing:
            return
        listed = "; ".join(differing.values())
        if all(key.startswith("recipe.") for key in differing):
            raise StoreMismatchError(
                f"{self.path} was begun by a version of napari-cad that makes other voxels of the "
                f"same input ({listed}), and going on would mix both. What is there can be "
                "viewed, verified and, where it is finished, agglomerated and exported; for a new "
                "run choose another place, or overwrite it"
            )
        raise StoreMismatchError(
            f"{self.path} was made from another volume, checkpoint or setting ({listed}): choose "
            "another place, or overwrite it"
        )

    def update_place(self, volume: EMVolume) -> list[str]:
        """Take over the voxel size and the origin that the volume is given with now.

        No voxel depends on them. Where they are not known, and where the origin is zero, the volume
        says nothing about them; and what its file says does not replace what was given by hand.

        Parameters
        ----------
        volume : EMVolume
            What the store is made from.

        Returns
        -------
        list of str
            For the person: which values were replaced.
        """
        recorded = dict(self.settings["volume"])
        by_hand = (recorded.get("source") or {}).get("voxel_size") is not None
        if by_hand and volume.source is not None and volume.source.voxel_size is None:
            return []
        size = volume.voxel_size or self.voxel_size
        origin = volume.origin if any(volume.origin) else self.origin
        replaced = [
            f"The {name} of {self.path} was {_in_nm(old)} and is {_in_nm(new)} now (z × y × x). "
            "What has been exported or measured before keeps the old one."
            for name, old, new in (
                ("voxel size", self.voxel_size, size),
                ("origin", self.origin if any(self.origin) else None, origin),
            )
            if old and new and not _are_close(old, new)
        ]
        if _are_close(size, self.voxel_size) and _are_close(origin, self.origin):
            return []
        # the settings come last: what is cut short before is done again
        place_images(self._group, size, origin)
        recorded |= {"voxel_size": size and list(size), "origin": list(origin)}
        if recorded.get("source") and volume.source is not None:
            given = volume.source.to_json()["voxel_size"]
            recorded["source"] = {**recorded["source"], "voxel_size": given}
        settings = {**self.settings, "volume": recorded}
        self._group.attrs[ATTRIBUTE] = settings
        self.settings = settings
        return replaced

    # ---------------------------------------------------------------- what it is about

    @property
    def address(self) -> str:
        """Absolute path or URL, by which another process opens it."""
        return address(self.path)

    @property
    def signature(self) -> dict[str, Any]:
        """What decided the voxels of the run: `napari_cad.core.store.run_signature`.

        Where no recipe is recorded, it is that of the versions which recorded none.
        """
        unrecorded = {"fragments": 1, "edges": self.settings["format"]}
        return {"recipe": unrecorded, **self.settings["signature"]}

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
        try:
            return cast("zarr.Array[Any]", self._group[name])
        except KeyError:
            raise StoreError(
                f"{self.path} is not whole, {name} is missing: begin the run anew (overwrite)"
            ) from None

    def counts(self, stage: Stage, sections: slice = slice(None)) -> npt.NDArray[np.int64]:
        """How many things a stage made of each section, shape (Z,); −1 where it is not done."""
        return cast("npt.NDArray[np.int64]", self._array(f"marks/{stage}")[sections])

    def sections_done(self, stage: Stage) -> npt.NDArray[np.bool_]:
        """Which sections a stage has finished, shape (Z,), bool."""
        return np.not_equal(self.counts(stage), NOT_DONE)

    def is_done(self, stage: Stage, z: int) -> bool:
        """Whether a stage has finished section `z`."""
        return int(cast("Any", self._array(f"marks/{stage}")[z])) != NOT_DONE

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

    def require_edges(self) -> None:
        """Raise a `StoreError` unless all sections have their edges."""
        self._require("edges")

    def _require(self, stage: Stage) -> None:
        missing = int((~self.sections_done(stage)).sum())
        if missing:
            raise StoreError(
                f"{self.path} is not finished: {missing} of {self.n_sections} sections have no "
                f"{stage} yet; run the same segmentation again and it goes on where it stopped"
            )


def _are_close(a: Sequence[float] | None, b: Sequence[float] | None) -> bool:
    """Whether lengths are the same, but for the rounding of units."""
    if a is None or b is None:
        return a is b
    return np.allclose(a, b, rtol=1e-6, atol=1e-6)


def _in_nm(lengths: Sequence[float]) -> str:
    return f"{' × '.join(f'{n:.8g}' for n in lengths)} nm"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
