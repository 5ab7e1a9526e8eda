"""Where a session is kept: a folder on the disk, or the memory.

::

    session.json     which segmentation it is about, and the threshold it began with
    edits.jsonl      the log
    edits.torn       what a torn last line was, if there ever was one
    session.lock     who edits it now
    patches/N.npz    voxels of divided and painted fragments
"""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cad.proofreading.errors import ReadOnlyError, SessionError, SessionMismatchError
from napari_cad.proofreading.lock import SessionLock
from napari_cad.proofreading.log import EditLog, write_file
from napari_cad.proofreading.patch import PatchVoxels

if TYPE_CHECKING:
    from napari_cad.proofreading.source import ProofreadingSource

#: Version of what is in the folder of a session.
FORMAT = 1


class MemoryFolder:
    """Keeps a session for as long as the process lives.

    Attributes
    ----------
    read_only : bool
        Whether edits are refused.
    messages : list of str
        What the person should know from opening it.
    records : list of dict
        Lines of the log at the time of opening.
    threshold : float
        The one that the session began with.
    """

    def __init__(self, source: ProofreadingSource, *, read_only: bool = False) -> None:
        self.read_only = read_only
        self.messages: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.threshold = source.threshold
        self._patches: dict[int, PatchVoxels] = {}

    def check_writable(self) -> None:
        """Raise `ReadOnlyError` unless edits may be made."""
        if self.read_only:
            raise ReadOnlyError("this session was opened for reading, or is closed")

    def append(self, record: dict[str, Any]) -> None:
        """Write a line of the log."""

    def save_patch(self, number: int, voxels: PatchVoxels) -> None:
        """Keep the voxels of a patch."""
        self._patches[number] = voxels

    def load_patch(self, number: int) -> PatchVoxels:
        """Read the voxels of a patch."""
        return self._patches[number]

    def close(self) -> None:
        """Refuse edits from now on."""
        self.read_only = True


class SessionFolder(MemoryFolder):
    """Keeps a session on the disk.

    Parameters
    ----------
    path : Path
        Made if it is not there.
    source : ProofreadingSource
        The segmentation that it is about.
    read_only : bool
        Only look. A session that another process edits is read-only whatever this says.
    take_over : bool
        Edit although another process holds the session.

    Raises
    ------
    SessionMismatchError
        If the session was begun on another segmentation.
    SessionError
        If the folder cannot be read or written, or its log is damaged.
    """

    def __init__(
        self,
        path: Path,
        source: ProofreadingSource,
        *,
        read_only: bool = False,
        take_over: bool = False,
    ) -> None:
        super().__init__(source, read_only=read_only)
        self.path = path
        self._lock: SessionLock | None = None
        self._log: EditLog | None = None
        self._read_patch = lru_cache(maxsize=64)(PatchVoxels.load)
        try:
            self._open(source, take_over=take_over)
        except BaseException:
            self.close()
            raise

    def check_writable(self) -> None:
        """Raise `ReadOnlyError` unless edits may be made, asking the lock file each time."""
        if self._lock is not None and not self.read_only:
            self.read_only = not self._lock.still_ours()
        if self.read_only and self._lock is not None and self._log is not None:
            raise ReadOnlyError(self._lock.message())
        super().check_writable()

    def append(self, record: dict[str, Any]) -> None:
        """Write a line of the log; on return it is on the disk."""
        if self._log is None:
            raise ReadOnlyError("this session is closed")
        self._log.append(record)

    def save_patch(self, number: int, voxels: PatchVoxels) -> None:
        """Write the voxels of a patch; on return they are on the disk."""
        path = self._patch_path(number)
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise SessionError(f"{path.parent} cannot be made: {error}") from error
        voxels.save(path)
        # a number is used again where the log could not be written after its voxels
        self._read_patch.cache_clear()

    def load_patch(self, number: int) -> PatchVoxels:
        """Read the voxels of a patch.

        Raises
        ------
        SessionError
            If the file is not there or damaged.
        """
        path = self._patch_path(number)
        try:
            return self._read_patch(path)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise SessionError(
                f"the voxels of a divided or painted fragment are missing: {path} ({error}). "
                "Restore the file, or undo the edit"
            ) from error

    def close(self) -> None:
        """Let others edit. Nothing is left to be written."""
        super().close()
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._lock is not None:
            self._lock.release()

    def _patch_path(self, number: int) -> Path:
        return self.path / "patches" / f"{number:06d}.npz"

    def _open(self, source: ProofreadingSource, *, take_over: bool) -> None:
        if not self.read_only:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SessionError(f"{self.path} cannot be made: {error}") from error
            self._lock = SessionLock(self.path / "session.lock", take_over=take_over)
            if not self._lock.is_ours:
                self.read_only = True
                self.messages.append(self._lock.message())
        self._check_settings(source)
        self._log = EditLog(self.path / "edits.jsonl", read_only=self.read_only)
        if self._log.message:
            self.messages.append(self._log.message)
        self.records = self._log.records

    def _check_settings(self, source: ProofreadingSource) -> None:
        path = self.path / "session.json"
        signature = json.loads(json.dumps(source.signature))
        if not path.exists():
            if self.read_only:
                raise SessionError(f"there is no session in {self.path}")
            settings = {
                "format": FORMAT,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "threshold": source.threshold,
                "signature": signature,
            }
            write_file(path, json.dumps(settings, indent=2).encode())
            return
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            version, expected = settings["format"], settings["signature"]
            # another threshold may have been chosen for the store since: the log goes on from the
            # one that the session began with
            self.threshold = float(settings["threshold"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SessionError(f"{path} is damaged: {error!r}") from error
        if version > FORMAT:
            raise SessionError(
                f"the session has format {version}, this napari-cad reads up to {FORMAT}: "
                "install a newer one"
            )
        if expected != signature:
            raise SessionMismatchError(
                f"the session in {self.path} was begun on another segmentation: "
                f"{_difference(expected, signature)}. Its edits name fragments and edges of that "
                "one: begin a new session, or restore the segmentation",
                expected,
                signature,
            )


def session_folder(store_path: str | Path, name: str = "session") -> Path:
    """Where the session of a store lies: ``RUN.zarr`` → ``RUN.proofreading/NAME``."""
    path = Path(store_path)
    return path.parent / f"{path.stem}.proofreading" / name


def _difference(expected: dict[str, Any], found: dict[str, Any], prefix: str = "") -> str:
    """Where two signatures differ, with both values."""
    parts = []
    for key in sorted(expected.keys() | found.keys()):
        a, b = expected.get(key), found.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            parts.append(_difference(a, b, f"{prefix}{key}."))
        elif a != b:
            parts.append(f"{prefix}{key} was {a!r} and is {b!r}")
    return "; ".join(part for part in parts if part)
