"""The widget "Proofread", driven by keys and clicks on the canvas of a real window."""

from __future__ import annotations

import importlib
import threading

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_cad.proofreading.folder import session_folder
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource
from napari_cad.viewer.layers import role_of
from napari_cad.viewer.proofreading_labels import BLUE, LINE, RED
from napari_cad.widgets.proofread import ProofreadWidget

PATIENCE = 60_000


class Desk:
    """A viewer with a session, and hands for it."""

    def __init__(self, viewer, widget, qtbot):
        self.viewer, self.widget, self.qtbot = viewer, widget, qtbot
        self.canvas = viewer.window._qt_viewer.canvas
        self.native = self.canvas.native

    @property
    def proofreader(self):
        return self.widget.proofreader

    @property
    def session(self):
        return self.proofreader.session

    def key(self, key, modifier=Qt.KeyboardModifier.NoModifier):
        self.qtbot.keyClick(self.native, key, modifier)
        self.settle()

    def settle(self):
        """What takes longer than a person notices goes on in a thread: wait for it."""
        self.qtbot.waitUntil(
            lambda: self.proofreader is None or not self.proofreader.patience.busy,
            timeout=PATIENCE,
        )

    def pixel(self, voxel):
        """Where a voxel is on the canvas."""
        return self.on_canvas((0.0, *self.proofreader.layers.layer.data_to_world(voxel)[-2:]))

    def pixel_in_3d(self, voxel):
        return self.on_canvas(self.proofreader.layers.layer.data_to_world(voxel))

    def on_canvas(self, world):
        z, y, x = world
        mapped = self.canvas.view.scene.transform.map([x, y, z, 1])
        return QPoint(round(mapped[0] / mapped[3]), round(mapped[1] / mapped[3]))

    def click(
        self, voxel, modifier=Qt.KeyboardModifier.NoModifier, button=Qt.MouseButton.LeftButton
    ):
        self.viewer.dims.set_point(0, self.proofreader.layers.layer.data_to_world(voxel)[0])
        self.qtbot.wait(1)  # what was written since may have changed the size of the canvas
        self.qtbot.mouseClick(self.native, button, modifier, self.pixel(voxel))
        self.settle()

    def marks(self):
        """Marks, read as they are shown: section by section."""
        return np.stack(list(self.proofreader.layers.find("proofread_marks").data))

    def line(self):
        return self.widget.status.line.text()

    def shown(self):
        return np.asarray(self.proofreader.layers.layer.data)


def run_here(runner):
    """Let a runner do its jobs in this process, which is quicker than to start another."""

    def start(function, arguments, _description):
        module, _, name = function.partition(":")
        for event in getattr(importlib.import_module(module), name)(**arguments):
            runner.reported.emit(event)
        runner.finished.emit()

    runner.start = start


@pytest.fixture
def desk(make_napari_viewer, cache, run, show_run, qtbot):
    viewer = make_napari_viewer(show=True)
    show_run(viewer)
    widget = ProofreadWidget(viewer)
    run_here(widget.starter.runner)
    viewer.window.add_dock_widget(widget)
    widget.start_button.click()
    assert widget.proofreader is not None, widget.status.line.text()
    viewer.reset_view()
    qtbot.wait(50)
    return Desk(viewer, widget, qtbot)


def test_a_session_begins_at_the_threshold_that_is_shown(
    make_napari_viewer, cache, run, show_run, qtbot
):
    viewer = make_napari_viewer()
    layer = show_run(viewer)
    live = layer.data.shown.live
    layer.data.show(live.at(0.25))
    widget = ProofreadWidget(viewer)
    run_here(widget.starter.runner)
    viewer.window.add_dock_widget(widget)
    widget.start_button.click()
    assert widget.proofreader.session.threshold == pytest.approx(0.25, abs=1e-3)
    widget.end()
    layer.data.show(live.at(0.4))
    widget.start_button.click()  # goes on as it was left
    assert widget.proofreader.session.threshold == pytest.approx(0.25, abs=1e-3)


