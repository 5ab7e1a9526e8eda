from __future__ import annotations

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from qtpy.QtGui import QPixmap

from napari_cad.core.checkpoint import save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.evaluation import evaluate_store
from napari_cad.core.events import SectionDone
from napari_cad.core.metrics import Scores, volume_contingency
from napari_cad.core.network import StudentNetwork
from napari_cad.core.readers import open_volume
from napari_cad.core.segmentation_job import SegmentationOptions, segmentation_job
from napari_cad.core.store import SegmentationStore
from napari_cad.core.synthetic import synthetic_em
from napari_cad.proofreading.source import ProofreadingSource
from napari_cad.viewer.layers import find_layer
from napari_cad.viewer.live_labels import LiveLabels
from napari_cad.viewer.state import state_of
from napari_cad.widgets import _agglomerate_watch, agglomerate
from napari_cad.widgets.agglomerate import AgglomerateWidget

PATIENCE = 60_000


@pytest.fixture(scope="module")
def sample():
    return synthetic_em((4, 48, 56), seed=2, calibre=0.5)


@pytest.fixture(scope="module")
def finished_run(sample, tmp_path_factory):
    """A small run by a network of random weights."""
    folder = tmp_path_factory.mktemp("agglomerate")
    torch.manual_seed(0)
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=3, training_data="nothing", licence="none"
    )
    save_checkpoint(folder / "tiny.safetensors", StudentNetwork(2, 3).eval(), metadata)
    np.save(folder / "stack.npy", sample.raw)
    volume = open_volume(folder / "stack.npy", voxel_size=(30, 6, 6))
    options = SegmentationOptions(workers=0)
    run = folder / "run.zarr"
    list(segmentation_job(volume, str(folder / "tiny.safetensors"), run, options))
    return run


@pytest.fixture
def docked(make_napari_viewer, finished_run, qtbot):
    viewer = make_napari_viewer()
    viewer.open(str(finished_run), plugin="napari-cad")
    widget = AgglomerateWidget(viewer)
    viewer.window.add_dock_widget(widget)
    qtbot.waitUntil(lambda: widget.threshold.isEnabled(), timeout=PATIENCE)
    return viewer, widget


def shown(viewer, run):
    return np.asarray(find_layer(viewer, "segments", str(run)).data)


def test_the_slider_shows_what_the_store_has_at_every_threshold(docked, finished_run, qtbot):
    viewer, widget = docked
    store = SegmentationStore.open(finished_run)
    for threshold in (0.1, 0.45, 0.8, 0.3):
        widget.threshold.setValue(threshold)
        expected = store.lut(widget.threshold.value())[np.asarray(store.fragments)]
        qtbot.waitUntil(
            lambda expected=expected: np.array_equal(shown(viewer, finished_run), expected),
            timeout=PATIENCE,
        )
        n = len(np.unique(expected))
        qtbot.waitUntil(
            lambda n=n: f"{n:,} segments" in widget.counts.text(),
            timeout=PATIENCE,
        )
        assert widget.histogram.counts.sum() == n


def test_only_the_last_value_of_a_drag_is_shown(docked, qtbot, monkeypatch):
    _, widget = docked
    asked = []
    show = LiveLabels.show
    monkeypatch.setattr(
        LiveLabels,
        "show",
        lambda labels, shown: (asked.append(shown.threshold), show(labels, shown))[1],
    )
    for value in np.linspace(0.2, 0.6, 30):
        widget.threshold.setValue(value)
    qtbot.waitUntil(lambda: bool(asked), timeout=PATIENCE)
    assert len(asked) == 1
    assert asked[0] == pytest.approx(0.6)


def test_small_segments_can_be_hidden(docked, finished_run, qtbot):
    viewer, widget = docked
    sizes = SegmentationStore.open(finished_run).fragment_table()[:, 1]
    smallest = int(np.median(sizes)) + 1
    widget.threshold.setValue(0)  # every fragment is a segment
    widget.smallest.setValue(smallest)
    qtbot.waitUntil(lambda: (shown(viewer, finished_run) == 0).any(), timeout=PATIENCE)
    kept = np.bincount(shown(viewer, finished_run).ravel())[1:]
    assert sorted(kept[kept > 0]) == sorted(sizes[sizes >= smallest])


def test_sizes_are_counted_when_the_slider_rests(docked, qtbot, monkeypatch):
    _, widget = docked
    qtbot.waitUntil(lambda: not widget._rest.isActive(), timeout=PATIENCE)
    counted = []
    monkeypatch.setattr(type(widget), "_show_counted", lambda _, sizes: counted.append(sizes))
    widget.threshold.setValue(0.7)
    widget._follow()
    assert not counted
    assert widget._rest.isActive()


