"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_cad.core.store import SegmentationStore

# Arrays are tiny here: threads would cost more than they give, above all on a busy machine. Set
# before anything imports numpy or torch, and inherited by child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nothing is read from, or written into, the settings of the person who runs the tests.
os.environ["NAPARI_CONFIG"] = ""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread, in which a CPU gives the same bits every time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real data and published checkpoints; skips where it is missing."""
    root = Path(__file__).parents[1]
    path = Path(os.environ.get("NAPARI_CAD_SHARED", root.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"no real data: {path.name}/data is missing (set NAPARI_CAD_SHARED)")
    return path


@pytest.fixture(scope="session")
def make_run() -> Callable[..., SegmentationStore]:
    """Give the function that makes a run without any network, all sections done."""
    import numpy as np

    from napari_cad.core.checkpoint_metadata import CheckpointMetadata
    from napari_cad.core.config import SegmentationConfig
    from napari_cad.core.region_graph import section_edges, section_fragment_table
    from napari_cad.core.store import SegmentationStore
    from napari_cad.core.volume import EMVolume

    def make_run(
        path: Path, seed: int = 0, shape: tuple[int, int, int] = (6, 24, 30), blob: int = 3
    ) -> SegmentationStore:
        """A run of small blocks with background, and affinities of few levels: many ties."""
        rng = np.random.default_rng(seed)
        store = SegmentationStore.create(
            path,
            volume=EMVolume.from_array(np.zeros(shape, np.uint8)),
            checkpoint=CheckpointMetadata(name="none", training_data="none", licence="none"),
            config=SegmentationConfig(),
            signature={},
        )
        prev, offset = None, 0
        for z in range(shape[0]):
            labels = rng.permutation(-(-shape[1] // blob) * -(-shape[2] // blob)) + 1
            labels = labels.reshape(-(-shape[1] // blob), -1).repeat(blob, 0).repeat(blob, 1)
            labels = labels[: shape[1], : shape[2]].astype(np.uint32)
            labels[rng.random(labels.shape) < 0.1] = 0
            named = np.unique(labels[labels > 0])
            fragments = np.where(labels > 0, np.searchsorted(named, labels) + 1 + offset, 0)
            fragments = fragments.astype(np.uint32)
            affinities = rng.integers(0, 256, (3, *shape[1:]), np.uint8) // 16 * 16
            store.write_affinities(z, affinities)
            store.write_fragments(z, fragments, len(named))
            table = section_fragment_table(fragments, z)
            store.write_edges(z, section_edges(fragments, affinities, z, prev), table)
            prev, offset = fragments, offset + len(named)
        return store

    return make_run
