"""The commands and where each lives."""

from __future__ import annotations

from typing import Annotated

import typer

from napari_cad import __version__
from napari_cad.cli._demo import demo
from napari_cad.cli._evaluate import evaluate
from napari_cad.cli._export import export
from napari_cad.cli._fit import fit
from napari_cad.cli._info import download, info
from napari_cad.cli._measure import measure, meshes
from napari_cad.cli._segment import segment
from napari_cad.cli._train import train
from napari_cad.cli._verify import verify
from napari_cad.cli._view import view

app = typer.Typer(
    name="napari-cad",
    help="Segment neurons in serial-section electron microscopy with a 2D student network.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


for _command in (
    segment,
    fit,
    evaluate,
    info,
    export,
    measure,
    meshes,
    verify,
    view,
    demo,
    download,
    train,
):
    app.command()(_command)
