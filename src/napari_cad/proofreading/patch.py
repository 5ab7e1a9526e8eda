"""Patches: where fragments give way to others, and how the region graph changes there.

The fragments of the store are never written to. A patch is a bounding box, a mask and the old and
new ids in it, kept in the folder of the session; what the viewer shows is the store's fragments
with the patches in force laid over them (`napari_cad.proofreading.overlay`).

A new fragment has exactly one *parent*, the fragment that its voxels belonged to. So its edges
take over what the parent's edge said: the join score, and whether the person had cut it. Edges
between parts of one fragment have join score 0: nothing but a cut holds them apart. An edge without
any contact (between parts of a label that do not touch) goes to the largest part.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.region_graph import EdgeTable, section_edges
from napari_cad.proofreading.log import write_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from napari_cad.proofreading.graph import EditableGraph

#: Join score of edges between parts of one fragment: below every threshold.
_SIBLINGS = -1.0

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class FragmentPatch:
    """What a patch does to the graph. Plain numbers: it stands in the log.

    Attributes
    ----------
    number : int
        Counts from 1 over all branches of the history; names the file of its voxels.
    box : tuple of (int, int)
        Half-open bounding box of the changed voxels, (z, y, x).
    removed : tuple of int
        Fragments that are retired.
    first_fragment : int
        Id of the first new fragment; the others follow.
    parents : tuple of int
        The fragment that each new one was part of, 0 = background.
    sizes : tuple of int
        Voxels of each new fragment.
    boxes : tuple of tuple of int
        Half-open bounding box of each: z, y, x start, then z, y, x stop.
    first_edge : int
        Number of the first new edge; the others follow.
    u, v, mean, area, position, join_score : tuple
        Columns of the new edges, as in a region graph; join score None = never.
    """

    number: int
    box: Box
    removed: tuple[int, ...]
    first_fragment: int
    parents: tuple[int, ...]
    sizes: tuple[int, ...]
    boxes: tuple[tuple[int, ...], ...]
    first_edge: int
    u: tuple[int, ...]
    v: tuple[int, ...]
    mean: tuple[float, ...]
    area: tuple[int, ...]
    position: tuple[tuple[float, ...], ...]
    join: tuple[float | None, ...]

    @property
    def fragments(self) -> range:
        """Ids of the new fragments."""
        return range(self.first_fragment, self.first_fragment + len(self.parents))

    @property
    def edges(self) -> range:
        """Numbers of the new edges."""
        return range(self.first_edge, self.first_edge + len(self.u))

    @property
    def join_score(self) -> list[float]:
        """Join score of each new edge, inf = never."""
        return [np.inf if score is None else score for score in self.join]

    def to_json(self) -> dict[str, Any]:
        """As it stands in the log."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FragmentPatch:
        """Read what `to_json` wrote."""
        return cls(**{name: _tuples(value) for name, value in data.items()})


