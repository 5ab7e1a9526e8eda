"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Arrays are tiny here: threads would cost more than they give, above all on a busy machine. Set
# before anything imports numpy or torch, and inherited by child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nothing is read from, or written into, the settings of the person who runs the tests.
os.environ["NAPARI_CONFIG"] = ""


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real data and published checkpoints; skips where it is missing."""
    root = Path(__file__).parents[1]
    path = Path(os.environ.get("NAPARI_CAD_SHARED", root.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"no real data: {path.name}/data is missing (set NAPARI_CAD_SHARED)")
    return path