def test_closing_the_dock_ends_the_session(desk, qtbot):
    viewer = desk.viewer
    desk.click((1, 4, 4))
    asked = []
    desk.proofreader.said.connect(lambda *said: asked.append(said))
    viewer.window.remove_dock_widget(desk.widget)
    assert desk.widget.proofreader is None
    assert not [layer for layer in viewer.layers if "proofread_" in (role_of(layer) or "")]
    qtbot.keyClick(desk.native, Qt.Key.Key_N)
    assert asked == []
    again = ProofreadWidget(viewer)
    run_here(again.starter.runner)
    viewer.window.add_dock_widget(again)
    again.start_button.click()
    assert not again.proofreader.session.read_only


def test_click_merge_undo_redo(desk):
    # the button that was pressed does not keep the keys for itself
    desk.qtbot.keyClick(desk.viewer.window._qt_window, Qt.Key.Key_G)
    assert "select two segments" in desk.line()
    first, second = (1, 4, 4), (1, 4, 30)
    desk.click(first)
    assert len(desk.proofreader.selection) == 1, desk.line()
    desk.click(second, Qt.KeyboardModifier.ShiftModifier)
    a, b = desk.proofreader.selection
    assert a != b
    desk.key(Qt.Key.Key_G)
    assert desk.shown()[second] == a == desk.shown()[first]
    assert desk.proofreader.selection == [a]
    desk.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert desk.shown()[second] == b
    desk.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    assert desk.shown()[second] == a


def test_split_with_preview_and_seeds_taken_back(desk):
    top, bottom = (0, 28, 34), (5, 28, 34)
    desk.click(top)
    segment = desk.proofreader.selection[0]
    desk.key(Qt.Key.Key_S)
    mode = desk.proofreader.split_mode
    assert mode.active
    assert (desk.marks() == LINE).any()
    desk.click(top)
    assert "1 red and 0 blue" in mode.line()
    desk.click((0, 4, 4))  # in another segment
    assert f"seeds lie in segment {segment}" in desk.line()
    desk.click(bottom, button=Qt.MouseButton.RightButton)
    assert mode.preview is not None
    assert "contacts are cut, mean affinity" in desk.line()
    marks = desk.marks()
    assert (marks[top], marks[bottom]) == (RED, BLUE)
    assert set(np.unique(marks)) == {0, RED, BLUE, LINE}
    seeds = desk.proofreader.layers.find("proofread_seeds")
    layer = desk.proofreader.layers.layer
    np.testing.assert_array_equal(seeds.data, [top, bottom])
    for name in ("scale", "translate", "units"):
        np.testing.assert_array_equal(getattr(seeds, name), getattr(layer, name))
    assert desk.shown()[bottom] == segment  # only a look so far
    desk.key(Qt.Key.Key_T)
    assert set(np.unique(desk.marks())) == {0, LINE}
    desk.key(Qt.Key.Key_T)
    desk.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)  # the seed, not an edit
    assert mode.preview is None
    assert len(seeds.data) == 1
    desk.click(bottom, Qt.KeyboardModifier.ShiftModifier)
    desk.key(Qt.Key.Key_Return)
    assert not mode.active
    assert desk.shown()[top] != desk.shown()[bottom]
    assert desk.session.history.edits[1].kind == "cut"
    assert not len(seeds.data)
    # the way back over the merge that the cut forbids: said, and only done when said again
    desk.click(top)
    desk.click(bottom, Qt.KeyboardModifier.ControlModifier)
    assert "were cut apart by hand in edit 1" in desk.line()
    assert "once more does it all the same" in desk.line()
    assert desk.shown()[top] != desk.shown()[bottom]
    desk.click(bottom, Qt.KeyboardModifier.ControlModifier)
    assert desk.shown()[top] == desk.shown()[bottom]


def test_keys_are_those_of_the_session_and_then_as_they_were(desk):
    from napari.utils.key_bindings import coerce_keybinding

    presses = []
    viewer, widget, proofreader = desk.viewer, desk.widget, desk.proofreader
    proofreader.end()
    before = dict(viewer.keymap)
    viewer.bind_key("G", lambda _viewer: presses.append("G"), overwrite=True)
    mine = dict(viewer.keymap)
    assert mine != before
    widget.start_button.click()
    desk.key(Qt.Key.Key_G)
    assert "select two segments" in desk.line()
    layer = desk.proofreader.layers.layer
    assert coerce_keybinding("G") in layer.keymap
    # given another key, by hand in the table
    table = widget.keys.table
    row = next(i for i in range(table.rowCount()) if table.item(i, 0).text() == "Merge")
    table.item(row, 1).setText("shift+g")
    assert table.item(row, 1).text() == "Shift-G"
    assert "[⇧G]" in widget.editing.buttons["merge"].text()
    assert coerce_keybinding("G") not in layer.keymap
    widget.status.clear()
    desk.key(Qt.Key.Key_G, Qt.KeyboardModifier.ShiftModifier)
    assert "select two segments" in desk.line()
    table.item(row, 1).setText("S")
    assert "S is the key of “Cut by seeds”" in desk.line()
    table.item(row, 1).setText("Nonsense-G")
    assert "there is no key" in desk.line()
    widget.end_button.click()
    assert widget.proofreader is None
    assert viewer.keymap == mine
    assert not layer.keymap
    desk.key(Qt.Key.Key_G)
    assert presses == ["G"]
    assert layer in viewer.layers  # the corrected segments stay in the viewer


