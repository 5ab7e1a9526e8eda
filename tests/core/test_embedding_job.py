from __future__ import annotations

import queue

import numpy as np
import pytest
import torch

from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import InferenceConfig
from napari_cad.core.embedding import (
    SectionEmbedder,
    pair_of,
    sample_embeddings,
    similarity_maps,
)
from napari_cad.core.embedding_job import (
    MAP,
    BasisReady,
    PickedVoxel,
    SectionMap,
    Similarities,
    WantedMaps,
    serve_embeddings,
    store_embedding_map,
)
from napari_cad.core.errors import StoreError, StoreMismatchError
from napari_cad.core.events import SectionDone, StageStarted
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.jobs import JobProcess, Requests, Served
from napari_cad.core.network import StudentNetwork
from napari_cad.core.projection import fit_basis, sample_voxels
from napari_cad.core.segmentation_job import SegmentationOptions
from napari_cad.core.store import SegmentationStore, run_signature
from napari_cad.core.volume import EMVolume

CPU = InferenceConfig(device="cpu", precision="float32")
OPTIONS = SegmentationOptions(inference=CPU)
SHAPE = (5, 32, 48)
PATIENCE = 180.0  # a busy machine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=5, training_data="nothing", licence="none"
    )
    save_checkpoint(path, StudentNetwork(2, 5), metadata)
    return str(path)


@pytest.fixture(scope="module")
def volume():
    return EMVolume.from_array(np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8))


@pytest.fixture
def run(tmp_path, volume, checkpoint):
    """A run of this volume that has not even begun."""
    loaded = load_checkpoint(checkpoint)
    config = OPTIONS.config(volume, loaded.metadata)
    config = type(config).from_json(
        {**config.to_json(), "intensity": config.intensity.resolve(volume).to_json()}
    )
    store = SegmentationStore.create(
        tmp_path / "run.zarr",
        volume=volume,
        checkpoint=loaded.metadata,
        config=config,
        signature=run_signature(volume, loaded.sha256, config, "float32"),
    )
    return str(store.path)


#: Sections of which a sample of this volume is made: the first has nobody before it.
SAMPLED = SHAPE[0] - 1


def slow_map(volume, checkpoint, z, which, normalised=True):
    network = load_checkpoint(checkpoint).build()
    basis = sample_embeddings(network, volume, IntensityMapping(), CPU).basis(
        which, normalised=normalised
    )
    embedder = SectionEmbedder(network, volume, IntensityMapping(), CPU)
    return basis.project(embedder.one(*pair_of(z, which, SHAPE[0]), which))


def queue_of(*requests):
    filled = queue.SimpleQueue()
    for request in requests:
        filled.put(request)
    return filled


def to_the_basis(server):
    """All answers until the colours are fixed."""
    answers = []
    while not answers or not isinstance(answers[-1], BasisReady):
        answers.append(next(server))
    return answers


def serve(volume, checkpoint, *requests, **more):
    """All answers to requests that were there before the server started."""
    waiting = queue_of(*requests)
    server = serve_embeddings(volume, checkpoint, OPTIONS, waiting, **more)
    return waiting, server


@pytest.mark.parametrize("which", ["embedding", "embedding_prev"])
@pytest.mark.parametrize("normalised", [True, False])
def test_maps_are_what_the_pieces_give(volume, checkpoint, which, normalised):
    waiting, server = serve(volume, checkpoint, WantedMaps((4, 0), which, normalised))
    provisional, *answers = [next(server) for _ in range(9)]
    assert (provisional.z, provisional.provisional) == (4, True)
    assert [type(a) for a in answers] == [
        StageStarted, *[SectionDone] * SAMPLED, BasisReady, SectionMap, SectionMap,
    ]  # fmt: skip
    assert [a.done for a in answers[1:5]] == [1, 2, 3, 4]
    for answer, z in zip(answers[6:], (4, 0), strict=True):
        assert not answer.provisional
        assert (answer.z, answer.which, answer.normalised) == (z, which, normalised)
        expected = slow_map(volume, checkpoint, z, which, normalised)
        assert np.abs(answer.rgb.astype(int) - expected).max() <= 1
    waiting.put(None)
    assert list(server) == []


