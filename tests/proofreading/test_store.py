"""A session on a store: everything a run leaves behind is used, and none of it is changed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from napari_cad.core.agglomerations import agglomerate
from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import InferenceConfig, SegmentationConfig
from napari_cad.core.network import StudentNetwork
from napari_cad.core.pipeline import segment_volume
from napari_cad.core.store import SegmentationStore
from napari_cad.core.volume import EMVolume
from napari_cad.proofreading import questions
from napari_cad.proofreading.errors import SessionMismatchError
from napari_cad.proofreading.folder import session_folder
from napari_cad.proofreading.queue import UncertaintyQueue
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("run")
    network = StudentNetwork(width=2, embedding_dim=3).eval()
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=3, training_data="none", licence="none"
    )
    save_checkpoint(folder / "tiny.safetensors", network, metadata)
    raw = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    volume = EMVolume.from_array(raw, voxel_size=(30.0, 6.0, 6.0))
    config = SegmentationConfig(inference=InferenceConfig(device="cpu"), workers=0)
    checkpoint = load_checkpoint(folder / "tiny.safetensors")
    list(segment_volume(volume, checkpoint, config, folder / "run.zarr"))
    return folder / "run.zarr"


def test_it_starts_from_the_segmentation_of_the_store(path, by_hand):
    store = SegmentationStore.open(path)
    session = ProofreadingSession(ProofreadingSource.from_store(store))
    assert session.threshold == store.threshold
    np.testing.assert_array_equal(session.lut, store.lut())
    for threshold in (0.1, 0.3, 0.8):
        np.testing.assert_array_equal(session.preview_threshold(threshold), store.lut(threshold))
        np.testing.assert_array_equal(
            session.preview_threshold(threshold), by_hand(session, threshold)
        )
    fragments = store.fragments[:]
    np.testing.assert_array_equal(session.fragments[...], fragments)
    np.testing.assert_array_equal(session.graph.size, np.bincount(fragments.ravel()) * (
        np.arange(store.n_fragments + 1) > 0
    ))  # fmt: skip


def test_edits_are_kept_beside_the_store_and_leave_it_alone(path, by_hand):
    store = SegmentationStore.open(path)
    source = ProofreadingSource.from_store(store)
    before = {f: f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}
    folder = session_folder(path)
    with ProofreadingSession(source, folder) as session:
        largest = int(np.argmax(source.sizes))
        voxels = np.argwhere(store.fragments[:] == largest).tolist()
        session.apply_cut(session.preview_cut([tuple(voxels[0])], [tuple(voxels[-1])]))
        session.relabel((1, 4, 4), np.ones((1, 5, 5), np.bool_))
        queue = UncertaintyQueue(session)
        for answer in (questions.accept, questions.reject):
            question = queue.next()
            if question is not None:
                answer(session, question.edge, force=True)
        session.set_threshold(0.4)
        np.testing.assert_array_equal(session.lut, by_hand(session))
        last, fragments = session.lut.copy(), session.fragments[...]
    assert {f: f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()} == before
    again = ProofreadingSource.from_store(SegmentationStore.open(path))
    with ProofreadingSession(again, folder) as session:
        np.testing.assert_array_equal(session.lut, last)
        np.testing.assert_array_equal(session.fragments[...], fragments)


def test_another_merge_function_is_another_segmentation(path, tmp_path):
    store = SegmentationStore.open(path, mode="a")
    agglomerate(store, "quantile75")
    ProofreadingSession(ProofreadingSource.from_store(store), tmp_path / "s").close()
    other = ProofreadingSource.from_store(store, "quantile75")
    with pytest.raises(
        SessionMismatchError, match="merge_function was 'median' and is 'quantile75'"
    ):
        ProofreadingSession(other, tmp_path / "s")


def test_the_volume_may_lie_elsewhere(path, tmp_path):
    ProofreadingSession(
        ProofreadingSource.from_store(SegmentationStore.open(path)), tmp_path / "s"
    ).close()
    store = SegmentationStore.open(path)
    signature = json.loads(json.dumps(store.settings["signature"]))
    signature["volume"]["path"] = "/elsewhere/stack.tif"
    store.settings = {**store.settings, "signature": signature}
    ProofreadingSession(ProofreadingSource.from_store(store), tmp_path / "s").close()
