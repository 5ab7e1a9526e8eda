"""Cutting a segment between seeds: from clicks to a preview, which has the plan of the edit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_cad.core.merge_tree import is_below
from napari_cad.proofreading.cut import CutPreview, minimum_cut
from napari_cad.proofreading.edits import ApplyPatch, Change, CutEdges, LinkFragments
from napari_cad.proofreading.errors import ProofreadingError
from napari_cad.proofreading.operations import (
    Plan,
    conflict_with_links,
    new_links,
    refuse_locked,
)
from napari_cad.proofreading.patch import divide

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from napari_cad.proofreading.decisions import Decisions
    from napari_cad.proofreading.patch import Division
    from napari_cad.proofreading.session import ProofreadingSession

    Voxel = tuple[int, int, int]
    Seed = int | Voxel

RED, BLUE = 1, 2

#: Fragments that join a seed below this part of the score at which the colours meet go with it.
_SURELY = 0.3


def preview_cut(
    session: ProofreadingSession,
    red: Sequence[Seed],
    blue: Sequence[Seed],
    *,
    keep: Literal["red", "blue"] | None,
) -> CutPreview:
    """Work out a cut; see `ProofreadingSession.preview_cut`."""
    revision = session.revision
    if not red or not blue:
        raise ProofreadingError(f"a cut needs seeds on both sides, got {len(red)} and {len(blue)}")
    seeds = [(seed, RED) for seed in red] + [(seed, BLUE) for seed in blue]
    fragment = [_fragment_of_seed(session, seed) for seed, _ in seeds]
    segment = _common_segment(session, fragment, len(red))
    refuse_locked(session, (segment,), "cut")
    division, colours = _divide_shared(session, fragment, seeds)
    red_nodes = [f for f, (_, c) in zip(fragment, seeds, strict=True) if c == RED]
    blue_nodes = [f for f, (_, c) in zip(fragment, seeds, strict=True) if c == BLUE]
    network = _Network(session, segment, division)
    if division is None:
        red_nodes, blue_nodes = _grown(session, network, red_nodes, blue_nodes)
    else:
        gone = set(division.patch.removed)
        parts = list(zip(division.patch.fragments, colours, strict=True))
        red_nodes = [f for f in red_nodes if f not in gone] + [f for f, c in parts if c == RED]
        blue_nodes = [f for f in blue_nodes if f not in gone] + [f for f, c in parts if c == BLUE]
    return _preview(
        session,
        revision,
        network,
        np.array(red_nodes),
        np.array(blue_nodes),
        keep={"red": red_nodes[0], "blue": blue_nodes[0], None: None}[keep],
        seeds={"red": [_plain(seed) for seed in red], "blue": [_plain(seed) for seed in blue]},
    )


def preview_between(
    session: ProofreadingSession, red: npt.NDArray[np.int64], blue: npt.NDArray[np.int64]
) -> CutPreview:
    """Work out the cut between two parts of a segment that are given as fragments."""
    revision = session.revision
    segment = session.segment_of(int(red[0]))
    refuse_locked(session, (segment,), "cut")
    # thousands of fragments are no seeds that anybody placed, and need not be in the log
    return _preview(session, revision, _Network(session, segment, None), red, blue)


def _preview(
    session: ProofreadingSession,
    revision: int,
    network: _Network,
    red: npt.NDArray[np.int64],
    blue: npt.NDArray[np.int64],
    *,
    keep: int | None = None,
    seeds: dict[str, list[object]] | None = None,
) -> CutPreview:
    is_red, broken = network.cut(red, blue)
    crossing = is_red[network.u] != is_red[network.v]
    edges = network.edges[crossing]
    area = network.area[crossing].astype(np.int64)
    n_contacts, affinity = int(area.sum()), _mean(network.mean[crossing], area)
    n_parts = {"red": network.count_parts(is_red), "blue": network.count_parts(~is_red)}
    details: dict[str, Any] = {"contacts": n_contacts}
    if seeds is not None:
        details["seeds"] = seeds
    if n_contacts:
        details["affinity"] = round(affinity, 4)
    segment, division = network.segment, network.division
    plan = Plan(
        "cut",
        _changes(session, division, broken, edges),
        revision,
        keep=keep,
        segments=(segment,),
        division=division,
        details=details,
        warnings=tuple(
            f"the {colour} side falls into {n} segments: its seeds are not connected on that side"
            for colour, n in n_parts.items()
            if n > 1
        ),
        conflicts=(conflict_with_links(session, segment, broken),) if broken else (),
    )
    return CutPreview(
        plan=plan,
        red=network.nodes[is_red],
        blue=network.nodes[~is_red],
        edges=edges,
        n_contacts=n_contacts,
        affinity=affinity,
        position=network.position[crossing],
        links=broken,
        n_red_parts=n_parts["red"],
        n_blue_parts=n_parts["blue"],
    )


def _changes(
    session: ProofreadingSession,
    division: Division | None,
    broken: tuple[tuple[int, int], ...],
    edges: npt.NDArray[np.int64],
) -> tuple[Change, ...]:
    """List what a cut comes down to: a division, links that are dissolved, and edges."""
    changes = [] if division is None else patch_changes(session, division)
    if broken:
        changes.append(LinkFragments(broken).inverse())
    return (*changes, CutEdges(tuple(edges.tolist())))


def patch_changes(
    session: ProofreadingSession, division: Division, painted: frozenset[int] = frozenset()
) -> list[Change]:
    """List the patch, and what its fragments and edges take over from those they replace.

    Fragments that are `painted` take over no links: the brush has decided where they belong.
    """
    patch = division.patch
    changes: list[Change] = [ApplyPatch(patch)]
    inherited = inherited_cuts(session.decisions, division)
    if inherited.any():
        changes.append(CutEdges(tuple(np.asarray(patch.edges)[inherited].tolist())))
    gone, instead = _moved_links(session, division, painted)
    if gone:
        changes.append(LinkFragments(tuple(gone)).inverse())
    if instead:
        changes.append(LinkFragments(new_links(session, instead)))
    return changes


def inherited_cuts(decisions: Decisions, division: Division) -> npt.NDArray[np.bool_]:
    """Which edges of a division are parts of an edge that the person cut."""
    parent = division.parent_edges
    result = np.zeros(len(parent), np.bool_)
    result[parent >= 0] = decisions.cut[parent[parent >= 0]]
    return result


def _moved_links(
    session: ProofreadingSession, division: Division, painted: frozenset[int] = frozenset()
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Links of fragments that go, and the same between the parts that come.

    The part that has most contact with the other end inherits the link, otherwise the largest.
    """
    patch = division.patch
    removed = set(patch.removed)
    gone = [pair for pair in session.decisions.links if not removed.isdisjoint(pair)]
    parts: dict[int, list[int]] = {}
    for part, parent in zip(patch.fragments, patch.parents, strict=True):
        if part not in painted:
            parts.setdefault(parent, []).append(part)
    contact = dict(zip(zip(patch.u, patch.v, strict=True), patch.area, strict=True))
    size = dict(zip(patch.fragments, patch.sizes, strict=True))
    instead = []
    for u, v in gone:
        options = [
            (contact.get((min(a, b), max(a, b)), 0), size.get(a, 0) + size.get(b, 0), (a, b))
            for a in parts.get(u, [u])
            for b in parts.get(v, [v])
            if a not in removed and b not in removed
        ]
        if options:
            a, b = max(options)[2]
            instead.append((min(a, b), max(a, b)))
    return gone, instead


