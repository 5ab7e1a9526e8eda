from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from napari_cad.core.agglomeration import MergeTree, agglomerate_graph
from napari_cad.core.agreement import (
    CROP_SECTIONS,
    N_CROPS,
    PLAUSIBLE,
    THRESHOLDS,
    agreement,
    judge_fit,
    lowest_plausible,
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


@pytest.fixture
def looks(monkeypatch):
    """Have `judge_fit` find these agreements, and write down which crops it has looked at."""
    seen = []

    def find(*values):
        left = iter(values)

        def found(predictor, preprocessing, crops, fragments):
            seen.append(crops)
            return next(left)

        monkeypatch.setattr("napari_cad.core.agreement.reversal_agreement", found)
        return seen

    return find


def test_one_look_is_enough_where_a_student_fits(predictor, looks):
    seen = looks(PLAUSIBLE)
    assert judge_fit(predictor, TO_UNIT, stack((20, 512, 512))).fits
    assert len(seen) == 1


@pytest.mark.parametrize(("second", "fits"), [(0.95, True), (0.88, True), (0.86, False)])
def test_a_second_look_decides_by_the_crops_of_a_suggestion(predictor, looks, second, fits):
    volume = stack((20, 512, 512))
    seen = looks(0.84, second)
    judgement = judge_fit(predictor, TO_UNIT, volume)
    assert (judgement.agreement, judgement.fits) == (second, fits)
    suggested = sample_crops(volume, N_CROPS)
    assert len(seen[1]) == len(suggested)
    assert all(np.array_equal(a.data, b.data) for a, b in zip(seen[1], suggested, strict=True))


def test_the_fewer_crops_the_more_is_chance():
    volume = stack((20, 512, 512))
    limits = [lowest_plausible(volume, sample_crops(volume, n)) for n in (1, 2, 4)]
    # two standard errors of 0.03 / sqrt(n)
    assert limits == pytest.approx([0.84, 0.9 - 0.06 / math.sqrt(2), 0.87])


@pytest.mark.parametrize(
    ("shape", "n_independent"),
    [((4, 256, 256), 1), ((8, 256, 256), 2), ((2, 100, 90), 1), ((4, 1024, 1024), 4)],
)
def test_crops_that_overlap_in_a_small_stack_do_not_count_as_many(shape, n_independent):
    volume = EMVolume.from_array(np.broadcast_to(np.arange(shape[2], dtype=np.uint8), shape))
    limit = lowest_plausible(volume, sample_crops(volume))
    assert limit == pytest.approx(0.9 - 0.06 / math.sqrt(n_independent))


def test_windows_lie_inside_and_are_spread():
    placed = [window_at((1000, 90), i, 100) for i in range(8)]
    assert all(r.start >= 0 and r.stop <= 1000 and r.stop - r.start == 100 for r, _ in placed)
    assert all((c.start, c.stop) == (0, 90) for _, c in placed)
    starts = sorted(rows.start for rows, _ in placed)
    assert max(np.diff([0, *starts, 900])) < 300
    assert min(np.diff(starts)) > 0
