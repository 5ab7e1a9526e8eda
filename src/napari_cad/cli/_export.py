"""`napari-cad export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_cad.cli._options import Run, Threshold


def export(
    run: Run,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="labels.zarr (OME-Zarr), labels.tif or labels.h5: the ending decides.",
        ),
    ],
    threshold: Threshold = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it exists.")
    ] = False,
) -> None:
    """Write the labels of a run as OME-Zarr, TIFF or HDF5."""
    from napari_cad.core.export import export_labels
    from napari_cad.core.store import SegmentationStore

    store = SegmentationStore.open(run)
    lut = store.lut(threshold)
    export_labels(
        lambda z: lut[store.read_fragments(z)],
        store.shape,
        output,
        voxel_size=store.voxel_size,
        origin=store.origin,
        max_label=int(lut.max(initial=0)),
        overwrite=overwrite,
        source=store.address,
    )
    typer.echo(f"wrote {output}")
