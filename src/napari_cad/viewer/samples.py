"""Sample data: made here, without a download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_cad.viewer.layers import tag
from napari_cad.viewer.placement import Placement

if TYPE_CHECKING:
    from napari_cad.core.synthetic import SyntheticEM


def synthetic_sample() -> list[tuple[Any, dict[str, Any], str]]:
    """Make a synthetic EM stack with its truth.

    Returns
    -------
    list of LayerData
        A uint8 image and a labels layer, (16, 384, 384) voxels of (30, 6, 6) nm.
    """
    from napari_cad.core.synthetic import sample_em

    return sample_layers(sample_em())


def sample_layers(sample: SyntheticEM) -> list[tuple[Any, dict[str, Any], str]]:
    """Make LayerData of the sample; see `synthetic_sample`."""
    placed = Placement.of_volume(sample.voxel_size).for_axes(3)
    image = {"name": "synthetic EM", "metadata": tag("image"), **placed}
    truth = {"name": "truth", "metadata": tag("truth"), "visible": False, **placed}
    return [(sample.raw, image, "image"), (sample.labels, truth, "labels")]
