"""`napari-cad verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from napari_cad.cli._options import Json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_cad.core.events import Event


def verify(
    run: Annotated[
        str, typer.Argument(metavar="RUN.zarr", help="A store, finished or not; a path or a URL.")
    ],
    as_json: Json = False,
) -> None:
    """Check that a store is whole: makes fragments, edges and join scores again and compares.

    The exit code is 1 where something is wrong. Only the affinities are not made again.
    """
    from napari_cad.cli._progress import follow
    from napari_cad.core.verify import Verified, verify_store

    last = None

    def remembering() -> Iterator[Event]:
        nonlocal last
        for event in verify_store(run):
            last = event
            yield event

    follow(remembering(), as_json=as_json)
    assert isinstance(last, Verified)
    if not as_json:
        verdict = f"{last.problems} problems" if last.problems else "nothing wrong"
        typer.echo(f"{run}: {verdict} in {last.sections} sections")
    if last.problems:
        raise typer.Exit(1)
