"""A run of any size without voxels: region graphs as section-wise fragments make them.

    python benchmarks/synthetic_graph.py RUN.zarr --edges 5e6 [--side 400]

Fragments lie on a grid of `side` × `side` in every section. Each has six neighbours in its section
and four to five in the next one, as measured on the AC4 stack (7.6 edges per fragment). Fragments
of one neurite, a column of blocks that wanders through the sections, touch with high affinities,
others with low ones, and both have tails that reach far into each other.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import SegmentationConfig
from napari_cad.core.region_graph import EdgeTable
from napari_cad.core.store import SegmentationStore
from napari_cad.core.volume import EMVolume

if TYPE_CHECKING:
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]

#: Side of a fragment in pixels: 2,900 in a million.
_PIXELS = 19

#: Side of a neurite in fragments.
_NEURITE = 5


def main() -> None:
    """Make one from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--edges", type=float, default=5e6)
    parser.add_argument("--side", type=int, default=400)
    options = parser.parse_args()
    store = make_store(options.run, int(options.edges), options.side)
    print(f"{int(store.counts('edges').sum()):,} edges, {store.n_fragments:,} fragments")


def make_store(path: Path, n_edges: int, side: int = 400) -> SegmentationStore:
    """Write marks, edges and fragment tables of a run of about so many edges; no voxels."""
    per_section = 7.55 * side * side
    n_sections = max(2, round(n_edges / per_section))
    shape = (n_sections, side * _PIXELS, side * _PIXELS)
    nothing = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), shape, (0, 0, 0))
    store = SegmentationStore.create(
        path,
        volume=EMVolume.from_array(nothing, voxel_size=(30.0, 6.0, 6.0), name="made"),
        checkpoint=CheckpointMetadata(name="none", training_data="nothing", licence="none"),
        config=SegmentationConfig(),
        signature={"volume": {}},
    )
    rng = np.random.default_rng(0)
    before = None
    for z in range(n_sections):
        neurite = neurites(z, side)
        edges = section(z, side, neurite, before, rng)
        store._mark("affinities", z, 1)
        store._mark("fragments", z, side * side)
        store.write_edges(z, edges, fragment_table(z, side, rng))
        before = neurite
    return store


def neurites(z: int, side: int) -> Ids:
    """Neurite of every fragment of a section, flat: blocks whose borders wander."""
    row, column = np.indices((side, side))
    shift = (np.sin(z / 17) * 4, np.cos(z / 23) * 4)
    y, x = ((a + s).astype(np.int64) // _NEURITE for a, s in zip((row, column), shift, strict=True))
    return (y * (side + 10) + x).ravel()


def section(
    z: int, side: int, neurite: Ids, before: Ids | None, rng: np.random.Generator
) -> EdgeTable:
    """Edges inside section `z` and to the one before it, sorted by (u, v)."""
    n = side * side
    own = np.arange(n).reshape(side, side)
    steps = [(0, 1), (1, 0), (1, 1)]
    pairs = [(own[: side - dy, : side - dx], own[dy:, dx:]) for dy, dx in steps]
    a, b = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    high = neurite[a] == neurite[b]
    offset = z * n + 1
    u, v = a + offset, b + offset
    if before is not None:
        across = [(own[: side - dy, : side - dx], own[dy:, dx:]) for dy, dx in [(0, 0), *steps]]
        a, b = (np.concatenate([pair[i].ravel() for pair in across]) for i in (0, 1))
        some = rng.random(n) < 0.6  # four to five neighbours, not always the same
        a, b = (
            np.append(a, own[1:].ravel()[some[side:]]),
            np.append(b, own[:-1].ravel()[some[side:]]),
        )
        high = np.concatenate([high, before[a] == neurite[b]])
        u, v = np.concatenate([u, a + offset - n]), np.concatenate([v, b + offset])
    maximum = np.where(high, rng.beta(8, 1.5, len(u)), rng.beta(1.5, 5, len(u)))
    level = np.minimum(maximum * 256, 255).astype(np.int64)
    maximum = ((level + 0.5) / 256).astype(np.float32)
    order = np.lexsort((v, u))
    row, column = np.divmod(v[order] - offset, side)
    place = np.stack([np.full(len(u), z), row * _PIXELS, column * _PIXELS], axis=1)
    area = rng.integers(1, 400, len(u)).astype(np.uint32)
    return EdgeTable(
        u[order].astype(np.uint32),
        v[order].astype(np.uint32),
        maximum[order] * np.float32(0.8),
        maximum[order],
        area,
        place.astype(np.float32),
        np.zeros(len(u), np.uint32),
    )


def fragment_table(z: int, side: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Size, box and centroid of every fragment of a section."""
    n = side * side
    row, column = np.divmod(np.arange(n), side)
    start = np.stack([np.full(n, z), row * _PIXELS, column * _PIXELS], axis=1)
    size = rng.integers(50, _PIXELS * _PIXELS, n)
    stop = start + np.array([1, _PIXELS, _PIXELS])
    centre = start + np.array([0, _PIXELS / 2, _PIXELS / 2])
    return np.column_stack([np.arange(n) + z * n + 1, size, start, stop, centre]).astype(float)


if __name__ == "__main__":
    main()