@dataclass(frozen=True, eq=False)
class PatchVoxels:
    """The voxels of a patch.

    Attributes
    ----------
    box : tuple of (int, int)
        Half-open bounding box, (z, y, x).
    mask : ndarray, shape of the box, bool
        Which voxels change.
    old, new : ndarray, shape (n,), uint32
        Fragment ids of those voxels before and after, in C order; 0 = background.
    """

    box: Box
    mask: npt.NDArray[np.bool_]
    old: npt.NDArray[np.uint32]
    new: npt.NDArray[np.uint32]

    def save(self, path: Path) -> None:
        """Write them to a file, which is on the disk on return."""
        content = io.BytesIO()
        np.savez_compressed(
            content,
            box=np.array(self.box),
            shape=np.array(self.mask.shape),
            mask=np.packbits(self.mask),
            old=self.old,
            new=self.new,
        )
        write_file(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> PatchVoxels:
        """Read what `save` wrote."""
        with np.load(path) as file:
            shape = tuple(file["shape"])
            mask = np.unpackbits(file["mask"], count=int(np.prod(shape))).astype(np.bool_)
            (z, y, x) = ((int(a), int(b)) for a, b in file["box"])
            return cls((z, y, x), mask.reshape(shape), file["old"], file["new"])


@dataclass(frozen=True, eq=False)
class Division:
    """A patch that is worked out and not yet part of the session.

    Attributes
    ----------
    patch : FragmentPatch
    voxels : PatchVoxels
    parent_edges : ndarray, shape (number of new edges,), int64
        The edge that each new one is a part of, −1 where there is none.
    """

    patch: FragmentPatch
    voxels: PatchVoxels
    parent_edges: npt.NDArray[np.int64]


def divide(
    graph: EditableGraph,
    number: int,
    corner: tuple[int, int, int],
    before: npt.NDArray[np.uint32],
    parts: npt.NDArray[np.int32],
    affinities: npt.NDArray[np.uint8] | None,
    is_painted: Sequence[bool] = (),
) -> Division:
    """Work out the patch that gives each part of some fragments an id of its own.

    Parameters
    ----------
    graph : EditableGraph
        Not changed.
    number : int
        Of the patch.
    corner : tuple of int
        (z, y, x) of the first voxel of the arrays, in the volume.
    before : ndarray, shape (Z, Y, X), uint32
        Fragment ids. Every fragment that loses a voxel lies inside as a whole, with all its
        neighbours.
    parts : ndarray, same shape, int32
        0 = the voxel stays as it is, −1 = it becomes background, 1, 2, … = the part it belongs
        to. All voxels of a fragment that loses any have a part or −1, and a part has voxels of
        one fragment only.
    affinities : ndarray, shape (3, Z, Y, X), uint8, or None
        As stored. Without them new edges take over the parent's mean affinity.
    is_painted : sequence of bool
        Of part 1, 2, …: whether it shall be held by nothing but its contacts; by default none.

    Returns
    -------
    Division
    """
    changed = parts != 0
    n_parts = int(parts.max(initial=0))
    first = graph.n_fragments + 1
    new = before.copy()
    new[parts > 0] = parts[parts > 0].astype(np.uint32) + np.uint32(first - 1)
    new[parts < 0] = 0
    parents = np.zeros(n_parts + 1, np.uint32)
    parents[parts[parts > 0]] = before[parts > 0]
    removed = np.unique(before[changed])
    removed = removed[removed > 0]

    sizes = np.bincount(parts[parts > 0], minlength=n_parts + 1)[1:]
    table = _edges_of_new(new, affinities, corner, first)
    bare = graph.edges_around(removed)
    bare = bare[graph.area[bare] == 0]
    if len(bare):
        heir = _heirs(removed, parents[1:], sizes, first, is_painted)
        table = _with_bare_edges(table, graph, bare, heir, np.add(corner, parts.shape) / 2)
    parent_edges = _parent_edges(graph, table, parents[1:], first, removed)
    mean, join = _taken_over(graph, table, parents[1:], first, parent_edges)
    if affinities is not None:
        mean = table.mean
    boxes = [_box(new == fragment, corner) for fragment in range(first, first + n_parts)]
    box = _box(changed, corner)
    inside = tuple(slice(box[i] - corner[i], box[i + 3] - corner[i]) for i in range(3))
    mask = changed[inside]
    bounds = (box[0], box[3]), (box[1], box[4]), (box[2], box[5])
    patch = FragmentPatch(
        number=number,
        box=bounds,
        removed=tuple(removed.tolist()),
        first_fragment=first,
        parents=tuple(parents[1:].tolist()),
        sizes=tuple(sizes.tolist()),
        boxes=tuple(boxes),
        first_edge=graph.n_edges,
        u=tuple(table.u.tolist()),
        v=tuple(table.v.tolist()),
        mean=tuple(mean.tolist()),
        area=tuple(table.area.tolist()),
        position=tuple(map(tuple, table.position.tolist())),
        join=tuple(score if np.isfinite(score) else None for score in join.tolist()),
    )
    return Division(
        patch, PatchVoxels(bounds, mask, before[inside][mask], new[inside][mask]), parent_edges
    )


def _edges_of_new(
    labels: npt.NDArray[np.uint32],
    affinities: npt.NDArray[np.uint8] | None,
    corner: tuple[int, int, int],
    first: int,
) -> EdgeTable:
    """Edges with at least one end among the fragments `first` and up, each once, sorted."""
    if affinities is None:
        affinities = np.zeros((3, *labels.shape), np.uint8)
    tables = []
    for z in range(len(labels)):
        previous = labels[z - 1] if z else None
        tables.append(section_edges(labels[z], affinities[:, z], corner[0] + z, previous))
    rows = np.concatenate([table.to_array() for table in tables])
    rows = rows[rows[:, 1] >= first]  # v is the higher id
    rows[:, 6:8] += corner[1:]
    pairs, inverse = np.unique(rows[:, :2], axis=0, return_inverse=True)
    # a fragment of several sections has edges in each of them: sum what was counted, average the
    # averages with the number of contacts as weight
    united = np.zeros((len(pairs), rows.shape[1]))
    united[:, :2] = pairs
    area = rows[:, 4]
    for column in (4, 8):
        np.add.at(united[:, column], inverse, rows[:, column])
    np.maximum.at(united[:, 3], inverse, rows[:, 3])
    for column in (2, 5, 6, 7):
        np.add.at(united[:, column], inverse, rows[:, column] * area)
        united[:, column] /= np.maximum(united[:, 4], 1)
    return EdgeTable.from_array(united)


def _heirs(
    removed: npt.NDArray[np.uint32],
    parents: npt.NDArray[np.uint32],
    sizes: npt.NDArray[np.int64],
    first: int,
    is_painted: Sequence[bool],
) -> dict[int, int]:
    """Find the part of each fragment that takes over edges without contact; 0 = there is none."""
    heir = dict.fromkeys(removed.tolist(), 0)
    for part in np.argsort(sizes, kind="stable").tolist():  # so that the largest is written last
        if parents[part] and not (len(is_painted) and is_painted[part]):
            heir[int(parents[part])] = first + part
    return heir


def _with_bare_edges(
    table: EdgeTable,
    graph: EditableGraph,
    bare: npt.NDArray[np.int64],
    heir: dict[int, int],
    middle: npt.NDArray[np.float64],
) -> EdgeTable:
    """Add edges without any contact, between the heirs; at the `middle` where no place is known."""
    ends = np.array(
        [[heir.get(f, f) for f in column[bare].tolist()] for column in (graph.u, graph.v)]
    )
    kept = ends.all(axis=0)
    u, v = np.sort(ends[:, kept], axis=0).astype(np.uint32)
    mean, area, place = (column[bare[kept]] for column in (graph.mean, graph.area, graph.position))
    place = np.where(np.isfinite(place), place, middle.astype(np.float32))
    return EdgeTable(
        np.concatenate([table.u, u]),
        np.concatenate([table.v, v]),
        np.concatenate([table.mean, mean]),
        np.concatenate([table.max, mean]),
        np.concatenate([table.area, area]),
        np.concatenate([table.position, place]),
    )


def _parent_edges(
    graph: EditableGraph,
    table: EdgeTable,
    parents: npt.NDArray[np.uint32],
    first: int,
    removed: npt.NDArray[np.uint32],
) -> npt.NDArray[np.int64]:
    edges = graph.edges_around(removed)
    pairs = zip(graph.u[edges].tolist(), graph.v[edges].tolist(), strict=True)
    number = dict(zip(pairs, edges.tolist(), strict=True))
    ends = (_parent_ids(ids, parents, first).tolist() for ids in (table.u, table.v))
    found = [number.get((min(a, b), max(a, b)), -1) for a, b in zip(*ends, strict=True)]
    return np.array(found, np.int64)


def _taken_over(
    graph: EditableGraph,
    table: EdgeTable,
    parents: npt.NDArray[np.uint32],
    first: int,
    parent_edges: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean affinity and join score of the parent edges."""
    mean = np.zeros(len(table), np.float32)
    join = np.full(len(table), np.inf, np.float32)
    known = parent_edges >= 0
    mean[known] = graph.mean[parent_edges[known]]
    join[known] = graph.join[parent_edges[known]]
    a, b = (_parent_ids(ids, parents, first) for ids in (table.u, table.v))
    siblings = (a == b) & (a != 0)
    mean[siblings], join[siblings] = 1.0, _SIBLINGS
    return mean, join


def _parent_ids(
    ids: npt.NDArray[np.uint32], parents: npt.NDArray[np.uint32], first: int
) -> npt.NDArray[np.uint32]:
    """Each id as it was before the patch."""
    result = ids.copy()
    new = ids >= first
    result[new] = parents[ids[new] - first]
    return result


def _box(mask: npt.NDArray[np.bool_], corner: tuple[int, int, int]) -> tuple[int, ...]:
    """Half-open bounding box of a mask in the volume: starts, then stops."""
    indices = np.nonzero(mask)
    starts = [int(i.min()) + c for i, c in zip(indices, corner, strict=True)]
    stops = [int(i.max()) + 1 + c for i, c in zip(indices, corner, strict=True)]
    return (*starts, *stops)


def _tuples(value: Any) -> Any:
    """Make tuples of lists, all the way down: a patch is a plain, comparable value."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