def test_sizes_of_a_large_run_are_counted_by_a_job(docked, finished_run, qtbot, monkeypatch):
    _, widget = docked
    monkeypatch.setattr(agglomerate, "_COUNTED_HERE", 0)
    store = SegmentationStore.open(finished_run)
    widget.threshold.setValue(0.65)
    qtbot.waitUntil(lambda: widget.counts.text().endswith("counting …"), timeout=PATIENCE)
    n = len(np.unique(store.lut(widget.threshold.value())[1:]))
    assert widget.counts.text().startswith(f"{n:,} segments of all sizes")
    qtbot.waitUntil(lambda: "the largest" in widget.counts.text(), timeout=PATIENCE)
    assert widget.histogram.counts.sum() == n
    assert find_layer(widget._viewer, "segments", str(finished_run)).data._lut is None


def test_absorbed_segments_are_kept_and_all_see_the_same(docked, finished_run, sample, qtbot):
    viewer, widget = docked
    store = SegmentationStore.open(finished_run)
    sizes = store.fragment_sizes()
    limit = int(np.median(sizes[1:])) + 1
    widget.threshold.setValue(0.2)
    widget.absorb.setValue(limit)
    qtbot.waitUntil(lambda: widget._live is not None, timeout=PATIENCE)
    expected = store.spanning_forest().lut(widget.threshold.value(), limit)
    assert not np.array_equal(expected, store.lut(widget.threshold.value()))

    def absorbed():
        labels = expected[np.asarray(store.fragments)]
        return np.array_equal(shown(viewer, finished_run), labels)

    qtbot.waitUntil(absorbed, timeout=PATIENCE)
    threshold = round(widget.threshold.value(), 4)
    before = store.threshold
    widget.keep()
    try:
        kept = SegmentationStore.open(finished_run)
        assert kept.absorb == limit
        lut = kept.spanning_forest().lut(threshold, limit)
        np.testing.assert_array_equal(kept.lut(), lut)
        np.testing.assert_array_equal(kept.merge_tree().lut(threshold), lut)
        np.testing.assert_array_equal(ProofreadingSource.from_store(kept).base_lut(threshold), lut)
        graph = kept.region_graph()
        joined = kept.join_scores() < threshold
        np.testing.assert_array_equal(joined, lut[graph.u] == lut[graph.v])
        truth = open_volume_of(sample.labels)
        table = volume_contingency(
            truth=sample.labels, segmentation=lut[np.asarray(kept.fragments)]
        )
        assert evaluate_store(kept, truth).scores == Scores.of(table)
    finally:  # the run serves all tests of this module
        SegmentationStore.open(finished_run, mode="a").choose_agglomeration("median", before)


def test_another_merge_function_is_agglomerated_once(docked, finished_run, qtbot):
    _, widget = docked
    widget.merge_function.setCurrentText("quantile75")
    qtbot.waitUntil(lambda: widget.threshold.isEnabled(), timeout=PATIENCE)
    assert SegmentationStore.open(finished_run).has_agglomeration("quantile75")
    assert widget._live.merge_function == "quantile75"


def test_the_curve_is_that_of_evaluate_and_warns(docked, finished_run, sample, qtbot):
    viewer, widget = docked
    segments = find_layer(viewer, "segments", str(finished_run))
    placement = {"scale": segments.scale, "units": segments.units}
    viewer.add_labels(sample.labels, name="truth", **placement)
    widget.truth.choose(viewer.layers["truth"])
    widget.score()
    qtbot.waitUntil(lambda: widget.curve.curve is not None, timeout=PATIENCE)
    truth = open_volume_of(sample.labels)
    expected = evaluate_store(SegmentationStore.open(finished_run), truth)
    assert widget.curve.curve.scores == expected.curve
    assert "no test score" in widget.status.warnings.text()
    for plot in (widget.curve, widget.histogram):
        plot.render(QPixmap(plot.size()))


def open_volume_of(labels):
    from napari_cad.core.volume import EMVolume

    return EMVolume.from_array(labels)


def test_the_threshold_is_kept_in_the_store(docked, finished_run):
    _, widget = docked
    widget.threshold.setValue(0.37)
    widget.keep()
    assert SegmentationStore.open(finished_run).threshold == pytest.approx(0.37)


def test_a_removed_layer_and_no_run_at_all_are_no_failure(docked, finished_run, qtbot):
    viewer, widget = docked
    viewer.layers.remove(find_layer(viewer, "segments", str(finished_run)))
    assert widget.run is None
    assert not widget.threshold.isEnabled()
    widget.show_threshold()
    widget.score()
    assert "truth is needed" in widget.status.line.text()


