"""Keeping freed memory while a training goes on."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import TYPE_CHECKING

from napari_cad.core.torch_memory import give_memory_back

if TYPE_CHECKING:
    from collections.abc import Iterator

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536
_MOST = 2**31 - 1


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the process use freed memory again instead of giving it back and asking for it anew.

    Every step frees maps of tens of megabytes and asks for the same ones in the next. glibc gives
    them back to the system, which clears the pages of the new ones: a tenth to a fifth of a step on
    a CPU (benchmarks/bench_training.py). The process keeps what it had at its peak, which the next
    step needs; at the end all that is free goes back. Where there is no glibc nothing changes.
    """
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, _MOST)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
        libc.mallopt(_M_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
        give_memory_back()
