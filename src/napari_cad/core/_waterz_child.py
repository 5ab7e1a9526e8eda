"""What runs in the child process of `napari_cad.core.agglomeration`: the only import of waterz.

waterz holds the interpreter's lock for its whole call, prints to the C library's stdout, overwrites
the fragments it is given and yields one buffer again and again; none of that gets out of here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import waterz

from napari_cad.core.stored_affinity import dequantise

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Columns = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.float32]]


def merge_history_of_graph(
    u: npt.NDArray[np.uint32],
    v: npt.NDArray[np.uint32],
    affinity: npt.NDArray[np.float32],
    scoring_function: str,
    queue_bins: int,
) -> Iterator[Columns]:
    """Lay the edges out as a line of voxels u, v, 0, u, v, 0, … and agglomerate that.

    0 separates; every edge is one contact along x, its affinity stored at the later voxel.
    """
    fragments = np.zeros((len(u), 3), np.uint64)
    fragments[:, 0], fragments[:, 1] = u, v
    affinities = np.zeros((3, len(u), 3), np.float32)
    affinities[2, :, 1] = affinity
    length = 3 * len(u)
    yield _merge_history(
        affinities.reshape(3, 1, 1, length),
        fragments.reshape(1, 1, length),
        scoring_function,
        queue_bins,
    )


def merge_history_of_volume(
    affinities: str, fragments: str, scoring_function: str, queue_bins: int
) -> Iterator[Columns]:
    """Agglomerate a volume that lies in two .npy files, (3, Z, Y, X) uint8 and (Z, Y, X)."""
    yield _merge_history(
        dequantise(np.load(affinities, mmap_mode="r")),
        np.load(fragments, mmap_mode="r").astype(np.uint64),
        scoring_function,
        queue_bins,
    )


def _merge_history(
    affinities: npt.NDArray[np.float32],
    fragments: npt.NDArray[np.uint64],
    scoring_function: str,
    queue_bins: int,
) -> Columns:
    # one threshold above every score: the history then holds all merges
    ((_, history),) = waterz.agglomerate(
        affinities,
        thresholds=[1.0],
        fragments=fragments,
        scoring_function=scoring_function,
        discretize_queue=queue_bins,
        return_merge_history=True,
    )
    n = len(history)
    return (
        np.fromiter((merge["a"] for merge in history), np.uint32, n),
        np.fromiter((merge["b"] for merge in history), np.uint32, n),
        np.fromiter((merge["score"] for merge in history), np.float32, n),
    )
