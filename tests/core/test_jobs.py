from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from napari_cad.core.errors import JobError
from napari_cad.core.events import SectionDone, Warned
from napari_cad.core.jobs import JobProcess, Requests, Served, ServedArray

HERE = Path(__file__).parent
PATIENCE = 30.0
POSIX_ONLY = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and fork")


@pytest.fixture
def start(monkeypatch):
    """Start jobs of example_jobs; whatever still runs at the end is ended."""
    monkeypatch.syspath_prepend(str(HERE))
    jobs = []

    def _start(name, **arguments):
        job = JobProcess(f"example_jobs:{name}", arguments)
        jobs.append(job)
        return job

    yield _start
    for job in jobs:
        job.cancel()
        job.wait(PATIENCE)


def next_event(job):
    return next(job.events(PATIENCE))


def all_gone(pids, within):
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not any(_runs(pid) for pid in pids):
            return True
        time.sleep(0.01)
    return False


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_events_arrive_in_order(start):
    job = start("count", n=500)
    events = list(job.events(PATIENCE))
    assert events == [SectionDone("affinities", z, z + 1, 500) for z in range(500)]
    assert job.state == "finished"
    assert job.error is None
    assert job.wait(PATIENCE) == 0


def test_poll_never_waits_and_the_state_follows_the_last_event(start):
    job = start("count", n=3)
    assert job.poll() == []  # the interpreter has not even started
    events = []
    deadline = time.monotonic() + PATIENCE
    while job.state == "running" and time.monotonic() < deadline:
        events += job.poll()
        time.sleep(0.01)
    assert [event.z for event in events] == [0, 1, 2]
    assert job.state == "finished"
    assert job.poll() == []


def test_printing_libraries_do_not_corrupt_the_pipe(start):
    *events, last = list(start("chatter", n=3).events(PATIENCE))
    assert [event.z for event in events] == [0, 1, 2]
    assert last == Warned("read '' from standard input")


def test_an_error_of_ours_keeps_its_message_and_has_the_traceback(start):
    job = start("fail")
    with pytest.raises(JobError, match=r"^expected three axes, got two$") as info:
        list(job.events(PATIENCE))
    assert "raise VolumeError" in info.value.details
    assert job.state == "failed"


def test_another_error_is_named(start):
    with pytest.raises(JobError, match=r"^KeyError: 'shape'$"):
        list(start("fail_unexpectedly").events(PATIENCE))


def test_running_out_of_memory_is_said_in_words(start):
    with pytest.raises(JobError, match="ran out of memory"):
        list(start("out_of_memory").events(PATIENCE))


@pytest.mark.parametrize(
    ("how", "message", "details"),
    [
        ("exit", "exit code 7", ""),
        pytest.param("killed", "SIGKILL.*memory", "", marks=POSIX_ONLY),
        pytest.param("segfault", "SIGSEGV", "Fatal Python error", marks=POSIX_ONLY),
    ],
)
def test_a_crash_is_an_error_and_not_ours(start, how, message, details):
    job = start("die", how=how)
    events = job.events(PATIENCE)
    assert next(events) == Warned("one")
    with pytest.raises(JobError, match=message) as info:
        next(events)
    assert details in info.value.details


@POSIX_ONLY
def test_a_crash_is_seen_although_an_heir_holds_the_pipe(start):
    job = start("die_with_heir")
    heir = int(next_event(job).message)
    deadline = time.monotonic() + PATIENCE
    while job.state == "running" and time.monotonic() < deadline:
        job.poll()
        time.sleep(0.01)
    assert "exit code 3" in str(job.error)
    assert all_gone([heir], within=PATIENCE)


@pytest.mark.parametrize("shield", [False, pytest.param(True, marks=POSIX_ONLY)])
def test_cancel_ends_the_whole_family(start, shield):
    job = start("family", shield=shield)
    pids = next_event(job)
    job.cancel()
    assert job.state == "cancelled"
    assert all_gone(pids, within=PATIENCE)
    assert job.poll() == []
    assert job.error is None


@POSIX_ONLY
def test_cancel_ends_a_library_that_holds_the_gil(start):
    job = start("hold_the_gil")
    next_event(job)
    job.cancel()
    assert all_gone([job.pid], within=PATIENCE)


@POSIX_ONLY
def test_cancel_ends_a_job_within_the_job(start):
    job = start("nested")
    pids = next_event(job)
    job.cancel()
    assert all_gone(pids, within=PATIENCE)


def test_cancel_twice_or_after_the_end_does_nothing(start):
    job = start("count", n=1)
    list(job.events(PATIENCE))
    job.cancel()
    assert job.state == "finished"
    job = start("sleep")
    job.cancel()
    job.cancel()
    assert job.wait(PATIENCE) != 0
    assert job.state == "cancelled"


