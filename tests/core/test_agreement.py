from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from napari_cad.core.agglomeration import MergeTree, agglomerate_graph
from napari_cad.core.agreement import (
    CROP_SECTIONS,
    THRESHOLDS,
    agreement,
    mutual_information,
    reversal_agreement,
    sample_crops,
)
from napari_cad.core.config import FragmentConfig
from napari_cad.core.errors import VolumeError
from napari_cad.core.fragments import section_fragments
from napari_cad.core.inference import SectionAffinities
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.region_graph import RegionGraph, section_edges
from napari_cad.core.synthetic import synthetic_em
from napari_cad.core.volume import EMVolume
from napari_cad.core.windows import window_at

TO_UNIT = IntensityMapping("limits", 0, 255)


class DarkIsBoundary:
    """Stands in for a predictor: dark voxels are boundaries, the section before shines through."""

    def predict(self, volume, preprocessing, sections=None):
        for z in range(volume.n_sections) if sections is None else sections:
            prev, current = (preprocessing(volume.section(i)) for i in (max(z - 1, 0), z))
            bright = ndimage.gaussian_filter(0.7 * current + 0.3 * prev, 1)
            in_section = np.clip((bright - 0.4) * 900, 0, 255)
            between = np.clip(255 - 600 * np.abs(current - prev), 0, 255)
            yield SectionAffinities(z, np.stack([between, in_section, in_section]).astype(np.uint8))


@pytest.fixture(scope="module")
def predictor() -> DarkIsBoundary:
    return DarkIsBoundary()


def stack(shape, seed=0) -> EMVolume:
    return EMVolume.from_array(np.random.default_rng(seed).integers(1, 256, shape, np.uint8))


def reference_information(one, other) -> float:
    """From the joint distribution, cell by cell."""
    joint: dict[tuple[int, int], float] = {}
    for a, b in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True):
        joint[a, b] = joint.get((a, b), 0) + 1 / one.size
    rows, columns = {}, {}
    for (a, b), p in joint.items():
        rows[a] = rows.get(a, 0) + p
        columns[b] = columns.get(b, 0) + p
    information = sum(p * math.log2(p / rows[a] / columns[b]) for (a, b), p in joint.items())
    entropy = -sum(p * math.log2(p) for marginal in (rows, columns) for p in marginal.values())
    return 2 * information / entropy if entropy else 0.0


def test_mutual_information_equals_the_slow_way():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 7, (3, 20, 20))
    other = np.where(rng.random(one.shape) < 0.3, rng.integers(0, 5, one.shape), one)
    assert mutual_information(one, other) == pytest.approx(reference_information(one, other))
    assert mutual_information(one, other) == pytest.approx(mutual_information(other, one))


def test_the_same_is_1_whatever_the_ids_and_nothing_told_apart_is_0():
    one = np.random.default_rng(0).integers(0, 7, (3, 20, 20))
    assert mutual_information(one, 100 - one) == pytest.approx(1)
    assert mutual_information(np.ones_like(one), np.ones_like(one)) == 0
    assert mutual_information(np.ones_like(one), one) == pytest.approx(0)


def reference_agreement(predictor, crops) -> float:
    """Crop by crop, each direction for itself."""
    values = []
    for crop in crops:
        segments = []
        for step in (1, -1):
            turned = EMVolume.from_array(np.asarray(crop.data)[::step])
            # the two in the middle, each from the pair with the section before it
            made = [a.affinities for a in predictor.predict(turned, TO_UNIT)][1:3]
            first = section_fragments(made[0], FragmentConfig())
            second = section_fragments(made[1], FragmentConfig()) + first.max()
            tables = [section_edges(first, made[0], 0), section_edges(second, made[1], 1, first)]
            graph = RegionGraph.concatenate(tables, n_fragments=int(second.max()))
            tree = MergeTree.from_history(graph.n_fragments, agglomerate_graph(graph))
            labels = np.stack([first, second])[::step]
            segments.append([tree.lut(threshold)[labels] for threshold in THRESHOLDS])
        for a, b in zip(*segments, strict=True):
            by_section = (reference_information(a[0], b[0]) + reference_information(a[1], b[1])) / 2
            values.append(max(0, reference_information(a, b) * by_section) ** 0.5)
    return float(np.mean(values))


def test_agreement_equals_the_slow_way(predictor):
    crops = [
        EMVolume.from_array(synthetic_em((CROP_SECTIONS, 96, 96), seed=seed).raw) for seed in (0, 1)
    ]
    expected = reference_agreement(predictor, crops)
    assert 0.01 < expected < 0.99
    assert reversal_agreement(predictor, TO_UNIT, crops) == pytest.approx(expected)


def test_telling_only_sections_apart_is_no_agreement():
    sections = np.repeat(np.arange(1, 4), 400).reshape(3, 20, 20)
    assert mutual_information(sections, sections) == pytest.approx(1)
    assert agreement(sections, sections) == 0
    halves = sections * 2 + (np.arange(20) < 10)
    assert agreement(halves, halves) == pytest.approx(1)


@pytest.mark.parametrize("n_sections", [2, 3])
def test_short_stacks_are_judged_too(predictor, n_sections):
    assert 0 <= reversal_agreement(predictor, TO_UNIT, [stack((n_sections, 32, 32))]) <= 1


def test_crops_are_the_same_every_time_and_within_the_stack():
    volume = stack((20, 70, 300))
    one, two = (sample_crops(volume, 3, 64) for _ in range(2))
    assert [crop.shape for crop in one] == [(CROP_SECTIONS, 64, 64)] * 3
    assert all(np.array_equal(a.data, b.data) for a, b in zip(one, two, strict=True))
    assert len({crop.section(0).tobytes() for crop in one}) == 3


def test_crops_with_missing_sections_are_passed_over():
    array = np.array(stack((30, 40, 40)).data)
    array[[4, 14, 15, 25]] = 0
    crops = sample_crops(EMVolume.from_array(array), 3, 32)
    assert len(crops) == 3
    assert all(section.any() for crop in crops for section in crop.data)


def test_nothing_to_compare_is_explained():
    with pytest.raises(VolumeError, match="at least two"):
        sample_crops(stack((1, 32, 32)))
    with pytest.raises(VolumeError, match="empty section"):
        sample_crops(EMVolume.from_array(np.zeros((6, 32, 32), np.uint8)))


def test_windows_lie_inside_and_are_spread():
    placed = [window_at((1000, 90), i, 100) for i in range(8)]
    assert all(r.start >= 0 and r.stop <= 1000 and r.stop - r.start == 100 for r, _ in placed)
    assert all((c.start, c.stop) == (0, 90) for _, c in placed)
    starts = sorted(rows.start for rows, _ in placed)
    assert max(np.diff([0, *starts, 900])) < 300
    assert min(np.diff(starts)) > 0
