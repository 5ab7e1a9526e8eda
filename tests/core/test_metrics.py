"""Scores, against their definitions, scikit-image and slow references."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from skimage.metrics import adapted_rand_error, variation_of_information

from napari_cad.core.errors import ShapeError, VolumeError
from napari_cad.core.metrics import (
    ContingencyTable,
    Scores,
    arand,
    contingency,
    threshold_curve,
    voi,
    volume_contingency,
)

Labels = npt.NDArray[np.integer]


def reference_table(truth: Labels, segmentation: Labels) -> dict[tuple[int, int], int]:
    table: dict[tuple[int, int], int] = {}
    for t, s in zip(truth.ravel().tolist(), segmentation.ravel().tolist(), strict=True):
        if t != 0:
            table[t, s] = table.get((t, s), 0) + 1
    return table


def as_dict(table: ContingencyTable) -> dict[tuple[int, int], int]:
    rows = zip(table.truth.tolist(), table.segmentation.tolist(), table.count.tolist(), strict=True)
    return {(t, s): n for t, s, n in rows}


def reference_arand(truth: Labels, segmentation: Labels) -> float:
    """Count the pairs of voxels one by one."""
    keep = truth.ravel() != 0
    t, s = truth.ravel()[keep], segmentation.ravel()[keep]
    off = ~np.eye(len(t), dtype=bool)
    same_t, same_s = (t[:, None] == t) & off, (s[:, None] == s) & off
    precision = (same_t & same_s).sum() / same_s.sum()
    recall = (same_t & same_s).sum() / same_t.sum()
    return float(1 - 2 * precision * recall / (precision + recall))


def random_labels(seed: int, shape: tuple[int, ...] = (3, 20, 21), n: int = 12) -> Labels:
    """Labels in runs and blobs, with zeros."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, n, tuple(-(-side // 4) for side in shape))
    for axis in range(len(shape)):
        coarse = coarse.repeat(4, axis)
    labels = coarse[tuple(slice(side) for side in shape)].copy()
    spots = rng.random(shape) < 0.1
    labels[spots] = rng.integers(0, n, int(spots.sum()))
    return labels


# --- which number is which


def test_pure_over_segmentation_is_all_split() -> None:
    truth = np.ones((1, 4, 16), np.uint16)
    quarters = np.broadcast_to(np.repeat(np.arange(1, 5), 4), truth.shape)
    table = contingency(truth, quarters)
    assert voi(table) == (2.0, 0.0)
    assert arand(table) == pytest.approx(1 - 2 * (4 * 16 * 15) / (4 * 16 * 15 + 64 * 63))


def test_pure_under_segmentation_is_all_merge() -> None:
    truth = np.broadcast_to(np.repeat([1, 2], 8), (1, 4, 16))
    table = contingency(truth, np.full(truth.shape, 7))
    assert voi(table) == (0.0, 1.0)
    assert arand(table) > 0.3


def test_perfect_is_zero_whatever_the_names() -> None:
    truth = random_labels(0)
    renamed = np.random.default_rng(1).permutation(50)[truth]
    scores = Scores.of(contingency(truth, renamed))
    assert scores == Scores(0.0, 0.0, 0.0)
    assert scores.voi == 0


def test_voxels_alone_on_both_sides_are_perfect() -> None:
    every = np.arange(1, 10)
    assert arand(contingency(every, every)) == 0.0


def test_label_0_of_the_segmentation_is_a_segment() -> None:
    truth = np.array([1, 1, 1, 1, 0, 0])
    assert voi(contingency(truth, np.array([5, 5, 0, 0, 0, 0]))) == (1.0, 0.0)


# --- parity


