"""A process that edits is killed: what was shown is there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_proofreading.py"


def test_nothing_that_was_shown_is_lost(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("kill_proofreading", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    n_edits, _ = module.run(tmp_path / "session", kills=10, seed=1)
    assert n_edits > 0
