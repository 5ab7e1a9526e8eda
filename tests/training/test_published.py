"""The published losses beside plain loops, and each published quirk by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_cad.core.teacher import TEACHER_OFFSETS
from napari_cad.training.losses import PairEmbeddings
from napari_cad.training.published import (
    published_cross_loss,
    published_interaction_loss,
    published_targets,
)
from napari_cad.training.targets import affinity_targets

B, E, H, W = 2, 3, 3, 30
DISTANCES = {1: 0, 2: 3, 3: 6, 4: 9}


def make(depth=6, seed=0, scale=0.5):
    torch.manual_seed(seed)
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, (B, depth, H, W)))
    prev = (scale * torch.randn(B, depth - 1, E, H, W)).requires_grad_()
    current = (scale * torch.randn(B, depth - 1, E, H, W)).requires_grad_()
    teacher = (scale * torch.randn(B, E, depth, H, W)).requires_grad_()
    return PairEmbeddings(prev, current), teacher, labels


def reference_targets(labels):
    labels = labels.numpy()
    same = np.zeros((12, *labels.shape))
    for k, offset in enumerate(TEACHER_OFFSETS):
        for b, z, y, x in np.ndindex(labels.shape):
            other = (z + offset[0], y + offset[1], x + offset[2])
            if min(other) >= 0:
                same[k, b, z, y, x] = labels[b, z, y, x] == labels[(b, *other)] > 0
    weight = np.ones(same.shape)
    for b in range(len(labels)):
        f = same[:, b].mean()
        if 0 < f < 1:
            f = min(max(f, 0.05), 0.99)
            positive, negative = (1, f / (1 - f)) if f > 0.5 else ((1 - f) / f, 1)
            weight[:, b] = np.where(same[:, b] > 0, positive, negative)
    return same, weight


def clamp(value):
    return min(max(value, 0.0), 1.0)


def unit(vector):
    return vector / np.linalg.norm(vector)


def reference_cross(pairs, teacher, weight, stale):
    prev, current = (t.detach().numpy().astype(float) for t in pairs)
    g = teacher.detach().numpy().astype(float)
    loss = 0.0
    for z in range(prev.shape[1]):
        first = 27 if stale and z > 0 else 1
        for b in range(B):
            p = [[unit(prev[b, z, :, y, x]) for x in range(W)] for y in range(H)]
            c = [[unit(current[b, z, :, y, x]) for x in range(W)] for y in range(H)]
            t = [[[unit(g[b, :, s, y, x]) for x in range(W)] for y in range(H)] for s in (z, z + 1)]
            for y in range(H):
                for x in range(first, W):
                    y_student = y if y else 2  # the student's first row reflects
                    y_teacher = y if y else 1  # the teacher's repeats the second
                    found = (
                        c[y][x] @ p[y][x],
                        c[y_student][x] @ c[y_student - 1][x],
                        c[y][x] @ c[y][x - 1],
                    )
                    wanted = (
                        t[1][y][x] @ t[0][y][x],
                        t[1][y_teacher][x] @ t[1][y_teacher - 1][x],
                        t[1][y][x] @ t[1][y][x - 1],
                    )
                    for k in range(3):
                        error = (clamp(found[k]) - max(0.0, wanted[k])) ** 2
                        loss += weight[k, b, z + 1, y, x] * error / (B * H * (W - first))
    return loss


def reference_interaction(pairs, teacher, same, weight):
    prev, current = (t.detach().numpy().astype(float) for t in pairs)
    g = teacher.detach().numpy().astype(float)
    depth = g.shape[2]

    def wmse(student, section, channel, target_section):
        total = 0.0
        for b, y, x in np.ndindex(B, H, W):
            raw = student[b, :, y, x] @ g[b, :, section, y, x]  # (a) nothing is normalised
            error = clamp(raw) - same[channel, b, target_section, y, x]
            total += weight[channel, b, target_section, y, x] * error**2
        return total / (B * H * W)

    loss = 0.0
    for z in range(depth - 1):
        value = 0.0
        for s, channel in DISTANCES.items():
            if z + 1 + s > depth - 1:
                break
            if s == 1:  # (d) the later section only
                value = wmse(current[:, z], z + 2, channel, z + 2)
            else:  # (b) overwritten, (c) targets of sections z + 1 and z + 2
                value = wmse(prev[:, z], z + s, channel, z + 1)
                value += wmse(current[:, z], z + 1 + s, channel, z + 2)
        loss += value
    return loss


def test_targets_against_loops():
    _, _, labels = make()
    same, weight = reference_targets(labels)
    got = published_targets(labels)
    np.testing.assert_array_equal(got.same.numpy(), same)
    np.testing.assert_allclose(got.weight.numpy(), weight, rtol=1e-5)


def test_targets_are_those_of_the_other_losses_with_published_balance():
    _, _, labels = make()
    got = published_targets(labels)
    for k, target in enumerate(affinity_targets(labels, TEACHER_OFFSETS, "published")):
        crop = (k, slice(None), *(slice(-step, None) for step in TEACHER_OFFSETS[k]))
        torch.testing.assert_close(got.same[crop], target.same)
        torch.testing.assert_close(got.weight[crop], target.weight)


@pytest.mark.parametrize("stale", [True, False])
def test_cross_loss_against_loops(stale):
    pairs, teacher, labels = make(4)
    targets = published_targets(labels)
    got = published_cross_loss(pairs, teacher, targets, stale_columns=stale)
    expected = reference_cross(pairs, teacher, targets.weight.numpy(), stale)
    assert got.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6, 7])
def test_interaction_loss_against_loops(depth):
    pairs, teacher, labels = make(depth)
    targets = published_targets(labels)
    got = published_interaction_loss(pairs, teacher, targets)
    same, weight = targets.same.numpy(), targets.weight.numpy()
    assert got.item() == pytest.approx(
        reference_interaction(pairs, teacher, same, weight), rel=1e-5
    )


# ------------------------------------------------------------------------------------- the quirks


def interaction_gradients(depth):
    pairs, teacher, labels = make(depth, scale=0.3)
    published_interaction_loss(pairs, teacher, published_targets(labels)).backward()
    return pairs, teacher


def test_a_there_is_no_gradient_outside_the_raw_product_of_0_to_1():
    torch.manual_seed(0)
    labels = torch.ones(1, 3, H, W, dtype=torch.int64)
    labels[:, :, 0] = 2
    for length, moves in ((0.5, True), (2.0, False), (-0.5, False)):
        vector = torch.zeros(1, 2, E, H, W)
        vector[:, :, 0] = length
        student = vector.requires_grad_()
        teacher = torch.zeros(1, E, 3, H, W)
        teacher[:, 0] = 1.0
        loss = published_interaction_loss(
            PairEmbeddings(student, student), teacher, published_targets(labels)
        )
        loss.backward()
        assert bool(student.grad.any()) == moves


def test_b_only_the_last_distance_counts_and_the_last_pair_has_none():
    depth = 18
    reached = []
    for z in range(depth - 1):
        pairs, teacher, labels = make(depth, scale=0.3)
        keep = torch.zeros(depth - 1)
        keep[z] = 1.0
        only = PairEmbeddings(*(t * keep[None, :, None, None, None] for t in pairs))
        published_interaction_loss(only, teacher, published_targets(labels)).backward()
        touched = teacher.grad.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist()
        reached.append(max(touched) - z - 1 if touched else None)
    assert reached == [4] * 13 + [3, 2, 1, None]


def test_c_the_targets_are_those_of_the_sections_next_to_the_students():
    pairs, teacher, labels = make(6)
    targets = published_targets(labels)
    base = published_interaction_loss(pairs, teacher, targets).item()
    read = set()
    for channel in DISTANCES.values():
        for section in range(6):
            changed = targets.same.clone()
            changed[channel, :, section] = 0.5
            other = targets._replace(same=changed)
            if published_interaction_loss(pairs, teacher, other).item() != base:
                read.add((channel, section))
    # pairs 0, 1, 2, 3 end at distances 4, 3, 2, 1; aligned would be (9, 4), (9, 5), (6, 4), …
    assert read == {(9, 1), (9, 2), (6, 2), (6, 3), (3, 3), (3, 4), (0, 5)}


def test_d_distance_one_has_the_later_section_only():
    pairs, teacher = interaction_gradients(3)
    assert pairs.prev.grad is None or not pairs.prev.grad.any()
    assert pairs.current.grad[:, 0].any()
    assert not pairs.current.grad[:, 1].any()
    assert teacher.grad.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist() == [2]


def test_e_from_the_second_pair_on_the_first_27_columns_are_not_seen():
    pairs, teacher, labels = make(4)
    published_cross_loss(pairs, teacher, published_targets(labels)).backward()
    assert pairs.prev.grad[:, 0, :, :, 1:27].any()
    # column 26 still enters through the x affinity of column 27, in the later section
    assert not pairs.prev.grad[:, 1:, :, :, :27].any()
    assert not pairs.current.grad[:, 1:, :, :, :26].any()
    assert pairs.prev.grad[:, 1:, :, :, 27:].any()


@pytest.mark.parametrize("loss", [published_cross_loss, published_interaction_loss])
@pytest.mark.parametrize("detach", [True, False])
def test_the_teacher_learns_too_unless_it_is_detached(loss, detach):
    pairs, teacher, labels = make(6, scale=0.3)
    loss(pairs, teacher, published_targets(labels), detach_teacher=detach).backward()
    assert (teacher.grad is None) == detach
    assert pairs.current.grad.any()