@pytest.mark.parametrize(
    ("name", "n"), [("family", 3), pytest.param("nested", 2, marks=POSIX_ONLY)]
)
def test_the_family_ends_when_the_parent_is_killed(name, n):
    code = f"""
        import sys, time
        sys.path.insert(0, {str(HERE)!r})
        from napari_cad.core.jobs import JobProcess
        job = JobProcess("example_jobs:{name}")
        print(*next(job.events(30)), flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == n
        assert all(_runs(pid) for pid in pids)
        parent.kill()
    assert all_gone(pids, within=PATIENCE)


KEYS = [
    1,
    (slice(None), 2),
    (..., slice(None, None, 2)),
    (0, 1, 2),
    slice(3, 0, -1),
    (slice(0, 0),),
    ...,
]


@pytest.mark.parametrize("kind", ["numpy", "fortran", "big-endian", "dask", "zarr"])
def test_a_served_array_reads_as_the_array(start, kind):
    array = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)
    served = array
    if kind == "fortran":
        served = np.asfortranarray(array)
    elif kind == "big-endian":
        served = array.astype(">u2")
    elif kind == "dask":
        da = pytest.importorskip("dask.array")
        served = da.from_array(array, chunks=(1, 3, 3))
    elif kind == "zarr":
        zarr = pytest.importorskip("zarr")
        served = zarr.array(array, chunks=(1, 3, 3))
    keys = [key for key in KEYS if kind != "zarr" or key != slice(3, 0, -1)]
    about, *parts = start("read", array=Served(served), keys=keys).events(PATIENCE)
    assert about == ("ServedArray", (4, 5, 6), served.dtype.str, 3)
    for key, part in zip(keys, parts, strict=True):
        assert part.shape == array[key].shape
        np.testing.assert_array_equal(part, array[key])


def test_a_served_array_may_stand_anywhere_among_the_arguments_and_be_read_as_a_whole(start):
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    (total,) = start("read_whole", volume={"data": Served(array)}).events(PATIENCE)
    assert total == array.sum()


def test_a_served_array_is_read_from_many_threads(start):
    array = np.random.default_rng(0).integers(0, 9, (20, 64, 64), dtype=np.uint8)
    (sums,) = start("read_in_threads", array=Served(array)).events(PATIENCE)
    assert sums == [int(section.sum()) for section in array]


def test_an_error_in_the_parents_array_reaches_the_job(start):
    class Broken:
        shape = (2, 2, 2)
        dtype = np.dtype(np.uint8)

        def __getitem__(self, key):
            raise ZeroDivisionError("the file has gone")

    job = start("read", array=Served(Broken()), keys=[0])
    with pytest.raises(JobError, match=r"Reading the volume failed.*the file has gone"):
        list(job.events(PATIENCE))


@pytest.mark.filterwarnings("error")
def test_reads_under_way_when_it_is_cancelled_are_harmless(start):
    class Slow:
        shape = (2, 512, 512)
        dtype = np.dtype(np.uint8)

        def __getitem__(self, key):
            time.sleep(0.2)
            return np.zeros(self.shape, self.dtype)[key]

    job = start("keep_reading", array=Served(Slow()))
    next_event(job)
    job.cancel()
    assert all_gone([job.pid], within=PATIENCE)
    time.sleep(0.5)  # the answer comes now, and nobody is there


def test_what_cannot_be_sent_is_an_error_at_once(start):
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        start("read", array=lambda: None, keys=[])
    with pytest.raises(TypeError, match="JobProcess"):
        pickle.dumps(Served(np.zeros((1, 1, 1))))


def test_a_report_that_cannot_be_sent_or_read_is_an_error(start):
    with pytest.raises(JobError):
        list(start("yield_unpicklable").events(PATIENCE))
    job = start("yield_explosive")
    with pytest.raises(JobError, match="cannot be read: cannot be built here"):
        list(job.events(PATIENCE))
    assert all_gone([job.pid], within=PATIENCE)


def test_an_unknown_job_is_an_error(start):
    with pytest.raises(JobError, match="no attribute 'nothing'"):
        list(start("nothing").events(PATIENCE))
    with pytest.raises(JobError, match="no_such_module"):
        list(JobProcess("no_such_module:f").events(PATIENCE))


def test_waiting_too_long_is_an_error_of_time(start):
    job = start("sleep")
    next_event(job)
    with pytest.raises(TimeoutError):
        next(job.events(0.1))
    with pytest.raises(TimeoutError):
        job.wait(0.1)


def test_served_behaves_as_the_array_in_this_process():
    array = np.zeros((2, 3, 4), np.uint8)
    served = Served(array)
    assert (served.shape, served.ndim, served.dtype) == ((2, 3, 4), 3, np.dtype(np.uint8))
    assert served[1].shape == (3, 4)
    assert ServedArray.__doc__


# ---------------------------------------------------------------------- requests to a running job


def test_requests_arrive_in_order_whenever_they_are_sent(start):
    job = start("echo", requests=Requests(), n=50)
    for i in range(25):
        job.send(i)  # before the child has even started
    events = job.events(PATIENCE)
    assert [next(events) for _ in range(25)] == list(range(25))
    for i in range(25):
        job.send({"number": i})
    assert list(events) == [{"number": i} for i in range(25)]
    assert job.state == "finished"
    job.send("too late")  # harmless


def test_requests_and_answers_share_the_pipe(start):
    array = np.arange(600_000).reshape(3, 200_000)  # larger than what a pipe holds
    job = start("echo_beside_an_array", requests=Requests(), array=Served(array))
    for z in (2, 0, 1, None):
        job.send(z)
    for z, row in zip((2, 0, 1), job.events(PATIENCE), strict=True):
        np.testing.assert_array_equal(row, array[z])


def test_sending_never_waits(start):
    job = start("sleep")  # reads no requests, and has not even started
    for _ in range(200):  # far more than a pipe holds: a send that waits would wait for ever
        job.send(b"x" * 100_000)
    job.cancel()
    job.wait(PATIENCE)


def test_a_request_that_cannot_be_read_ends_the_job(start):
    job = start("echo", requests=Requests(), n=1)
    job._outgoing.put(b"no pickle")
    with pytest.raises(JobError, match="exit code 1") as info:
        list(job.events(PATIENCE))
    assert "UnpicklingError" in info.value.details


def test_requests_are_for_jobs_only():
    with pytest.raises(TypeError, match="argument of JobProcess"):
        pickle.dumps(Requests())
