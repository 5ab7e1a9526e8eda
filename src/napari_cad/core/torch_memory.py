"""How torch gets its memory from the system."""

from __future__ import annotations

import os


def use_huge_pages() -> None:
    """Let torch ask Linux for huge pages; call it before torch is imported.

    Maps of whole sections are tens of megabytes each, come and go with every layer of the network,
    and are handed out by the system in pages that must be cleared. In pages of 2 MB instead of
    4 kB that takes a fraction of the time (benchmarks/bench_inference.py). Elsewhere than on Linux
    it does nothing, and what the person has set in the environment stays.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
