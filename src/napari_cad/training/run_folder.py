"""The folder of a training run: what is in it, written so that a kill at any time does no harm.

::

    config.json             the settings
    run.json                data signatures, versions of the code, also of each resumption
    curve.jsonl             one line per point of the loss curve
    validation.jsonl        one line per validation
    validation.png          picture of the last validation
    state.pt                everything that is needed to go on exactly
    before_decay.pt         the same, from before the learning rate began to fall
    best.safetensors        checkpoints of the student, ready for use
    last.safetensors
    teacher.safetensors     the teacher, if one was trained
    tensorboard/            curves for tensorboard, if it is installed
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from napari_cad.core.errors import CheckpointError, ConfigError, StoreMismatchError
from napari_cad.training.config import TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Version of the state file.
_STATE_VERSION = 1


class RunFolder:
    """Paths and files of a run.

    Parameters
    ----------
    path : str or Path
        The folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        self.state = self.path / "state.pt"
        self.before_decay = self.path / "before_decay.pt"
        self.best = self.path / "best.safetensors"
        self.last = self.path / "last.safetensors"
        self.teacher = self.path / "teacher.safetensors"
        self.curve = self.path / "curve.jsonl"
        self.validation = self.path / "validation.jsonl"
        self.picture = self.path / "validation.png"
        self.tensorboard = self.path / "tensorboard"

    def check_empty(self) -> None:
        """Raise ConfigError if there is a run in the folder."""
        if (self.path / "config.json").exists():
            raise ConfigError(
                f"{self.path} holds a training run already: resume it, or give another folder"
            )

    def create(self, config: TrainingConfig, facts: Mapping[str, Any]) -> None:
        """Make the folder and write down what will be run."""
        self.path.mkdir(parents=True, exist_ok=True)
        _write_json(self.path / "run.json", facts)
        _write_json(self.path / "config.json", config.to_json())

    def read_config(self) -> TrainingConfig:
        """Read the settings of the run; raises ConfigError if there is none."""
        return TrainingConfig.from_json(self._read_json("config.json"))

    def read_facts(self) -> dict[str, Any]:
        """Read what was written down besides; raises ConfigError if there is none."""
        return self._read_json("run.json")

    def write_config(self, config: TrainingConfig) -> None:
        """Replace the settings."""
        _write_json(self.path / "config.json", config.to_json())

    def note_versions(self, facts: dict[str, Any], step: int, versions: Mapping[str, str]) -> None:
        """Write down, for a run that is resumed, from where on another code computes it."""
        resumed = facts.setdefault("resumed", [])
        if versions != (resumed[-1]["versions"] if resumed else facts["versions"]):
            resumed.append({"step": step, "versions": dict(versions)})
            _write_json(self.path / "run.json", facts)

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            values = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.path} is no folder of a training run: its {name} cannot be read ({error})"
            ) from error
        if not isinstance(values, dict):
            raise ConfigError(f"{self.path / name} is damaged: expected an object")
        return values

    def save_state(self, state: Mapping[str, Any], *, before_decay: bool = False) -> None:
        """Write a state, whole or not at all."""
        path = self.before_decay if before_decay else self.state
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save({"version": _STATE_VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def load_state(self, *, before_decay: bool = False) -> dict[str, Any] | None:
        """Read a state; None if there is none yet.

        Raises
        ------
        CheckpointError
            If it is damaged, or of another version.
        """
        path = self.before_decay if before_decay else self.state
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path} cannot be read ({error})") from error
        if not isinstance(state, dict) or state.get("version") != _STATE_VERSION:
            raise CheckpointError(f"{path} was written by another version of napari-cad")
        return state

    def append(self, path: Path, values: Mapping[str, Any]) -> None:
        """Append a line of JSON."""
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def rewind(self, step: int) -> None:
        """Forget what was logged after a step: it will be done, and logged, again."""
        for path in (self.curve, self.validation):
            if not path.exists():
                continue
            kept = []
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                # a kill while a line is written leaves a part of it
                if not line.endswith("\n") or json.loads(line)["step"] > step:
                    break
                kept.append(line)
            partial = path.with_suffix(".partial")
            partial.write_text("".join(kept), encoding="utf-8")
            partial.replace(path)


def read_curve(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a curve of a run that may still be going on.

    Parameters
    ----------
    path : str or Path
        `curve.jsonl` or `validation.jsonl` of a run; it need not exist yet.

    Returns
    -------
    list of dict
        One per complete line.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def check_same_data(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Make sure that a run goes on with the data that it began with.

    Parameters
    ----------
    old, new : dict
        As of `run_facts`: of the run, and now. Names and places of files may differ.

    Raises
    ------
    StoreMismatchError
        If anything else does.
    """
    for key in ("volumes", "validation"):
        told, found = _without_paths(old.get(key)), _without_paths(new[key])
        if told != found:
            raise StoreMismatchError(
                f"the run was made with other data for {key}: expected {told}, got {found}. Give "
                "the same files (they may have moved), or start a new run from its checkpoint"
            )
    told, found = old.get("frozen_teacher"), new["frozen_teacher"]
    if told is not None and told != found:  # runs from before do not say it
        raise StoreMismatchError(
            f"the run was made with another frozen teacher: expected a file with SHA-256 {told}, "
            f"got {found}. Put the old file back, or start a new run from the run's checkpoint"
        )


def _without_paths(value: Any) -> Any:
    """Plain JSON values, with tuples as lists and without keys that say where a file lies."""
    if isinstance(value, dict):
        return {k: _without_paths(v) for k, v in value.items() if k not in ("path", "name")}
    if isinstance(value, list | tuple):
        return [_without_paths(one) for one in value]
    return value


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