def test_a_run_that_is_made_anew_is_let_go(docked, finished_run, qtbot):
    viewer, widget = docked
    layer = find_layer(viewer, "segments", str(finished_run))
    state_of(viewer).run_begun.emit("another run")
    assert widget.threshold.isEnabled()
    state_of(viewer).run_begun.emit(str(finished_run))
    assert not widget.threshold.isEnabled()
    data = layer.data
    widget.show_threshold()  # of a move of the slider that was on its way
    assert layer.data is data
    state_of(viewer).run_finished.emit(str(finished_run))
    qtbot.waitUntil(lambda: widget.threshold.isEnabled(), timeout=PATIENCE)


@pytest.fixture
def watched(make_napari_viewer, finished_run, tmp_path, qtbot, monkeypatch):
    """A run of its own, the widget that shows it, and what makes the run again."""
    monkeypatch.setattr(_agglomerate_watch, "_PAUSE", 50)
    folder, run = finished_run.parent, shutil.copytree(finished_run, tmp_path / "run.zarr")
    viewer = make_napari_viewer()
    viewer.open(str(run), plugin="napari-cad")
    widget = AgglomerateWidget(viewer)
    viewer.window.add_dock_widget(widget)
    qtbot.waitUntil(lambda: widget.threshold.isEnabled(), timeout=PATIENCE)
    volume = open_volume(folder / "stack.npy", voxel_size=(30, 6, 6))
    again = partial(
        segmentation_job, volume, str(folder / "tiny.safetensors"), run,
        SegmentationOptions(workers=0),
    )  # fmt: skip
    return viewer, widget, str(run), again


def stopped_after_a_section(job):
    for event in job:
        if isinstance(event, SectionDone):
            break
    job.close()


def test_a_run_begun_anew_and_stopped_comes_back_when_it_is_whole(watched, qtbot):
    viewer, widget, run, again = watched
    state, report = state_of(viewer), partial(state_of(viewer).report, "segment", run=run)
    report("stopped")
    state.run_begun.emit(run)
    qtbot.wait(300)  # the old one is whole, but about to be replaced
    assert not widget.threshold.isEnabled()
    assert widget.counts.text().startswith("run.zarr is being made")

    report("1 of 4 sections", running=True)
    stopped_after_a_section(again(overwrite=True))
    qtbot.wait(300)
    widget.load()  # as by choosing another merge function
    assert not widget.loader.running
    assert widget.counts.text().startswith("run.zarr is being made")

    report("stopped · 1 of 4 sections")
    said = "run.zarr is not finished: Run in “Segment neurons” goes on with it."
    qtbot.waitUntil(lambda: widget.counts.text() == said, timeout=PATIENCE)
    assert not widget.threshold.isEnabled()
    assert widget.status.line.text() == ""

    list(again())  # from the command line, say
    qtbot.waitUntil(lambda: widget.threshold.isEnabled(), timeout=PATIENCE)
    widget.threshold.setValue(0.8)
    store = SegmentationStore.open(run)
    expected = store.lut(widget.threshold.value())[np.asarray(store.fragments)]
    qtbot.waitUntil(lambda: np.array_equal(shown(viewer, run), expected), timeout=PATIENCE)


def test_a_job_that_fails_before_it_says_anything_new_is_not_waited_for(
    watched, qtbot, monkeypatch
):
    viewer, widget, run, _ = watched
    state = state_of(viewer)
    state.report("segment", "failed", run=run)
    monkeypatch.setattr(_agglomerate_watch, "_STARTING", 100)
    state.run_begun.emit(run)
    assert not widget.threshold.isEnabled()
    state.report("segment", "failed", run=run)  # the same as before: nobody is told
    qtbot.waitUntil(lambda: widget.threshold.isEnabled(), timeout=PATIENCE)
    # and if it was only slow
    state.report("segment", "0 of 4 sections", running=True, run=run)
    assert not widget.threshold.isEnabled()
    assert "is being made" in widget.counts.text()


def test_an_unfinished_run_that_is_chosen_comes_alive_when_it_is_finished(watched, qtbot):
    _, widget, _, again = watched
    stopped_after_a_section(again(overwrite=True))
    widget.load()
    qtbot.waitUntil(lambda: "is not finished" in widget.status.line.text(), timeout=PATIENCE)
    list(again())
    qtbot.waitUntil(lambda: widget.threshold.isEnabled(), timeout=PATIENCE)
    qtbot.waitUntil(lambda: widget.status.line.text() == "", timeout=PATIENCE)


def test_the_curve_of_a_run_is_not_shown_for_another(docked, monkeypatch):
    _, widget = docked
    cancelled = []
    for name in ("loader", "scorer", "counter"):
        runner = getattr(widget, name)
        monkeypatch.setattr(runner, "cancel", lambda name=name: cancelled.append(name))
        monkeypatch.setattr(runner, "start", lambda *_: None)
    widget.load()
    assert cancelled == ["loader", "scorer", "counter"]
