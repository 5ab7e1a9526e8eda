from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import InferenceConfig
from napari_cad.core.embedding import SectionEmbedder
from napari_cad.core.errors import CheckpointError, ConfigError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.network import StudentNetwork
from napari_cad.core.seam_job import (
    ComparedMap,
    SeamsMeasured,
    WindowConfig,
    WindowsDone,
    compare_seams,
    region_of,
)
from napari_cad.core.seams import seam_score
from napari_cad.core.segmentation_job import SegmentationOptions
from napari_cad.core.sliding_window import WindowGrid, sliding_window_embedding
from napari_cad.core.teacher import TeacherMetadata, TeacherNetwork, load_teacher, save_teacher
from napari_cad.core.volume import EMVolume

OPTIONS = SegmentationOptions(inference=InferenceConfig(device="cpu", precision="float32"))
WINDOWS = WindowConfig(depth=3, size=16, stride=8, blending="both", region=48)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A student and a teacher with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("networks")
    save_checkpoint(
        folder / "student.safetensors",
        StudentNetwork(2, 5),
        CheckpointMetadata(
            name="tiny", width=2, embedding_dim=5, training_data="nothing", licence="none"
        ),
    )
    metadata = TeacherMetadata(name="tiny teacher", widths=(2, 3), embedding_dim=4)
    save_teacher(folder / "teacher.safetensors", TeacherNetwork((2, 3), 4), metadata)
    return str(folder / "student.safetensors"), str(folder / "teacher.safetensors")


@pytest.fixture(scope="module")
def volume():
    return EMVolume.from_array(np.random.default_rng(0).integers(0, 256, (5, 56, 64), np.uint8))


@pytest.fixture(scope="module")
def events(files, volume):
    return list(compare_seams(volume, *files, OPTIONS, WINDOWS, 2, (50, 30)))


def test_the_order_of_events(events):
    kinds = [type(e) for e in events if not isinstance(e, WindowsDone)]
    assert kinds == [ComparedMap, ComparedMap, SeamsMeasured, ComparedMap, SeamsMeasured]
    maps = [e for e in events if isinstance(e, ComparedMap)]
    assert [m.source for m in maps] == ["student", "none", "gaussian"]
    assert all(m.rgb.shape == (48, 48, 3) and (m.z, m.corner) == (2, (8, 6)) for m in maps)
    for blending in ("none", "gaussian"):
        windows = [e for e in events if isinstance(e, WindowsDone) and e.blending == blending]
        assert windows[-1].done == windows[-1].total == len(windows) > 1


@pytest.mark.parametrize("blending", ["none", "gaussian"])
def test_scores_are_those_of_the_pieces(events, files, volume, blending):
    (measured,) = [e for e in events if isinstance(e, SeamsMeasured) and e.blending == blending]
    region = volume.data[:, 8:56, 6:54]
    window, stride = (3, 16, 16), (2, 8, 8)
    teacher, _ = load_teacher(files[1])
    embedding = sliding_window_embedding(
        region, teacher, window=window, stride=stride, blending=blending, sections=(2, 3)
    )[:, 0]
    grid = WindowGrid(region.shape, window, stride)
    borders = [grid.borders(axis, blending) for axis in (1, 2)]
    assert all(borders)
    expected = seam_score(embedding, borders)
    assert measured.teacher.borders == expected.borders == measured.student.borders
    np.testing.assert_allclose(measured.teacher.across, expected.across, rtol=1e-4)
    np.testing.assert_allclose(measured.teacher.away, expected.away, rtol=1e-4)
    # the student sees the whole section, whatever region is looked at
    network = load_checkpoint(files[0]).build()
    whole = SectionEmbedder(network, volume, IntensityMapping(), OPTIONS.inference)
    student = whole.one(1, 2, "embedding")[:, 8:56, 6:54]
    expected = seam_score(student, borders)
    np.testing.assert_allclose(measured.student.across, expected.across, rtol=1e-4)
    np.testing.assert_allclose(measured.student.profile[1], expected.profile[1], rtol=1e-4)


def test_the_borders_of_windows_without_blending_show(events):
    """With random weights, too: the windows of the teacher know nothing of each other."""
    scores = {e.blending: e.teacher for e in events if isinstance(e, SeamsMeasured)}
    assert min(scores["none"].ratio) > 1.05
    for unblended, blended in zip(scores["none"].ratio, scores["gaussian"].ratio, strict=True):
        assert blended < unblended


def test_what_cannot_be_is_said(files, volume):
    with pytest.raises(ConfigError, match="stride of 20"):
        WindowConfig(size=16, stride=20)
    with pytest.raises(ConfigError, match="multiples of 2"):
        list(compare_seams(volume, *files, OPTIONS, WindowConfig(3, 15, 5), 2))
    with pytest.raises(CheckpointError, match="no 3D teacher"):
        list(compare_seams(volume, files[0], files[0], OPTIONS, WINDOWS, 2))


@pytest.mark.parametrize(
    ("side", "centre", "rows", "columns"),
    [
        (None, None, (0, 40), (0, 60)),
        (20, None, (10, 30), (20, 40)),
        (20, (2, 59), (0, 20), (40, 60)),
        (50, (20, 30), (0, 40), (5, 55)),
    ],
)
def test_region(side, centre, rows, columns):
    assert region_of((3, 40, 60), side, centre) == (rows, columns)
