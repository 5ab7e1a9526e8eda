"""Every loss beside plain loops in numpy, and where its gradient goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_cad.core.network import StudentNetwork
from napari_cad.core.teacher import TEACHER_OFFSETS
from napari_cad.training.losses import (
    PairEmbeddings,
    affinity_error,
    cross_loss,
    embed_pairs,
    interaction_loss,
    retention_loss,
    slice_loss,
    teacher_loss,
)
from napari_cad.training.targets import IGNORE, affinity_targets

B, E, D, H, W = 2, 3, 6, 4, 5
DISTANCES = {1: 0, 2: 3, 3: 6, 4: 9}  # along z, with the channel of TEACHER_OFFSETS


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(depth=D, ignore=True):
    """Embeddings of student and teacher, and labels, with gradients."""
    rng = np.random.default_rng(depth)
    values = [0, 1, 1, 1, 2] + ([IGNORE] if ignore else [])
    labels = torch.from_numpy(rng.choice(values, size=(B, depth, H, W)))
    prev = torch.randn(B, depth - 1, E, H, W, requires_grad=True)
    current = torch.randn(B, depth - 1, E, H, W, requires_grad=True)
    teacher = torch.randn(B, E, depth, H, W, requires_grad=True)
    return PairEmbeddings(prev, current), teacher, labels


def unit(vector):
    return vector / np.linalg.norm(vector)


def arrays(*tensors):
    return [tensor.detach().numpy().astype(np.float64) for tensor in tensors]


def error_of(cosine, target, clamped):
    if clamped:
        return (min(max(cosine, 0), 1) - target) ** 2
    if cosine >= 0:
        return (target - cosine) ** 2
    return (target - cosine) ** 2 - (1 - target) * cosine**2


class Truth:
    """Same, known and class weight of one voxel and its neighbour; checked in test_targets."""

    def __init__(self, labels):
        self.offsets = TEACHER_OFFSETS
        self.targets = affinity_targets(labels, TEACHER_OFFSETS)

    def __call__(self, channel, b, z, y, x):
        dz, dy, dx = self.offsets[channel]
        at = (b, z + dz, y + dy, x + dx)
        t = self.targets[channel]
        return t.same[at].item(), t.known[at].item(), t.weight[at].item()


class Mean:
    """Weighted sum over known voxels, divided by their number."""

    def __init__(self):
        self.total, self.count = 0.0, 0

    def add(self, error, weight, known=True):
        if known:
            self.total += weight * error
            self.count += 1

    def value(self):
        return self.total / max(1, self.count)


# ------------------------------------------------------------------------------------ references


def reference_teacher_loss(teacher, truth, nearest_weight):
    (g,) = arrays(teacher)
    loss = 0.0
    for channel, offset in enumerate(TEACHER_OFFSETS):
        mean = Mean()
        for b, z, y, x in np.ndindex(g.shape[0], *g.shape[2:]):
            other = (z + offset[0], y + offset[1], x + offset[2])
            if min(other) >= 0:
                cosine = unit(g[b, :, z, y, x]) @ unit(g[(b, slice(None), *other)])
                same, known, weight = truth(channel, b, z, y, x)
                mean.add((cosine - same) ** 2, weight, known)
        loss += (nearest_weight if channel < 3 else 1) * mean.value()
    return loss


def pair_channels(prev, current, b, i, y, x):
    """Channel and cosine of the affinities of a voxel of the later section of pair i."""
    here = unit(current[b, i, :, y, x])
    yield 0, here @ unit(prev[b, i, :, y, x])
    if y:
        yield 1, here @ unit(current[b, i, :, y - 1, x])
    if x:
        yield 2, here @ unit(current[b, i, :, y, x - 1])


def reference_slice_loss(pairs, truth, clamped):
    prev, current = arrays(*pairs)
    means = [Mean(), Mean(), Mean()]
    for b, i, y, x in np.ndindex(B, prev.shape[1], H, W):
        for channel, cosine in pair_channels(prev, current, b, i, y, x):
            same, known, weight = truth(channel, b, i + 1, y, x)
            means[channel].add(error_of(cosine, same, clamped), weight, known)
    return sum(mean.value() for mean in means)


def reference_cross_loss(pairs, teacher, truth, clamped, unlabelled_weight):
    prev, current = arrays(*pairs)
    (g,) = arrays(teacher)
    means = [Mean(), Mean(), Mean()]
    for b, i, y, x in np.ndindex(B, prev.shape[1], H, W):
        for channel, cosine in pair_channels(prev, current, b, i, y, x):
            offset = TEACHER_OFFSETS[channel]
            other = (i + 1 + offset[0], y + offset[1], x + offset[2])
            wanted = unit(g[b, :, i + 1, y, x]) @ unit(g[(b, slice(None), *other)])
            _, known, weight = truth(channel, b, i + 1, y, x)
            if not known and unlabelled_weight > 0:
                known, weight = True, unlabelled_weight
            means[channel].add(error_of(cosine, max(0, wanted), clamped), weight, known)
    return sum(mean.value() for mean in means)


def reference_retention_loss(pairs, start, truth):
    prev, current = arrays(*pairs)
    prev_before, before = arrays(*start)
    unknown = [[], [], []]
    for b, i, y, x in np.ndindex(B, prev.shape[1], H, W):
        for (channel, cosine), (_, wanted) in zip(
            pair_channels(prev, current, b, i, y, x),
            pair_channels(prev_before, before, b, i, y, x),
            strict=True,
        ):
            if not truth(channel, b, i + 1, y, x)[1]:
                unknown[channel].append((cosine, max(0, wanted)))
    loss = 0.0
    for values in unknown:
        positives = sum(aim > 0.5 for _, aim in values)
        f = min(max(positives / len(values), 0.05), 0.99)
        mean = Mean()
        for cosine, aim in values:
            rare = (aim > 0.5) == (f <= 0.5)
            weight = max(f, 1 - f) / min(f, 1 - f) if rare and positives else 1
            mean.add(error_of(cosine, aim, clamped=False), weight)
        loss += mean.value()
    return loss


def reference_interaction_loss(pairs, teacher, truth, clamped):
    prev, current = arrays(*pairs)
    (g,) = arrays(teacher)
    depth = g.shape[2]
    total, terms = 0.0, 0
    for s, channel in DISTANCES.items():
        # all pairs of one kind and distance share one mean over known voxels
        for student, first in ((prev, 0), (current, 1)):
            mean = Mean()
            sections = [z for z in range(depth - 1) if z + first + s < depth]
            for z in sections:
                for b, y, x in np.ndindex(B, H, W):
                    cosine = unit(student[b, z, :, y, x]) @ unit(g[b, :, z + first + s, y, x])
                    same, known, weight = truth(channel, b, z + first + s, y, x)
                    mean.add(error_of(cosine, same, clamped), weight, known)
            total += len(sections) * mean.value()
            terms += len(sections)
    return total / terms


# ----------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("nearest_weight", [1.0, 10.0])
def test_teacher_loss_against_loops(nearest_weight):
    _, teacher, labels = make()
    truth = Truth(labels)
    got = teacher_loss(teacher, truth.targets, nearest_weight)
    assert got.item() == pytest.approx(
        reference_teacher_loss(teacher, truth, nearest_weight), rel=1e-5
    )


def test_long_offsets_count_in_the_teacher_loss():
    embedding = torch.randn(1, E, 2, 3, 30)
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (1, 2, 3, 30)))
    truth = Truth(labels)
    assert truth.targets[11].same.numel()
    got = teacher_loss(embedding, truth.targets).item()
    assert got == pytest.approx(reference_teacher_loss(embedding, truth, 10.0), rel=1e-5)


@pytest.mark.parametrize("clamped", [True, False])
def test_slice_loss_against_loops(clamped):
    pairs, _, labels = make()
    truth = Truth(labels)
    got = slice_loss(pairs, truth.targets, clamped=clamped)
    assert got.item() == pytest.approx(reference_slice_loss(pairs, truth, clamped), rel=1e-5)


def test_slice_loss_times_the_pairs_is_the_published_sum():
    """With dense truth: sum over pairs and channels of WMSE as the publication writes it."""
    pairs, _, labels = make(ignore=False)
    truth = Truth(labels)
    prev, current = arrays(*pairs)
    loss = 0.0
    for i in range(D - 1):
        for channel, area in ((0, H * W), (1, (H - 1) * W), (2, H * (W - 1))):
            total = 0.0
            for b, y, x in np.ndindex(B, H, W):
                for c, cosine in pair_channels(prev, current, b, i, y, x):
                    if c == channel:
                        same, _, weight = truth(c, b, i + 1, y, x)
                        total += weight * (min(max(cosine, 0), 1) - same) ** 2
            loss += total / (B * area)
    got = slice_loss(pairs, truth.targets, clamped=True).item() * (D - 1)
    assert got == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("clamped", [True, False])
@pytest.mark.parametrize("unlabelled_weight", [0.0, 0.3])
def test_cross_loss_against_loops(clamped, unlabelled_weight):
    pairs, teacher, labels = make()
    truth = Truth(labels)
    got = cross_loss(
        pairs, teacher, truth.targets, clamped=clamped, unlabelled_weight=unlabelled_weight
    )
    expected = reference_cross_loss(pairs, teacher, truth, clamped, unlabelled_weight)
    assert got.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("clamped", [True, False])
@pytest.mark.parametrize("depth", [2, 3, 6])
def test_interaction_loss_against_loops(clamped, depth):
    pairs, teacher, labels = make(depth)
    truth = Truth(labels)
    got = interaction_loss(pairs, teacher, truth.targets, clamped=clamped)
    expected = reference_interaction_loss(pairs, teacher, truth, clamped)
    assert got.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("likeness", [0.0, 2.0])
def test_retention_loss_against_loops(likeness):
    pairs, _, labels = make()
    start = make()[0]
    if likeness:  # most affinities are high then, and without it most are low
        start = PairEmbeddings(*(embedding + likeness for embedding in start))
    truth = Truth(labels)
    got = retention_loss(pairs, start, truth.targets)
    assert got.item() == pytest.approx(reference_retention_loss(pairs, start, truth), rel=1e-5)


def test_retention_moves_only_what_has_no_truth_and_never_the_start():
    pairs, _, labels = make(ignore=False)
    labels[:, :, :, 2:] = IGNORE
    start = make()[0]
    retention_loss(pairs, start, affinity_targets(labels, TEACHER_OFFSETS)).backward()
    for tensor in pairs:
        assert tensor.grad[..., 2:].any()
        assert not tensor.grad[..., :1].any()
    assert all(tensor.grad is None for tensor in start)


def test_a_student_that_has_not_moved_has_retained_everything():
    pairs, _, labels = make()
    pairs = PairEmbeddings(*(tensor.abs() for tensor in pairs))  # no negative cosine
    assert retention_loss(pairs, pairs, Truth(labels).targets).item() == pytest.approx(0, abs=1e-9)


def test_interaction_of_equal_embeddings_is_perfect_on_one_neurite():
    g = torch.randn(B, E, 1, H, W).expand(B, E, D, H, W)
    student = 7 * g.transpose(1, 2)[:, : D - 1]
    targets = affinity_targets(torch.ones(B, D, H, W, dtype=torch.int64), TEACHER_OFFSETS)
    loss = interaction_loss(PairEmbeddings(student, student), g, targets)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_nothing_known_is_no_loss_but_has_a_graph():
    pairs, teacher, _ = make()
    targets = affinity_targets(torch.full((B, D, H, W), IGNORE), TEACHER_OFFSETS)
    for loss in (
        teacher_loss(teacher, targets),
        slice_loss(pairs, targets),
        cross_loss(pairs, teacher, targets),
        interaction_loss(pairs, teacher, targets),
    ):
        assert loss.item() == 0
        loss.backward()
    known = affinity_targets(torch.ones(B, D, H, W, dtype=torch.int64), TEACHER_OFFSETS)
    loss = retention_loss(pairs, make()[0], known)
    assert loss.item() == 0
    loss.backward()


def test_voxels_without_truth_have_no_gradient():
    pairs, teacher, labels = make()
    labels[:, :, :, 2:] = IGNORE
    targets = affinity_targets(labels, TEACHER_OFFSETS)
    loss = slice_loss(pairs, targets) + teacher_loss(teacher, targets)
    (loss + interaction_loss(pairs, teacher, targets)).backward()
    for tensor in (*pairs, teacher):
        assert not tensor.grad[..., 2:].any()
        assert tensor.grad[..., :2].any()


# ------------------------------------------------------------------------------- where gradients go


def gradients(loss, pairs, teacher):
    loss.backward()
    return [t.grad is not None and bool(t.grad.any()) for t in (pairs.prev, pairs.current, teacher)]


def test_gradients_flow_where_they_should():
    def fresh():
        pairs, teacher, labels = make()
        return pairs, teacher, affinity_targets(labels, TEACHER_OFFSETS)

    pairs, teacher, targets = fresh()
    assert gradients(teacher_loss(teacher, targets), pairs, teacher) == [False, False, True]
    pairs, teacher, targets = fresh()
    assert gradients(slice_loss(pairs, targets), pairs, teacher) == [True, True, False]
    for loss in (cross_loss, interaction_loss):
        pairs, teacher, targets = fresh()
        assert gradients(loss(pairs, teacher, targets), pairs, teacher) == [True, True, True]
        pairs, teacher, targets = fresh()
        detached = loss(pairs, teacher, targets, detach_teacher=True)
        assert gradients(detached, pairs, teacher) == [True, True, False]


def test_opposite_voxels_of_one_neurite_are_corrected_unless_clamped():
    for target, clamped, moves in ((1.0, False, True), (1.0, True, False), (0.0, False, False)):
        cosine = torch.tensor(-0.5, requires_grad=True)
        affinity_error(cosine, torch.tensor(target), clamped).backward()
        assert (cosine.grad.item() != 0) == moves
    cosine = torch.tensor(0.4, requires_grad=True)
    affinity_error(cosine, torch.tensor(0.0)).backward()
    assert cosine.grad.item() == pytest.approx(0.8)


def test_affinity_error_is_continuous_at_zero_and_never_negative():
    target = torch.linspace(0, 1, 11)
    below, above = (
        affinity_error(torch.tensor(-1e-6), target),
        affinity_error(torch.tensor(1e-6), target),
    )
    torch.testing.assert_close(below, above, atol=1e-5, rtol=0)
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 41), target)
    assert affinity_error(grid[:, 0], grid[:, 1]).min() >= 0


# ------------------------------------------------------------------------------------------ pairs


def test_pairs_are_those_of_the_student_itself():
    student = StudentNetwork(2, 3).eval()
    image = torch.rand(2, 3, 16, 32)
    pairs = embed_pairs(student, image)
    assert pairs.prev.shape == pairs.current.shape == (2, 2, 3, 16, 32)
    for i in range(2):
        prev, current = student(image[:, i : i + 2])
        torch.testing.assert_close(pairs.prev[:, i], prev)
        torch.testing.assert_close(pairs.current[:, i], current)
