"""One session, one editor: a lock file that says which process it is."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import psutil

from napari_cad.proofreading.errors import SessionError

if TYPE_CHECKING:
    from pathlib import Path

#: A lock file without content is one that is being written, or one whose writer was killed.
_EMPTY_FOR_SECONDS = 10.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Attributes
    ----------
    host : str
    pid : int
    started : float
        When the process was started, seconds since the epoch: process ids are used again.
    token : str
        Tells two locks of one process apart.
    """

    host: str
    pid: int
    started: float
    token: str

    @classmethod
    def of_this_process(cls) -> Holder:
        """Make one for the calling process."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, psutil.Process(pid).create_time(), uuid.uuid4().hex)

    def is_gone(self) -> bool:
        """Whether the process is known to have ended; false if it ran on another computer."""
        if self.host != socket.gethostname():
            return False
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.started) > 1.0)
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


class SessionLock:
    """Held by the one process that may edit a session.

    Parameters
    ----------
    path : Path
        The lock file.
    take_over : bool
        Take the lock although another process holds it: for a lock left behind by another
        computer, whose processes cannot be looked up from here.

    Attributes
    ----------
    is_ours : bool
        Whether this process may edit.
    holder : Holder or None
        Who may; None where the file does not say.
    """

    def __init__(self, path: Path, *, take_over: bool = False) -> None:
        self.path = path
        self.holder: Holder | None = Holder.of_this_process()
        self._ours = self.holder
        self.is_ours = self._create()
        if not self.is_ours:
            self.holder = self._read()
            if take_over or self._is_stale():
                self._put_aside()
                self.is_ours = self._create()
                self.holder = self._read()

    def still_ours(self) -> bool:
        """Ask the file whether this process may edit, or another took the lock over meanwhile."""
        self.is_ours = self.is_ours and self._read() == self._ours
        return self.is_ours

    def message(self) -> str:
        """Say who holds the lock and what to do about it."""
        holder = self._read() or self.holder
        who = (
            f"process {holder.pid} on {holder.host}"
            if holder is not None
            else "another process that does not say which"
        )
        return (
            f"this session is being edited by {who} and is open for reading only: close it there, "
            "or, if that process is no more, open it again and take it over"
        )

    def release(self) -> None:
        """Let others edit."""
        if self.still_ours():
            self.path.unlink(missing_ok=True)
        self.is_ours = False

    def _create(self) -> bool:
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        except OSError as error:
            raise SessionError(f"the lock {self.path} cannot be written: {error}") from error
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            json.dump(asdict(self._ours), stream)
        return True

    def _read(self) -> Holder | None:
        return _read_holder(self.path)

    def _is_stale(self) -> bool:
        if self.holder is not None:
            return self.holder.is_gone()
        try:
            return time.time() - self.path.stat().st_mtime > _EMPTY_FOR_SECONDS
        except FileNotFoundError:
            return True

    def _put_aside(self) -> None:
        """Remove the lock that was read, and no other.

        Two processes may find the same stale lock. Renaming is atomic, so one of them gets it; if
        what it got is the other's new lock, that goes back.
        """
        aside = self.path.with_name(f"{self.path.name}.{self._ours.token}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, aside)
            taken = _read_holder(aside)
            if taken is not None and taken != self.holder:
                os.rename(aside, self.path)
            else:
                aside.unlink()


def _read_holder(path: Path) -> Holder | None:
    """Who a lock file names; None if it is gone or half written."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
