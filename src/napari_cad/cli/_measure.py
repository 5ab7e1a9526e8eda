"""`napari-cad measure` and `napari-cad meshes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_cad.cli._options import Run, Threshold
from napari_cad.core.meshes import Detail


def measure(
    run: Run,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="TABLE.csv", help="One line per segment.")
    ],
    contacts: Annotated[
        Path | None,
        typer.Option(
            "--contacts",
            metavar="GRAPH",
            help="Also write who touches whom: GraphML where it ends in .graphml, else an edge "
            "list as CSV.",
        ),
    ] = None,
    threshold: Threshold = None,
) -> None:
    """Write volume, extent, surface and contacts of all segments as tables."""
    from napari_cad.core.measure_job import APPROXIMATE
    from napari_cad.core.segment_export import segment_columns, write_contacts, write_csv
    from napari_cad.core.segment_table import SegmentMeasures
    from napari_cad.core.store import SegmentationStore

    store = SegmentationStore.open(run)
    measures = SegmentMeasures(store.fragment_table(), store.region_graph(), store.voxel_size)
    if not measures.exact:
        typer.echo(APPROXIMATE, err=True)
    measured = measures.measure(store.lut(threshold))
    write_csv(output, segment_columns(measured.segments))
    typer.echo(f"{len(measured.segments)} segments in {output}")
    if contacts is not None:
        write_contacts(contacts, measured.segments, measured.contacts)
        named = int((measured.contacts.u != 0).sum())
        typer.echo(f"{named} contacts in {contacts}")


def meshes(
    run: Run,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="One file per segment.")
    ],
    segments: Annotated[
        str | None, typer.Option(metavar="ID,ID,…", help="Which segments to mesh.")
    ] = None,
    largest: Annotated[
        int, typer.Option(metavar="N", min=0, help="Mesh the N segments of most voxels.")
    ] = 0,
    file_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="ply, obj or stl.")
    ] = "ply",
    detail: Annotated[
        Detail,
        typer.Option(
            help="full (every voxel), normal (samples as long within a section as it is thick) or "
            "coarse (twice that)."
        ),
    ] = "normal",
    threshold: Threshold = None,
) -> None:
    """Write segments as meshes, (x, y, z) in nm."""
    import re

    import numpy as np

    from napari_cad.core.mesh_job import MeshWritten, export_run_meshes
    from napari_cad.core.store import SegmentationStore

    if segments is not None and not re.fullmatch(r"\d+(,\d+)*", segments):
        raise typer.BadParameter(
            f"expected ids such as 12,40,7, got {segments!r}", param_hint="--segments"
        )
    ids = [int(text) for text in (segments or "").split(",") if text]
    store = SegmentationStore.open(run)
    lut = store.lut(threshold)
    if largest:
        table = store.fragment_table()
        voxels = np.bincount(lut[table[:, 0].astype(np.intp)], weights=table[:, 1])
        order = np.argsort(-voxels, kind="stable")[:largest]
        ids += [int(i) for i in order if i and voxels[i] and i not in ids]
    if not ids:
        raise typer.BadParameter("name them, or ask for the largest", param_hint="--segments")
    events = export_run_meshes(run, ids, str(output), file_format, lut=lut, detail=detail)
    written = [event.path for event in events if isinstance(event, MeshWritten)]
    missing = len(written) - len([path for path in written if path])
    note = f", {missing} are not there or too small" if missing else ""
    typer.echo(f"{len(written) - missing} meshes in {output}{note}")