def test_questions_are_walked_through_by_keys(desk, qtbot):
    proofreader, session = desk.proofreader, desk.session
    # with the threshold below the joins of the columns every edge of them is a question
    proofreader.set_threshold(0.05)
    edits = len(session.history.edits)
    desk.key(Qt.Key.Key_N)
    current = proofreader.walk.current
    assert current is not None, desk.line()
    assert "belong together?" in desk.line()
    assert set(proofreader.selection) == set(current.segments)
    marks = desk.marks()
    assert {4, 5} <= set(np.unique(marks))
    z = round(current.position[0])
    assert proofreader.section() in (z, z - 1, z + 1)
    qtbot.waitUntil(lambda: proofreader.walk.progress is not None)
    left, total = proofreader.walk.progress
    assert left == total > 2
    desk.key(Qt.Key.Key_A)
    assert len(session.history.edits) == edits + 1
    assert session.lut[current.fragments[0]] == session.lut[current.fragments[1]]
    second = proofreader.walk.current
    assert second is not None
    assert second.edge != current.edge
    desk.key(Qt.Key.Key_Q)
    assert session.decisions.cut[second.edge]
    desk.key(Qt.Key.Key_W)
    assert session.history.edits[edits + 3].kind == "later"
    qtbot.waitUntil(lambda: "questions left" in proofreader.line())
    qtbot.waitUntil(lambda: proofreader.walk.progress[0] < total)
    from napari_cad.viewer.state import state_of

    state = state_of(desk.viewer)
    qtbot.waitUntil(lambda: state.report_of("proofread").text == proofreader.line())
    assert state.report_of("proofread").run == proofreader.run_path
    desk.key(Qt.Key.Key_Escape)
    assert proofreader.walk.current is None


def test_hide_isolate_lock_and_the_status_bar(desk):
    place, other = (1, 4, 4), (1, 4, 30)
    desk.click(place)
    segment = desk.proofreader.selection[0]
    desk.key(Qt.Key.Key_I)
    assert set(np.unique(desk.shown())) == {0, segment}
    desk.key(Qt.Key.Key_I)
    assert desk.shown()[other]
    desk.key(Qt.Key.Key_H)
    assert not (desk.shown() == segment).any()
    desk.click(place)  # a click on what is hidden selects nothing
    assert not desk.proofreader.selection
    desk.key(Qt.Key.Key_H, Qt.KeyboardModifier.ShiftModifier)
    assert desk.shown()[place] == segment
    desk.click(place)
    layer = desk.proofreader.layers.layer
    world = layer.data_to_world(place)
    status = layer.get_status(world, world=True, dims_displayed=[1, 2])["coordinates"]
    n = desk.session.size_of(segment)
    fragment = desk.proofreader.picked.fragment
    assert f"segment {segment} · fragment {fragment} · {n:,} voxels · weakest join" in status
    desk.key(Qt.Key.Key_O)
    assert desk.session.is_locked(segment)
    assert "verified" in layer.get_status(world, world=True, dims_displayed=[1, 2])["coordinates"]
    desk.key(Qt.Key.Key_D)
    assert "locked" in desk.line()
    assert len(desk.session.history.edits) == 1
    desk.key(Qt.Key.Key_O)
    desk.key(Qt.Key.Key_D)
    assert desk.session.history.edits[3].kind == "detach"
    assert desk.shown()[place] != desk.shown()[(3, 4, 4)]
    desk.key(Qt.Key.Key_C)
    desk.qtbot.waitUntil(lambda: desk.proofreader.layers.find("proofread_contacts") is not None)


