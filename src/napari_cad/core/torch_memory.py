"""How torch gets its memory from the system."""

from __future__ import annotations

import ctypes
import os
import sys


def use_huge_pages() -> None:
    """Let torch ask Linux for huge pages; call it before torch is imported.

    Maps of whole sections are tens of megabytes each, come and go with every layer of the network,
    and are handed out by the system in pages that must be cleared. In pages of 2 MB instead of
    4 kB that takes a fraction of the time (benchmarks/bench_inference.py). Elsewhere than on Linux
    it does nothing, and what the person has set in the environment stays.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def give_memory_back() -> None:
    """Give the system what is free of the memory of this process, where there is glibc."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
