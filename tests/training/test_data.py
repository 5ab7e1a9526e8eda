from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import tifffile
import torch

from napari_cad.core.errors import ConfigError, ShapeError, VolumeError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.volume import EMVolume
from napari_cad.training.data import TrainingVolume, open_training_volume, synthetic_volumes
from napari_cad.training.data_config import AugmentConfig, DataConfig, VolumeConfig
from napari_cad.training.patches import PatchDataset, batches
from napari_cad.training.targets import IGNORE, OTHER, affinity_targets, widen_borders

SHAPE = (5, 40, 48)


def arrays(seed=0, dtype=np.uint16):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 5, (SHAPE[0], 5, 6))
    labels = coarse.repeat(8, 1).repeat(8, 2).astype(dtype)
    image = rng.integers(0, 256, SHAPE, dtype=np.uint8)
    return image, labels


def volume(image=None, labels=None, **settings):
    default = arrays()
    image = default[0] if image is None else image
    labels = default[1] if labels is None else labels
    return TrainingVolume(
        EMVolume(image, (30, 6, 6), name="stack"), EMVolume(labels, name="truth"), **settings
    )


DATA = DataConfig(patch=(2, 16, 16), margin=4, batch=3, balanced=0.5)
PLAIN = AugmentConfig.none()


class Lazy:
    """An array that counts what is read, and refuses to be read as a whole."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, 0

    def __getitem__(self, key):
        values = self.array[key]
        self.read += values.size
        return values


# --------------------------------------------------------------------------------------- reading


def reference_truth(labels, *, sparse=False, unlabelled=None, labelled=None):
    labels = labels.astype(np.int64)
    unknown = labels < 0
    if unlabelled is not None:
        unknown |= labels == unlabelled
    if sparse:
        unknown |= labels == 0
    if labelled is not None:
        unknown[[z for z in range(len(labels)) if z not in labelled]] = True
    # voxels without truth are no ids, but an unlabelled section has borders like any other
    ids = labels.copy()
    if unlabelled is not None:
        ids[ids == unlabelled] = 0
    truth = widen_borders(np.maximum(ids, 0))
    truth[unknown] = IGNORE
    return truth


def same_partition(a, b):
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return len(pairs) == len({p for p, _ in pairs}) == len({q for _, q in pairs})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint64, ">u2"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sparse": True},
        {"unlabelled": 3},
        {"sparse": True, "unlabelled": 4},
        {"labelled_sections": [1, 2]},
    ],
)
def test_truth_of_any_box_is_that_of_the_whole(dtype, settings):
    image, labels = arrays(dtype=dtype)
    got = volume(image, labels, **settings)
    reference = dict(settings)
    if "labelled_sections" in reference:
        reference["labelled"] = reference.pop("labelled_sections")
    truth = reference_truth(labels, **reference)
    padded = np.pad(truth, ((0, 0), (20, 20), (20, 20)), constant_values=IGNORE)
    for start, size in (((0, 0, 0), SHAPE), ((1, -7, 5), (2, 30, 50)), ((4, 30, 40), (1, 20, 20))):
        z, y, x = start
        box = padded[z : z + size[0], y + 20 : y + 20 + size[1], x + 20 : x + 20 + size[2]]
        found = got.read_labels(start, size)
        assert found.dtype == np.int32
        assert found.shape == size
        np.testing.assert_array_equal(found == IGNORE, box == IGNORE)
        np.testing.assert_array_equal(found == 0, box == 0)
        assert same_partition(found, box)


def test_negative_labels_are_unlabelled():
    image, labels = arrays(dtype=np.int32)
    labels[labels == 2] = -5
    found = volume(image, labels).read_labels((0, 0, 0), SHAPE)
    np.testing.assert_array_equal(found == IGNORE, labels == -5)


def test_what_surrounds_complete_neurites_is_none_of_them():
    labels = np.zeros((2, 32, 32), np.uint16)
    labels[:, 8:20, 8:20] = 7
    labels[:, 20:28, 8:20] = 9  # touches the other one
    labels[1, :, 28:] = 65535
    given = {"sparse": True, "unlabelled": 65535, "labelled_sections": [1]}
    image = arrays()[0][:2, :32, :32]
    found = volume(image, labels, complete=True, **given).read_labels((0, 0, 0), (2, 32, 32))
    assert (found[0] == IGNORE).all()
    ids = labels[1]
    rest = (ids == 0) | (ids == 65535)
    expected = widen_borders(np.where(rest, 3, np.where(ids == 7, 1, 2)).astype(np.int32))
    expected[(expected == 3)] = OTHER
    np.testing.assert_array_equal(found[1], expected)
    assert found[1, 7, 12] == 0  # outside the rim
    assert found[1, 8, 12] == 0  # inside of it
    without = volume(image, labels, **given).read_labels((0, 0, 0), (2, 32, 32))
    assert (without[1][rest] == IGNORE).all()
    assert without[1, 8, 12] > 0


def test_a_neurite_and_what_is_none_of_it_differ_and_the_rest_is_not_known():
    labels = torch.tensor([[[[1, OTHER, OTHER, 0, OTHER, IGNORE, 1, 1]]]])
    (target,) = affinity_targets(labels, [(0, 0, -1)])
    assert target.known.flatten().tolist() == [True, False, True, True, False, False, True]
    assert target.same.flatten().tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_ids_above_32_bits_stay_apart():
    image, labels = arrays(dtype=np.uint64)
    big = np.where(labels > 0, labels + np.uint64(2**53), 0).astype(np.uint64)
    a = volume(image, labels).read_labels((0, 0, 0), SHAPE)
    assert same_partition(a, volume(image, big).read_labels((0, 0, 0), SHAPE))


def test_image_is_mapped_and_reflected_outside():
    image, _ = arrays()
    got = volume(image, intensity=IntensityMapping(invert=True)).read_image((1, -3, 40), (2, 8, 12))
    padded = np.pad(image[1:3], ((0, 0), (3, 0), (0, 4)), mode="reflect")
    np.testing.assert_allclose(got, 1 - padded[:, :8, 40:] / np.float32(255), rtol=1e-6)
    assert got.dtype == np.float32


def test_small_volumes_are_read_into_memory_and_large_ones_patch_by_patch():
    image, labels = arrays()
    assert isinstance(volume(Lazy(image), Lazy(labels)).image.data, np.ndarray)
    lazy = Lazy(image), Lazy(labels)
    big = volume(*lazy, memory=0.0)
    before = lazy[0].read
    dataset = PatchDataset([big], DATA, PLAIN, 0)
    dataset[0]
    assert lazy[0].read - before <= 2 * 24 * 24
    in_memory = PatchDataset([volume()], DATA, PLAIN, 0)
    for number in range(5):
        for a, b in zip(dataset[number], in_memory[number], strict=True):
            assert torch.equal(a, b)


# ------------------------------------------------------------------------------------- complaints


def test_different_shapes_are_refused():
    image, labels = arrays()
    with pytest.raises(ShapeError, match=r"the image's shape \(5, 40, 48\), got \(4, 40, 48\)"):
        volume(image, labels[:4])


def test_empty_labels_are_refused():
    image, labels = arrays()
    with pytest.raises(VolumeError, match="none of the 5 sections has a positive label"):
        volume(image, np.zeros_like(labels))
    only_unlabelled = np.where(labels > 0, 9, 0).astype(np.uint16)
    with pytest.raises(VolumeError, match="positive label"):
        volume(image, only_unlabelled, unlabelled=9)
    labels[2] = 0
    with pytest.raises(VolumeError, match="none of the 1 sections"):
        volume(image, labels, labelled_sections=[2])


def test_labels_without_any_pair_are_refused():
    image, labels = arrays()
    every_voxel_alone = np.arange(labels.size, dtype=np.uint32).reshape(SHAPE) + 1
    with pytest.raises(VolumeError, match="no two neighbouring voxels have the same label"):
        PatchDataset([volume(image, every_voxel_alone)], DATA, PLAIN, 0)


def test_one_labelled_section_is_enough():
    dataset = PatchDataset([volume(labelled_sections=[2])], DATA, PLAIN, 0)
    for number in range(10):
        labels = dataset[number][1]
        assert (labels > 0).any()


def test_a_patch_larger_than_the_volume_is_refused():
    data = dataclasses.replace(DATA, patch=(2, 16, 64))
    with pytest.raises(ConfigError, match=r"larger than stack .* make data.patch smaller"):
        PatchDataset([volume()], data, PLAIN, 0)


def test_other_mistakes_are_refused():
    image, labels = arrays()
    with pytest.raises(VolumeError, match="labels are integers, got float32"):
        volume(image, labels.astype(np.float32))
    with pytest.raises(ConfigError, match=r"got labelled \[5\]"):
        volume(image, labels, labelled_sections=[1, 5])
    with pytest.raises(ConfigError, match="weight"):
        volume(weight=-1.0)
    with pytest.raises(ConfigError, match="nothing to learn from"):
        PatchDataset([], DATA, PLAIN, 0)
    with pytest.raises(ConfigError, match="nothing to learn from"):
        PatchDataset([volume(weight=0.0)], DATA, PLAIN, 0)


def test_an_image_with_nan_is_refused():
    image = arrays()[0].astype(np.float32) / 255
    image[0, 0, 0] = np.nan
    with pytest.raises(VolumeError, match="NaN"):
        volume(image)


# ---------------------------------------------------------------------------------------- patches


def test_a_patch_is_a_function_of_seed_and_number():
    first, second = (PatchDataset([volume()], DATA, AugmentConfig(), 0) for _ in range(2))
    for number in (7, 0, 7, 3):
        for a, b in zip(first[number], second[number], strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][0], PatchDataset([volume()], DATA, AugmentConfig(), 1)[0][0])


def test_patches_have_their_size_and_types():
    for image, labels in batches_of(4, AugmentConfig()):
        assert image.shape == labels.shape == (3, 2, 16, 16)
        assert image.dtype == torch.float32
        assert labels.dtype == torch.int32
        assert image.min() >= 0
        assert image.max() <= 1


def batches_of(n, augmentation=PLAIN, **settings):
    stream = batches(PatchDataset([volume()], DATA, augmentation, 0), **settings)
    return [next(stream) for _ in range(n)]


def test_batches_go_on_where_a_run_stopped():
    whole = batches_of(5)
    rest = batches_of(3, first_step=2)
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


def test_processes_that_train_together_get_different_patches():
    one, two = batches_of(3, world=2, rank=0), batches_of(3, world=2, rank=1)
    alone = batches_of(6)
    for step in range(3):
        assert torch.equal(one[step][0], alone[2 * step][0])
        assert torch.equal(two[step][0], alone[2 * step + 1][0])


def test_worker_processes_change_nothing():
    data = dataclasses.replace(DATA, workers=2)
    stream = batches(PatchDataset([volume()], data, PLAIN, 0), first_step=1)
    got = [next(stream) for _ in range(3)]
    for a, b in zip(got, batches_of(3, first_step=1), strict=True):
        assert torch.equal(a[0], b[0])


def test_volumes_are_mixed_by_weight():
    image, labels = arrays()
    dark, bright = np.zeros_like(image), np.full_like(image, 255)
    mixed = [volume(dark, labels, weight=3.0), volume(bright, labels, weight=1.0)]
    dataset = PatchDataset(mixed, DATA, PLAIN, 0)
    share = np.mean([dataset[number][0].mean().item() for number in range(400)])
    assert share == pytest.approx(0.25, abs=0.06)


def test_small_neurites_are_seen_as_often_as_big_ones_when_balanced():
    labels = np.ones((4, 64, 64), np.uint16)
    labels[:, 50:54, 50:54] = 2
    image = np.zeros(labels.shape, np.uint8)
    seen = {}
    for balanced in (0.0, 1.0):
        data = dataclasses.replace(DATA, balanced=balanced)
        stack = volume(image, labels)
        rng = np.random.default_rng(0)
        starts = [
            stack.random_start(data.patch, rng, balanced=balanced, min_labelled=0.0)
            for _ in range(300)
        ]
        hits = [(labels[z : z + 2, y : y + 16, x : x + 16] == 2).any() for z, y, x in starts]
        seen[balanced] = np.mean(hits)
    assert seen[0.0] < 0.25
    assert seen[1.0] > 0.45


def test_patches_with_little_truth_are_drawn_anew():
    labels = np.zeros((4, 64, 64), np.uint16)
    labels[:, :16, :16] = 1
    stack = volume(np.zeros(labels.shape, np.uint8), labels, sparse=True)
    rng = np.random.default_rng(0)
    for _ in range(50):
        start = stack.random_start((2, 16, 16), rng, balanced=0.0, min_labelled=0.05)
        assert (stack.read_labels(start, (2, 16, 16)) > 0).any()


def test_neurites_that_a_coarse_look_misses_are_found():
    labels = np.zeros((3, 200, 200), np.uint16)
    labels[:, 7:9, 101:103] = 4
    stack = volume(np.zeros(labels.shape, np.uint8), labels, sparse=True)
    start = stack.random_start((2, 16, 16), np.random.default_rng(0), balanced=1.0, min_labelled=0)
    assert (stack.read_labels(start, (2, 16, 16)) > 0).any()


# ------------------------------------------------------------------------------------------ files


def test_volumes_are_opened_as_the_settings_say(tmp_path):
    image, labels = arrays()
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack")
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    config = VolumeConfig(
        image=str(tmp_path / "image.tif"),
        labels=str(tmp_path / "labels.tif"),
        sections=(1, 4),
        labelled_sections=(0, 2),
        truth="sparse",
        weight=2.0,
        voxel_size=(30, 4, 4),
    )
    stack = open_training_volume(config)
    assert stack.shape == (3, 40, 48)
    assert stack.sparse
    assert stack.weight == 2.0
    assert stack.voxel_size == (30, 4, 4)
    np.testing.assert_array_equal(stack.is_labelled, [True, False, True])
    np.testing.assert_array_equal(stack.image.data, image[1:4])
    signature = stack.signature()
    assert signature["image"]["bounds"][0] == [1, 4]
    assert signature != volume().signature()
    lazy = open_training_volume(config, memory=0.0)
    assert lazy.signature() == signature
    again = pickle.loads(pickle.dumps(lazy))  # noqa: S301
    np.testing.assert_array_equal(
        again.read_labels((0, 0, 0), (3, 40, 48)), stack.read_labels((0, 0, 0), (3, 40, 48))
    )


def test_files_of_different_shapes_are_refused_by_name(tmp_path):
    image, labels = arrays()
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack")
    tifffile.imwrite(tmp_path / "labels.tif", labels[:4], photometric="minisblack")
    config = VolumeConfig(str(tmp_path / "image.tif"), str(tmp_path / "labels.tif"))
    with pytest.raises(ShapeError, match=r"labels.tif: .*image.tif"):
        open_training_volume(config)


def test_synthetic_volumes_share_their_weight():
    assert synthetic_volumes(DATA) == []
    data = dataclasses.replace(
        DATA, synthetic_weight=0.5, synthetic_volumes=2, synthetic_shape=(3, 32, 32)
    )
    first, second = synthetic_volumes(data)
    assert first.weight + second.weight == 0.5
    assert first.shape == (3, 32, 32)
    assert not np.array_equal(first.image.data, second.image.data)