def test_scribbles_are_one_edit(desk):
    place = (2, 4, 4)
    desk.click(place)
    before = desk.shown().copy()
    desk.widget.target.setCurrentIndex(desk.widget.target.findData("new"))
    desk.key(Qt.Key.Key_R)
    scribbles = desk.proofreader.scribbles.layer
    assert str(scribbles.mode) == "paint"
    np.testing.assert_array_equal(scribbles.data_to_world((0, 0, 0))[0], 60 + 2 * 30)
    desk.key(Qt.Key.Key_R)
    assert "nothing is painted yet" in desk.line()
    scribbles.data_setitem((np.array([0, 0]), np.array([3, 4]), np.array([5, 5])), 1)
    desk.key(Qt.Key.Key_Return)
    assert desk.proofreader.scribbles.layer is None
    assert desk.session.history.edits[1].kind == "relabel"
    shown = desk.shown()
    changed = np.argwhere(shown != before)
    np.testing.assert_array_equal(changed, [(2, 3, 5), (2, 4, 5)])
    assert shown[2, 3, 5] not in before
    desk.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_array_equal(desk.shown(), before)


def test_nothing_else_is_edited_while_a_painting_is_worked_out(desk, qtbot, monkeypatch):
    from napari_cad.proofreading import painting

    widget, session = desk.widget, desk.session
    desk.click((1, 4, 4))
    desk.click((1, 4, 30), Qt.KeyboardModifier.ControlModifier)
    plan, go_on = painting.plan_relabel, threading.Event()

    def wait_and_plan(*args, **options):
        assert go_on.wait(PATIENCE / 1000)
        return plan(*args, **options)

    monkeypatch.setattr(painting, "plan_relabel", wait_and_plan)
    widget.target.setCurrentIndex(widget.target.findData("new"))
    widget.run("scribble")
    scribbles = desk.proofreader.scribbles.layer
    scribbles.data_setitem((np.array([0, 0]), np.array([3, 4]), np.array([5, 5])), 1)
    try:
        widget.run("apply")
        assert desk.proofreader.patience.busy
        threshold = session.threshold
        widget.history.chosen.emit(0)
        assert desk.line() == "Dividing fragments … Escape gives it up."
        assert session.history.current == 1
        widget.status.clear()
        widget.threshold.setValue(0.02)
        widget.threshold.sliderReleased.emit()
        assert desk.line() == "Dividing fragments … Escape gives it up."
        assert session.threshold == threshold
        assert widget.threshold.value() == pytest.approx(threshold, abs=1e-3)
    finally:
        go_on.set()
    desk.settle()
    assert desk.proofreader.scribbles.layer is None
    assert [edit.kind for edit in session.history.edits.values()] == ["merge", "relabel"]
    widget.history.chosen.emit(0)
    assert session.history.current == 0


def test_another_process_holds_it(desk, run):
    """A second session on the same store only reads, and says so."""
    folder = session_folder(run.path)
    desk.proofreader.end()
    with ProofreadingSession(ProofreadingSource.from_store(run), folder) as other:
        desk.widget.start_button.click()
        assert "open for reading only" in desk.widget.status.warnings.text()
        assert not desk.widget.editing.buttons["merge"].isEnabled()
        assert desk.widget.editing.buttons["isolate"].isEnabled()
        assert not desk.widget.take_over_button.isHidden()
        assert "read-only" in desk.proofreader.line()
        # Two picks without a frame in between, after layers went, crash in Mesa's software driver;
        # between two clicks of a person there is a frame.
        desk.qtbot.wait(50)
        desk.click((1, 4, 4))
        desk.click((1, 4, 30), Qt.KeyboardModifier.ControlModifier)
        assert "being edited by process" in desk.line()
        assert not desk.session.history.edits
        other.merge(np.unique(other.lut[other.lut > 0])[:2].tolist())


def test_a_removed_layer_loses_nothing(desk):
    desk.click((1, 4, 4))
    desk.click((1, 4, 30), Qt.KeyboardModifier.ControlModifier)
    a = desk.shown()[1, 4, 4]
    assert desk.shown()[1, 4, 30] == a
    viewer, keymap = desk.viewer, dict(desk.viewer.keymap)
    viewer.layers.remove(desk.proofreader.layers.find("proofread_marks"))
    desk.click((1, 20, 4))  # what is drawn over the segments comes back when it is needed
    assert desk.proofreader.layers.find("proofread_marks") is not None
    viewer.layers.remove(desk.proofreader.layers.layer)
    assert desk.widget.proofreader is None
    assert viewer.layers["stack segments"].visible
    assert "Nothing is lost" in desk.line()
    assert viewer.keymap != keymap
    desk.widget.start_button.click()
    assert desk.shown()[1, 4, 30] == desk.shown()[1, 4, 4] == a
    assert desk.proofreader.line().startswith("1 edit")


