from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_cad.core.affinity import pair_affinities
from napari_cad.core.checkpoint import load_checkpoint
from napari_cad.core.config import InferenceConfig
from napari_cad.core.device import pick_device
from napari_cad.core.errors import ConfigError, DeviceMemoryError
from napari_cad.core.inference import AffinityPredictor
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.network import StudentNetwork
from napari_cad.core.tiling import RECEPTIVE_RADIUS
from napari_cad.core.volume import EMVolume

TO_UNIT = IntensityMapping("limits", 0, 255)


@pytest.fixture(scope="module")
def tiny_network() -> StudentNetwork:
    torch.manual_seed(0)
    return StudentNetwork(width=2, embedding_dim=4).eval()


@pytest.fixture
def stack() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 40, 56), np.uint8)


def predict(network, array, config=None, sections=None) -> np.ndarray:
    predictor = AffinityPredictor(network, config or InferenceConfig(device="cpu"))
    made = predictor.predict(EMVolume.from_array(array), TO_UNIT, sections)
    return np.stack([section.affinities for section in made], axis=1)


def reference(network, array) -> np.ndarray:
    """The volume loop as METHOD.md 2.2 words it: pair by pair, embeddings cropped, no tricks."""
    n_sections, height, width = array.shape
    pads = [(-n % 16 // 2, -n % 16 - -n % 16 // 2) for n in (height, width)]
    affinities = np.zeros((3, n_sections, height, width), np.float32)
    for z in range(n_sections):
        pair = np.stack([array[max(z - 1, 0)], array[z]]).astype(np.float32) / 255
        padded = np.pad(pair, [(0, 0), *pads], mode="reflect")
        with torch.inference_mode():
            embeddings = network(torch.from_numpy(padded)[None])
        cropped = [
            e[:, :, pads[0][0] : pads[0][0] + height, pads[1][0] : pads[1][0] + width]
            for e in embeddings
        ]
        affinities[:, z] = pair_affinities(*cropped)[0].numpy()
    return affinities


def levels_apart(stored: np.ndarray, exact: np.ndarray) -> int:
    levels = np.minimum(255, np.floor(exact * 256)).astype(int)
    return int(np.abs(stored.astype(int) - levels).max())


@pytest.mark.parametrize(
    "shape", [(1, 40, 56), (2, 1, 1), (2, 1, 30), (3, 2, 2), (2, 17, 33), (4, 40, 56), (2, 16, 48)]
)
def test_any_size_equals_the_plain_loop(tiny_network, shape):
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    stored = predict(tiny_network, array)
    assert stored.shape == (3, *shape)
    assert stored.dtype == np.uint8
    # folding changes the last bits, which may move a value over the edge of its bin
    assert levels_apart(stored, reference(tiny_network, array)) <= 1


@pytest.mark.parametrize("name", ["AC34", "CremiA", "CremiB", "CremiC", "wafer4"])
def test_published_students_give_the_published_affinities(shared_dir, name):
    golden = np.load(shared_dir / "golden" / "published_students.npz")
    network = load_checkpoint(shared_dir / "checkpoints" / f"{name}.ckpt").build()
    stored = predict(network, golden["raw"])
    assert levels_apart(stored, golden[f"{name}/affinities"]) <= 1


def test_a_section_does_not_depend_on_which_others_are_asked_for(tiny_network, stack):
    whole = predict(tiny_network, stack)
    assert np.array_equal(predict(tiny_network, stack, sections=[2, 3]), whole[:, 2:])
    assert np.array_equal(predict(tiny_network, stack, sections=[3, 0]), whole[:, [3, 0]])


def test_batches_give_what_single_pairs_give(tiny_network, stack):
    single = predict(tiny_network, stack).astype(int)
    batched = predict(tiny_network, stack, InferenceConfig(device="cpu", batch=3))
    assert np.abs(single - batched).max() <= 1


def test_tiles_give_what_whole_sections_give_on_real_data(shared_dir):
    golden = np.load(shared_dir / "golden" / "published_students.npz")
    raw = np.tile(golden["raw"][:2], (1, 3, 3))[:, :500, :430]
    network = load_checkpoint(shared_dir / "checkpoints" / "AC34.ckpt").build()
    whole = predict(network, raw).astype(int)
    halo = InferenceConfig().halo
    assert halo >= RECEPTIVE_RADIUS
    tiled = predict(network, raw, InferenceConfig(device="cpu", tile=2 * halo + 96))
    differing = np.abs(whole - tiled)
    assert differing.max() <= 1
    assert (differing > 0).mean() < 1e-3


def test_a_short_halo_is_seen(shared_dir):
    """The test above can fail: with a third of the halo, tiles do differ."""
    golden = np.load(shared_dir / "golden" / "published_students.npz")
    raw = np.tile(golden["raw"][:2], (1, 2, 2))[:, :320, :320]
    network = load_checkpoint(shared_dir / "checkpoints" / "AC34.ckpt").build()
    tiled = predict(network, raw, InferenceConfig(device="cpu", tile=192, halo=16))
    assert np.abs(predict(network, raw).astype(int) - tiled).max() > 10


class _FullMemory:
    """Stands for `pair_affinities` on a device that holds only so many voxels at once."""

    def __init__(self, predictor, most_voxels: int, error: Exception) -> None:
        self.pair_affinities = predictor.pair_affinities
        self.most_voxels = most_voxels
        self.error = error
        self.refused = 0

    def __call__(self, prev, current, window=None):
        n, _, height, width = current.full.shape
        if n * height * width > self.most_voxels:
            self.refused += 1
            raise self.error
        return self.pair_affinities(prev, current, window)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_out_of_memory_halves_the_batch_and_then_the_tile(tiny_network, error, monkeypatch):
    stack = np.random.default_rng(2).integers(0, 256, (3, 96, 96), np.uint8)
    config = InferenceConfig(device="cpu", batch=2, halo=16)
    whole = predict(tiny_network, stack, InferenceConfig(device="cpu", halo=16)).astype(int)
    predictor = AffinityPredictor(tiny_network, config)
    memory = _FullMemory(predictor, 64 * 64, error)
    monkeypatch.setattr(predictor, "pair_affinities", memory)
    made = list(predictor.predict(EMVolume.from_array(stack), TO_UNIT))
    assert memory.refused == 2  # two pairs, then one, then a tile of 48
    assert [section.z for section in made] == [0, 1, 2]
    affinities = np.stack([section.affinities for section in made], axis=1)
    # the halo of 16 is too short for the seams, not for the middle of the first tile
    assert np.abs(whole - affinities)[:, :, 1:10, 1:10].max() <= 3


def test_out_of_memory_for_the_smallest_tile_is_an_error(tiny_network, stack, monkeypatch):
    predictor = AffinityPredictor(tiny_network, InferenceConfig(device="cpu", halo=16))
    memory = _FullMemory(predictor, 0, torch.OutOfMemoryError("full"))
    monkeypatch.setattr(predictor, "pair_affinities", memory)
    with pytest.raises(DeviceMemoryError, match="too little memory"):
        list(predictor.predict(EMVolume.from_array(stack), TO_UNIT))


def test_other_runtime_errors_are_not_taken_for_a_full_memory(tiny_network, stack, monkeypatch):
    predictor = AffinityPredictor(tiny_network, InferenceConfig(device="cpu"))
    memory = _FullMemory(predictor, 0, RuntimeError("illegal instruction"))
    monkeypatch.setattr(predictor, "pair_affinities", memory)
    with pytest.raises(RuntimeError, match="illegal instruction"):
        list(predictor.predict(EMVolume.from_array(stack), TO_UNIT))
    assert memory.refused == 1


def test_large_sections_are_tiled_by_themselves(tiny_network, monkeypatch):
    stack = np.random.default_rng(3).integers(0, 256, (1, 400, 400), np.uint8)
    whole = predict(tiny_network, stack).astype(int)
    predictor = AffinityPredictor(tiny_network, InferenceConfig(device="cpu"))
    seen = []
    pair_affinities = predictor.pair_affinities

    def watch(prev, current, window=None):
        seen.append(current.full.shape[-2:])
        return pair_affinities(prev, current, window)

    monkeypatch.setattr(predictor, "pair_affinities", watch)
    monkeypatch.setattr("napari_cad.core.device.Device.free_memory", lambda _: 1_000_000)
    made = next(iter(predictor.predict(EMVolume.from_array(stack), TO_UNIT)))
    assert len(seen) > 1
    assert np.abs(whole[:, 0] - made.affinities).max() <= 1


def test_a_missing_gpu_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="0 CUDA GPUs"):
        pick_device("cuda")
    with pytest.raises(ConfigError, match=r"cuda or cuda:N"):
        pick_device("cuda:x")


def test_half_precision_is_refused_where_the_cpu_would_emulate_it(monkeypatch):
    assert pick_device("cpu").precision == "float32"
    monkeypatch.setattr("napari_cad.core.device._cpu_has", lambda _: False)
    with pytest.raises(ConfigError, match="no native bfloat16"):
        pick_device("cpu", "bfloat16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_cuda_gives_what_the_cpu_gives(shared_dir, precision):
    golden = np.load(shared_dir / "golden" / "published_students.npz")
    network = load_checkpoint(shared_dir / "checkpoints" / "AC34.ckpt").build()
    on_cpu = predict(network, golden["raw"]).astype(int)
    on_gpu = predict(network, golden["raw"], InferenceConfig(device="cuda", precision=precision))
    assert np.abs(on_cpu - on_gpu).mean() < (0.05 if precision == "float32" else 2.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_batches_in_flight_arrive_whole_and_in_order(tiny_network):
    stack = np.random.default_rng(4).integers(0, 256, (9, 96, 96), np.uint8)
    config = InferenceConfig(device="cuda", precision="float32", batch=2)
    on_cpu = predict(tiny_network, stack).astype(int)
    for sections in (None, [8, 3, 4, 0]):
        on_gpu = predict(tiny_network, stack, config, sections)
        expected = on_cpu if sections is None else on_cpu[:, sections]
        assert np.abs(on_gpu - expected).max() <= 2


def test_a_limit_of_memory_makes_tiles(tiny_network, monkeypatch):
    stack = np.random.default_rng(3).integers(0, 256, (1, 400, 400), np.uint8)
    predictor = AffinityPredictor(tiny_network, InferenceConfig(device="cpu", memory=10_000_000))
    seen = []
    pair_affinities = predictor.pair_affinities

    def watch(prev, current, window=None):
        seen.append(current.full.shape[-2:])
        return pair_affinities(prev, current, window)

    monkeypatch.setattr(predictor, "pair_affinities", watch)
    made = next(iter(predictor.predict(EMVolume.from_array(stack), TO_UNIT)))
    assert len(seen) > 1
    assert np.abs(predict(tiny_network, stack).astype(int)[:, 0] - made.affinities).max() <= 1
