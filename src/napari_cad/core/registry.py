"""Finding a checkpoint by name: the embedded default, the published ones, or a file.

Nothing is downloaded unless `download_published` is called.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import TYPE_CHECKING

import pooch
import requests.exceptions

from napari_cad.core.errors import CheckpointError
from napari_cad.core.published import BASE_URL, PUBLISHED, PublishedCheckpoint, find_published

if TYPE_CHECKING:
    import os

    from napari_cad.core.checkpoint import Checkpoint

__all__ = [
    "DEFAULT",
    "PUBLISHED",
    "PublishedCheckpoint",
    "cached_published",
    "checkpoint_address",
    "download_published",
    "find_published",
    "resolve_checkpoint",
]

#: Name of the checkpoint that comes with the package.
DEFAULT = "default"

_DEFAULT_FILE = "default_student.safetensors"

#: Seconds that a server may be silent.
_TIMEOUT = 30.0


def cached_published(name: str, *, cache: str | os.PathLike[str] | None = None) -> Path | None:
    """Tell where an earlier download of a published checkpoint lies.

    Parameters
    ----------
    name : str
        A key of `PUBLISHED`.
    cache : str or Path, optional
        The folder for downloads; by default the one that the system has for napari-cad.

    Returns
    -------
    Path or None
        None if it was not downloaded. What the file holds is not checked here.

    Raises
    ------
    CheckpointError
        If there is no published checkpoint of that name.
    """
    path = _cache(cache) / _published(name).file_name
    return path if path.is_file() else None


def download_published(
    name: str,
    *,
    base_url: str | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Path:
    """Download a published checkpoint from its authors' repository, unless it is there already.

    Call it only when a person asked for it: the authors attached no licence to these files.

    Parameters
    ----------
    name : str
        A key of `PUBLISHED`.
    base_url : str, optional
        Folder to download from (http or https); by default the authors' repository.
    cache : str or Path, optional
        Folder to download to; by default the one that the system has for napari-cad.

    Returns
    -------
    Path
        The file. Its sha256 was checked; a file that fails the check is not kept.

    Raises
    ------
    CheckpointError
        If there is no published checkpoint of that name, the server cannot be reached or does not
        have the file, what it sends is not the published file, or the cache cannot be written.
    """
    published = _published(name)
    folder = _cache(cache)
    url = f"{(base_url or BASE_URL).rstrip('/')}/{published.file_name}"
    try:
        path = pooch.retrieve(
            url,
            known_hash=f"sha256:{published.sha256}",
            fname=published.file_name,
            path=folder,
            downloader=pooch.HTTPDownloader(timeout=_TIMEOUT),
        )
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        raise CheckpointError(
            f"{name} could not be downloaded: expected the file at {url}, the server answered "
            f"{status}. Download it by hand from the authors' repository and give its path"
        ) from error
    except requests.exceptions.RequestException as error:
        raise CheckpointError(
            f"{name} could not be downloaded: {url} could not be reached or broke off "
            f"({type(error).__name__}). Check the connection, or give the path of a copy"
        ) from error
    except ValueError as error:  # pooch's, for another sha256
        raise CheckpointError(
            f"{name} was not kept: what {url} sent is not the published file (expected sha256 "
            f"{published.sha256}). The download may be damaged or the file replaced"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{name} cannot be stored in {folder}: {error}") from error
    return Path(path)


def resolve_checkpoint(
    name_or_path: str | os.PathLike[str], *, cache: str | os.PathLike[str] | None = None
) -> Checkpoint:
    """Load a checkpoint by name or path. Nothing is downloaded.

    Parameters
    ----------
    name_or_path : str or Path
        "default" for the embedded one, a key of `PUBLISHED` for an earlier download of it, else
        the path of a file (write `./default` for a file of that name).
    cache : str or Path, optional
        The folder for downloads.

    Returns
    -------
    Checkpoint

    Raises
    ------
    CheckpointError
        If it is none of these, was not downloaded yet, or cannot be loaded.
    """
    # here, since it imports torch: listing and downloading do without
    from napari_cad.core.checkpoint import load_checkpoint

    name = str(name_or_path)
    if name == DEFAULT:
        return _load_default()
    if name in PUBLISHED:
        path = cached_published(name, cache=cache)
        if path is None:
            raise CheckpointError(
                f"the published checkpoint {name} is not on this computer: download it with "
                f"`napari-cad download {name}`, or give the path of a copy. Its "
                f"licence: {PUBLISHED[name].licence}"
            )
        checkpoint = load_checkpoint(path)
        if checkpoint.sha256 != PUBLISHED[name].sha256:
            raise CheckpointError(
                f"{path} is not the published checkpoint {name} (expected sha256 "
                f"{PUBLISHED[name].sha256}, got {checkpoint.sha256}): download it again"
            )
        return checkpoint
    path = Path(name_or_path).expanduser()
    if not path.exists() and path.parent == Path() and not path.suffix:
        raise CheckpointError(
            f"no checkpoint {name!r}: expected {DEFAULT!r}, one of {', '.join(PUBLISHED)}, or the "
            "path of a file, and there is no such file"
        )
    return load_checkpoint(path)


def checkpoint_address(checkpoint: Checkpoint) -> str:
    """Give what `resolve_checkpoint` takes on another machine to find the same checkpoint.

    Returns
    -------
    str
        "default" for the embedded one, which every installation has, else its absolute path.

    Raises
    ------
    CheckpointError
        If it lies in no file.
    """
    if checkpoint.path is None:
        raise CheckpointError(
            f"the checkpoint {checkpoint.metadata.name} is in the memory of this process only: "
            "save it with save_checkpoint, so that other processes can load it"
        )
    path = checkpoint.path.absolute()
    default = importlib.resources.files("napari_cad") / "data" / _DEFAULT_FILE
    return DEFAULT if str(path) == str(default) else str(path)


def _load_default() -> Checkpoint:
    from napari_cad.core.checkpoint import load_checkpoint

    resource = importlib.resources.files("napari_cad") / "data" / _DEFAULT_FILE
    if not resource.is_file():
        raise CheckpointError(
            f"this installation has no embedded default checkpoint (data/{_DEFAULT_FILE}): "
            f"install napari-cad again, or choose one of {', '.join(PUBLISHED)} or a file"
        )
    with importlib.resources.as_file(resource) as path:
        return load_checkpoint(path)


def _published(name: str) -> PublishedCheckpoint:
    try:
        return PUBLISHED[name]
    except KeyError:
        raise CheckpointError(
            f"no published checkpoint {name!r}: expected one of {', '.join(PUBLISHED)}"
        ) from None


def _cache(cache: str | os.PathLike[str] | None) -> Path:
    return Path(cache).expanduser() if cache is not None else Path(pooch.os_cache("napari-cad"))
