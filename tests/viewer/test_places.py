from __future__ import annotations

import numpy as np
import pytest

from napari_cad.proofreading.from_labels import source_from_labels
from napari_cad.viewer.proofreading_tasks import folder_of_labels


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    """Folders of our own, so that nothing is written into the person's."""
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr("platformdirs.user_data_path", lambda name, **_: tmp_path / "data" / name)
    return tmp_path


@pytest.fixture
def labels():
    labels = np.zeros((3, 8, 12), np.uint16)
    labels[:, 1:4, 1:11] = 7
    labels[:2, 5:7, 1:11] = 900
    return labels


def test_the_same_labels_have_the_same_folder(labels, places):
    image = np.random.default_rng(0).integers(0, 255, labels.shape, dtype=np.uint8)
    alone = folder_of_labels("bars", source_from_labels(labels))
    assert alone.is_relative_to(places / "data")
    alone.mkdir(parents=True)
    for name, source in (
        ("bars [1]", source_from_labels(labels)),
        ("bars", source_from_labels(labels, image=image)),
        ("bars", source_from_labels(labels.astype(np.int64))),
        ("bars", source_from_labels(np.asfortranarray(labels).astype(">u4"))),
    ):
        assert folder_of_labels(name, source) == alone


def test_other_labels_have_another_folder(labels):
    known = folder_of_labels("bars", source_from_labels(labels))
    known.mkdir(parents=True)
    swapped = np.where(labels == 7, 900, np.where(labels == 900, 7, 0))
    longer = np.concatenate([labels, np.zeros_like(labels)])
    for other in (swapped, longer, labels[:, ::-1]):
        assert folder_of_labels("bars", source_from_labels(other)) != known


def test_a_session_of_before_is_found_in_the_cache(labels, places):
    source = source_from_labels(labels)
    old = places / "cache" / "napari-cad" / "proofreading" / f"x-{source.signature['graph'][:12]}"
    (old / "session").mkdir(parents=True)
    assert folder_of_labels("bars", source) == old / "session"
