"""Making room for a store where another one lies: what is removed for it, and what never is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import zarr
from zarr.storage import LocalStore

from napari_cad.core.errors import StoreError
from napari_cad.core.formats._files import FileArray, split_choice
from napari_cad.core.locations import (
    Location,
    as_path,
    is_free,
    location,
    remote_errors,
    remove,
    set_aside,
)
from napari_cad.core.store_layout import (
    GROUPS,
    METADATA,
    UNFINISHED,
    is_store,
    is_unfinished,
    open_root,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_cad.core.volume import EMVolume

#: What else may be there: the metadata, what zarr is about to replace them with, and hidden files
#: of systems.
_OTHERS = re.compile(rf"zarr\.json|zarr\.[0-9a-f]+\.partial|{UNFINISHED}|\..*")


def make_room(place: Location, volume: EMVolume, *, overwrite: bool) -> None:
    """Make a place free for the store of a volume, or leave it as it is and say why.

    A folder of this machine is only set aside; see `locations.remove_set_aside`.

    Parameters
    ----------
    place : Path or str
        What lies there may be nothing, a store, or an empty one that was not made to its end.
    volume : EMVolume
        What is to be segmented.
    overwrite : bool
        Whether a store may be removed.

    Raises
    ------
    StoreError
        If something is in the way that must not be removed, or cannot be: a store without leave;
        what is no store; a store that the volume lies in, or that holds what no run has made.
    """
    if is_free(place):
        return
    if is_store(place):
        if not overwrite:
            raise StoreError(f"{place} is a store already: open it, or allow to overwrite it")
    elif not is_unfinished(place):
        raise StoreError(f"expected a free place for the store, but {place} is in the way")
    try:
        _check_contents(place, volume)
        # a link stays, and what it leads to is replaced
        if isinstance(place, Path):
            set_aside(place.resolve())
        else:
            _remove_remote(place)
    except StoreError:
        raise
    except remote_errors() as error:
        raise StoreError(f"{place} cannot be replaced ({error})") from error


def _check_contents(place: Location, volume: EMVolume) -> None:
    """Refuse to remove what a run cannot make again."""
    for source in _places_of(volume):
        if _lies_in(source, place):
            raise StoreError(
                f"{volume.name}, which is to be segmented, lies in {place} ({source}), and would "
                "be removed with it: choose another place for the store, or move the volume"
            )
    names = sorted(entry.name for entry in as_path(place).iterdir())
    strangers = [name for name in names if name not in GROUPS and not _OTHERS.fullmatch(name)]
    if strangers:
        raise StoreError(
            f"{place} holds {', '.join(strangers)}, which no run has made and which would be "
            "removed with it: move that first, or choose another place for the store"
        )


def _places_of(volume: EMVolume) -> Iterator[Location]:
    """Give the places that a volume is read from, as far as they can be told."""
    if volume.source is not None:
        place = location(volume.source.path)
        dataset = (split_choice(volume.source.dataset)[0] or "").strip("/")
        # both: inside the one, the other may be a link
        yield place
        yield place / dataset if isinstance(place, Path) else f"{place}/{dataset}"
    data: Any = volume.data
    if isinstance(data, FileArray):
        yield location(data.path)
    elif isinstance(data, zarr.Array) and isinstance(data.store, LocalStore):
        yield data.store.root / data.path


def _lies_in(source: Location, place: Location) -> bool:
    """Whether something lies in a folder, or is it, by its name or by where its links lead."""
    if not isinstance(source, Path) or not isinstance(place, Path):
        if isinstance(source, Path) or isinstance(place, Path):
            return False
        return f"{as_path(source)}/".startswith(f"{as_path(place)}/")
    for path in (Path(os.path.abspath(source)), source.resolve()):
        for parent in (path, *path.parents):
            # the system knows of other spellings, too
            if parent.exists() and parent.samefile(place):
                return True
    return False


def _remove_remote(place: str) -> None:
    """Remove a store where nothing can be renamed; one that is cut short can be begun again."""
    open_root(place, "r+").attrs.put({UNFINISHED: True})
    for entry in list(as_path(place).iterdir()):
        if entry.name == METADATA:  # it holds the mark, and goes last
            continue
        if entry.is_dir():
            cast("Any", entry).rmdir(recursive=True)
        else:
            entry.unlink()
    remove(place)
