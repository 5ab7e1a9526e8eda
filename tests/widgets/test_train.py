from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from qtpy.QtWidgets import QScrollArea

from napari_cad.core.checkpoint import load_checkpoint, save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.errors import ConfigError
from napari_cad.core.network import StudentNetwork
from napari_cad.training.fine_tune_config import Compared, FineTuneConfig
from napari_cad.training.run_folder import RunFolder
from napari_cad.viewer.state import StepReport, state_of
from napari_cad.widgets._section_list import parse_sections
from napari_cad.widgets._train_plots import LossPlot, measured_text

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from tiny import make_volume

PATIENCE = 180_000  # a busy machine
NM = {"scale": (30, 6, 6), "units": ("nm",) * 3}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("start") / "tiny.safetensors"
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=3, training_data="nothing", licence="none"
    )
    save_checkpoint(path, StudentNetwork(2, 3), metadata)
    return str(path)


@pytest.fixture
def docked(make_napari_viewer_proxy, cache, checkpoint):
    viewer = make_napari_viewer_proxy()
    volume = make_volume()
    viewer.add_image(volume.image.data, **NM, name="stack")
    viewer.add_labels(volume.labels.data, **NM, name="painted")
    _, widget = viewer.window.add_plugin_dock_widget("napari-cad", "Train")
    widget.checkpoint.choose(checkpoint)
    widget.device.set_values(device="cpu")
    widget.settings.set_values(steps=4)
    widget.advanced.set_values(patch=32, batch=2, every=2)
    return viewer, widget


@pytest.fixture
def sent(monkeypatch):
    """What would be sent to the job."""
    arguments = {}
    monkeypatch.setattr(
        "napari_cad.viewer.jobs.JobRunner.start",
        lambda _, function, given, description: arguments.update(given) or 1,
    )
    return arguments


def wait_for_end(qtbot, widget):
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    assert not widget.status.details.toPlainText(), widget.status.details.toPlainText()


def test_fine_tune_look_and_use(docked, qtbot, checkpoint):
    viewer, widget = docked
    _, segment = viewer.window.add_plugin_dock_widget("napari-cad", "Segment neurons")
    assert segment.checkpoint.value() == checkpoint
    run = Path(widget.output.path.text())
    assert run.name == "stack_tiny"
    assert widget.use_button.isHidden()
    assert not widget.continue_button.isEnabled()
    widget.train_button.click()
    assert widget.stop_button.isEnabled()
    assert not widget.train_button.isEnabled()
    assert state_of(viewer).report_of("train") == StepReport("starting…", running=True)
    wait_for_end(qtbot, widget)
    assert widget.status.line.text().startswith("4 steps in")
    # the live curve, and the section before and after
    assert widget.plot.losses[-1][0] == 4
    assert [step for step, _ in widget.plot.scores] == [0, 2, 4]
    assert not widget.picture.isHidden()
    assert (widget.picture.before.step, widget.picture.after.step) == (0, 4)
    assert not np.array_equal(widget.picture.before.picture, widget.picture.after.picture)
    widget.picture.grab()  # draws
    widget.plot.grab()
    # the checkpoint, in all widgets
    widget.use_button.click()
    assert widget.status.line.text() == "stack_tiny/best is chosen in all widgets."
    used = segment.checkpoint.value()
    assert used == state_of(viewer).checkpoint == str(run / "best.safetensors")
    assert load_checkpoint(used).metadata.name == "tiny fine-tuned"
    assert segment.checkpoint.metadata().name == "tiny fine-tuned"
    # not the name that checkpoints of all runs have
    assert segment.checkpoint.combo.currentText() == "stack_tiny/best"
    assert segment.output.value().name == "stack_stack_tiny-best.zarr"
    assert widget.measured.text().startswith("VOI, lower is better, of the sections that are kept")
    assert state_of(viewer).report_of("train") == StepReport("4 steps")
    # with more steps it goes on, and anew it begins elsewhere
    widget.settings.set_values(steps=5)
    widget.continue_button.click()
    wait_for_end(qtbot, widget)
    assert widget.status.line.text().startswith("5 steps in")
    assert RunFolder(run).read_config().steps == 5


def test_stop_and_continue(docked, qtbot):
    _, widget = docked
    widget.settings.set_values(steps=100_000)
    widget.train_button.click()
    qtbot.waitUntil(lambda: bool(widget.plot.losses), timeout=PATIENCE)
    widget.stop_button.click()
    assert widget.status.line.text() == "Stopping after this step…"
    wait_for_end(qtbot, widget)
    assert widget.status.line.text().startswith("Stopped after")
    run = Path(widget.output.path.text())
    done = RunFolder(run).load_state()["step"]
    assert 0 < done < 100_000
    assert not widget.use_button.isHidden()
    assert widget.continue_button.isEnabled()
    widget.continue_button.click()
    qtbot.waitUntil(lambda: widget.plot.losses[-1][0] > done, timeout=PATIENCE)
    widget.stop_button.click()
    widget.stop_button.click()  # at once
    assert not widget.runner.running
    assert "last checkpoint that was saved" in widget.status.line.text()


def test_sparse_labels_of_chosen_sections(docked, sent):
    viewer, widget = docked
    truth = widget.truth
    truth.meaning.setCurrentIndex(1)
    truth.sections.setText("1-2, 4")
    truth.validation.setText("4")
    widget.train_button.click()
    given = sent["truth"]
    assert (given.sparse, given.labelled, sent["validation"]) == (True, (1, 2, 4), (4,))
    assert given.image.voxel_size == (30, 6, 6)
    np.testing.assert_array_equal(given.labels.data[1], viewer.layers["painted"].data[1])
    assert (sent["settings"].steps, sent["settings"].patch) == (4, 32)
    assert sent["go_on"] is False
    assert not given.complete
    truth.meaning.setCurrentIndex(2)
    widget.train_button.click()
    assert (sent["truth"].sparse, sent["truth"].complete) == (True, True)


