from __future__ import annotations

import gc
from pathlib import Path

import psutil
import pytest
from napari.utils.progress import progress
from qtpy.QtWidgets import QWidget

from napari_cad.core.events import SectionDone, StageStarted, Warned
from napari_cad.viewer.jobs import JobRunner, RunProgress, format_seconds

CORE_TESTS = Path(__file__).parents[1] / "core"
PATIENCE = 30_000


class Log:
    """What a runner has said."""

    def __init__(self, runner):
        self.events, self.endings = [], []
        runner.reported.connect(self.events.append)
        runner.finished.connect(self.on_finished)
        runner.failed.connect(self.endings.append)
        runner.cancelled.connect(self.on_cancelled)

    def on_finished(self):
        self.endings.append("finished")

    def on_cancelled(self):
        self.endings.append("cancelled")


@pytest.fixture
def runner(qtbot, monkeypatch):
    monkeypatch.syspath_prepend(str(CORE_TESTS))
    widget = QWidget()
    qtbot.addWidget(widget)
    runner = JobRunner(widget)
    runner.log = Log(runner)
    yield runner
    runner.cancel()


def run(runner, name, **arguments):
    return runner.start(f"example_jobs:{name}", arguments, "Testing")


def runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_the_end_of_children():
    """Wait, without Qt, until no child process is left: what it has said waits in the pipe."""
    _, alive = psutil.wait_procs(
        [
            child
            for child in psutil.Process().children()
            if "_job_child" in " ".join(child.cmdline())
        ],
        timeout=PATIENCE / 1000,
    )
    assert not alive


def test_events_and_the_end_are_signalled_in_order(runner, qtbot):
    run(runner, "count", n=20)
    assert runner.running
    qtbot.waitUntil(lambda: bool(runner.log.endings), timeout=PATIENCE)
    assert [event.z for event in runner.log.events] == list(range(20))
    assert runner.log.endings == ["finished"]
    assert not runner.running


def test_old_objects_are_left_out_of_collections_until_the_outcome_is_shown(
    runner, qtbot, monkeypatch
):
    monkeypatch.setattr("napari_cad.viewer.jobs._AFTERMATH", 300)
    gc.unfreeze()
    runner.start("example_jobs:sleep", {}, None)  # it answers requests for as long as it likes
    assert gc.get_freeze_count() == 0
    run(runner, "count", n=2)
    assert gc.get_freeze_count() > 10_000
    qtbot.waitUntil(lambda: bool(runner.log.endings), timeout=PATIENCE)
    assert gc.get_freeze_count() > 10_000
    qtbot.waitUntil(lambda: gc.get_freeze_count() == 0, timeout=PATIENCE)


def test_a_runner_that_goes_leaves_nothing_out(qtbot):
    widget = QWidget()
    runner = JobRunner(widget)
    gc.unfreeze()
    runner.start("tests.nowhere:nothing", {}, "Testing")
    assert gc.get_freeze_count()
    widget.deleteLater()
    qtbot.waitUntil(lambda: gc.get_freeze_count() == 0)


def test_a_failure_is_signalled_with_its_message(runner, qtbot):
    run(runner, "fail")
    qtbot.waitUntil(lambda: bool(runner.log.endings), timeout=PATIENCE)
    assert runner.log.events == [Warned("one")]
    (error,) = runner.log.endings
    assert str(error) == "expected three axes, got two"
    assert "VolumeError" in error.details


def test_cancel_is_signalled_once_and_ends_the_process(runner, qtbot):
    run(runner, "sleep")
    qtbot.waitUntil(lambda: bool(runner.log.events), timeout=PATIENCE)
    pid = int(runner.log.events[0].message)
    runner.cancel()
    runner.cancel()
    assert runner.log.endings == ["cancelled"]
    qtbot.waitUntil(lambda: not runs(pid), timeout=PATIENCE)
    qtbot.wait(100)
    assert runner.log.endings == ["cancelled"]


def test_a_new_job_drops_what_the_old_one_still_says(runner, qtbot):
    first = run(runner, "fail")
    wait_for_the_end_of_children()  # its events and its failure are waiting to be collected
    second = run(runner, "count", n=3)
    assert second == first + 1
    qtbot.waitUntil(lambda: "finished" in runner.log.endings, timeout=PATIENCE)
    assert [type(event) for event in runner.log.events] == [SectionDone] * 3
    assert runner.log.endings == ["cancelled", "finished"]


