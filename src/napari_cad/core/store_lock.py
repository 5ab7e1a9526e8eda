"""One run at a time for a store: a lock of the system's, which goes with the process that has it.

Two runs in one store would each write sections over those of the other. The second one may even
have begun the store anew, with another checkpoint: what the first one still writes, by the same
path, would come to lie among it, marked as done.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from napari_cad.core.errors import StoreError
from napari_cad.core.locations import location

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

#: Seconds to wait for a run that has just been ended to go, and between two attempts.
_PATIENCE, _PAUSE = 5.0, 0.1


@contextlib.contextmanager
def sole_run(place: str | Path) -> Iterator[None]:
    """Be the only run at a place for as long as the context lasts.

    The lock is a hidden file beside the store, ``.RUN.zarr.lock``, that is gone afterwards. Where
    none can be had (a URL, a file system without locks, a folder that cannot be written into) there
    is nothing but the person's care.

    Parameters
    ----------
    place : path or URL
        Of a store, there or not.

    Raises
    ------
    StoreError
        If another run, of this process or another one, is at it and does not end within seconds.
    """
    where = location(place)
    if not isinstance(where, Path):
        yield
        return
    real = where.resolve()
    path = real.parent / f".{real.name}.lock"
    file = _acquire(path, f"{place} is being made by another run")
    try:
        yield
    finally:
        if file is not None:
            _release(file, path)


def _acquire(path: Path, problem: str) -> IO[bytes] | None:
    """Give the open lock file; None where there are no locks."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError:  # whoever makes the store says it better
            return None
        try:
            _lock(file)
        except (BlockingIOError, PermissionError) as error:
            file.close()
            if time.monotonic() > until:
                raise StoreError(
                    f"{problem}: wait until that has ended, or stop it, and run this again"
                ) from error
            time.sleep(_PAUSE)
            continue
        except OSError:
            file.close()
            return None
        if _is_at(file, path):
            return file
        file.close()  # its last holder has removed it meanwhile


def _release(file: IO[bytes], path: Path) -> None:
    """Let others in, and leave no file behind where nobody waits for it."""
    with file, contextlib.suppress(OSError):  # Windows removes no file that is open
        path.unlink()
    if sys.platform == "win32":
        with contextlib.suppress(OSError):
            path.unlink()


def _lock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
