"""Images and labels as people have them: each works, or says in one line what to do."""

from __future__ import annotations

from pathlib import Path

import dask.array
import numpy as np
import pytest
import torch
from napari.components import ViewerModel

import napari_cad.viewer.jobs
from napari_cad.core.checkpoint import save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.network import StudentNetwork
from napari_cad.core.store import SegmentationStore
from napari_cad.core.teacher import TeacherMetadata, TeacherNetwork, save_teacher
from napari_cad.core.volume import EMVolume
from napari_cad.viewer.layers import find_layer, role_of
from napari_cad.viewer.preferences import Preferences
from napari_cad.widgets.embedding import EmbeddingWidget
from napari_cad.widgets.evaluate import EvaluateWidget
from napari_cad.widgets.export import ExportWidget
from napari_cad.widgets.fit import FitWidget
from napari_cad.widgets.measure import MeasureWidget
from napari_cad.widgets.meshes import MeshWidget
from napari_cad.widgets.seams import SeamsWidget
from napari_cad.widgets.segment import SegmentWidget

HERE = Path(__file__).parent
PATIENCE = 120_000  # a busy machine
SHAPE = (4, 32, 40)
NM = ("nm",) * 3
GREY = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
ROTATED = np.array([[1.0, 0.0, 0.0], [0.0, 0.8, -0.6], [0.0, 0.6, 0.8]])
SHEARED = np.array([[1, 0, 0, 5], [0, 1, 0.2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def with_section(value, dtype):
    """The stack with a section of one value."""
    stack = GREY.astype(dtype)
    stack[2] = value
    return stack


#: Name → (data, how it lies in the world, what the line says; empty where it works).
IMAGES = {
    "anisotropic": (GREY, {"scale": (30, 6, 7), "units": NM}, ""),
    "moved": (GREY, {"scale": (30, 6, 6), "translate": (60, -12, 18), "units": NM}, ""),
    "in micrometres": (GREY, {"scale": (0.03, 0.006, 0.006), "units": ("um",) * 3}, ""),
    "2D": (GREY[0], {}, ""),
    "one section": (GREY[:1], {}, ""),
    "multiscale": ([GREY, GREY[:, ::2, ::2]], {"multiscale": True}, ""),
    "dask": (dask.array.from_array(GREY, chunks=(1, 16, 16)), {}, ""),
    "rotated": (GREY, {"rotate": ROTATED}, ""),
    "affine": (GREY, {"affine": SHEARED}, ""),
    "cropped": (GREY[1:3, 4:28, 6:30], {}, ""),
    "transposed": (GREY.transpose(2, 0, 1), {}, ""),
    "big-endian": (GREY.astype(">u2"), {}, ""),
    "float beyond 1": (GREY.astype(np.float32) * 1000 - 5000, {}, ""),
    "float16": (GREY.astype(np.float16) / 255, {}, ""),
    "a black section": (with_section(0, np.uint8), {}, ""),
    "black": (np.zeros(SHAPE, np.uint8), {}, ""),
    "tiny": (GREY[:, :3, :5], {}, ""),
    "a missing section": (with_section(np.nan, np.float32), {}, "nan_to_num"),
    "bool": (GREY > 128, {}, "astype('uint8')"),
    "four axes": (np.stack([GREY] * 2), {}, "Split Stack"),
}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("networks")
    about = {"training_data": "nothing", "licence": "none"}
    metadata = CheckpointMetadata(name="tiny", width=2, embedding_dim=3, **about)
    save_checkpoint(folder / "student.safetensors", StudentNetwork(2, 3), metadata)
    teacher = TeacherMetadata(name="tiny teacher", widths=(2, 3), embedding_dim=4)
    save_teacher(folder / "teacher.safetensors", TeacherNetwork((2, 3), 4), teacher)
    return str(folder / "student.safetensors"), str(folder / "teacher.safetensors")


@pytest.fixture
def viewer(qtbot, cache, monkeypatch):
    """A viewer without a window, with jobs in threads."""
    monkeypatch.syspath_prepend(str(HERE))
    from in_process import ThreadedJob

    monkeypatch.setattr(napari_cad.viewer.jobs, "JobProcess", ThreadedJob)
    # fragments in this process, and no agglomeration in another
    chosen = Preferences(device="cpu", merge_function="multicut", workers=0)
    monkeypatch.setattr("napari_cad.widgets.segment.preferences", lambda: chosen)
    return ViewerModel()


@pytest.fixture
def opened(viewer, qtbot):
    """Make a widget of the viewer."""

    kept = []

    def _open(kind):
        widget = kind(viewer)
        qtbot.addWidget(widget)
        kept.append(widget)
        return widget

    return _open


def said(widget) -> str:
    """The line of a failure; empty where nothing has failed."""
    line = widget.status.line
    if isinstance(widget, FitWidget) and not line.text():  # of one section, beside the preview
        shown = widget.preview.line.text()
        return shown if "NaN" in shown else ""
    return line.text() if line.styleSheet() else ""


def ends_as_it_should(widget, hint, done):
    """Whether it has worked, or has said what to do; a failure is only right where expected."""
    assert bool(hint) or not said(widget), said(widget)
    return bool(said(widget)) and hint in said(widget) if hint else done()


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_segmented_and_looked_at(name, viewer, opened, networks, qtbot, tmp_path):
    data, settings, hint = IMAGES[name]
    image = viewer.add_image(data, name="stack", **settings)
    first = image.data[0] if image.multiscale else image.data
    shape = (1,) * (3 - first.ndim) + tuple(first.shape)

    widget = opened(SegmentWidget)
    widget.checkpoint.choose(networks[0])
    run = str(tmp_path / "run.zarr")
    widget.output.path.setText(run)
    widget.run()
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    qtbot.waitUntil(lambda: not widget._turns.busy, timeout=PATIENCE)
    assert ends_as_it_should(widget, hint, lambda: " fragment" in widget.status.line.text())
    if not hint:
        segments = find_layer(viewer, "segments", run)
        assert segments.data.shape == shape == SegmentationStore.open(run).shape
        corners = np.array([[0, 0, 0], [n - 1 for n in shape]])
        for corner in corners:  # it lies where the image lies
            place = image.data_to_world(corner[-image.ndim :])
            np.testing.assert_allclose(segments.data_to_world(corner)[-image.ndim :], place)
        viewer.layers.remove(segments)

    viewer.dims.set_current_step(0, 0)
    widget = opened(EmbeddingWidget)
    widget.live_button.click()
    role = "embedding_rgb"

    def is_coloured():
        layers = [layer for layer in viewer.layers if role_of(layer) == role]
        return bool(layers) and (shape[-1] < 6 or np.asarray(layers[0].data[0]).any())

    qtbot.waitUntil(lambda: ends_as_it_should(widget, hint, is_coloured), timeout=PATIENCE)
    widget.live_button.setChecked(False)

    widget = opened(FitWidget)
    widget.preview.live_button.click()
    qtbot.waitUntil(
        lambda: ends_as_it_should(widget, hint, lambda: "fragments" in widget.preview.line.text()),
        timeout=PATIENCE,
    )
    widget.preview.live_button.setChecked(False)

    widget = opened(SeamsWidget)
    widget.teacher.setText(networks[1])
    widget.windows.set_values(depth=3, size=16, stride=16, region=32)
    widget.compare()
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    assert ends_as_it_should(widget, hint, lambda: widget.status.line.text() == "Done.")


def test_a_colour_image_is_no_choice(viewer, opened):
    viewer.add_image(np.stack([GREY] * 3, axis=-1), rgb=True, name="photo")
    for kind, start in (
        (SegmentWidget, lambda widget: widget.run()),
        (EmbeddingWidget, lambda widget: widget.live_button.click()),
        (FitWidget, lambda widget: widget.preview.live_button.click()),
        (SeamsWidget, lambda widget: widget.compare()),
    ):
        widget = opened(kind)
        if kind is SeamsWidget:
            widget.teacher.setText("a.safetensors")
        start(widget)
        assert "Split RGB" in said(widget), kind


def labels_of(dtype):
    labels = np.zeros(SHAPE, dtype)
    labels[:, :16] = 1 + np.arange(40) // 10
    labels[:, 16:] = 5
    return labels


TRUTH = labels_of(np.int32)
SPLIT = labels_of(np.int64)
SPLIT[:, 16:, 20:] = 2**40  # an id beyond 32 bits
NEGATIVE = labels_of(np.int32)
NEGATIVE[0, 0, 0] = -1

LABELS = {
    "anisotropic": (TRUTH, {"scale": (30, 6, 7), "units": NM}, ""),
    "moved": (TRUTH, {"scale": (30, 6, 6), "translate": (60, -12, 18), "units": NM}, ""),
    "large ids": (SPLIT, {}, ""),
    "unsigned": (TRUTH.astype(np.uint64), {}, ""),
    "one section": (TRUTH[:1], {}, ""),
    "multiscale": ([TRUTH, TRUTH[:, ::2, ::2]], {"multiscale": True}, ""),
    "dask": (dask.array.from_array(TRUTH, chunks=(1, 16, 16)), {}, ""),
    "rotated": (TRUTH, {"rotate": ROTATED}, ""),
    "affine": (TRUTH, {"affine": SHEARED}, ""),
    "transposed": (TRUTH.transpose(2, 0, 1), {}, ""),
    "an empty section": (np.where(np.arange(4)[:, None, None] == 2, 0, TRUTH), {}, ""),
    "bool": (TRUTH > 2, {}, ""),
    "empty": (np.zeros_like(TRUTH), {}, "labelled voxels"),
    "negative": (NEGATIVE, {}, "expected labels"),
    "2D": (TRUTH[0], {}, "three axes"),
    "four axes": (TRUTH[None], {}, "three axes"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_evaluated_measured_meshed_and_exported(name, viewer, opened, qtbot, tmp_path):
    data, settings, hint = LABELS[name]
    layer = viewer.add_labels(data, name="labels", **settings)
    truth = viewer.add_labels(data, name="truth", **settings)

    widget = opened(EvaluateWidget)
    if layer.ndim == 3:
        widget.segmentation.choose(layer)
        widget.truth.choose(truth)
    widget.evaluate()
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    assert ends_as_it_should(widget, hint, lambda: "VOI 0.000" in widget.scores.text())
    cannot_write = hint = "" if name == "empty" else hint  # if not scored
    widget = opened(MeasureWidget)
    widget.measure()
    qtbot.waitUntil(
        lambda: ends_as_it_should(widget, hint, lambda: "segments" in widget.status.line.text()),
        timeout=PATIENCE,
    )
    widget.cancel()

    widget = opened(MeshWidget)
    widget.ids.setText("1")
    widget.detail.setCurrentIndex(0)
    widget.show_meshes()
    cannot_mesh = "" if name == "negative" else hint  # a label that is not asked for
    qtbot.waitUntil(
        lambda: ends_as_it_should(
            widget, cannot_mesh, lambda: " in 3D" in widget.status.line.text()
        ),
        timeout=PATIENCE,
    )

    widget = opened(ExportWidget)
    widget.path.setText(str(tmp_path / "labels.h5"))
    widget.export()
    qtbot.waitUntil(
        lambda: ends_as_it_should(
            widget, cannot_write, lambda: "Written" in widget.status.line.text()
        ),
        timeout=PATIENCE,
    )
    if not cannot_write:
        from napari_cad.core.readers import open_volume

        first = layer.data[0] if layer.multiscale else layer.data
        written = open_volume(tmp_path / "labels.h5")
        np.testing.assert_array_equal(np.asarray(written.data[:]), np.asarray(first))
        if settings.get("units") == NM:
            assert written.voxel_size == tuple(settings["scale"])


def test_a_volume_of_no_voxels_is_refused():
    with pytest.raises(ValueError, match="at least one voxel"):
        EMVolume.from_array(np.zeros((0, 4, 4), np.uint8))
