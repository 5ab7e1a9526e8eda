"""How an agglomeration lies in a store: `agglomeration/FUNCTION/` and what is in it.

::

    a, b, score          the merge history
    tree/…               the columns of the merge tree, mapped; see `TreeColumns`
    join_score           one per edge, in the order of the region graph
    numbered_join_score  the same, mapped, in the order of `stored_graph`
    forest               where small segments were absorbed: the rows of the spanning forest, with
                         an attribute of its own that says whether it is whole

Attributes say that it is whole, whether it is exact, and if not, how it was approximated, and give
a digest of graph and join scores. Older versions wrote no attributes, no tree and no numbered
scores.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from napari_cad.core.absorption import SpanningForest
from napari_cad.core.columns import CHUNK_ROWS, ColumnWriter, read_column, write_column
from napari_cad.core.merge_tree import MergeTree, TreeColumns

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    import zarr

    from napari_cad.core.merge_tree import MergeHistory
    from napari_cad.core.stored_graph import GraphColumns

#: Columns of the merge history.
HISTORY = ("a", "b", "score")

_FOREST = "forest"

_WHOLE = "whole"


def is_whole(group: zarr.Group) -> bool:
    """Whether an agglomeration was written to its end."""
    return "join_score" in group and bool(group.attrs.get(_WHOLE, True))


def write(
    group: zarr.Group,
    history: MergeHistory,
    tree: MergeTree,
    graph: GraphColumns,
    edges: Iterable[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]],
    n_edges: int,
    record: dict[str, Any],
) -> None:
    """Write an agglomeration into an empty group.

    Parameters
    ----------
    group : zarr.Group
        Its own.
    history : MergeHistory
        Of the whole volume.
    tree : MergeTree
        That of the history, with sizes.
    graph : GraphColumns
        Columns of the region graph.
    edges : iterable of (u, v)
        The region graph in its order, in pieces.
    n_edges : int
        Of all pieces.
    record : dict
        Becomes attributes.
    """
    group.attrs[_WHOLE] = False
    for name in HISTORY:
        write_column(group, name, getattr(history, name), mapped=False)
    columns = group.create_group("tree")
    for name, column in tree.columns._asdict().items():
        write_column(columns, name, column, mapped=True)
    n = len(graph.u)
    with ColumnWriter(group, "numbered_join_score", (n,), np.float32, mapped=True) as writer:
        for start in range(0, n, CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            writer.append(tree.join_scores(graph.u[rows], graph.v[rows]))
    scores = read_column(group, "numbered_join_score")
    group.attrs["digest"] = graph_digest(tree.n_fragments, graph.u, graph.v, scores)
    with ColumnWriter(group, "join_score", (n_edges,), np.float32, mapped=False) as writer:
        for u, v in edges:
            writer.append(tree.join_scores(u, v))
    group.attrs.update({**record, _WHOLE: True})


def graph_digest(n_fragments: int, *columns: npt.NDArray[Any]) -> str:
    """Digest of u, v and join scores: what numbers of edges refer to, and what follows from it."""
    digest = hashlib.sha256(str(n_fragments).encode())
    for column in columns:
        digest.update(np.ascontiguousarray(column).view(np.uint8).data)
    return digest.hexdigest()


def record(group: zarr.Group) -> dict[str, Any]:
    """Tell how an agglomeration was made: `exact`, and what else was recorded."""
    attributes = {key: value for key, value in group.attrs.items() if key not in (_WHOLE, "digest")}
    return {"exact": True, **attributes}


def read_tree(group: zarr.Group) -> TreeColumns | None:
    """Map the merge tree into memory; None where an older version wrote the agglomeration."""
    if "tree" not in group:
        return None
    tree = cast("zarr.Group", group["tree"])
    return TreeColumns(**{name: read_column(tree, name) for name in TreeColumns._fields})


def write_forest(group: zarr.Group, forest: SpanningForest) -> None:
    """Write the spanning forest of an agglomeration in place of one that may be there."""
    rows = forest.to_array()
    with ColumnWriter(group, _FOREST, rows.shape, rows.dtype, mapped=False) as writer:
        group[_FOREST].attrs[_WHOLE] = False
        writer.append(rows)
    group[_FOREST].attrs[_WHOLE] = True


def read_forest(group: zarr.Group, n_fragments: int) -> SpanningForest | None:
    """Read a spanning forest; None where there is none, or one not written to its end.

    Older versions marked none, so a part of one may come back unless `has_marked_forest`.
    """
    if _FOREST not in group or group[_FOREST].attrs.get(_WHOLE) is False:
        return None
    rows = cast("zarr.Array[Any]", group[_FOREST])[:]
    return SpanningForest.from_array(n_fragments, cast("npt.NDArray[np.float64]", rows))


def has_marked_forest(group: zarr.Group) -> bool:
    """Whether there is a spanning forest that is marked as whole."""
    return _FOREST in group and bool(group[_FOREST].attrs.get(_WHOLE))
