"""The log of a session: JSON lines, only ever appended to, on the disk before anything is shown.

A line is an edit (`Edit.to_json`) or a move in the history, ``{"move": id of an edit}``. The log is
all there is to save: the state of the session follows from it.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from napari_cad.proofreading.errors import ReadOnlyError, SessionError

if TYPE_CHECKING:
    from pathlib import Path


class EditLog:
    """A file of JSON lines that survives being killed at any moment.

    Parameters
    ----------
    path : Path
        Made if it is not there, unless it is only read.
    read_only : bool
        Leave the file alone, a torn last line included.

    Attributes
    ----------
    records : list of dict
        What was in the file when it was opened.
    message : str
        What had to be repaired, for the person; empty if nothing.

    Raises
    ------
    SessionError
        If the file cannot be read, or a line other than the last is damaged.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.message = ""
        self._file: int | None = None
        try:
            content = path.read_bytes() if path.exists() else b""
            self.records, self._size = self._read(content)
            if not read_only:
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o644)
                self._repair(content)
        except OSError as error:
            if isinstance(error, SessionError):
                raise
            raise SessionError(f"the log {path} cannot be opened: {error}") from error

    def append(self, record: dict[str, Any]) -> None:
        """Write a line; on return it is on the disk.

        Raises
        ------
        ReadOnlyError
            If the log was opened for reading.
        SessionError
            If the line could not be written, in which case the file is as it was.
        """
        if self._file is None:
            raise ReadOnlyError(f"{self.path} was opened for reading only")
        line = json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        try:
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError as error:
            # what was written of the line must go before anything else is; if it cannot go now, it
            # does so with the next line, and until then it is a torn last line
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise SessionError(
                f"the edit could not be written to {self.path} and was not made: {error}"
            ) from error
        self._size += len(line)

    def close(self) -> None:
        """Close the file; nothing is left to be written."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read(self, content: bytes) -> tuple[list[dict[str, Any]], int]:
        """Read the whole lines; also, how many bytes those take."""
        *lines, _ = content.split(b"\n")
        records = []
        size = 0
        for number, line in enumerate(lines, start=1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                if number == len(lines) and content.endswith(b"\n"):
                    break  # torn too: its end got to the disk before its middle
                raise SessionError(
                    f"line {number} of {self.path} is damaged ({error}): what comes after it "
                    "cannot be trusted. Remove this line and all after it to go on from there"
                ) from error
            size += len(line) + 1
        return records, size

    def _repair(self, content: bytes) -> None:
        """Put a torn last line aside; the edit in it was never shown."""
        torn = content[self._size :]
        if not torn:
            return
        aside = self.path.with_name(f"{self.path.stem}.torn")
        with aside.open("ab") as file:
            file.write(torn + b"\n")
        if self._file is not None:
            os.ftruncate(self._file, self._size)
            os.fsync(self._file)
        self.message = (
            f"the last line of {self.path.name} was torn ({len(torn)} bytes, now in {aside.name}): "
            "the edit that was being made when the program ended is missing, all others are there"
        )


#: On Windows a descriptor translates line ends unless told not to.
_BINARY = getattr(os, "O_BINARY", 0)


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is there either whole or not at all, and on the disk on return.

    Raises
    ------
    SessionError
        If it cannot be written.
    """
    beside = path.with_name(f"{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise SessionError(f"{path} could not be written: {error}") from error


def _sync_folder(path: Path) -> None:
    """Put the names in a folder on the disk, where the system allows it (Windows does not)."""
    if os.name != "posix":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
