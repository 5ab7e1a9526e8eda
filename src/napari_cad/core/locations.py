"""Where stores and volumes lie: paths of this machine, or URLs.

A URL with `file://` is a path. Any other is opened through fsspec, which finds credentials and
addresses of servers where it always does (environment, configuration files).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from napari_cad.core.errors import ConfigError, StoreError

#: A path of this machine, or a URL.
Location = Path | str


def location(place: str | os.PathLike[str]) -> Location:
    """Tell paths from URLs.

    Parameters
    ----------
    place : path-like
        A path, or a URL such as s3://bucket/run.zarr.

    Returns
    -------
    Path or str
        A path for what lies on this machine (file:// too), else the URL without a slash at its end.
    """
    text = os.fspath(place)
    if "://" not in text:
        return Path(text)
    if text.startswith("file://"):
        path = unquote(urlsplit(text).path)
        return Path(path[1:] if os.name == "nt" else path)
    return text.rstrip("/")


def address(place: Location) -> str:
    """Text by which another process finds a place: an absolute path, or the URL."""
    return os.path.abspath(place) if isinstance(place, Path) else place


def as_path(place: Location) -> Path:
    """Give something to work with as with a path, whichever it is.

    Raises
    ------
    ConfigError
        If it is a URL, and what such URLs need is not installed.
    """
    if isinstance(place, Path):
        return place
    try:
        from upath import UPath
    except ImportError as error:
        raise ConfigError(
            f"{place} is a URL, and those need more: pip install 'napari-cad[cluster]', or choose "
            "a path"
        ) from error
    try:
        remote = UPath(place)
        remote.fs.invalidate_cache()  # others may have written there since
    except (ImportError, ValueError) as error:  # what is missing is said in the message
        raise ConfigError(f"{place} cannot be opened: {error}") from error
    return cast("Path", remote)


def is_free(place: Location) -> bool:
    """Whether nothing lies at a place; an empty folder is nothing.

    Raises
    ------
    StoreError
        If nobody answers there.
    ConfigError
        See `as_path`.
    """
    path = as_path(place)
    try:
        return not path.exists() or (path.is_dir() and not any(path.iterdir()))
    except remote_errors() as error:
        raise StoreError(f"{place} cannot be looked at ({_line(error)})") from error


def remove(place: Location) -> None:
    """Remove a folder and everything in it.

    Raises
    ------
    StoreError
        If that fails half way.
    """
    try:
        if isinstance(place, Path):
            shutil.rmtree(place)
        else:
            cast("Any", as_path(place)).rmdir(recursive=True)
    except remote_errors() as error:
        raise StoreError(f"{place} cannot be removed ({_line(error)})") from error


def set_aside(place: Location) -> None:
    """Make a place free in one step, whatever ends the process; `remove_set_aside` does the rest.

    The folder gets a hidden name beside its own. At a URL, where nothing can be renamed, it is
    removed at once.

    Raises
    ------
    StoreError
        If that fails; then a folder of this machine is as it was.
    """
    if not isinstance(place, Path):
        remove(place)
        return
    try:
        place.rename(place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.replaced"))
    except OSError as error:
        raise StoreError(f"{place} cannot be replaced ({_line(error)})") from error


def remove_set_aside(place: Location) -> None:
    """Remove what was set aside from a place, also what an ended process has left there.

    Raises
    ------
    StoreError
        If that fails.
    """
    if isinstance(place, Path):
        name = re.compile(re.escape(f".{place.name}.") + r"[0-9a-f]{8}\.replaced")
        for sibling in list(place.parent.iterdir()):
            if name.fullmatch(sibling.name):
                remove(sibling)


def remote_errors() -> tuple[type[Exception], ...]:
    """Errors of disks, networks and servers: the system's, and those of libraries in use."""
    of_libraries = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"))
    return (
        OSError,
        *(getattr(sys.modules[m], name) for m, name in of_libraries if m in sys.modules),
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
