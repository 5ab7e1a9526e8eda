"""What runs in a child process on behalf of the viewer: no Qt, no napari.

Everything that takes longer than a few milliseconds is done here, so that what is left for the
viewer is to show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_cad.core.events import Event, Finished, SectionDone, StageStarted

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_cad.core.segmentation_job import SegmentationOptions
    from napari_cad.core.synthetic import SyntheticEM
    from napari_cad.core.volume import EMVolume

#: Names of the jobs, as `JobProcess` wants them.
SEGMENT = f"{__name__}:segment"
DOWNLOAD = f"{__name__}:download"
SAMPLE = f"{__name__}:make_sample"


@dataclass(frozen=True, eq=False)
class Segmented(Event):
    """The LUT of a finished run at its threshold, shape (n_fragments + 1,), uint32."""

    lut: npt.NDArray[Any]


def segment(
    volume: EMVolume,
    checkpoint: str,
    store_path: str,
    options: SegmentationOptions,
    overwrite: bool = False,
) -> Iterator[Event]:
    """Segment a volume and send the LUT along.

    Parameters
    ----------
    volume, checkpoint, store_path, options, overwrite
        See `napari_cad.core.segmentation_job.segmentation_job`.

    Yields
    ------
    Event
        Those of that job, with `Segmented` before `Finished`.
    """
    from napari_cad.core.segmentation_job import segmentation_job
    from napari_cad.core.store import SegmentationStore

    for event in segmentation_job(volume, checkpoint, store_path, options, overwrite=overwrite):
        if isinstance(event, Finished):
            yield Segmented(SegmentationStore.open(event.store_path).lut())
        yield event


def download(name: str) -> Iterator[Event]:
    """Download a published checkpoint, which a person has asked for.

    Parameters
    ----------
    name : str
        A key of `napari_cad.core.published.PUBLISHED`.

    Yields
    ------
    Event
        At its beginning and its end.
    """
    from napari_cad.core.registry import download_published

    yield StageStarted("download", 1)
    download_published(name)
    yield SectionDone("download", 0, 1, 1)


@dataclass(frozen=True, eq=False)
class SampleMade(Event):
    """The synthetic stack with its truth."""

    sample: SyntheticEM


def make_sample() -> Iterator[Event]:
    """Make the synthetic sample, which takes seconds.

    Yields
    ------
    Event
        `SampleMade`.
    """
    from napari_cad.core.synthetic import sample_em

    yield SampleMade(sample_em())
