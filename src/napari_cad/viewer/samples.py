"""Sample data: made here, without a download."""

from __future__ import annotations

from typing import Any

from napari_cad.viewer.layers import Placement, tag

#: (Z, Y, X): large enough to be segmented, small enough to appear in about two seconds.
SAMPLE_SHAPE = (16, 384, 384)

#: One that the embedded checkpoint was not trained on.
_SEED = 7

#: Thinner neurites than in mouse cortex, so that there are more to see in a small picture.
_CALIBRE = 0.6


def synthetic_sample() -> list[tuple[Any, dict[str, Any], str]]:
    """Make a synthetic EM stack with its truth.

    Returns
    -------
    list of LayerData
        A uint8 image and a labels layer, (16, 384, 384) voxels of (30, 6, 6) nm.
    """
    from napari_cad.core.synthetic import synthetic_em

    sample = synthetic_em(SAMPLE_SHAPE, seed=_SEED, calibre=_CALIBRE)
    placed = Placement.of_volume(sample.voxel_size).for_axes(3)
    image = {"name": "synthetic EM", "metadata": tag("image"), **placed}
    truth = {"name": "truth", "metadata": tag("truth"), "visible": False, **placed}
    return [(sample.raw, image, "image"), (sample.labels, truth, "labels")]