def test_a_folder_of_training_data(docked, sent, tmp_path):
    _, widget = docked
    widget.truth.choose_folder(str(tmp_path / "proofread"))
    assert widget.truth.image.isHidden() or not widget.truth.image.isVisible()
    widget.train_button.click()
    assert "is no folder of training data" in widget.status.line.text()
    (tmp_path / "proofread").mkdir()
    (tmp_path / "proofread" / "volume.toml").write_text('truth = "sparse"\n')
    widget.train_button.click()
    assert sent["truth"] == str(tmp_path / "proofread")
    assert Path(sent["run"]).name == "proofread_tiny"


def test_what_cannot_be_learned_from_is_explained(docked, sent):
    viewer, widget = docked
    widget.truth.sections.setText("one")
    widget.train_button.click()
    assert widget.status.line.text() == "Sections are written such as 0-3, 7, got “one”."
    widget.truth.sections.clear()
    widget.advanced.set_values(patch=40)
    widget.train_button.click()
    assert "multiple of 16, got 40" in widget.status.line.text()
    viewer.layers.remove("painted")
    widget.train_button.click()
    assert widget.status.line.text().startswith("Open or paint labels first")
    viewer.add_labels(np.ones((6, 48, 47), np.uint8), name="other")
    widget.train_button.click()
    assert "(6, 48, 47)" in widget.status.line.text()
    assert not sent


def test_a_failure_in_the_job_is_one_line(docked, qtbot):
    viewer, widget = docked
    viewer.layers["painted"].data = np.zeros((6, 48, 48), np.uint8)
    widget.train_button.click()
    qtbot.waitUntil(lambda: not widget.runner.running, timeout=PATIENCE)
    assert "none of the 6 sections has a positive label" in widget.status.line.text()
    assert widget.train_button.isEnabled()
    assert widget.use_button.isHidden()


def test_a_run_in_the_folder_is_not_overwritten(docked, sent, tmp_path):
    _, widget = docked
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    widget.output.path.setText(str(tmp_path / "run"))
    widget.output.path.textEdited.emit(str(tmp_path / "run"))
    assert widget.continue_button.isEnabled()
    widget.train_button.click()
    assert "holds a training run already" in widget.status.line.text()
    assert not sent


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), (" 3 ", (3,)), ("0-2,7", (0, 1, 2, 7)), ("5 – 6; 1", (1, 5, 6)), ("2,2", (2,))],
)
def test_lists_of_sections(text, expected):
    assert parse_sections(text) == expected


@pytest.mark.parametrize("text", ["a", "3-1", "1-", "-2", "1.5"])
def test_lists_of_sections_that_are_none(text):
    with pytest.raises(ConfigError):
        parse_sections(text)


def test_a_place_is_proposed_for_the_default_checkpoint_and_the_rate_is_not_rounded(docked, sent):
    _, widget = docked
    widget.checkpoint.choose("default")
    widget.train()
    assert sent["run"].endswith("stack_default")
    assert sent["settings"].learning_rate == FineTuneConfig().learning_rate


def test_what_is_kept_out_is_said_before_it_is(docked):
    _, widget = docked
    truth = widget.truth
    for sections, kept in (
        ("", "the last fifth, of six or more"),
        ("0-1", "none: fewer than six are labelled"),
        ("0-9", "the last fifth: 8 to 9"),
        ("0-", "the last fifth, of six or more"),  # half typed
    ):
        truth.sections.setText(sections)
        assert truth.validation.placeholderText() == kept
    truth.sections.setText("0-1")
    truth.choose_folder("somewhere")  # with sections of its own
    assert truth.validation.placeholderText() == "the last fifth, of six or more"


def compared(step, voi, *, kept_out):
    return Compared(step, np.zeros((2, 8, 3), np.uint8), {"voi": voi}, kept_out)


def test_scores_say_on_what_they_were_measured():
    before, after = (compared(step, voi, kept_out=False) for step, voi in ((0, 0.462), (40, 0.476)))
    text = measured_text(before, after)
    assert "0.462 before, 0.476 at step 40, which is worse." in text
    assert "trained on too" in text
    assert "worse" not in measured_text(before, before)
    text = measured_text(compared(0, 0.5, kept_out=True), compared(40, 0.4, kept_out=True))
    assert text == (
        "VOI, lower is better, of the sections that are kept out: 0.500 before, 0.400 at step 40."
    )


def test_the_curve_uses_its_room_and_nothing_of_it_is_cut(qtbot):
    plot = LossPlot()
    qtbot.addWidget(plot)
    plot.resize(320, plot.height())
    plot.clear(40)
    for step, voi in ((0, 0.462), (20, 0.47), (40, 0.476)):
        plot.add_loss(step, 1 - step / 100)
        plot.add_score(step, voi)
    frame = plot._frame()
    for points in (plot.losses, plot.scores):
        places = plot._places(points, frame)
        heights = [place.y() for place in places]
        assert max(heights) - min(heights) == pytest.approx(frame.height())
        for place in places:  # with the radius of a dot
            assert 5 < place.x() < plot.width() - 5
            assert 5 < place.y() < plot.height() - 16
    plot.grab()
    plot.clear(40)
    plot.add_score(0, 0.5)  # a range of nothing
    plot.grab()


def test_the_buttons_stay_in_sight(docked):
    _, widget = docked
    content = widget.findChild(QScrollArea).widget()
    assert content.isAncestorOf(widget.checkpoint)
    for button in (widget.train_button, widget.stop_button, widget.status, widget.use_button):
        assert not content.isAncestorOf(button)
