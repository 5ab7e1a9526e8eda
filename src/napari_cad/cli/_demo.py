"""`napari-cad demo`: the main job on a stack that comes with the package."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

if TYPE_CHECKING:
    from napari_cad.core.evaluation import StoreEvaluation
    from napari_cad.core.store import SegmentationStore
    from napari_cad.core.volume import EMVolume


def demo(
    folder: Annotated[
        Path, typer.Option("--folder", help="Where the stack, the run and the picture go.")
    ] = Path("napari-cad-demo"),
    show: Annotated[
        bool | None,
        typer.Option("--show/--no-show", help="Open napari; by default where there is a display."),
    ] = None,
) -> None:
    """Segment the synthetic sample with the embedded checkpoint, score it and show it."""
    from napari_cad.cli._progress import follow
    from napari_cad.core.evaluation import evaluate_store
    from napari_cad.core.readers import open_volume
    from napari_cad.core.segmentation_job import segmentation_job
    from napari_cad.core.store import SegmentationStore

    folder.mkdir(parents=True, exist_ok=True)
    stack, truth = _sample(folder)
    typer.echo(f"stack: {stack}")
    run = folder / "run.zarr"
    volume = open_volume(stack)
    follow(segmentation_job(volume, "default", run, overwrite=True), as_json=False)
    store = SegmentationStore.open(run)
    result = evaluate_store(store, open_volume(truth))
    typer.echo(_score_line(store, result))
    picture = folder / "result.png"
    _write_picture(picture, volume, store)
    typer.echo(f"run: {run}\npicture: {picture} (section, affinities, segments)")
    if show is False:
        return
    if show is None and not _has_display():
        typer.echo("There is no display here, so napari is not opened.")
        return
    from napari_cad.cli._view import view

    view([str(run)])


def _sample(folder: Path) -> tuple[Path, Path]:
    """Write the sample and its truth as TIFF stacks with their voxel size."""
    from napari_cad.core.export import export_labels
    from napari_cad.core.synthetic import sample_em

    sample = sample_em()
    paths = folder / "sample.tif", folder / "truth.tif"
    for path, array in zip(paths, (sample.raw, sample.labels), strict=True):
        sections = array.astype(np.uint32)
        export_labels(
            sections.__getitem__,
            sections.shape,
            path,
            voxel_size=sample.voxel_size,
            overwrite=True,
        )
    return paths


def _score_line(store: SegmentationStore, result: StoreEvaluation) -> str:
    n_segments = len(np.unique(store.lut()[1:]))
    return (
        f"{n_segments} segments of {store.n_fragments} fragments at threshold "
        f"{result.threshold:g}: VOI {result.scores.voi:.3f} "
        f"({result.scores.voi_split:.3f} split + {result.scores.voi_merge:.3f} merge), "
        f"ARAND {result.scores.arand:.3f}"
    )


def _write_picture(path: Path, volume: EMVolume, store: SegmentationStore) -> None:
    """Section, affinities as RGB and segments over the section, side by side."""
    import imageio.v3 as iio

    from napari_cad.core.evaluation import coloured

    z = volume.n_sections // 2
    grey = np.repeat(volume.section(z)[..., None], 3, axis=2)
    affinities = np.moveaxis(store.read_affinities(z), 0, -1)
    segments = coloured(store.lut()[store.read_fragments(z)])
    overlay = (0.55 * grey + 0.45 * segments).astype(np.uint8)
    iio.imwrite(path, np.concatenate([grey, affinities, overlay], axis=1))


def _has_display() -> bool:
    if platform.system() == "Linux":
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True