@pytest.fixture
def labels_desk(make_napari_viewer, cache, qtbot):
    """Labels that come without a run: two bars through all sections, one of them of two halves."""
    labels = np.zeros((6, 24, 32), np.int64)
    labels[:, 2:10, 4:28] = 7
    labels[:3, 14:22, 4:28] = 9
    labels[3:, 14:22, 4:28] = 1000
    image = np.full(labels.shape, 200, np.uint8)
    image[labels == 0] = 20
    viewer = make_napari_viewer(show=True)
    placement = {"scale": (30.0, 10.0, 10.0), "units": ("nm",) * 3}
    viewer.add_image(image, name="image", **placement)
    viewer.add_labels(labels, name="bars", **placement)
    widget = ProofreadWidget(viewer)
    viewer.window.add_dock_widget(widget)
    widget.start_button.click()
    qtbot.waitUntil(lambda: widget.proofreader is not None, timeout=PATIENCE)
    viewer.reset_view()
    qtbot.wait(50)
    return Desk(viewer, widget, qtbot)


def test_any_labels_in_3d_with_meshes_that_follow(labels_desk, qtbot, tmp_path):
    desk = labels_desk
    viewer, widget, proofreader = desk.viewer, desk.widget, desk.proofreader
    assert "boundaries are taken from the image" in widget.status.warnings.text()
    one, half, other = (1, 5, 15), (1, 18, 15), (4, 18, 15)
    desk.click(one)
    desk.click(half, Qt.KeyboardModifier.ShiftModifier)
    a, b = proofreader.selection
    desk.key(Qt.Key.Key_K)
    qtbot.waitUntil(lambda: viewer.dims.ndisplay == 3, timeout=PATIENCE)
    assert sorted(proofreader.meshes.made) == sorted([a, b])
    surface = proofreader.meshes.surface
    vertices = len(surface.vertices)
    qtbot.waitUntil(lambda: not proofreader._in_3d._turns.busy)  # it has chosen its own view
    qtbot.wait(100)
    # looking along z, a click in the middle of a bar hits its mesh
    viewer.reset_view()
    qtbot.wait(100)
    qtbot.mouseClick(desk.native, Qt.MouseButton.LeftButton, pos=middle_of(desk, surface, 1))
    assert proofreader.selection == [b]
    assert proofreader.picked.fragment in desk.session.fragments_of(b)
    # an edit: only what it touched is meshed again
    c = desk.session.segment_of(desk.session.voxels.fragment_at(other))
    proofreader.select([b, c])
    desk.key(Qt.Key.Key_G)
    qtbot.waitUntil(lambda: len(surface.vertices) != vertices, timeout=PATIENCE)
    assert proofreader.meshes.made == (b,)
    assert set(proofreader.meshes.ids) == {a, b}
    desk.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert proofreader.meshes.made == (c,)  # b is known from before
    assert set(proofreader.meshes.ids) == {a, b, c}
    desk.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    assert proofreader.meshes.made == ()
    # on the volume, without meshes
    proofreader.meshes.clear()
    proofreader.layers.layer.visible = True
    proofreader.select(())
    qtbot.wait(50)
    qtbot.mouseClick(desk.native, Qt.MouseButton.LeftButton, pos=desk.pixel_in_3d(one))
    assert proofreader.selection == [a]
    viewer.dims.ndisplay = 2
    assert viewer.layers["image"].visible

    written = []
    widget.export.ended.connect(written.append)
    widget.export.write_labels(str(tmp_path / "corrected.h5"))
    # another one would stop it half-way
    assert not widget.export.labels_button.isEnabled()
    assert not widget.export.training_button.isEnabled()
    qtbot.waitUntil(lambda: len(written) == 1, timeout=PATIENCE)
    assert widget.export.labels_button.isEnabled()
    assert widget.export.training_button.isEnabled()
    import h5py

    with h5py.File(tmp_path / "corrected.h5") as file:
        np.testing.assert_array_equal(file["main"][...], desk.shown())
    desk.session.lock([a])
    run_here(widget.export.runner)
    widget.export.write_training_data(str(tmp_path / "truth"))
    qtbot.waitUntil(lambda: len(written) == 2, timeout=PATIENCE)
    from napari_cad.training.data import open_training_volume
    from napari_cad.training.data_config import VolumeConfig

    truth = open_training_volume(VolumeConfig.from_folder(tmp_path / "truth"))
    ids = truth.read_labels((0, 0, 0), truth.shape)
    assert (ids[:, 3:9, 5:27] == 1).all()
    assert (ids[:, 12:] < 0).all()
    np.testing.assert_array_equal(truth.image.section(2), viewer.layers["image"].data[2])
    widget.export.write_log(str(tmp_path / "log.jsonl"))
    assert "2 edits are in" in written[2]


