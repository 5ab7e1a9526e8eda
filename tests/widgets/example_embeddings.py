"""Stands in for the server of embedding maps, without a network; imported by a child process."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from napari_cad.core.embedding_job import (
    BasisReady,
    PickedVoxel,
    SectionMap,
    Similarities,
    WantedMaps,
)
from napari_cad.core.errors import CheckpointError
from napari_cad.core.events import SectionDone, StageStarted, Warned
from napari_cad.core.projection import EmbeddingBasis


def basis_of(which, normalised):
    share = (0.5, 0.2, 0.1) if which == "embedding" else (0.4, 0.2, 0.1)
    return EmbeddingBasis(
        which, normalised, (0.0,), ((1.0,), (0.0,), (0.0,)), (0,) * 3, (1,) * 3, share
    )


def colour_of(z, which, normalised):
    return (10 * z + 5, 100 if which == "embedding" else 200, 50 if normalised else 150)


def serve(volume, checkpoint, options, requests, run=None):
    """Colours tell of the request. Every request is answered, in order, unlike the real one."""
    if Path(checkpoint).stem == "fails":
        raise CheckpointError("no such checkpoint")
    _, height, width = volume.shape
    known = set()
    while (request := requests.get()) is not None:
        if isinstance(request, PickedVoxel):
            y, x = np.indices((height, width))
            distance = np.hypot(y - request.y, x - request.x).astype(np.float32)
            maps = {request.z: 1 - distance / 100}
            beside = request.z - 1 if request.which == "embedding" else request.z + 1
            if 0 <= beside < volume.n_sections:
                maps[beside] = 0.5 - distance / 100
            yield Similarities(request, maps)
            continue
        assert isinstance(request, WantedMaps)
        kind = (request.which, request.normalised)
        if kind not in known:
            known.add(kind)
            yield StageStarted("colours", 1)
            yield BasisReady(basis_of(*kind))
        yield Warned(repr(request.sections))
        for z in request.sections:
            time.sleep(0.2 if Path(checkpoint).stem == "slow" else 0)
            rgb = np.empty((height, width, 3), np.uint8)
            rgb[:] = colour_of(z, *kind)
            yield SectionMap(z, *kind, rgb)


def write_slowly(volume, checkpoint, options, run, which, normalised):
    n = volume.n_sections
    yield StageStarted("embedding map", n)
    for z in range(n):
        time.sleep(0.5)
        yield SectionDone("embedding map", z, z + 1, n)