def _common_segment(session: ProofreadingSession, fragments: list[int], n_red: int) -> int:
    segments = [session.segment_of(fragment) for fragment in fragments]
    if len(set(segments)) > 1:
        red, blue = (sorted(set(part)) for part in (segments[:n_red], segments[n_red:]))
        raise ProofreadingError(
            f"all seeds of a cut lie in one segment, got red ones in {red} and blue ones in {blue}"
        )
    return segments[0]


def _divide_shared(
    session: ProofreadingSession, fragment: list[int], seeds: list[tuple[Seed, int]]
) -> tuple[Division | None, list[int]]:
    """Divide the fragments that have seeds of both colours; also the colour of every part."""
    colours: dict[int, set[int]] = {}
    for f, (_, colour) in zip(fragment, seeds, strict=True):
        colours.setdefault(f, set()).add(colour)
    shared = [f for f, found in colours.items() if len(found) == 2]
    if not shared:
        return None, []
    for f, (seed, _) in zip(fragment, seeds, strict=True):
        if f in shared and not isinstance(seed, tuple):
            raise ProofreadingError(
                f"fragment {f} is red and blue at once: to divide it, give voxels as seeds"
            )
    # only here: a session that never divides a fragment need not load scikit-image
    from napari_cad.proofreading.fragment_split import split_by_seeds

    corner, before, affinities = session.voxels.around(shared)
    parts = np.zeros(before.shape, np.int32)
    part_colours: list[int] = []
    for f in shared:
        inside: dict[int, list[Voxel]] = {RED: [], BLUE: []}
        for g, (seed, colour) in zip(fragment, seeds, strict=True):
            if g == f and isinstance(seed, tuple):
                z, y, x = (int(s) - c for s, c in zip(seed, corner, strict=True))
                inside[colour].append((z, y, x))
        new, found = split_by_seeds(
            before == f, affinities, inside[RED], inside[BLUE], session.source.voxel_size
        )
        parts += np.where(new > 0, new + len(part_colours), 0).astype(np.int32)
        part_colours += found
    number = session.next_patch
    return divide(session.graph, number, corner, before, parts, affinities), part_colours