def test_only_the_last_request_is_answered(volume, checkpoint):
    waiting, server = serve(
        volume, checkpoint, *(WantedMaps((z,), "embedding", True) for z in range(5))
    )
    maps = [e for e in to_the_basis(server) if isinstance(e, SectionMap)]
    assert [m.z for m in maps] == [4]
    assert next(server).z == 4
    waiting.put(WantedMaps((1, 2, 3), "embedding", True))
    assert next(server).z == 1
    waiting.put(WantedMaps((0,), "embedding", True))  # 2 and 3 were only prefetched
    assert next(server).z == 0
    waiting.put(None)
    assert list(server) == []


def test_a_basis_is_fitted_once_for_each_kind(volume, checkpoint):
    waiting, server = serve(volume, checkpoint, WantedMaps((1,), "embedding", True))
    to_the_basis(server)
    next(server)
    waiting.put(WantedMaps((1,), "embedding_prev", True))
    # the sample serves both embeddings
    assert [type(next(server)) for _ in range(2)] == [BasisReady, SectionMap]
    waiting.put(WantedMaps((2,), "embedding", True))
    assert type(next(server)) is SectionMap


@pytest.mark.parametrize("which", ["embedding", "embedding_prev"])
def test_a_picked_voxel_goes_before_maps(volume, checkpoint, which):
    picked = PickedVoxel(2, 5, 40, which)
    waiting, server = serve(
        volume, checkpoint, PickedVoxel(0, 0, 0, which), picked, WantedMaps((2,), which, True)
    )
    answer = next(server)
    assert isinstance(answer, Similarities)
    assert answer.picked == picked
    network = load_checkpoint(checkpoint).build()
    embedder = SectionEmbedder(network, volume, IntensityMapping(), CPU)
    expected, _ = similarity_maps(embedder.pair(*pair_of(2, which, 5)), which, 5, 40)
    assert sorted(answer.maps) == ([1, 2] if which == "embedding" else [2, 3])
    for z, values in answer.maps.items():
        np.testing.assert_allclose(values, expected[z], atol=1e-5)
    assert next(server).provisional
    waiting.put(None)
    assert list(server) == []


def test_provisional_colours_follow_the_person_while_the_stack_is_sampled(volume, checkpoint):
    waiting, server = serve(volume, checkpoint, WantedMaps((1, 2), "embedding", True))
    first = next(server)
    assert (first.z, first.provisional) == (1, True)
    assert [type(next(server)) for _ in range(2)] == [StageStarted, SectionDone]
    waiting.put(WantedMaps((3, 4), "embedding", True))
    second = next(server)
    assert (second.z, second.provisional) == (3, True)
    # in the colours of the first: nothing jumps between provisional sections
    network = load_checkpoint(checkpoint).build()
    embedder = SectionEmbedder(network, volume, IntensityMapping(), CPU)
    own = fit_basis([sample_voxels(embedder.one(0, 1, "embedding"), 10**6)], "embedding")
    expected = own.project(embedder.one(2, 3, "embedding"))
    assert np.abs(second.rgb.astype(int) - expected).max() <= 1
    rest = to_the_basis(server)
    assert [type(e) for e in rest] == [*[SectionDone] * (SAMPLED - 1), BasisReady]
    final = next(server)
    assert (final.z, final.provisional) == (3, False)


def test_through_a_child_process_from_an_array_in_memory(volume, checkpoint):
    served = EMVolume.from_array(Served(volume.data))
    arguments = {
        "volume": served, "checkpoint": checkpoint, "options": OPTIONS, "requests": Requests(),
    }  # fmt: skip
    job = JobProcess("napari_cad.core.embedding_job:serve_embeddings", arguments)
    job.send(WantedMaps((3,), "embedding", True))
    answers = []
    for event in job.events(PATIENCE):
        answers.append(event)
        if isinstance(event, SectionMap):
            job.send(PickedVoxel(3, 1, 1, "embedding"))
        elif isinstance(event, Similarities):
            job.send(None)
    kinds = [type(a) for a in answers]
    assert kinds[0] == SectionMap
    assert Similarities in kinds
    assert answers[0].provisional


