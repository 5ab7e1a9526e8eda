from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_cad.core.errors import ConfigError, DeviceMemoryError, ShapeError
from napari_cad.core.sliding_window import (
    WindowGrid,
    blending_weights,
    iter_section_embeddings,
    seam_score,
    sliding_window_embedding,
)
from napari_cad.core.teacher import TeacherNetwork


class Fake(torch.nn.Module):
    """Three channels: the intensity, the place in the window, and the window's first voxel."""

    embedding_dim = 3
    size_multiple = 1

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, stack):
        self.shapes.append(tuple(stack.shape))
        d, h, w = stack.shape[2:]
        place = torch.arange(d * h * w, dtype=torch.float32).reshape(1, 1, d, h, w) / (d * h * w)
        first = stack[:, :, :1, :1, :1].expand_as(stack)
        return torch.cat([stack + 0.5, place.expand_as(stack), first], dim=1)


def volume(shape=(7, 9, 11), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def reference_embedding(stack, network, grid, blending, normalise):
    """Window by window on a padded copy of the volume, voxel by voxel for the weights."""
    starts = [grid.starts(axis) for axis in range(3)]
    before = [-s[0] for s in starts]
    after = [s[-1] + w - n for s, w, n in zip(starts, grid.window, grid.shape, strict=True)]
    padded = np.pad(
        stack.astype(np.float32) / 255, list(zip(before, after, strict=True)), mode="reflect"
    )
    total = np.zeros((network.embedding_dim, *padded.shape))
    weight = np.zeros(padded.shape)
    for z0 in starts[0]:
        for y0 in starts[1]:
            for x0 in starts[2]:
                at = tuple(
                    slice(s + b, s + b + n)
                    for s, b, n in zip((z0, y0, x0), before, grid.window, strict=True)
                )
                with torch.no_grad():
                    e = network(torch.from_numpy(padded[at].copy())[None, None])[0].numpy()
                if normalise:
                    e = e / np.linalg.norm(e, axis=0)
                for local in np.ndindex(*grid.window):
                    p = tuple(s.start + i for s, i in zip(at, local, strict=True))
                    r = [
                        2 * i / (n - 1) - 1 if n > 1 else 0.0
                        for i, n in zip(local, grid.window, strict=True)
                    ]
                    if blending == "gaussian":
                        w = 1e-6 + np.exp(-np.dot(r, r) / (2 * 0.2**2))
                        total[(slice(None), *p)] += w * e[(slice(None), *local)]
                        weight[p] += w
    inner = tuple(slice(b, b + n) for b, n in zip(before, grid.shape, strict=True))
    result = (total / np.where(weight > 0, weight, 1))[(slice(None), *inner)]
    return result / np.linalg.norm(result, axis=0) if normalise else result


GRIDS = [
    {"window": (3, 4, 5), "stride": (2, 2, 3), "margin": (1, 2, 0)},
    {"window": (4, 4, 4), "stride": (1, 3, 4), "margin": (0, 0, 0)},
    {"window": (9, 12, 14), "stride": (5, 5, 5), "margin": (0, 0, 0)},
]


@pytest.mark.parametrize("settings", GRIDS)
@pytest.mark.parametrize("normalise", [True, False])
def test_gaussian_blending_against_loops(settings, normalise):
    stack, network = volume(), Fake()
    got = sliding_window_embedding(stack, network, normalise=normalise, batch=3, **settings)
    grid = WindowGrid(stack.shape, **settings)
    expected = reference_embedding(stack, network, grid, "gaussian", normalise)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", GRIDS)
def test_without_blending_the_nearest_window_counts(settings):
    stack, network = volume(), Fake()
    got = sliding_window_embedding(stack, network, normalise=False, blending="none", **settings)
    grid = WindowGrid(stack.shape, **settings)
    centres = [
        [start + (n - 1) / 2 for start in grid.starts(axis)] for axis, n in enumerate(grid.window)
    ]
    for p in np.ndindex(stack.shape):
        local = []
        for axis in range(3):
            # of two windows equally near, the later one
            distance = [abs(p[axis] - c) for c in centres[axis]]
            index = max(i for i, d in enumerate(distance) if d == min(distance))
            local.append(p[axis] - grid.starts(axis)[index])
        expected = np.ravel_multi_index(local, grid.window) / np.prod(grid.window)
        assert got[(1, *p)] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(got[0], stack.astype(np.float32) / 255 + 0.5, rtol=1e-6)


@pytest.mark.parametrize("settings", GRIDS)
@pytest.mark.parametrize("blending", ["gaussian", "none"])
def test_a_range_of_sections_is_that_part_of_the_whole(settings, blending):
    stack = volume()
    whole = sliding_window_embedding(stack, Fake(), blending=blending, **settings)
    for first, last in ((0, 2), (3, 4), (5, 7)):
        some = dict(
            iter_section_embeddings(
                stack, Fake(), blending=blending, sections=(first, last), **settings
            )
        )
        assert list(some) == list(range(first, last))
        for z, embedding in some.items():
            np.testing.assert_array_equal(embedding, whole[:, z])


def test_published_window_counts():
    def counts(shape, margin, stride=(10, 80, 80)):
        grid = WindowGrid(shape, (18, 160, 160), stride, margin)
        return [len(grid.starts(axis)) for axis in range(3)], [
            grid.starts(axis)[0] for axis in range(3)
        ]

    assert counts((100, 1250, 1250), (4, 15, 15)) == ([10, 15, 15], [-4, -15, -15])
    assert counts((25, 1250, 1250), (4, 15, 15), (15, 80, 80)) == ([2, 15, 15], [-4, -15, -15])
    assert counts((100, 1024, 1024), (4, 48, 48)) == ([10, 13, 13], [-4, -48, -48])
    assert counts((100, 520, 520), (4, 20, 20)) == ([10, 6, 6], [-4, -20, -20])


def test_owned_ranges_partition_every_axis():
    for size in range(1, 40):
        for window, stride, margin in ((6, 3, 2), (8, 8, 0), (5, 4, 1)):
            grid = WindowGrid((size, 1, 1), (window, 1, 1), (stride, 1, 1), (margin, 0, 0))
            owned = grid.owned(0)
            assert [p for a, b in owned for p in range(a, b)] == list(range(size))
            for start, (low, high) in zip(grid.starts(0), owned, strict=True):
                assert low >= high or (start <= low and high <= start + window)


def test_blending_weights_by_the_formula():
    weights = blending_weights((3, 5, 1))
    assert weights[1, 2, 0] == pytest.approx(1 + 1e-6)
    assert weights[0, 2, 0] == pytest.approx(1e-6 + np.exp(-12.5))
    assert weights[1, 1, 0] == pytest.approx(1e-6 + np.exp(-0.25 / 0.08), rel=1e-5)
    assert weights.min() > 0


def test_a_real_teacher_runs_in_evaluation_mode_and_is_left_as_it_was():
    torch.manual_seed(0)
    teacher = TeacherNetwork((2, 3), embedding_dim=4).train()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    embedding = sliding_window_embedding(
        volume((3, 8, 10)), teacher, window=(2, 6, 6), stride=(1, 3, 3), margin=(0, 1, 1)
    )
    assert embedding.shape == (4, 3, 8, 10)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=0), 1, rtol=1e-5)
    assert teacher.training
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_one_window_that_holds_the_volume_is_the_network_itself():
    torch.manual_seed(0)
    teacher = TeacherNetwork((2, 3), embedding_dim=4).eval()
    stack = volume((3, 8, 10))
    for blending in ("gaussian", "none"):
        got = sliding_window_embedding(
            stack, teacher, window=stack.shape, stride=stack.shape, margin=(0, 0, 0),
            blending=blending, normalise=False,
        )  # fmt: skip
        with torch.no_grad():
            expected = teacher(torch.from_numpy(stack.astype(np.float32) / 255)[None, None])[0]
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5)