def _grown(
    session: ProofreadingSession, network: _Network, red: list[int], blue: list[int]
) -> tuple[list[int], list[int]]:
    """Let seeds stand for what surely belongs to them.

    The lightest cut around a small fragment is often the one that leaves it alone on its side. So
    a seed takes those along that join it long before it joins any seed of the other colour. On 77
    merge errors of sections 56–75 of the AC4 stack that took the part of either neurite that one
    random seed a side left on the wrong side from 12 % to 6 %.
    """
    red_roots, blue_roots = (
        np.array([session.graph.root(f) for f in seeds]) for seeds in (red, blue)
    )
    tree = session.source.merge_tree()
    pairs = np.repeat(red_roots, len(blue)), np.tile(blue_roots, len(red))
    meet = float(tree.join_scores(*pairs).min())
    part = network.parts_below(_SURELY * min(meet, session.threshold))
    place = np.searchsorted(network.nodes, red), np.searchsorted(network.nodes, blue)
    red_parts, blue_parts = part[place[0]], part[place[1]]
    if np.intersect1d(red_parts, blue_parts).size:
        return red, blue
    grown = (network.nodes[np.isin(part, parts)].tolist() for parts in (red_parts, blue_parts))
    return next(grown), next(grown)


class _Network:
    """The fragments of a segment and what is between them, as if a division were applied."""

    def __init__(
        self, session: ProofreadingSession, segment: int, division: Division | None
    ) -> None:
        self.segment, self.division = segment, division
        graph, decisions = session.graph, session.decisions
        members = session.fragments_of(segment)
        edges = graph.edges_within(members)
        # every edge that is not cut counts, also beyond the threshold: a higher one would join it
        edges = edges[~decisions.cut[edges]]
        links = [p for p in decisions.links if session.lut[p[0]] == segment]
        if division is not None:
            removed = np.array(division.patch.removed)
            edges = edges[~np.isin(graph.u[edges], removed) & ~np.isin(graph.v[edges], removed)]
            gone, instead = _moved_links(session, division)
            links = [pair for pair in links if pair not in set(gone)] + instead
            members = np.setdiff1d(members, removed)
        columns: list[npt.NDArray[Any]] = [
            graph.u[edges],
            graph.v[edges],
            graph.mean[edges],
            graph.area[edges],
            graph.position[edges],
            graph.join[edges],
        ]
        self.edges = edges
        if division is not None:
            patch = division.patch
            members = np.concatenate([members, np.array(patch.fragments)])
            inside = np.isin(patch.u, members) & np.isin(patch.v, members)
            inside &= ~inherited_cuts(decisions, division)
            added = (
                patch.u, patch.v, patch.mean, patch.area, patch.position, patch.join_score
            )  # fmt: skip
            columns = [
                np.concatenate([column, np.asarray(new, column.dtype)[inside]])
                for column, new in zip(columns, added, strict=True)
            ]
            self.edges = np.concatenate([edges, np.array(patch.edges)[inside]])
        self.nodes = members.astype(np.int64)
        u, v, self.mean, self.area, self.position, join = columns
        # a table is several times faster than a search for hundreds of thousands of ends
        self._index = np.zeros(int(self.nodes[-1]) + 1, np.int32)
        self._index[self.nodes] = np.arange(len(self.nodes), dtype=np.int32)
        self.u, self.v = self._index[u], self._index[v]
        self._join = join
        self._holds = is_below(join, decisions.threshold)
        self._links = self._index[np.array(links, np.int64).reshape(-1, 2)]

    def cut(
        self, red: npt.NDArray[np.int64], blue: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], tuple[tuple[int, int], ...]]:
        """Which nodes are on the red side, and the links that are broken."""
        reds, blues = self._index[red], self._index[blue]
        n, capacity = len(self.nodes), self.mean.astype(np.float64) * self.area
        is_red = minimum_cut(n, self.u, self.v, capacity, reds, blues, self._links)
        if is_red is None:
            # red and blue are linked: break links, but as few as possible
            a, b = self._links.T
            dear = np.full(len(a), capacity.sum() + 1.0)
            is_red = minimum_cut(
                n,
                np.concatenate([self.u, a]),
                np.concatenate([self.v, b]),
                np.concatenate([capacity, dear]),
                reds,
                blues,
                np.zeros((0, 2), np.int64),
            )
        if is_red is None:
            raise ProofreadingError("a fragment is red and blue at once")
        a, b = self._links.T
        broken = self.nodes[self._links[is_red[a] != is_red[b]]]
        return is_red, tuple((int(u), int(v)) for u, v in broken)

    def count_parts(self, side: npt.NDArray[np.bool_]) -> int:
        """Count the segments that a side falls into."""
        here = side[self.u] & side[self.v] & self._holds
        return len(np.unique(self._parts(here, side)[side]))

    def parts_below(self, threshold: float) -> npt.NDArray[np.int32]:
        """Part that each node would be in at a lower threshold."""
        return self._parts(is_below(self._join, threshold), np.ones(len(self.nodes), np.bool_))

    def _parts(
        self, holds: npt.NDArray[np.bool_], side: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.int32]:
        """Components of the edges that hold, and of the links on a side."""
        links = self._links[side[self._links].all(axis=1)]
        u = np.concatenate([self.u[holds], links[:, 0]])
        v = np.concatenate([self.v[holds], links[:, 1]])
        n = len(self.nodes)
        matrix = coo_array((np.ones(len(u)), (u, v)), shape=(n, n))
        part: npt.NDArray[np.int32] = connected_components(matrix, directed=False)[1]
        return part


def _mean(values: npt.NDArray[np.float32], weights: npt.NDArray[np.int64]) -> float:
    return float(np.average(values, weights=weights)) if weights.any() else float("nan")


def _plain(seed: Seed) -> object:
    return [int(s) for s in seed] if isinstance(seed, tuple) else int(seed)


def _fragment_of_seed(session: ProofreadingSession, seed: Seed) -> int:
    """Find the fragment that a seed means: itself, or the one at a voxel."""
    if isinstance(seed, tuple):
        return session.voxels.fragment_at(seed)
    session.segment_of(seed)  # there is such a fragment
    return int(seed)
