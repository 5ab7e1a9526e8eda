"""What happens to a section before the network sees it, and to affinities on their way back.

In this order: intensity mapping (contrast and polarity), smoothing, in-plane rescaling. All of it
is a function of the section alone, so a run that is resumed or repeated gives the same voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from napari_cad.core.stored_affinity import LEVELS, dequantise

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.core.config import FitConfig
    from napari_cad.core.intensity import IntensityMapping


@dataclass(frozen=True)
class Preprocessing:
    """A section as the network sees it.

    Parameters
    ----------
    intensity : IntensityMapping
        Resolved for the volume.
    smooth : float
        Standard deviation of a Gaussian, in voxels of the section; 0 = none.
    rescale : float
        In-plane size for the network as a multiple of the section's own; 1 = as it is.
    """

    intensity: IntensityMapping
    smooth: float = 0.0
    rescale: float = 1.0

    @classmethod
    def of(cls, intensity: IntensityMapping, fit: FitConfig) -> Preprocessing:
        """Take the two settings that concern the section from a `FitConfig`."""
        return cls(intensity, fit.smooth, fit.rescale)

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that the network sees of a section of `size`; at least one each."""
        height, width = (max(1, round(n * self.rescale)) for n in size)
        return height, width

    def __call__(
        self, section: npt.NDArray[Any], *, z: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Prepare one section.

        Parameters
        ----------
        section : ndarray, shape (Y, X), integer or floating
            Left as it is.
        z : int, optional
            The section's index, for error messages.

        Returns
        -------
        ndarray, shape `network_size`, float32 in [0, 1]

        Raises
        ------
        ConfigError, VolumeError
            See `IntensityMapping`.
        """
        mapped = self.intensity(section, z=z)
        if self.smooth > 0:
            mapped = ndimage.gaussian_filter(mapped, self.smooth, mode="reflect")
        size = self.network_size((mapped.shape[0], mapped.shape[1]))
        if size == mapped.shape:
            return mapped
        return resize_section(mapped, size)

    def affinities_back(
        self, affinities: npt.NDArray[np.uint8], size: tuple[int, int]
    ) -> npt.NDArray[np.uint8]:
        """Bring stored affinities from the network's size to the section's own `size`.

        Parameters
        ----------
        affinities : ndarray, shape (3, h, w), uint8
            Channels z, y, x.
        size : tuple of int
            (Y, X) of the section.

        Returns
        -------
        ndarray, shape (3, Y, X), uint8
            The same array where it has that size already.
        """
        if affinities.shape[1:] == size:
            return affinities
        values = resize_affinities(dequantise(affinities), size)
        return np.minimum(values * LEVELS, LEVELS - 1).astype(np.uint8)


def resize_section(
    section: npt.NDArray[np.float32], size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Resample an image linearly; where it shrinks, over as many pixels as become one.

    Parameters
    ----------
    section : ndarray, shape (Y, X), float32
        An image.
    size : tuple of int
        (height, width) to come out.

    Returns
    -------
    ndarray, shape `size`, float32
    """
    image = torch.from_numpy(np.ascontiguousarray(section))[None, None]
    made = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
    resized: npt.NDArray[np.float32] = made[0, 0].numpy()
    return resized


def resize_affinities(
    affinities: npt.NDArray[np.float32], size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Resample affinities to sections of another size.

    An affinity along y says something about the face between two rows, not about a row; so along
    its own axis it is taken from where that face lies. Where several faces become one, the weakest
    of them counts: a thin boundary must not vanish. Everything else is linear interpolation.

    Parameters
    ----------
    affinities : ndarray, shape (3, h, w), float32
        Channels z, y, x, stored at the later voxel.
    size : tuple of int
        (Y, X) to come out.

    Returns
    -------
    ndarray, shape (3, Y, X), float32
        Within the range of what came in.
    """
    out = np.empty((3, *size), np.float32)
    for channel in range(3):
        values = affinities[channel]
        for axis in range(2):
            along = channel == axis + 1
            values = _resample(values, axis, size[axis], faces=along)
        out[channel] = values
    return out


def _resample(
    values: npt.NDArray[np.float32], axis: int, length: int, *, faces: bool
) -> npt.NDArray[np.float32]:
    """Resample one axis; `faces`: values belong to the face before a voxel, not to its centre."""
    old = values.shape[axis]
    if old == length:
        return values
    step = old / length
    at = np.arange(length, dtype=np.float64)
    if faces:
        at *= step
        spanned = round(step)
        if spanned > 1:
            # centred on the sampled face; an even number reaches one further back
            values = ndimage.minimum_filter1d(values, spanned, axis=axis, mode="nearest")
    else:
        at = (at + 0.5) * step - 0.5
    at = np.clip(at, 0, old - 1)
    low = at.astype(np.intp)
    high = np.minimum(low + 1, old - 1)
    weight = (at - low).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight[None, :]
    before, after = values.take(low, axis=axis), values.take(high, axis=axis)
    blended: npt.NDArray[np.float32] = before + weight * (after - before)
    return blended
