"""What a checkpoint says about itself, read without its weights and without torch."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from pathlib import Path
from typing import TYPE_CHECKING

from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.errors import CheckpointError
from napari_cad.core.published import PUBLISHED, PublishedCheckpoint, find_published

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

#: The name of the checkpoint that comes with the package.
DEFAULT = "default"

#: How files of checkpoints end.
_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")

_DEFAULT_FILE = "default_student.safetensors"

#: What checkpoints of every training run are called: it is the run that tells them apart.
_OF_RUNS = ("best", "last", "teacher")

#: No published checkpoint and no header of ours is larger.
_MOST_BYTES = 64 * 2**20


def describe_checkpoint(name_or_path: str) -> CheckpointMetadata | None:
    """Tell what a checkpoint needs and where it comes from.

    Parameters
    ----------
    name_or_path : str
        As for `napari_cad.core.registry.resolve_checkpoint`.

    Returns
    -------
    CheckpointMetadata or None
        None where it does not say, or cannot be read: running it will tell why.
    """
    if name_or_path in PUBLISHED:
        return _metadata(PUBLISHED[name_or_path])
    file: Traversable = Path(name_or_path).expanduser()
    if name_or_path == DEFAULT:
        file = importlib.resources.files("napari_cad") / "data" / _DEFAULT_FILE
    try:
        with file.open("rb") as stream:
            start = stream.read(9)
            if not start.endswith(b"{"):  # no header of ours: one of the published files, perhaps
                known = find_published(hashlib.sha256(start + stream.read(_MOST_BYTES)).hexdigest())
                return None if known is None else _metadata(known)
            length = min(int.from_bytes(start[:8], "little"), _MOST_BYTES)
            header = json.loads(start[8:] + stream.read(length - 1))
        return CheckpointMetadata.from_json(json.loads(header["__metadata__"]["napari_cad"]))
    except (OSError, ValueError, KeyError, TypeError, CheckpointError):
        return None


def short_title(name_or_path: str) -> str:
    """Give a short name for people: of a file that of the file, and of a training run its folder.

    Parameters
    ----------
    name_or_path : str
        As for `napari_cad.core.registry.resolve_checkpoint`.

    Returns
    -------
    str
        Such as "CremiA", "mine.safetensors", or "stack_default_2/best" of a training run.
    """
    folder, _, name = name_or_path.replace("\\", "/").rpartition("/")
    stem = Path(name).stem
    run = folder.rpartition("/")[2]
    return f"{run}/{stem}" if run and stem in _OF_RUNS else name


def checkpoints_in(folder: Path | None) -> list[Path]:
    """List the checkpoints of a folder by name; none where it cannot be read."""
    if folder is None:
        return []
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    except OSError:
        return []


def needs_download(name_or_path: str) -> PublishedCheckpoint | None:
    """Tell whether this is a published checkpoint that is not on this computer yet."""
    if name_or_path not in PUBLISHED:
        return None
    # brings the download library, for which Run would have to wait
    from napari_cad.core.registry import cached_published

    return None if cached_published(name_or_path) is not None else PUBLISHED[name_or_path]


def _metadata(published: PublishedCheckpoint) -> CheckpointMetadata:
    return CheckpointMetadata(
        name=published.name,
        voxel_size=published.voxel_size,
        training_data=published.training_data,
        licence=published.licence,
        code_version="",
        notes=published.notes,
    )