class Recorder:
    """An array that remembers how many sections were asked for at once."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.most = 0

    def __getitem__(self, key):
        values = self.array[key]
        self.most = max(self.most, len(values))
        return values


def test_memory_is_bounded_by_the_layer_and_the_batch():
    recorder, network = Recorder(volume((30, 6, 6))), Fake()
    progress = []
    for _ in iter_section_embeddings(
        recorder, network, window=(4, 4, 4), stride=(2, 2, 2), margin=(1, 1, 1), batch=3,
        progress=lambda done, total: progress.append((done, total)),
    ):  # fmt: skip
        pass
    assert recorder.most <= 4
    assert max(shape[0] for shape in network.shapes) <= 3
    assert progress[-1][0] == progress[-1][1] == sum(shape[0] for shape in network.shapes)


def test_one_section_and_one_column_are_reflected():
    got = sliding_window_embedding(
        volume((1, 5, 1)), Fake(), window=(4, 4, 4), stride=(2, 2, 2), margin=(3, 3, 3),
        normalise=False,
    )  # fmt: skip
    np.testing.assert_allclose(got[0], volume((1, 5, 1)) / np.float32(255) + 0.5, rtol=1e-5)


def test_input_is_not_changed():
    stack = volume()
    copy = stack.copy()
    sliding_window_embedding(stack, Fake(), **GRIDS[0])
    np.testing.assert_array_equal(stack, copy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": (4, 2, 2)}, "leave voxels out"),
        ({"window": (0, 4, 4)}, "positive"),
        ({"margin": (-1, 0, 0)}, "negative"),
        ({"blending": "mean"}, "blending must be one of gaussian, none"),
        ({"batch": 0}, "batch"),
        ({"sections": (3, 3)}, "sections must lie in 0:7"),
        ({"sections": (0, 8)}, "sections must lie in 0:7"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    settings = {"window": (3, 4, 4), "stride": (2, 2, 2), "margin": (0, 0, 0)} | settings
    with pytest.raises(ConfigError, match=message):
        iter_section_embeddings(volume(), Fake(), **settings)


def test_a_window_must_fit_the_network():
    with pytest.raises(ConfigError, match="multiples of 4"):
        iter_section_embeddings(
            volume(), TeacherNetwork((2, 2, 2)), window=(3, 4, 6), stride=(2, 2, 2)
        )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(), DeviceMemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), DeviceMemoryError),
        (RuntimeError("another one"), RuntimeError),
    ],
)
def test_too_little_memory_says_what_to_lower(error, expected):
    class Hungry(Fake):
        def forward(self, stack):
            raise error

    with pytest.raises(expected) as caught:
        sliding_window_embedding(volume(), Hungry(), **GRIDS[0])
    assert ("lower the batch, then the window" in str(caught.value)) == (
        expected is not RuntimeError
    )


# ------------------------------------------------------------------------------------ seam score


def reference_profile(embedding, axis):
    unit = embedding / np.linalg.norm(embedding, axis=0)
    size = embedding.shape[axis + 1]
    profile = [np.nan]
    for p in range(1, size):
        changes = []
        for q in np.ndindex(embedding.shape[1:]):
            if q[axis] == p:
                before = tuple(p - 1 if a == axis else i for a, i in enumerate(q))
                changes.append(
                    np.linalg.norm(unit[(slice(None), *q)] - unit[(slice(None), *before)])
                )
        profile.append(np.mean(changes))
    return np.array(profile)


@pytest.mark.parametrize("shape", [(3, 7, 9), (3, 4, 7, 6)])
def test_seam_score_against_loops(shape):
    embedding = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    borders = [[3] for _ in shape[1:]]
    score = seam_score(embedding, borders, clearance=2)
    for axis, size in enumerate(shape[1:]):
        profile = reference_profile(embedding.astype(np.float64), axis)
        np.testing.assert_allclose(score.profile[axis], profile, rtol=1e-5)
        assert score.across[axis] == pytest.approx(profile[3], rel=1e-5)
        far = [p for p in range(1, size) if abs(p - 3) >= 2]
        assert score.away[axis] == pytest.approx(profile[far].mean(), rel=1e-5)


def test_a_seam_is_found_where_it_is_and_a_smooth_map_has_none():
    y, x = np.mgrid[:24, :32].astype(np.float32)
    smooth = np.stack([np.cos(0.05 * (y + x)), np.sin(0.05 * (y + x))])
    seamed = smooth.copy()
    seamed[:, :, 16:] = seamed[::-1, :, 16:]
    borders = ([12], [16])
    assert seam_score(smooth, borders).ratio == pytest.approx((1, 1), rel=1e-3)
    score = seam_score(seamed, borders)
    assert score.ratio[0] == pytest.approx(1, rel=1e-3)
    assert score.ratio[1] > 5
    around = score.around_borders(1, 3)
    assert np.argmax(around) == 3
    np.testing.assert_allclose(around[[0, 1, 2, 4, 5, 6]], around[0], rtol=1e-3)


def test_plain_tiling_shows_and_blending_hides_it():
    stack = volume((4, 24, 24))
    window, stride = (4, 8, 8), (4, 4, 4)
    tiled = sliding_window_embedding(
        stack, Fake(), window=window, stride=window, margin=(0, 0, 0), blending="none"
    )
    blended = sliding_window_embedding(
        stack, Fake(), window=window, stride=stride, margin=(0, 4, 4)
    )
    borders = [
        [],
        *(WindowGrid(stack.shape, window, window, (0, 0, 0)).borders(a, "none") for a in (1, 2)),
    ]
    assert borders[1] == [8, 16]
    rough, even = seam_score(tiled, borders), seam_score(blended, borders)
    assert np.isnan(rough.across[0])
    assert np.isnan(rough.ratio[0])
    assert max(rough.ratio[1:]) > 1.3
    assert max(even.ratio[1:]) < 1.1


def test_borders_of_blended_windows_are_all_their_ends():
    grid = WindowGrid((1, 1, 20), (1, 1, 8), (1, 1, 4), (0, 0, 0))
    assert grid.starts(2) == [0, 4, 8, 12]
    assert grid.borders(2, "gaussian") == [4, 8, 12, 16]
    assert grid.borders(2, "none") == [6, 10, 14]


@pytest.mark.parametrize("borders", [[[1]], [[0], []], [[], [9]]])
def test_wrong_borders_are_refused(borders):
    with pytest.raises(ShapeError, match="borders"):
        seam_score(np.ones((2, 7, 9)), borders)