# ---------------------------------------------------------------------- with a store


def test_all_sections_into_the_store_and_on_where_it_stopped(volume, checkpoint, run):
    job = store_embedding_map(volume, checkpoint, OPTIONS, run)
    events = []
    for event in job:
        events.append(event)
        if isinstance(event, SectionDone) and (event.stage, event.done) == (MAP, 2):
            break  # cancelled
    job.close()
    stored = SegmentationStore.open(run).embedding_map("embedding")
    assert stored.sections_done().tolist() == [True, True, False, False, False]
    with pytest.raises(StoreError, match="not been made"):
        stored.read(3)
    basis = stored.basis
    events = list(store_embedding_map(volume, checkpoint, OPTIONS, run))
    assert isinstance(events[0], BasisReady)
    assert events[0].basis == basis
    assert events[1] == StageStarted("embedding map", 5, 2)
    assert [e.z for e in events[2:]] == [2, 3, 4]
    store = SegmentationStore.open(run)
    assert store.embedding_rgb.shape == (*SHAPE, 3)
    for z in range(5):
        expected = slow_map(volume, checkpoint, z, "embedding")
        assert np.abs(stored.read(z).astype(int) - expected).max() <= 1


def test_the_two_embeddings_have_maps_of_their_own(volume, checkpoint, run):
    list(store_embedding_map(volume, checkpoint, OPTIONS, run, "embedding_prev", False))
    store = SegmentationStore.open(run)
    assert store.embedding_rgb is None
    assert store.embedding_map("embedding_prev").rgb is None
    stored = store.embedding_map("embedding_prev", normalised=False)
    assert stored.sections_done().all()
    expected = slow_map(volume, checkpoint, 2, "embedding_prev", normalised=False)
    assert np.abs(stored.read(2).astype(int) - expected).max() <= 1


def test_the_server_takes_its_basis_from_the_store(volume, checkpoint, run):
    request = WantedMaps((1,), "embedding", True)
    _, server = serve(volume, checkpoint, request, run=run)
    first = to_the_basis(server)[-1]
    _, server = serve(volume, checkpoint, request, run=run)
    second = next(server)  # nothing was fitted
    assert isinstance(second, BasisReady)
    assert second.basis == first.basis


def test_a_run_of_something_else_is_refused(volume, checkpoint, run):
    other = EMVolume.from_array(255 - volume.data)
    with pytest.raises(StoreMismatchError, match=r"volume\.sha256"):
        next(serve(other, checkpoint, WantedMaps((0,), "embedding", True), run=run)[1])
    with pytest.raises(StoreMismatchError, match="checkpoint"):
        list(store_embedding_map(volume, "default", OPTIONS, run))


def test_a_basis_cannot_be_replaced(volume, checkpoint, run):
    network = load_checkpoint(checkpoint).build()
    samples = sample_embeddings(network, volume, IntensityMapping(), CPU)
    stored = SegmentationStore.open(run, "a").embedding_map("embedding")
    with pytest.raises(StoreError, match="no basis yet"):
        stored.write(0, np.zeros((*SHAPE[1:], 3), np.uint8))
    with pytest.raises(StoreError, match="of its own"):
        stored.keep_basis(samples.basis("embedding", normalised=False))
    stored.keep_basis(samples.basis("embedding", normalised=True))
    stored.keep_basis(samples.basis("embedding", normalised=True))
    with pytest.raises(StoreError, match="another basis"):
        stored.keep_basis(
            sample_embeddings(network, volume.crop((0, 3)), IntensityMapping(), CPU).basis(
                "embedding", normalised=True
            )
        )
