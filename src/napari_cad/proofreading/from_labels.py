"""Proofreading any labels: fragments and a region graph from labels alone, or with an image.

A label falls into its connected parts in each section; these are the fragments, and what is between
two of them is an edge, as in a store. So a label can be cut anywhere between sections, and its
parts inside a section by dividing a fragment.

An edge score is made from whatever evidence there is. Edges inside a label have scores below one
half, the others from there on: at the threshold 0.5 the segments are the labels, a higher one
merges labels where the boundary is weakest, a lower one takes them apart where the contact is.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.measure import label as connected_parts

from napari_cad.core.errors import ShapeError
from napari_cad.core.region_graph import (
    FRAGMENT_COLUMNS,
    RegionGraph,
    section_edges,
    section_fragment_table,
)
from napari_cad.proofreading.source import ProofreadingSource, spanning_merge_tree

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.proofreading.source import ArrayLike

#: Threshold at which the segments are the labels.
AS_LABELLED = 0.5

#: Type in which labels are hashed, by kind: that of the file does not matter.
_DIGESTED = {"u": "<u8", "i": "<i8"}

#: An affinity of one half, where there is no evidence.
_NO_EVIDENCE = 128


def source_from_labels(
    labels: ArrayLike,
    *,
    image: ArrayLike | None = None,
    affinities: ArrayLike | None = None,
    voxel_size: tuple[float, float, float] | None = None,
) -> ProofreadingSource:
    """Make labels a segmentation that can be proofread.

    Reads everything once, section by section, and holds the fragments (4 bytes a voxel) and, if
    they come from an image, the affinities (3 bytes a voxel) in memory.

    Parameters
    ----------
    labels : array-like, shape (Z, Y, X), integer
        0 = background.
    image : array-like, shape (Z, Y, X), optional
        Used where there are no affinities: the darker of two neighbouring voxels stands for the
        boundary between them, so membranes have to be dark.
    affinities : array-like, shape (3, Z, Y, X), uint8, optional
        As in a store.
    voxel_size : tuple of float, optional
        (z, y, x) in nm.

    Returns
    -------
    ProofreadingSource
        At the threshold 0.5 its segments are the labels. Their ids are new ones.

    Raises
    ------
    ShapeError
        If shapes do not fit each other, or labels are no integers of three axes.
    """
    shape = tuple(labels.shape)
    if len(shape) != 3 or np.dtype(labels.dtype).kind not in "iu":
        raise ShapeError(f"labels are integers (Z, Y, X), got {labels.dtype} of shape {shape}")
    for name, other, expected in (("image", image, shape), ("affinities", affinities, (3, *shape))):
        if other is not None and tuple(other.shape) != expected:
            raise ShapeError(f"{name} of labels {shape} has shape {expected}, got {other.shape}")
    if affinities is None and image is not None:
        affinities = _affinities_of(image)
    fragments = np.zeros(shape, np.uint32)
    label_of: list[npt.NDArray[Any]] = [np.zeros(1, np.dtype(labels.dtype))]
    tables, rows = [], []
    highest, digest = 0, hashlib.sha256(repr(shape).encode())
    for z in range(shape[0]):
        section = np.asarray(labels[z])
        digest.update(np.ascontiguousarray(section, _DIGESTED[section.dtype.kind]).data)
        parts = connected_parts(section, background=0, connectivity=1)  # type: ignore[no-untyped-call]
        n = int(parts.max(initial=0))
        fragments[z] = np.where(parts > 0, parts + highest, 0)
        values = np.zeros(n + 1, section.dtype)
        values[parts] = section
        label_of.append(values[1:])
        highest += n
        evidence = (
            np.full((3, *shape[1:]), _NO_EVIDENCE, np.uint8)
            if affinities is None
            else np.asarray(affinities[:, z])
        )
        previous = fragments[z - 1] if z else None
        tables.append(section_edges(fragments[z], evidence, z, previous))
        rows.append(section_fragment_table(fragments[z], z))
    graph = RegionGraph.concatenate(tables, n_fragments=highest)
    table = np.concatenate([np.zeros((1, len(FRAGMENT_COLUMNS))), *rows])
    return _source(
        graph,
        np.concatenate(label_of),
        table,
        fragments=fragments,
        affinities=affinities,
        voxel_size=voxel_size,
        notes=_notes(affinities is not None, image is not None),
        labels=digest.hexdigest(),
    )


def _source(
    graph: RegionGraph,
    label_of: npt.NDArray[Any],
    table: npt.NDArray[np.float64],
    **options: Any,
) -> ProofreadingSource:
    """Add scores, and edges between the parts of a label that do not touch."""
    same = label_of[graph.u] == label_of[graph.v]
    boundary = 1 - graph.mean
    score = np.where(same, AS_LABELLED * boundary, AS_LABELLED * (1 + boundary))
    if options["affinities"] is None:
        score = np.where(same, 0.0, np.inf)
    # parts of one label belong together whether or not they touch: an edge without any contact
    by_label = np.argsort(label_of[1:], kind="stable") + 1
    together = label_of[by_label[1:]] == label_of[by_label[:-1]]
    u, v = by_label[:-1][together], by_label[1:][together]
    highest = np.uint64(len(label_of))
    known = graph.u * highest + graph.v
    low, high = np.minimum(u, v).astype(np.uint64), np.maximum(u, v).astype(np.uint64)
    new = ~np.isin(low * highest + high, known)
    u, v = u[new], v[new]
    n = len(u)
    u, v = np.concatenate([graph.u, u]), np.concatenate([graph.v, v])
    score = np.concatenate([score, np.zeros(n)])
    middle = (table[u[len(graph) :], -3:] + table[v[len(graph) :], -3:]) / 2
    return ProofreadingSource.from_arrays(
        u,
        v,
        np.concatenate([graph.mean, np.zeros(n)]),
        spanning_merge_tree(graph.n_fragments, u, v, score).join_scores(u, v),
        threshold=AS_LABELLED,
        n_fragments=graph.n_fragments,
        area=np.concatenate([graph.area, np.zeros(n)]),
        position=np.concatenate([graph.position, middle]),
        sizes=table[:, 1],
        boxes=table[:, 2:8].astype(np.int32),
        centroids=table[:, 8:].astype(np.float32),
        **options,
    )


def _affinities_of(image: ArrayLike) -> npt.NDArray[np.uint8]:
    """Brightness of the darker of two neighbours, stored at the later one, as affinities are."""
    n_sections = image.shape[0]
    sampled = np.unique(np.linspace(0, n_sections - 1, 5).astype(int))
    sample = np.concatenate([np.asarray(image[int(z)]).ravel() for z in sampled])
    low, high = np.percentile(sample, [1, 99])
    affinities = np.zeros((3, *image.shape), np.uint8)
    previous = None
    for z in range(n_sections):
        section = np.asarray(image[z], np.float32)
        bright = (np.clip((section - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)
        affinities[0, z] = bright if previous is None else np.minimum(bright, previous)
        affinities[1, z, 1:] = np.minimum(bright[1:], bright[:-1])
        affinities[2, z, :, 1:] = np.minimum(bright[:, 1:], bright[:, :-1])
        previous = bright
    return affinities


def _notes(has_evidence: bool, from_image: bool) -> tuple[str, ...]:
    if not has_evidence:
        return (
            "no affinities and no image: cuts go where the contact is smallest, fragments are "
            "divided where they are thin, and there are no uncertain edges to walk through",
        )
    if from_image:
        return (
            "no affinities: boundaries are taken from the image, where membranes have to be dark",
        )
    return ()
