"""Jobs for the tests: this file is imported by a child process under its bare name."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np

from napari_cad.core.errors import VolumeError
from napari_cad.core.events import SectionDone, Warned


def count(n):
    for z in range(n):
        yield SectionDone("affinities", z, z + 1, n)


def chatter(n):
    """Print on the C level, where pipes of the job would be if they were not moved."""
    for z in range(n):
        os.write(1, b"x" * 10_000)
        sys.stdout.write("y" * 1000)
        sys.stdout.flush()
        subprocess.run([sys.executable, "-c", "print('z' * 1000)"], check=True)
        yield SectionDone("affinities", z, z + 1, n)
    yield Warned(f"read {sys.stdin.read()!r} from standard input")


def fail():
    yield Warned("one")
    raise VolumeError("expected three axes, got two")


def fail_unexpectedly():
    yield Warned("one")
    raise KeyError("shape")


def out_of_memory():
    raise MemoryError("Unable to allocate 3 TiB")
    yield


def die(how):
    yield Warned("one")
    if how == "exit":
        os._exit(7)
    elif how == "killed":
        os.kill(os.getpid(), 9)
    else:
        import faulthandler

        faulthandler._sigsegv()


def die_with_heir():
    """Crash while a forked child still holds the pipe."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    yield Warned(str(pid))
    os._exit(3)


def sleep(seconds=60.0):
    yield Warned(str(os.getpid()))
    time.sleep(seconds)


def family(shield=False):
    """A child and a grandchild that sleep; their pids are reported."""
    code = "import subprocess,sys,time;" + (
        "import signal;signal.signal(signal.SIGTERM, signal.SIG_IGN);" if shield else ""
    )
    code += (
        "p=subprocess.Popen([sys.executable,'-c','import time;time.sleep(60)']);"
        "print(p.pid,flush=True);time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    yield (os.getpid(), child.pid, int(child.stdout.readline()))
    time.sleep(60)


def hold_the_gil():
    """Neither signal handlers nor other threads of the child run any more."""
    import ctypes

    yield Warned(str(os.getpid()))
    ctypes.PyDLL(None).sleep(60)


def nested():
    """A job within a job, which holds its GIL."""
    from napari_cad.core.jobs import JobProcess

    job = JobProcess("example_jobs:hold_the_gil")
    yield (os.getpid(), int(next(job.events(30)).message))
    time.sleep(60)


def read(array, keys):
    yield (type(array).__name__, array.shape, array.dtype.str, array.ndim)
    for key in keys:
        yield array[key]


def read_whole(volume):
    yield np.asarray(volume["data"]).sum()


def read_in_threads(array):
    sums = {}

    def add(z):
        sums[z] = int(array[z].sum())

    threads = [threading.Thread(target=add, args=(z,)) for z in range(array.shape[0])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield [sums[z] for z in range(array.shape[0])]


def keep_reading(array):
    z = 0
    while True:
        yield int(array[z % array.shape[0]].shape[0])
        z += 1


def yield_unpicklable():
    yield lambda: None


@dataclass
class Explosive:
    fuse: str

    def __reduce__(self):
        return (explode, ())


def explode():
    if "pytest" in sys.modules:
        raise RuntimeError("cannot be built here")


def yield_explosive():
    yield Explosive("short")
    time.sleep(60)


def echo(requests, n):
    for _ in range(n):
        yield requests.get()


def echo_beside_an_array(requests, array):
    while (z := requests.get()) is not None:
        yield array[z]
