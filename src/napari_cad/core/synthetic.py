"""Synthetic serial-section EM with ground truth, for tests, the demo, training and benchmarks.

`napari_cad.core.synthetic_tissue` grows the neurites, `napari_cad.core.synthetic_image` takes the
pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.errors import ShapeError
from napari_cad.core.synthetic_image import Microscope
from napari_cad.core.synthetic_tissue import Tissue

if TYPE_CHECKING:
    import numpy.typing as npt

_SPECK = 30  # voxels; pieces smaller than this are left to the membrane


@dataclass(frozen=True)
class SyntheticEM:
    """A synthetic stack and its truth.

    Attributes
    ----------
    raw : ndarray, shape (Z, Y, X), uint8
        0 black to 255 white; membranes are dark.
    labels : ndarray, shape (Z, Y, X), uint16, or uint32 above 65535 neurites
        0 on membranes and myelin, else the neurite, 1 to n without gaps. Every neurite is connected
        through voxel faces.
    voxel_size : tuple of float
        (z, y, x) in nm.
    """

    raw: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    voxel_size: tuple[float, float, float]


def synthetic_em(
    shape: tuple[int, int, int],
    *,
    seed: int = 0,
    voxel_size: tuple[float, float, float] = (30.0, 6.0, 6.0),
    calibre: float = 1.0,
    jitter: float = 1.0,
    noise: float = 1.0,
    contrast: float = 1.0,
    defocus: float = 0.1,
) -> SyntheticEM:
    """Make a stack of neuropil as a serial-section electron microscope shows it.

    Parameters
    ----------
    shape : tuple of int
        Sections, height and width in voxels; each at least 1.
    seed : int
        The same seed gives the same stack, up to rounding that differs between processors.
    voxel_size : tuple of float
        (z, y, x) in nm. The tissue is drawn in nm: other voxels show the same sizes of neurites.
    calibre : float
        Thickness of the neurites relative to mouse cortex, 0.2 to 2: 0.5 puts about three
        times as many neurites into a picture. Membranes keep their thickness and take over below
        0.4.
    jitter : float
        Strength of the misalignment of sections: 1 is a shift of about 5 nm and a slight warp.
    noise : float
        Strength of shot and detector noise.
    contrast : float
        Strength of the changes of brightness and contrast from section to section.
    defocus : float
        Part of the sections that are out of focus, 0 to 1.

    Returns
    -------
    SyntheticEM

    Raises
    ------
    ShapeError
        If `shape` is not three positive numbers.
    ValueError
        If a voxel size is not positive, a calibre out of range, or a strength negative.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ShapeError(f"expected (sections, height, width), each at least 1, got {shape}")
    if len(voxel_size) != 3 or min(voxel_size) <= 0:
        raise ValueError(f"expected a positive voxel size (z, y, x) in nm, got {voxel_size}")
    if min(jitter, noise, contrast, defocus) < 0:
        raise ValueError("jitter, noise, contrast and defocus must not be negative")
    if not 0.2 <= calibre <= 2:
        raise ValueError(f"expected a calibre between 0.2 and 2, got {calibre}")
    size = (shape[0] * voxel_size[0], shape[1] * voxel_size[1], shape[2] * voxel_size[2])
    tissue = Tissue(np.random.default_rng([seed, 0]), size, calibre)
    microscope = Microscope(shape, seed, voxel_size, tissue, jitter, noise, contrast, defocus)
    raw = np.empty(shape, np.uint8)
    neurites = np.empty(shape, np.uint32)
    for z in range(shape[0]):
        raw[z], neurites[z] = microscope.section(z)
    return SyntheticEM(raw, _connected(neurites), voxel_size)


def sample_em() -> SyntheticEM:
    """Make the stack that comes with the package, for the demo and napari's sample data.

    Large enough to be segmented, small enough to appear in about two seconds. Its neurites are
    thinner than in mouse cortex, so that there are more to see, and its seed is none of those that
    the default checkpoint was trained on.

    Returns
    -------
    SyntheticEM
        (16, 384, 384) voxels of (30, 6, 6) nm.
    """
    return synthetic_em((16, 384, 384), seed=7, calibre=0.6)


def _connected(neurites: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16] | npt.NDArray[np.uint32]:
    """Give every connected piece its own label, and specks none."""
    from skimage.measure import label

    pieces = label(neurites, background=0, connectivity=1)  # type: ignore[no-untyped-call]
    sizes = np.bincount(pieces.ravel())
    keep = sizes >= _SPECK
    keep[0] = False
    lut = np.where(keep, np.cumsum(keep), 0)
    labels: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    labels = lut.astype(np.uint16 if lut.max() < 2**16 else np.uint32)[pieces]
    return labels
