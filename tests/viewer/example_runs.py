"""Stands in for a real run, without the network: stores are written section by section.

This file is imported by a child process under its bare name. What the checkpoint is called says
how the run goes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from napari_cad.core.agglomeration import MergeHistory
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.errors import VolumeError
from napari_cad.core.events import Finished, OutOfDomain, SectionDone, StageStarted, Warned
from napari_cad.core.region_graph import section_edges, section_fragment_table
from napari_cad.core.store import SegmentationStore

METADATA = CheckpointMetadata(name="pretended", training_data="none", licence="none")


def fragments_of(z, shape):
    """Four quadrants, numbered through the volume."""
    _, height, width = shape
    y, x = np.indices((height, width))
    quadrant = 2 * (y >= height // 2) + (x >= width // 2)
    return (4 * z + 1 + quadrant).astype(np.uint32)


def segment(volume, checkpoint, store_path, options, overwrite=False):
    """Join the quadrants of all sections; the arguments of `segmentation_job`."""
    how = Path(checkpoint).stem
    if how == "fails":
        raise VolumeError("expected dark membranes, got bright ones: set invert")
    config = options.config(volume, METADATA)
    store = SegmentationStore.create(
        store_path,
        volume=volume,
        checkpoint=METADATA,
        config=config,
        signature={},
        overwrite=overwrite,
    )
    n_sections = volume.n_sections
    yield StageStarted("affinities", n_sections)
    yield StageStarted("fragments", n_sections)
    prev = None
    for z in range(n_sections):
        time.sleep({"slow": 0.5, "endless": 0.5}.get(how, 0.0))
        affinities = np.empty((3, *volume.shape[1:]), np.uint8)
        affinities[:] = volume.section(z) // 2
        store.write_affinities(z, affinities)
        yield SectionDone("affinities", z, z + 1, n_sections)
        if how == "crashes" and z == 1:
            os._exit(9)
        if how == "warns" and z == 1:
            yield Warned("the affinities look wrong")
        if how == "foreign" and z == 1:
            yield OutOfDomain("the checkpoint does not fit")
        fragments = fragments_of(z, volume.shape)
        store.write_fragments(z, fragments, 4)
        table = section_fragment_table(fragments, z)
        store.write_edges(z, section_edges(fragments, affinities, z, prev), table)
        prev = fragments
        yield SectionDone("fragments", z, z + 1, n_sections)
        while how == "endless" and z == 1:
            time.sleep(1)
    yield StageStarted("agglomeration", 1)
    a = np.arange(1, 4 * (n_sections - 1) + 1, dtype=np.uint32)
    history = MergeHistory(a, a + 4, np.full(len(a), 0.2, np.float32))
    function = config.agglomeration.merge_function
    store.write_agglomeration(function, history)
    store.choose_agglomeration(function, config.agglomeration.threshold)
    yield SectionDone("agglomeration", n_sections - 1, 1, 1)
    yield Finished(str(store.path), store.n_fragments, 4, 1.0)


def download(name):
    yield StageStarted("download", 1)
    yield SectionDone("download", 0, 1, 1)
