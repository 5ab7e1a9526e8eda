"""The same in Python: `napari_cad.segment(...)`.

>>> import napari_cad
>>> run = napari_cad.segment("stack.tif", "run.zarr")  # doctest: +SKIP
>>> labels = run.labels_section(0)  # doctest: +SKIP
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cad.core.events import Warned
from napari_cad.core.readers import open_volume
from napari_cad.core.segmentation_job import SegmentationOptions, segmentation_job
from napari_cad.core.store import SegmentationStore
from napari_cad.core.volume import EMVolume

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from napari_cad.core.events import Event


def segment(
    volume: EMVolume | npt.NDArray[Any] | str | Path,
    output: str | Path,
    checkpoint: str | Path = "default",
    *,
    voxel_size: tuple[float, float, float] | None = None,
    options: SegmentationOptions | None = None,
    overwrite: bool = False,
    progress: Callable[[Event], None] | None = None,
) -> SegmentationStore:
    """Segment a volume into a store, or go on with a run that was stopped.

    Parameters
    ----------
    volume : EMVolume, ndarray of shape (Z, Y, X), or path
        A path is anything that `napari_cad.core.readers.open_volume` reads.
    output : path
        The store, by custom RUN.zarr.
    checkpoint : str or path
        "default", the name of a published checkpoint, or a file.
    voxel_size : tuple of float, optional
        (z, y, x) in nm, where an array or a file does not say it.
    options : SegmentationOptions, optional
        Intensity mapping, device, merge function, threshold and so on; what is left open is taken
        from the checkpoint.
    overwrite : bool
        Begin anew if there is a store at that place.
    progress : callable, optional
        Called with every event of the run.

    Returns
    -------
    SegmentationStore
        Opened for reading; `store.lut(threshold)` gives the segments at any threshold.

    Raises
    ------
    NapariCadError
        One of `napari_cad.core.errors`, saying what was expected, what came and what to do.

    Warns
    -----
    UserWarning
        Where the checkpoint or the intensity mapping does not seem to fit the volume.
    """
    if isinstance(volume, (str, Path)):
        volume = open_volume(volume, voxel_size=voxel_size)
    elif not isinstance(volume, EMVolume):
        volume = EMVolume.from_array(volume, voxel_size=voxel_size)
    for event in segmentation_job(volume, str(checkpoint), output, options, overwrite=overwrite):
        if isinstance(event, Warned):
            warnings.warn(event.message, stacklevel=2)
        if progress is not None:
            progress(event)
    return SegmentationStore.open(output)
