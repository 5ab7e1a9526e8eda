from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_cad.core.affinity import quantise
from napari_cad.core.errors import ConfigError
from napari_cad.core.inference import SectionAffinities
from napari_cad.core.metrics import Scores, contingency
from napari_cad.core.network import StudentNetwork
from napari_cad.training import validation as module
from napari_cad.training.config import ValidationConfig
from napari_cad.training.targets import IGNORE, affinity_targets
from napari_cad.training.validation import affinity_loss, check_validation, validate

sys.path.insert(0, str(Path(__file__).parent))
from tiny import make_volume


class Oracle:
    """Predicts what the labels say, with an error rate."""

    def __init__(self, labels, wrong=0.0):
        self.labels, self.wrong = labels, wrong

    def __call__(self, student, config):
        return self

    def predict(self, volume, intensity):
        rng = np.random.default_rng(0)
        size = volume.shape[1:]
        y0, x0 = ((n - s) // 2 for n, s in zip(self.labels.shape[1:], size, strict=True))
        labels = self.labels[:, y0 : y0 + size[0], x0 : x0 + size[1]].astype(np.int64)
        for z in range(len(labels)):
            before = labels[max(0, z - 1)]
            now = labels[z]
            a = np.zeros((3, *now.shape), bool)
            a[0] = (now == before) & (now > 0)
            a[1, 1:] = (now[1:] == now[:-1]) & (now[1:] > 0)
            a[2, :, 1:] = (now[:, 1:] == now[:, :-1]) & (now[:, 1:] > 0)
            a ^= rng.random(a.shape) < self.wrong
            affinities = np.where(a, 250, 5).astype(np.uint8)
            yield SectionAffinities(z, affinities)


def test_perfect_affinities_have_a_low_voi(monkeypatch):
    volume = make_volume()
    monkeypatch.setattr(module, "AffinityPredictor", Oracle(volume.labels.data))
    good = validate(StudentNetwork(2, 2), [volume], size=None)
    assert good.loss < 0.01
    assert good.scores.voi < 0.5
    monkeypatch.setattr(module, "AffinityPredictor", Oracle(volume.labels.data, wrong=0.3))
    bad = validate(StudentNetwork(2, 2), [volume], size=None)
    assert bad.loss > 5 * good.loss
    assert bad.scores.voi > good.scores.voi
    both = validate(StudentNetwork(2, 2), [volume, volume], size=None)
    assert both.to_json() == pytest.approx(bad.to_json())


def test_scores_are_those_of_the_pipeline(monkeypatch, tmp_path):
    """Against the segmentation that the ordinary pipeline writes, on a window that is not all."""
    from napari_cad.core.checkpoint import CheckpointMetadata, load_checkpoint, save_checkpoint
    from napari_cad.core.config import SegmentationConfig
    from napari_cad.core.pipeline import segment_volume
    from napari_cad.core.store import SegmentationStore

    torch.manual_seed(0)
    student = StudentNetwork(2, 3).eval()
    volume = make_volume()
    save_checkpoint(
        tmp_path / "s.safetensors",
        student,
        CheckpointMetadata(name="s", width=2, embedding_dim=3, training_data="", licence=""),
    )
    window = volume.image.crop(y=(8, 40), x=(8, 40))
    events = segment_volume(
        window, load_checkpoint(tmp_path / "s.safetensors"), SegmentationConfig(workers=0),
        tmp_path / "store.zarr",
    )  # fmt: skip
    list(events)
    store = SegmentationStore.open(tmp_path / "store.zarr")
    lut = store.lut(0.5)
    expected = Scores.of(
        contingency(volume.labels.data[:, 8:40, 8:40], lut[np.asarray(store.fragments[:])])
    )
    got = validate(student, [volume], size=32, threshold=0.5)
    assert got.scores.to_json() == pytest.approx(expected.to_json())
    losses = [
        affinity_loss(store.affinities[:, z], volume.read_labels((z - 1, 8, 8), (2, 32, 32)))
        for z in range(1, 6)
    ]
    assert got.loss == pytest.approx(np.mean(losses))
    assert got.picture.shape == (32, 128, 3)
    assert got.picture.dtype == np.uint8
    np.testing.assert_array_equal(got.picture[:, :32, 0], window.section(3))


def test_validating_leaves_the_student_as_it_is():
    student = StudentNetwork(2, 3).train()
    before = {k: v.clone() for k, v in student.state_dict().items()}
    validate(student, [make_volume()], size=16)
    assert student.training
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())


def test_affinity_loss_against_loops():
    rng = np.random.default_rng(0)
    labels = rng.choice([IGNORE, 0, 1, 1, 2], size=(2, 5, 6)).astype(np.int32)
    stored = quantise(torch.from_numpy(rng.random((3, 5, 6), dtype=np.float32))).numpy()
    targets = affinity_targets(torch.from_numpy(labels[None]), [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
    loss = 0.0
    for channel, (dy, dx) in enumerate(((0, 0), (1, 0), (0, 1))):
        total, count = 0.0, 0
        for y, x in np.ndindex(5, 6):
            if y < dy or x < dx:
                continue
            at = (0, 0, y, x) if channel == 0 else (0, 1, y - dy, x - dx)
            t = targets[channel]
            if t.known[at]:
                a = (stored[channel, y, x] + 0.5) / 256
                total += t.weight[at].item() * (a - t.same[at].item()) ** 2
                count += 1
        loss += total / count
    assert affinity_loss(stored, labels) == pytest.approx(loss, rel=1e-5)


def test_a_window_without_truth_is_refused_before_training():
    volume = make_volume()
    volume.labels.data[:, 8:40, 8:40] = 0
    with pytest.raises(ConfigError, match="has no labels"):
        check_validation([volume], ValidationConfig(size=32))
    check_validation([volume], ValidationConfig(size=None))


def test_one_section_has_no_loss_to_choose_by():
    volume = make_volume(shape=(1, 48, 48))
    check_validation([volume], ValidationConfig(size=32))
    with pytest.raises(ConfigError, match=r"two neighbouring sections.*validation.select"):
        check_validation([volume], ValidationConfig(size=32, select="loss"))