def test_a_listener_may_cancel(runner, qtbot):
    runner.reported.connect(lambda _: runner.cancel())
    run(runner, "count", n=5)
    qtbot.waitUntil(lambda: bool(runner.log.endings), timeout=PATIENCE)
    qtbot.wait(200)
    assert len(runner.log.events) == 1
    assert runner.log.endings == ["cancelled"]


def test_slow_listeners_get_one_event_per_turn(qtbot, monkeypatch):
    """A clock that only listeners move: each event takes them a second."""
    monkeypatch.syspath_prepend(str(CORE_TESTS))
    widget = QWidget()
    qtbot.addWidget(widget)
    clock = [0.0]
    runner = JobRunner(widget, now=lambda: clock[0])
    log = Log(runner)
    per_turn = []

    def be_slow(_event):
        clock[0] += 1.0

    poll = runner._poll

    def counted():
        before = len(log.events)
        poll()
        per_turn.append(len(log.events) - before)

    runner.reported.connect(be_slow)
    runner._timer.timeout.disconnect()
    runner._timer.timeout.connect(counted)
    run(runner, "count", n=6)
    runner._timer.stop()
    wait_for_the_end_of_children()  # all six are waiting
    runner._timer.start()
    qtbot.waitUntil(lambda: log.endings == ["finished"], timeout=PATIENCE)
    assert [event.z for event in log.events] == list(range(6))
    assert max(per_turn) == 1


def test_the_job_ends_with_its_widget(qtbot, monkeypatch):
    monkeypatch.syspath_prepend(str(CORE_TESTS))
    widget = QWidget()
    log = Log(runner := JobRunner(widget))
    run(runner, "sleep")
    qtbot.waitUntil(lambda: bool(log.events), timeout=PATIENCE)
    pid = int(log.events[0].message)
    qtbot.waitUntil(lambda: bool(progress._all_instances), timeout=PATIENCE)
    widget.deleteLater()
    del widget, runner
    qtbot.waitUntil(lambda: not runs(pid), timeout=2000)
    assert not progress._all_instances


def test_napari_lists_the_job_while_it_runs(runner, qtbot):
    run(runner, "sleep")
    assert not progress._all_instances  # that takes a while: in another turn
    qtbot.waitUntil(lambda: bool(progress._all_instances), timeout=PATIENCE)
    (bar,) = progress._all_instances
    assert "Testing" in bar.desc
    runner.show_progress(2, 12)
    runner.show_progress(3, 12)
    qtbot.waitUntil(lambda: (bar.n, bar.total) == (3, 12), timeout=PATIENCE)
    runner.cancel()
    assert not progress._all_instances
    runner.show_progress(4, 12)  # late, harmless


# ---------------------------------------------------------------------- progress in words


def test_progress_counts_stages_side_by_side_and_only_this_run():
    clock = [100.0]
    run = RunProgress(now=lambda: clock[0])
    assert run.text() == ""
    run.update(StageStarted("affinities", 10, 4))
    run.update(StageStarted("fragments", 10, 4))
    assert (run.done, run.total) == (8, 20)
    assert run.text() == "Affinities · 4 of 10 sections"
    assert run.seconds_left() is None
    clock[0] = 104.0
    assert run.update(SectionDone("affinities", 5, 6, 10))
    assert run.rate("affinities") == pytest.approx(0.5)
    assert run.seconds_left() == pytest.approx(8)
    assert run.text() == "Affinities · 6 of 10 sections · 2.0 s each · 8 s left"
    clock[0] = 106.0  # time goes on between two sections
    assert run.seconds_left() == pytest.approx(6)
    clock[0] = 105.0
    run.update(SectionDone("affinities", 9, 10, 10))
    assert run.stage == "fragments"
    assert not run.update(Warned("nothing to do with it"))
    clock[0] = 105.5  # fragments had to wait until 105
    run.update(SectionDone("fragments", 5, 6, 10))
    assert run.text() == "Fragments · 6 of 10 sections · 4.0/s · 1 s left"
    run.update(SectionDone("fragments", 9, 10, 10))
    run.update(StageStarted("agglomeration", 1))
    assert run.text() == "Agglomeration"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (660, "11 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text
