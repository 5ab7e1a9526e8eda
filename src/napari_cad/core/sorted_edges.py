"""The edges of a store in the order of (u, v), one section of u after another.

The table of a section holds the edges inside it and those from the section before. So what begins
in a section stands in two tables, and with two tables in memory the whole graph can be gone through
in its order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_cad.core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_cad.core.store import SegmentationStore

    Columns = dict[str, npt.NDArray[Any]]


class EdgeBlock(NamedTuple):
    """The edges whose lower fragment lies in one section.

    Attributes
    ----------
    z : int
        That section.
    columns : dict
        Name → ndarray, sorted by (u, v).
    rows : ndarray, shape (n,), int64
        Where each edge stands in `SegmentationStore.region_graph`.
    """

    z: int
    columns: Columns
    rows: npt.NDArray[np.int64]


def sorted_edges(store: SegmentationStore, *names: str) -> Iterator[EdgeBlock]:
    """Go through the edges of a store whose sections are all done.

    Parameters
    ----------
    store : SegmentationStore
        Opened for reading.
    *names : str
        Columns of `napari_cad.core.region_graph.EDGE_COLUMNS` beside u and v.

    Yields
    ------
    EdgeBlock
        One per section, the first one first.

    Raises
    ------
    StoreError
        If an edge of a section's table does not end in that section.
    """
    offsets = store.fragment_offsets
    first_row = np.concatenate([[0], np.cumsum(store.counts("edges"))])
    inside, _ = _split(store, 0, names, offsets, first_row) if store.n_sections else ({}, None)
    for z in range(store.n_sections):
        parts, later = [inside], None
        if z + 1 < store.n_sections:
            later, between = _split(store, z + 1, names, offsets, first_row)
            parts.append(between)
        columns = {name: np.concatenate([part[name] for part in parts]) for name in inside}
        order = np.argsort(columns["u"].astype(np.uint64) << np.uint64(32) | columns["v"])
        rows = columns.pop("row")[order]
        yield EdgeBlock(z, {name: column[order] for name, column in columns.items()}, rows)
        if later is not None:
            inside = later


def _split(
    store: SegmentationStore,
    z: int,
    names: tuple[str, ...],
    offsets: npt.NDArray[np.int64],
    first_row: npt.NDArray[np.int64],
) -> tuple[Columns, Columns]:
    """Edges inside section z, and those between it and the one before."""
    columns = store.read_edge_columns(z, "u", "v", *names)
    u, v = columns["u"], columns["v"]
    columns["row"] = np.arange(first_row[z], first_row[z] + len(u))
    lowest = int(offsets[max(z - 1, 0)])
    if len(u) and not (
        lowest < int(u.min()) and offsets[z] < int(v.min()) and int(v.max()) <= offsets[z + 1]
    ):
        raise StoreError(
            f"{store.path}: the edges of section {z} lead to fragments of other sections than "
            f"{max(z - 1, 0)} and {z}: `napari-cad verify` tells more"
        )
    inner = u > offsets[z]
    return (
        {name: column[inner] for name, column in columns.items()},
        {name: column[~inner] for name, column in columns.items()},
    )
