"""What runs in the child process of `napari_cad.core.agglomeration`: the only import of waterz.

waterz holds the interpreter's lock for its whole call, prints to the C library's stdout, overwrites
the fragments it is given, yields one buffer again and again, and keeps tables as long as the
highest id. None of that gets out of here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import waterz

from napari_cad.core.stored_affinity import dequantise

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_cad.core.volume import ArrayLike

    Columns = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.float32]]

#: Every score is below it, since no stored affinity stands for 0: the history then holds all.
_HIGHEST_THRESHOLD = 1.0


def merge_history_of_graph(
    u: npt.NDArray[np.uint32],
    v: npt.NDArray[np.uint32],
    affinity: npt.NDArray[np.float32],
    scoring_function: str,
    queue_bins: int,
) -> Iterator[Columns]:
    """Lay the edges out as a line of voxels u, v, 0, u, v, 0, … and agglomerate that.

    Parameters
    ----------
    u, v : ndarray, shape (n,), uint32
        Edges, in any order: waterz sorts them itself.
    affinity : ndarray, shape (n,), float32
        Their maximum affinities.
    scoring_function : str
        One whose edges start from their maximum.
    queue_bins : int
        Bins of the queue.

    Yields
    ------
    tuple of ndarray
        a, b, score of every merge.
    """
    fragments = np.zeros((len(u), 3), np.uint64)
    fragments[:, 0], fragments[:, 1] = u, v
    # an affinity is stored at the later voxel; the channels z and y are never read along a line,
    # nor, since they are never written, ever in memory
    affinities = np.zeros((3, len(u), 3), np.float32)
    affinities[2, :, 1] = affinity
    n_voxels = fragments.size
    yield _merge_history(
        affinities.reshape(3, 1, 1, n_voxels),
        fragments.reshape(1, 1, n_voxels),
        scoring_function,
        queue_bins,
    )


def merge_history_of_volume(
    affinities: ArrayLike, fragments: ArrayLike, scoring_function: str, queue_bins: int
) -> Iterator[Columns]:
    """Agglomerate a volume.

    Parameters
    ----------
    affinities : array, shape (3, Z, Y, X), uint8
        Read one section at a time.
    fragments : array, shape (Z, Y, X), unsigned integer
        Read one section at a time.
    scoring_function : str
        Any that waterz has compiled in.
    queue_bins : int
        Bins of the queue.

    Yields
    ------
    tuple of ndarray
        a, b, score of every merge.
    """
    real = np.empty(affinities.shape, np.float32)
    ids = np.empty(fragments.shape, np.uint64)
    for z in range(len(ids)):
        real[:, z] = dequantise(np.asarray(affinities[:, z]))
        ids[z] = fragments[z]
    yield _merge_history(real, ids, scoring_function, queue_bins)


def _merge_history(
    affinities: npt.NDArray[np.float32],
    fragments: npt.NDArray[np.uint64],
    scoring_function: str,
    queue_bins: int,
) -> Columns:
    names = _make_dense(fragments)
    ((_, history),) = waterz.agglomerate(
        affinities,
        thresholds=[_HIGHEST_THRESHOLD],
        fragments=fragments,
        scoring_function=scoring_function,
        discretize_queue=queue_bins,
        return_merge_history=True,
    )
    n = len(history)
    a, b = (np.fromiter((merge[key] for merge in history), np.uint32, n) for key in "ab")
    score = np.fromiter((merge["score"] for merge in history), np.float32, n)
    if names is not None:
        a, b = names[a], names[b]
    return a, b, score


def _make_dense(fragments: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32] | None:
    """Renumber fragments in place, in their order, where their ids are far apart.

    Returns
    -------
    ndarray of uint32 or None
        Old id by new id; None where the ids stay. Since the order stays, so does the merge history.
    """
    if int(fragments.max(initial=0)) <= fragments.size // 4:
        return None
    names, dense = np.unique(fragments, return_inverse=True)
    if names[0] != 0:  # 0 must stay background, and nothing else may become it
        names = np.concatenate([np.zeros(1, np.uint64), names])
        dense += 1
    fragments[:] = dense.reshape(fragments.shape)
    return names.astype(np.uint32)
