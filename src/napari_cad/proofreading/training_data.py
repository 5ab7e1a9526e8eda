"""Corrected segments as truth to learn from: a folder with image, labels, and what is known.

::

    volume.toml   what a training run reads: names, voxel size, which sections are labelled
    image.zarr    the sections that are labelled, and one before and after
    labels.zarr   the segments; 0 = the border between neurites, `UNLABELLED` = nothing is known

What is not verified is unlabelled, and no loss looks there.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr

from napari_cad.core.errors import ShapeError, StoreError
from napari_cad.core.events import Event, SectionDone, StageStarted
from napari_cad.core.export import export_labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from napari_cad.core.volume import EMVolume

#: Label of voxels about which nothing is known.
UNLABELLED = 1

#: Stage of the events.
WRITING = "training data"

_FILE = "volume.toml"


def truth_table(
    lut: npt.NDArray[np.uint32], lock: npt.NDArray[np.uint32], *, all_segments: bool
) -> npt.NDArray[np.uint32]:
    """Give every fragment its label as truth.

    Parameters
    ----------
    lut : ndarray, shape (n_fragments + 1,), uint32
        Fragment → segment.
    lock : ndarray, same shape, uint32
        Locked segment of each fragment, 0 = none.
    all_segments : bool
        Whether everything is truth, or only what is locked; background is a border in the one
        case, and not known in the other.

    Returns
    -------
    ndarray, same shape, uint32
        0 = border, `UNLABELLED`, and above it one label per segment.
    """
    known = lut > 0 if all_segments else lock > 0
    table = np.where(known, lut + np.uint32(UNLABELLED), np.uint32(UNLABELLED))
    if all_segments:
        table[lut == 0] = 0
    return table.astype(np.uint32)


def write_training_data(
    folder: str | Path,
    image: EMVolume,
    labels: EMVolume,
    sections: Sequence[int] | None = None,
) -> Iterator[Event]:
    """Write a folder of training data.

    Parameters
    ----------
    folder : path
        Made if it is not there; it must not hold training data already.
    image : EMVolume
        The stack.
    labels : EMVolume
        Of the same shape: fragments through `truth_table`.
    sections : sequence of int, optional
        Those whose labels are truth; by default all with any label above `UNLABELLED`.

    Yields
    ------
    Event
        A section of the image or of the labels is written.

    Raises
    ------
    ShapeError
        If the shapes differ, a section is not there, or nothing is labelled.
    StoreError
        If the folder holds training data already, or cannot be written.
    """
    if image.shape != labels.shape:
        raise ShapeError(
            f"image and labels have one shape, got {image.shape} and {labels.shape}: choose the "
            "image that was segmented"
        )
    target = Path(folder).expanduser().absolute()
    if (target / _FILE).exists():
        raise StoreError(f"{target} holds training data already: choose another folder")
    chosen = _labelled(labels) if sections is None else sorted(set(sections))
    if not chosen or chosen[0] < 0 or chosen[-1] >= image.n_sections:
        raise ShapeError(
            "nothing is verified yet: verify segments, or name the sections that are right"
            if not chosen
            else f"there are sections 0 to {image.n_sections - 1}, got {chosen[0]} to {chosen[-1]}"
        )
    # the network sees pairs of sections, and a teacher several
    first, stop = max(0, chosen[0] - 1), min(image.n_sections, chosen[-1] + 2)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in ("image.zarr", "labels.zarr"):  # left by a job that was stopped
            shutil.rmtree(target / name, ignore_errors=True)
        yield StageStarted(WRITING, 2 * (stop - first))
        shape = (stop - first, *image.shape[1:])
        array = zarr.create_array(
            store=str(target / "image.zarr"),
            shape=shape,
            chunks=(1, min(shape[1], 1024), min(shape[2], 1024)),
            dtype=image.dtype,
        )
        for i, z in enumerate(range(first, stop)):
            array[i] = image.section(z)
            yield SectionDone(WRITING, z, i + 1, 2 * (stop - first))
        export_labels(
            lambda i: labels.section(first + i),
            shape,
            target / "labels.zarr",
            voxel_size=labels.voxel_size,
            overwrite=True,
        )
        (target / _FILE).write_text(
            _settings([z - first for z in chosen], image.voxel_size), encoding="utf-8"
        )
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{target} cannot be written: {error}") from error
    yield SectionDone(WRITING, stop - 1, 2 * (stop - first), 2 * (stop - first))


def _labelled(labels: EMVolume) -> list[int]:
    return [z for z in range(labels.n_sections) if (labels.section(z) > UNLABELLED).any()]


def _settings(sections: list[int], voxel_size: tuple[float, float, float] | None) -> str:
    lines = [
        "# Truth from proofreading; sections are counted within these files.",
        'image = "image.zarr"',
        'labels = "labels.zarr"',
        'truth = "dense"',
        f"unlabelled = {UNLABELLED}",
        "complete = true",  # what is not verified is none of the verified segments
        f"labelled_sections = {sections}",
    ]
    if voxel_size is not None:
        lines.append(f"voxel_size = {[float(n) for n in voxel_size]}")
    return "\n".join(lines) + "\n"
