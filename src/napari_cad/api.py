"""The same in Python: `napari_cad.segment(...)` and `napari_cad.train(...)`.

>>> import napari_cad
>>> run = napari_cad.segment("stack.tif", "run.zarr")  # doctest: +SKIP
>>> labels = run.lut()[run.read_fragments(0)]  # section 0  # doctest: +SKIP
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cad.core.errors import NapariCadError
from napari_cad.core.events import Warned
from napari_cad.core.readers import open_volume
from napari_cad.core.segmentation_job import SegmentationOptions, segmentation_job
from napari_cad.core.store import SegmentationStore
from napari_cad.core.volume import EMVolume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from napari_cad.core.events import Event
    from napari_cad.training.config import TrainingConfig
    from napari_cad.training.data import TrainingVolume
    from napari_cad.training.events import TrainingFinished


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
    output : path or URL
        The store, by custom RUN.zarr.
    checkpoint : str or path
        "default", the name of a published checkpoint, or a file.
    voxel_size : tuple of float, optional
        (z, y, x) in nm, where an array or a file does not say it.
    options : SegmentationOptions, optional
        Intensity mapping, device, merge function, threshold, the scheduler of a cluster and so on;
        what is left open is taken from the checkpoint.
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


def train(
    config: TrainingConfig | str | Path,
    run: str | Path,
    *,
    volumes: Sequence[TrainingVolume] | None = None,
    validation: Sequence[TrainingVolume] | None = None,
    minutes: float | None = None,
    progress: Callable[[Event], None] | None = None,
) -> TrainingFinished:
    """Train a student, alone or with a teacher, or fine-tune one.

    Parameters
    ----------
    config : TrainingConfig or path
        The settings (`napari_cad.training.config`), or a TOML file with them.
    run : path
        Folder of the run; it must not hold one yet.
    volumes, validation : sequence of TrainingVolume, optional
        In place of those that the settings name, for example arrays in memory.
    minutes : float, optional
        Stop after this time; `resume_training` goes on.
    progress : callable, optional
        Called with every event of `napari_cad.training.events`.

    Returns
    -------
    TrainingFinished
        Its `checkpoint` is the file to use: the best by validation, or the last without one.

    Raises
    ------
    NapariCadError
        If the settings, the data or a checkpoint cannot be used (nothing is written then), a step
        does not fit into memory, or the loss is no number any more (the last saved weights stay).

    Examples
    --------
    >>> import numpy as np
    >>> import napari_cad
    >>> from napari_cad.core.volume import EMVolume
    >>> from napari_cad.training.config import StudentConfig, TrainingConfig
    >>> from napari_cad.training.data import TrainingVolume
    >>> image, labels = np.load("image.npy"), np.load("labels.npy")  # doctest: +SKIP
    >>> size = (30.0, 6.0, 6.0)  # nm, (z, y, x)
    >>> volume = TrainingVolume(
    ...     EMVolume.from_array(image, voxel_size=size), EMVolume.from_array(labels)
    ... )  # doctest: +SKIP
    >>> config = TrainingConfig(steps=500, student=StudentConfig(checkpoint="default"))
    >>> done = napari_cad.train(config, "run", volumes=[volume])  # doctest: +SKIP
    >>> napari_cad.segment("stack.tif", "stack.zarr", done.checkpoint)  # doctest: +SKIP
    """
    from napari_cad.training.config import TrainingConfig
    from napari_cad.training.loop import train as train_events

    if not isinstance(config, TrainingConfig):
        config = TrainingConfig.from_toml(config)
    events = train_events(config, run, volumes=volumes, validation=validation, minutes=minutes)
    return _to_the_end(events, progress)


def resume_training(
    run: str | Path,
    *,
    volumes: Sequence[TrainingVolume] | None = None,
    validation: Sequence[TrainingVolume] | None = None,
    steps: int | None = None,
    device: str | None = None,
    minutes: float | None = None,
    progress: Callable[[Event], None] | None = None,
) -> TrainingFinished:
    """Go on with a training run as if it had not been stopped.

    Parameters
    ----------
    run : path
        Its folder.
    volumes, validation : sequence of TrainingVolume, optional
        Those given to `train`, if any were.
    steps : int, optional
        Another number of steps for the whole run.
    device : str, optional
        Another device than before.
    minutes, progress
        As of `train`.

    Returns
    -------
    TrainingFinished

    Raises
    ------
    NapariCadError
        As of `train`, and if the folder holds no run or the data are not those of the run.
    """
    from napari_cad.training.loop import resume

    events = resume(
        run, volumes=volumes, validation=validation, steps=steps, device=device, minutes=minutes
    )
    return _to_the_end(events, progress)


def _to_the_end(
    events: Iterator[Event], progress: Callable[[Event], None] | None
) -> TrainingFinished:
    from napari_cad.training.events import TrainingFinished

    finished = None
    for event in events:
        if isinstance(event, Warned):
            warnings.warn(event.message, stacklevel=3)
        if progress is not None:
            progress(event)
        if isinstance(event, TrainingFinished):
            finished = event
    if finished is None:
        raise NapariCadError("this is not the first of several processes: only that one reports")
    return finished