@pytest.mark.parametrize("seed", range(8))
def test_parity_with_scikit_image(seed: int) -> None:
    truth, segmentation = random_labels(seed), random_labels(seed + 100, n=5 + 3 * seed)
    scores = Scores.of(contingency(truth, segmentation))
    # scikit-image ignores different labels in the two unless told; its `are` is right, the
    # precision and recall beside it are swapped
    expected = adapted_rand_error(truth, segmentation, ignore_labels=(0,))[0]
    split, merge = variation_of_information(truth, segmentation, ignore_labels=(0,))
    assert scores.arand == pytest.approx(expected, abs=1e-12)
    assert scores.voi_split == pytest.approx(split, abs=1e-12)
    assert scores.voi_merge == pytest.approx(merge, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_table_and_arand_by_counting(seed: int) -> None:
    truth, segmentation = random_labels(seed, (2, 9, 10)), random_labels(seed + 9, (2, 9, 10))
    table = contingency(truth, segmentation)
    assert as_dict(table) == reference_table(truth, segmentation)
    assert arand(table) == pytest.approx(reference_arand(truth, segmentation), abs=1e-12)
    assert table.n_voxels == (truth != 0).sum()
    order = np.lexsort((table.segmentation, table.truth))
    np.testing.assert_array_equal(order, np.arange(len(order)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_any_integer_type(dtype: npt.DTypeLike) -> None:
    truth, segmentation = random_labels(1), random_labels(2)
    table = contingency(truth.astype(dtype), segmentation.astype(dtype))
    assert as_dict(table) == as_dict(contingency(truth, segmentation))


def test_ids_beyond_53_bits() -> None:
    high = 2**63 + 5
    segmentation = np.array([high, high + 1, high, high + 1], np.uint64)
    assert as_dict(contingency(np.array([1, 1, 2, 2]), segmentation)) == {
        (1, high): 1, (1, high + 1): 1, (2, high): 1, (2, high + 1): 1,
    }  # fmt: skip


def test_other_labels_can_be_ignored() -> None:
    truth = np.array([0, 1, 2, 3])
    assert contingency(truth, truth, ignore=()).truth.tolist() == [0, 1, 2, 3]
    assert contingency(truth, truth, ignore=(0, 2)).truth.tolist() == [1, 3]


def test_inputs_are_left_alone() -> None:
    truth, segmentation = random_labels(1), random_labels(2)
    copies = truth.copy(), segmentation.copy()
    Scores.of(contingency(truth, segmentation))
    np.testing.assert_array_equal(truth, copies[0])
    np.testing.assert_array_equal(segmentation, copies[1])


# --- tables of parts


def test_parts_add_up() -> None:
    truth, segmentation = random_labels(3), random_labels(4)
    whole = contingency(truth, segmentation)
    parts = [contingency(t, s) for t, s in zip(truth, segmentation, strict=True)]
    assert as_dict(ContingencyTable.total(parts)) == as_dict(whole)
    assert as_dict(parts[2] + parts[0] + parts[1]) == as_dict(whole)
    assert as_dict(volume_contingency(truth, segmentation)) == as_dict(whole)
    assert as_dict(volume_contingency(truth, segmentation, sections=[1])) == as_dict(parts[1])
    assert as_dict(whole + ContingencyTable.empty()) == as_dict(whole)
    assert len(ContingencyTable.total([]).count) == 0


def test_a_volume_is_read_section_by_section() -> None:
    class Lazy:
        shape = (3, 20, 21)

        def __init__(self, data: Labels) -> None:
            self.data, self.keys = data, list[object]()

        def __getitem__(self, key: object) -> Labels:
            self.keys.append(key)
            return self.data[key]  # type: ignore[index]

    truth, segmentation = Lazy(random_labels(3)), Lazy(random_labels(4))
    volume_contingency(truth, segmentation, sections=[2, 0])
    assert truth.keys == segmentation.keys == [2, 0]


# --- curve


@pytest.mark.parametrize("seed", range(4))
def test_curve_is_the_direct_evaluation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, fragments = random_labels(seed), random_labels(seed + 50, n=40)
    luts = {t: rng.integers(0, int(40 * (1 - t)), 41) for t in (0.7, 0.1, 0.5)}
    curve = threshold_curve(contingency(truth, fragments), luts.__getitem__, luts)
    assert len(curve) == 3
    for scores, lut in zip(curve, luts.values(), strict=True):
        direct = Scores.of(contingency(truth, lut[fragments]))
        assert list(scores.to_json().values()) == pytest.approx(
            list(direct.to_json().values()), abs=1e-12
        )
        relabelled = contingency(truth, fragments).relabelled(lut)
        assert as_dict(relabelled) == as_dict(contingency(truth, lut[fragments]))


def test_curve_of_many_fragments_asks_for_each_lut_once() -> None:
    rng = np.random.default_rng(0)
    n, n_pairs = 40_000, 60_000
    fragment = np.sort(rng.integers(1, n + 1, n_pairs)).astype(np.uint64)
    truth = rng.integers(1, 400, n_pairs).astype(np.uint64)
    parts = ContingencyTable(truth, fragment, rng.integers(1, 3000, n_pairs))
    table = ContingencyTable.total([parts])
    calls: list[float] = []

    def lut_at(threshold: float) -> Labels:
        calls.append(threshold)
        return np.minimum(np.arange(n + 1), int(n * (1 - threshold)))

    thresholds = [i / 10 for i in range(1, 10)]
    curve = threshold_curve(table, lut_at, thresholds)
    assert calls == thresholds
    splits = [scores.voi_split for scores in curve]
    assert splits == sorted(splits, reverse=True)  # merging more never splits more


# --- errors


def test_refuses_other_shapes() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 3\) and \(3, 2\)"):
        contingency(np.ones((2, 3), int), np.ones((3, 2), int))
    with pytest.raises(ShapeError, match=r"\(2, 3, 4\) and \(1, 3, 4\)"):
        volume_contingency(np.ones((2, 3, 4), int), np.ones((1, 3, 4), int))


def test_refuses_what_are_no_labels() -> None:
    with pytest.raises(VolumeError, match="integer labels as segmentation, got float64"):
        contingency(np.ones(3, int), np.ones(3))
    with pytest.raises(VolumeError, match="as truth, got -1"):
        contingency(np.array([1, -1]), np.ones(2, int))


def test_refuses_a_truth_without_labels() -> None:
    table = contingency(np.zeros((2, 3, 3), int), np.ones((2, 3, 3), int))
    for call in (voi, arand, Scores.of, lambda t: threshold_curve(t, lambda _: np.arange(2), [])):
        with pytest.raises(VolumeError, match="labelled voxels"):
            call(table)
    with pytest.raises(VolumeError, match="labelled voxels"):
        voi(contingency(np.zeros((0, 3), int), np.zeros((0, 3), int)))


def test_refuses_a_lut_of_other_fragments() -> None:
    table = contingency(np.array([1, 1]), np.array([3, 9]))
    with pytest.raises(ShapeError, match="ids up to 9"):
        table.relabelled(np.arange(9))


def test_scores_to_json() -> None:
    numbers = json.loads(json.dumps(Scores(0.25, 0.5, 0.125).to_json()))
    assert numbers == {"voi_split": 0.25, "voi_merge": 0.5, "voi": 0.75, "arand": 0.125}
