"""`napari-cad segment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_cad.cli._errors import EXIT_INTERRUPTED
from napari_cad.cli._options import (
    Json,
    Sections,
    VoxelSize,
    parse_crop,
    parse_numbers,
    parse_range,
    parse_voxel_size,
)
from napari_cad.core.binning import MOST, QUICK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_cad.core.events import Event
    from napari_cad.core.intensity import IntensityMapping

_IN = "Intensity"
_FIT = "Fitting the student to the stack (napari-cad fit suggests values)"
_RUN = "Where and how it runs"


def segment(
    volume: Annotated[
        str,
        typer.Argument(
            metavar="VOLUME",
            help="A multi-page TIFF, a folder of sections (PNG, TIFF), file.h5:/dataset, zarr or "
            "OME-Zarr (also by URL), MRC or .npy.",
        ),
    ],
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint",
            "-c",
            help="A checkpoint file, the name of a published one (see napari-cad download), or "
            "default for the one that comes with the package.",
        ),
    ] = "default",
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="RUN.zarr",
            help="The store, a path or a URL (s3://bucket/run.zarr); by default VOLUME-CKPT.zarr "
            "here (VOLUME-CKPT-bin2.zarr of a quick look).",
        ),
    ] = None,
    voxel_size: VoxelSize = None,
    sections: Sections = None,
    crop: Annotated[
        str | None, typer.Option(metavar="Y0:Y1,X0:X1", help="This part of every section only.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A quick look at half the resolution in y and x, in less than half the time; "
            "the same as --bin 2.",
        ),
    ] = False,
    bin_: Annotated[
        int | None,
        typer.Option(
            "--bin",
            metavar="N",
            min=1,
            max=MOST,
            help="Average every section over N × N voxels first; the labels have that size too.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            "-t",
            help="Agglomeration threshold in [0, 1], higher merges more; by default what the "
            "checkpoint recommends. Any other can be had later without a new run.",
        ),
    ] = None,
    absorb: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Join segments of fewer than N voxels to the neighbour that they would merge "
            "with first.",
        ),
    ] = 0,
    merge_function: Annotated[
        str | None,
        typer.Option(
            help="Statistic of the affinities on a contact: median (published), mean, quantile75 "
            "and more, or multicut, which has no threshold."
        ),
    ] = None,
    intensity: Annotated[
        str | None,
        typer.Option(
            help="dtype (value over the range of its type, default for uint8), or percentiles "
            "(0.1 to 99.9 %, default otherwise).",
            rich_help_panel=_IN,
        ),
    ] = None,
    limits: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH", help="Values that become black and white.", rich_help_panel=_IN
        ),
    ] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="Membranes are bright here.", rich_help_panel=_IN)
    ] = False,
    adapt: Annotated[
        float,
        typer.Option(
            metavar="STRENGTH",
            help="Share in [0, 1] of the network's normalisation that is measured on this stack "
            "instead of taken from the checkpoint.",
            rich_help_panel=_FIT,
        ),
    ] = 0.0,
    smooth: Annotated[
        float,
        typer.Option(
            metavar="SIGMA",
            help="Standard deviation in voxels of a Gaussian on every section.",
            rich_help_panel=_FIT,
        ),
    ] = 0.0,
    rescale: Annotated[
        float,
        typer.Option(
            metavar="F",
            help="The network sees sections F times their size (the stack's voxel size over the "
            "checkpoint's); the result has the stack's own size.",
            rich_help_panel=_FIT,
        ),
    ] = 1.0,
    augment: Annotated[
        str,
        typer.Option(
            help="Average several views of each pair: order (2 times the time), flips (4), "
            "dihedral (8), all (16), or none.",
            rich_help_panel=_RUN,
        ),
    ] = "none",
    device: Annotated[
        str, typer.Option(help="auto, cuda, cuda:N, mps or cpu.", rich_help_panel=_RUN)
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=_RUN),
    ] = "auto",
    tile: Annotated[
        int | None,
        typer.Option(
            help="Longest side in voxels that the network sees at once; by default whole sections "
            "where they fit into memory.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Pairs of sections at once.", rich_help_panel=_RUN)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that make fragments; by default one per core.", rich_help_panel=_RUN
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="4GB",
            help="All processes of the run together stay below this much main memory, whatever "
            "the size of the volume; by default there is no limit. With --scheduler, each worker.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A dask scheduler (tcp://HOST:PORT, or its file) whose workers do the run, all of "
            "which see the volume, the checkpoint and RUN.zarr.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Begin anew if RUN.zarr exists; refused where VOLUME lies in it, or anything else "
            "that no run has made.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Segment a volume into a store, or go on with a run that was stopped.

    The store holds affinities, fragments and the region graph; napari-cad view shows it,
    napari-cad export writes the labels, napari-cad evaluate scores them.
    """
    from napari_cad.cli._progress import follow
    from napari_cad.core.config import FitConfig, InferenceConfig
    from napari_cad.core.events import StageStarted
    from napari_cad.core.memory_plan import parse_memory
    from napari_cad.core.readers import open_volume
    from napari_cad.core.segmentation_job import SegmentationOptions, segmentation_job

    z_range, yx_range = parse_range(sections, "--sections"), parse_crop(crop)
    opened = open_volume(volume, voxel_size=parse_voxel_size(voxel_size))
    if z_range or yx_range:
        y_range, x_range = yx_range or (None, None)
        opened = opened.crop(z_range, y_range, x_range)
    options = SegmentationOptions(
        intensity=_intensity(intensity, limits),
        invert=invert,
        merge_function=merge_function,
        threshold=threshold,
        absorb=absorb,
        inference=InferenceConfig(device=device, precision=precision, tile=tile, batch=batch),
        workers=workers,
        memory=None if memory is None else parse_memory(memory),
        fit=FitConfig(adapt=adapt, smooth=smooth, rescale=rescale),
        augmentation=augment,
        bin=_bin(quick, bin_),
        scheduler=scheduler,
    )
    at = "" if options.bin == 1 else f"-bin{options.bin}"
    store = output or f"{opened.name}-{Path(checkpoint).stem}{at}.zarr"
    begun = False

    def noting_the_beginning() -> Iterator[Event]:
        nonlocal begun
        for event in segmentation_job(opened, checkpoint, store, options, overwrite=overwrite):
            begun = begun or isinstance(event, StageStarted)  # the store is there from here on
            yield event

    try:
        finished = follow(noting_the_beginning(), as_json=as_json)
    except KeyboardInterrupt:
        if begun:
            # the option would throw away what is done
            again = "the same command without --overwrite" if overwrite else "the same command"
            left = f"What is done is in {store}; {again} goes on from there."
        else:
            left = f"It had not begun; what there is at {store} is as it was."
        typer.echo(f"\nStopped. {left}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if finished is not None and not as_json:
        typer.echo(
            f"{finished.n_segments} segments of {finished.n_fragments} fragments in {store} "
            f"({finished.seconds:.0f} s)\nSee it: napari-cad view {store}"
        )


def _bin(quick: bool, wanted: int | None) -> int:
    """How many voxels along y and x become one."""
    if quick and wanted not in (None, QUICK):
        raise typer.BadParameter(f"--quick is --bin {QUICK}: leave one of the two out")
    return QUICK if quick else wanted or 1


def _intensity(method: str | None, limits: str | None) -> IntensityMapping | None:
    """Make the intensity mapping that the options ask for, None where they ask for none."""
    from napari_cad.core.intensity import IntensityMapping

    if limits is not None:
        if method not in (None, "limits"):
            raise typer.BadParameter(
                f"--limits says which values become black and white, and so does --intensity "
                f"{method}: leave one of the two out"
            )
        numbers = parse_numbers(limits, 2, "--limits")
        assert numbers is not None
        return IntensityMapping("limits", numbers[0], numbers[1])
    return None if method is None else IntensityMapping(method)  # type: ignore[arg-type]
