"""The region graph as columns: what a session needs of a few edges, without reading all.

In the group `graph`, mapped, for edges in the order of (u, v), which gives them their numbers::

    u, v, mean, area, position      as in `EdgeTable`
    first                           (n_fragments + 2,): edges that begin at fragment f are those
                                    from first[f] to first[f + 1]
    ending, first_ending            numbers of the edges that end at a fragment, in the same way
    size, box, centroid             (n_fragments + 1, …): of every fragment, 0 for background

They say nothing that the tables of the sections do not say, and are made from them section by
section.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_cad.core.columns import ColumnWriter, read_column
from napari_cad.core.region_graph import FRAGMENT_COLUMNS
from napari_cad.core.sorted_edges import sorted_edges

if TYPE_CHECKING:
    import numpy.typing as npt
    import zarr

    from napari_cad.core.store import SegmentationStore

_WHOLE = "whole"

_SIZE = FRAGMENT_COLUMNS.index("size")
_BOX = [FRAGMENT_COLUMNS.index(f"{axis}_{end}") for end in ("start", "stop") for axis in "zyx"]
_CENTROID = [FRAGMENT_COLUMNS.index(axis) for axis in "zyx"]


class GraphColumns(NamedTuple):
    """What the group holds; see the module."""

    u: npt.NDArray[np.uint32]
    v: npt.NDArray[np.uint32]
    mean: npt.NDArray[np.float32]
    area: npt.NDArray[np.uint32]
    position: npt.NDArray[np.float32]
    first: npt.NDArray[np.int64]
    ending: npt.NDArray[np.integer[Any]]
    first_ending: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    box: npt.NDArray[np.int32]
    centroid: npt.NDArray[np.float32]


def is_whole(group: zarr.Group) -> bool:
    """Whether the columns were written to their end."""
    return bool(group.attrs.get(_WHOLE))


def read(group: zarr.Group) -> GraphColumns:
    """Map the columns into memory."""
    return GraphColumns(**{name: read_column(group, name) for name in GraphColumns._fields})


def write(store: SegmentationStore, group: zarr.Group) -> None:
    """Write the columns of a store whose sections are all done, two sections in memory at a time.

    Raises
    ------
    StoreError
        If the table of a section names fragments of others.
    """
    n_edges, n = int(store.counts("edges").sum()), store.n_fragments
    offsets = store.fragment_offsets
    with ExitStack() as stack:

        def writer(name: str, shape: tuple[int, ...], dtype: Any) -> ColumnWriter:
            return stack.enter_context(ColumnWriter(group, name, shape, dtype, mapped=True))

        columns = {
            "u": writer("u", (n_edges,), np.uint32),
            "v": writer("v", (n_edges,), np.uint32),
            "mean": writer("mean", (n_edges,), np.float32),
            "area": writer("area", (n_edges,), np.uint32),
        }
        position = writer("position", (n_edges, 3), np.float32)
        small = np.uint32 if n_edges < 2**32 else np.int64
        ending = writer("ending", (n_edges,), small)
        firsts = [writer(name, (n + 2,), np.int64) for name in ("first", "first_ending")]
        for first in firsts:
            first.append(np.zeros(1, np.int64))  # of background, which has no edges
        n_begun = n_ended = 0
        later = (np.zeros(0, np.uint32), np.zeros(0, np.int64))  # ends in the section to come
        for block in sorted_edges(store, "mean", "area", "z", "y", "x"):
            for name, column in columns.items():
                column.append(block.columns[name])
            position.append(np.stack([block.columns[axis] for axis in "zyx"], axis=1))
            u, v = block.columns["u"], block.columns["v"]
            number = np.arange(n_begun, n_begun + len(u))
            inside = v <= offsets[block.z + 1]
            ends = np.concatenate([later[0], v[inside]])
            numbers = np.concatenate([later[1], number[inside]])
            ending.append(numbers[np.lexsort((numbers, ends))])
            for first, ids, base in ((firsts[0], u, n_begun), (firsts[1], ends, n_ended)):
                first.append(base + _starts(ids, offsets, block.z))
            later = v[~inside], number[~inside]
            n_begun += len(u)
            n_ended += len(ends)
        for first in firsts:
            first.append(np.array([n_edges]))
    _write_fragments(store, group)
    group.attrs[_WHOLE] = True


def _starts(
    ids: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64], z: int
) -> npt.NDArray[np.int64]:
    """How many of the ids are below each fragment of a section."""
    n = int(offsets[z + 1] - offsets[z])
    count = np.bincount(ids - offsets[z] - 1, minlength=n)
    starts: npt.NDArray[np.int64] = np.cumsum(count) - count
    return starts


def _write_fragments(store: SegmentationStore, group: zarr.Group) -> None:
    """Write the columns by fragment."""
    kinds: tuple[tuple[str, tuple[int, ...], Any, Any], ...] = (
        ("size", (), np.int64, _SIZE),
        ("box", (6,), np.int32, _BOX),
        ("centroid", (3,), np.float32, _CENTROID),
    )
    offsets = store.fragment_offsets
    with ExitStack() as stack:
        writers = []
        for name, shape, dtype, _ in kinds:
            rows = (store.n_fragments + 1, *shape)
            writer = stack.enter_context(ColumnWriter(group, name, rows, dtype, mapped=True))
            writer.append(np.zeros((1, *shape), dtype))
            writers.append(writer)
        for z in range(store.n_sections):
            table = store.read_fragment_table(z)
            rows_of = table[:, 0].astype(np.intp) - offsets[z] - 1
            for writer, (_, shape, dtype, columns) in zip(writers, kinds, strict=True):
                values = np.zeros((int(offsets[z + 1] - offsets[z]), *shape), dtype)
                values[rows_of] = table[:, columns]
                writer.append(values)
