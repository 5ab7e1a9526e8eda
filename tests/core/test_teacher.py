from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_cad.core.affinity import OFFSETS
from napari_cad.core.errors import CheckpointError, ConfigError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.teacher import (
    TEACHER_OFFSETS,
    ResidualBlock,
    TeacherMetadata,
    TeacherNetwork,
    UpBlock,
    load_teacher,
    offset_cosine,
    save_teacher,
    teacher_affinities,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(widths=(2, 3, 4)):
    return TeacherNetwork(widths, embedding_dim=5)


def test_published_size():
    parameters = TeacherNetwork().parameters()
    assert sum(p.numel() for p in parameters) == 1_478_036


def test_offsets_start_with_the_students():
    assert TEACHER_OFFSETS[:3] == OFFSETS
    assert len(TEACHER_OFFSETS) == 12
    assert [-sum(offset) for offset in TEACHER_OFFSETS] == [1, 1, 1, 2, 3, 3, 3, 9, 9, 4, 27, 27]


@pytest.mark.parametrize(("depth", "height", "width"), [(1, 4, 8), (5, 12, 4)])
def test_shape_is_kept_and_sections_are_never_pooled(depth, height, width):
    teacher = small()
    assert teacher.size_multiple == 4
    assert teacher(torch.rand(2, 1, depth, height, width)).shape == (2, 5, depth, height, width)


def test_single_level_has_no_decoder():
    teacher = TeacherNetwork((2,), embedding_dim=3)
    assert teacher(torch.rand(1, 1, 2, 3, 5)).shape == (1, 3, 2, 3, 5)


def test_residual_block_is_the_sum_of_its_two_ways():
    block = ResidualBlock(2, 3, 0.1).eval()
    x = torch.rand(1, 2, 3, 6, 5)
    first = F.conv3d(x, block.first[0].weight, padding=(0, 1, 1))
    first = F.elu(first / (1 + 1e-5) ** 0.5)  # a fresh batch norm divides by √(1 + eps)
    second = F.conv3d(first, block.residual[0].weight, padding=1)
    second = F.conv3d(F.elu(second / (1 + 1e-5) ** 0.5), block.residual[3].weight, padding=1)
    expected = F.elu((first + second) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(block(x), expected)


def test_projecting_before_interpolating_is_the_published_order():
    block = UpBlock(4, 3, 0.1).eval()
    x, skip = torch.rand(1, 4, 2, 3, 5), torch.rand(1, 3, 2, 6, 10)
    up = F.interpolate(x, scale_factor=(1, 2, 2), mode="trilinear", align_corners=True)
    expected = block.block(F.elu(block.norm(block.project(up) + skip)))
    torch.testing.assert_close(block(x, skip), expected)


def test_norm_momentum_reaches_every_batch_norm():
    teacher = TeacherNetwork((2, 3), norm_momentum=0.25)
    momenta = {m.momentum for m in teacher.modules() if isinstance(m, torch.nn.BatchNorm3d)}
    assert momenta == {0.25}
    assert {
        m.momentum for m in TeacherNetwork((2,)).modules() if isinstance(m, torch.nn.BatchNorm3d)
    } == {0.001}


def test_biases_start_at_zero_and_weights_with_kaimings_deviation():
    teacher = TeacherNetwork((16, 20))
    assert not teacher.head.bias.any()
    assert not teacher.embed_in.bias.any()
    weight = teacher.encoder[1].residual[0].weight
    fan_in = 20 * 27
    assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 2, 3, 8, 8), (1, 3, 8, 8), (1, 1, 3, 6, 8), (1, 1, 3, 8, 6)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape|multiples of 4"):
        small()(torch.rand(shape))


@pytest.mark.parametrize(("widths", "dim"), [((), 3), ((2, 0), 3), ((2,), 0)])
def test_impossible_sizes_are_refused(widths, dim):
    with pytest.raises(ConfigError, match="at least one level"):
        TeacherNetwork(widths, dim)


def reference_cosine(normalised, offset):
    """Voxel by voxel; NaN where the neighbour does not exist."""
    b, _, depth, height, width = normalised.shape
    out = np.full((b, depth, height, width), np.nan)
    for i in range(b):
        for z, y, x in np.ndindex(depth, height, width):
            other = (z + offset[0], y + offset[1], x + offset[2])
            if min(other) >= 0:
                out[i, z, y, x] = np.dot(
                    normalised[i, :, z, y, x], normalised[(i, slice(None), *other)]
                )
    return out


@pytest.mark.parametrize("offset", TEACHER_OFFSETS)
def test_offset_cosine_against_loops(offset):
    embedding = F.normalize(torch.randn(2, 3, 3, 5, 28), dim=1)
    got = offset_cosine(embedding, offset)
    expected = reference_cosine(embedding.numpy(), offset)
    valid = expected[:, max(0, -offset[0]) :, max(0, -offset[1]) :, max(0, -offset[2]) :]
    assert got.shape == valid.shape
    np.testing.assert_allclose(got.numpy(), valid, atol=1e-6)


def test_teacher_affinities_against_loops():
    embedding = torch.randn(1, 3, 3, 4, 5)
    got = teacher_affinities(embedding).numpy()
    normalised = F.normalize(embedding, dim=1).numpy()
    for channel, offset in enumerate(OFFSETS):
        expected = np.clip(reference_cosine(normalised, offset), 0, 1)
        axis = channel + 1
        first = np.take(expected, [1], axis)
        expected = np.concatenate(
            [first, np.take(expected, range(1, got.shape[axis + 1]), axis)], axis
        )
        np.testing.assert_allclose(got[:, channel], expected, atol=1e-6)


def test_teacher_affinities_of_one_section():
    affinities = teacher_affinities(torch.randn(1, 3, 1, 2, 2))
    assert affinities.shape == (1, 3, 1, 2, 2)
    assert (affinities[:, 0] == 1).all()


def test_saved_teacher_is_the_same(tmp_path):
    teacher = small().train()
    teacher(torch.rand(1, 1, 2, 8, 8))  # moves the running statistics
    metadata = TeacherMetadata(
        name="t",
        widths=(2, 3, 4),
        embedding_dim=5,
        norm_momentum=0.01,
        voxel_size=(30, 6, 6),
        intensity=IntensityMapping("limits", 10, 200),
    )
    save_teacher(tmp_path / "t.safetensors", teacher, metadata)
    loaded, found = load_teacher(tmp_path / "t.safetensors")
    assert found == metadata
    assert not loaded.training
    x = torch.rand(1, 1, 2, 8, 8)
    torch.testing.assert_close(loaded(x), teacher.eval()(x), rtol=0, atol=0)
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


def test_files_that_are_no_teacher_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_teacher(path)
    path.write_bytes(b"nonsense" * 9)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_teacher(path)
    import safetensors.torch

    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="is no 3D teacher"):
        load_teacher(path)


def test_saving_refuses_another_size_and_nan(tmp_path):
    teacher = small()
    with pytest.raises(CheckpointError, match="widths"):
        save_teacher(tmp_path / "t", teacher, TeacherMetadata(name="t", widths=(2, 3)))
    with torch.no_grad():
        teacher.head.bias[0] = float("nan")
    metadata = TeacherMetadata(name="t", widths=(2, 3, 4), embedding_dim=5)
    with pytest.raises(CheckpointError, match="NaN"):
        save_teacher(tmp_path / "t", teacher, metadata)
    assert list(tmp_path.iterdir()) == []
