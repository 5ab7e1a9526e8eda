"""A small segmentation with everything a session can use, and the slow way from it to segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_cad.core.region_graph import RegionGraph, section_edges, section_fragment_table
from napari_cad.proofreading.source import ProofreadingSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_cad.proofreading.session import ProofreadingSession


def make_source(
    seed: int = 0, shape: tuple[int, int, int] = (3, 14, 16), per_section: int = 9
) -> ProofreadingSource:
    """Sections of Voronoi cells with random affinities; scores of edges have many ties."""
    rng = np.random.default_rng(seed)
    fragments = np.zeros(shape, np.uint32)
    grid = np.stack(np.meshgrid(*map(np.arange, shape[1:]), indexing="ij"), axis=-1)
    for z in range(shape[0]):
        centres = rng.uniform((0, 0), shape[1:], (per_section, 2))
        distance = ((grid[:, :, None] - centres) ** 2).sum(axis=-1)
        _, local = np.unique(distance.argmin(axis=-1), return_inverse=True)
        fragments[z] = local.reshape(shape[1:]) + fragments.max() + 1
    affinities = rng.integers(0, 256, (3, *shape), np.uint8)
    return source_of(fragments, affinities, rng)


def source_of(
    fragments: np.ndarray, affinities: np.ndarray, rng: np.random.Generator
) -> ProofreadingSource:
    tables = [
        section_edges(fragments[z], affinities[:, z], z, fragments[z - 1] if z else None)
        for z in range(len(fragments))
    ]
    graph = RegionGraph.concatenate(tables, n_fragments=int(fragments.max()))
    rows = np.concatenate([section_fragment_table(fragments[z], z) for z in range(len(fragments))])
    n = graph.n_fragments
    assert (rows[:, 0] == np.arange(1, n + 1)).all()
    sizes, boxes, centroids = (
        np.zeros((n + 1, *shape), dtype)
        for shape, dtype in (((), np.int64), ((6,), np.int32), ((3,), np.float32))
    )
    sizes[1:], boxes[1:], centroids[1:] = rows[:, 1], rows[:, 2:8], rows[:, 8:]
    join = np.round(rng.uniform(0, 1, len(graph.u)), 1).astype(np.float32)
    join[rng.random(len(join)) < 0.1] = np.inf
    return ProofreadingSource.from_arrays(
        graph.u,
        graph.v,
        graph.mean,
        join,
        threshold=0.3,
        n_fragments=n,
        area=graph.area,
        position=graph.position,
        sizes=sizes,
        boxes=boxes,
        centroids=centroids,
        fragments=fragments,
        affinities=affinities,
        voxel_size=(30.0, 6.0, 6.0),
    )


def lut_by_hand(session: ProofreadingSession, threshold: float | None = None) -> np.ndarray:
    """The definition of a segmentation, one edge at a time over the whole graph."""
    graph, decisions = session.graph, session.decisions
    t = np.float32(decisions.threshold if threshold is None else threshold)
    group = {f: {f} for f in range(1, graph.n_fragments + 1) if graph.alive[f]}

    def unite(a: int, b: int) -> None:
        if group[a] is not group[b]:
            group[a] |= group[b]
            for member in group[b]:
                group[member] = group[a]

    locked = {f for fragments in decisions.locks.values() for f in fragments}
    for e in range(graph.n_edges):
        u, v = int(graph.u[e]), int(graph.v[e])
        holds = not decisions.cut[e] and graph.join[e] < t
        if holds and {u, v} <= group.keys() and locked.isdisjoint((u, v)):
            unite(u, v)
    for u, v in decisions.links:
        if locked.isdisjoint((u, v)):
            unite(u, v)
    for fragments in decisions.locks.values():
        for f in fragments:
            unite(fragments[0], f)
    lut = np.zeros(graph.n_fragments + 1, np.uint32)
    for f, members in group.items():
        best = min(members, key=lambda m: (-decisions.rank[m], decisions.name[m]))
        lut[f] = decisions.name[best]
    return lut


@pytest.fixture
def new_source() -> Callable[..., ProofreadingSource]:
    return make_source


@pytest.fixture
def by_hand() -> Callable[..., np.ndarray]:
    return lut_by_hand
