"""What runs in a child process on behalf of the viewer: no Qt, no napari.

Everything that takes longer than a few milliseconds is done here, so that what is left for the
viewer is to show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_cad.core.events import Event, SectionDone, StageStarted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_cad.core.synthetic import SyntheticEM

#: Names of the jobs, as `JobProcess` wants them.
SEGMENT = "napari_cad.core.segmentation_job:segmentation_job"
DOWNLOAD = f"{__name__}:download"
SAMPLE = f"{__name__}:make_sample"


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