def middle_of(desk, surface, which):
    """Where on the canvas the middle of one of the meshes is."""
    _, first = desk.proofreader.meshes.vertices()
    stop = [*first[1:], len(surface.vertices)][which]
    middle = surface.vertices[first[which] : stop].mean(axis=0)
    return desk.on_canvas(surface.data_to_world(middle))


def test_history_notes_threshold_and_the_command_palette(desk, qtbot):
    from napari_cad.viewer import proofreading_commands

    widget, proofreader, session = desk.widget, desk.proofreader, desk.session
    desk.click((1, 4, 4))
    for place in ((1, 4, 30), (1, 28, 4)):
        desk.click(place, Qt.KeyboardModifier.ControlModifier)
    proofreading_commands.undo(desk.viewer)
    assert session.history.current == 1
    proofreader.actions.ask = lambda _question: "look here"
    desk.key(Qt.Key.Key_J)  # after an undo: a branch
    widget.past.expand()
    model = widget.history.model
    qtbot.waitUntil(lambda: model.rowCount() == 4)
    rows = [model.data(model.index(row)) for row in range(4)]
    assert rows[0] == "The beginning"
    assert "merge" in rows[2]
    assert rows[3].endswith("note: look here   ↳ after 1")
    grey = Qt.ItemDataRole.ForegroundRole
    assert [bool(model.data(model.index(row), grey)) for row in range(4)] == [
        False, False, True, False
    ]  # fmt: skip
    widget.history.view.clicked.emit(model.index(2))  # to the branch that was left
    assert session.history.current == 2
    assert desk.shown()[1, 28, 4] == desk.shown()[1, 4, 4]
    assert not session.decisions.notes
    widget.history.view.clicked.emit(model.index(3))
    notes = proofreader.layers.find("proofread_notes")
    np.testing.assert_array_equal(notes.data, [(1, 4, 4)])
    widget.history.lineage.setChecked(True)
    qtbot.waitUntil(lambda: model.rowCount() == 2)
    # a threshold that is tried and left again
    shown = desk.shown().copy()
    proofreader.try_threshold(0.01)
    assert not np.array_equal(desk.shown(), shown)
    proofreader.set_threshold(session.threshold)
    np.testing.assert_array_equal(desk.shown(), shown)
    # a threshold is tried, and set when the slider comes to rest
    before = desk.shown().copy()
    widget._commit.setInterval(PATIENCE)  # a busy machine takes longer to show it than to rest
    widget.threshold.setValue(0.02)
    qtbot.waitUntil(lambda: not np.array_equal(desk.shown(), before))
    assert session.threshold != pytest.approx(0.02)
    widget._commit.setInterval(1)
    qtbot.waitUntil(lambda: session.threshold == pytest.approx(0.02), timeout=PATIENCE)
    assert session.history.edits[session.history.current].kind == "threshold"


def test_closing_the_window_lets_others_edit(desk, qtbot, run):
    folder = session_folder(run.path)
    desk.click((1, 4, 4))
    desk.click((1, 4, 30), Qt.KeyboardModifier.ControlModifier)
    assert (folder / "session.lock").exists()
    desk.viewer.close()
    qtbot.waitUntil(lambda: not (folder / "session.lock").exists(), timeout=PATIENCE)
    with ProofreadingSession(ProofreadingSource.from_store(run), folder) as again:
        assert not again.read_only
        assert len(again.history.edits) == 1
