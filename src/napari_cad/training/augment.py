"""Varying patches: geometry, and what goes wrong in serial sections.

Own code, and not one of the libraries made for this, for these reasons (checked for Python 3.11,
numpy 2.4, zarr 3.1):

- gunpowder 1.4 has the field's augmentations, but requires zarr < 3, while a store here is zarr 3,
  so the two cannot be installed together;
- batchgenerators 0.25 and torchio 1.2 can, but have nothing for serial sections (a missing, a
  shifted, a defocused section), and draw from the global random states of numpy and torch. Here a
  patch must be a function of the seed and its number alone: that is what lets a killed run go on
  with exactly the patches it would have had, whatever the number of workers.

All is drawn from the generator that is passed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.ndimage as ndi

from napari_cad.training.targets import IGNORE

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.training.data_config import AugmentConfig

    F32 = npt.NDArray[np.float32]
    I32 = npt.NDArray[np.int32]

#: Standard deviation, in voxels, of the Gaussian that smooths the noise of an elastic warp.
_ELASTIC_SIGMA = 4.0


def augment(
    image: F32, labels: I32, margin: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[F32, I32]:
    """Vary a patch.

    Parameters
    ----------
    image : ndarray, shape (D, H + 2 margin, W + 2 margin), float32 in [0, 1]
        Left as it is.
    labels : ndarray, same shape, int32
        Ids, 0 = border, `IGNORE` = no truth; left as they are.
    margin : int
        What is read around the patch, in voxels.
    config : AugmentConfig
        What is done, and how often.
    rng : Generator
        What chance decides with.

    Returns
    -------
    image : ndarray, shape (D, H, W), float32 in [0, 1]
        C-contiguous, newly made.
    labels : ndarray, same shape, int32
        Of the same voxels; `IGNORE` in places outside what was read, and in missing sections.
    """
    image, labels = _transform(image, labels, margin, config, rng)
    if config.flip:
        image, labels = _flip(image, labels, rng)
    # new arrays: what follows is done in place
    image, labels = np.array(image, order="C"), np.array(labels, order="C")
    if rng.random() < config.contrast:
        image *= np.float32(rng.uniform(0.7, 1.3))
        image += np.float32(rng.uniform(-0.15, 0.15))
    for section in image:
        _degrade(section, config, rng)
    np.clip(image, 0, 1, out=image)
    for z in range(len(image)):
        if rng.random() < config.missing:
            image[z] = rng.choice([0.0, 1.0, rng.random()])
            labels[z] = IGNORE
    return image, labels


def _transform(
    image: F32, labels: I32, margin: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[F32, I32]:
    """Turn, zoom, warp and shift, all in one interpolation; a mere crop if nothing is drawn."""
    depth = len(image)
    height, width = (n - 2 * margin for n in image.shape[1:])
    grid = np.stack(
        np.meshgrid(_centred(height), _centred(width), indexing="ij"),
    )
    where = grid
    if rng.random() < config.rotate:
        where = np.tensordot(_turn_and_zoom(config, rng), where, axes=1)
    if rng.random() < config.elastic:
        noise = rng.uniform(-1, 1, grid.shape).astype(np.float32)
        for axis in range(2):
            warp = ndi.gaussian_filter(noise[axis], _ELASTIC_SIGMA, mode="constant")
            where = where.copy() if where is grid else where
            where[axis] += config.elastic_strength * warp
    shifts = np.zeros((depth, 2))
    if rng.random() < config.misalign:
        z = int(rng.integers(depth))
        moved = slice(z, z + 1) if rng.random() < 0.5 else slice(z, None)
        shifts[moved] = rng.uniform(-config.misalign_most, config.misalign_most, 2)
    if where is grid and not shifts.any():
        inner = (slice(None), slice(margin, margin + height), slice(margin, margin + width))
        return image[inner], labels[inner]

    centre = np.array([(n - 1) / 2 for n in image.shape[1:]])
    new_image = np.empty((depth, height, width), np.float32)
    new_labels = np.empty((depth, height, width), np.int32)
    for z, shift in enumerate(shifts):
        at = where + (centre + shift)[:, None, None]
        ndi.map_coordinates(image[z], at, new_image[z], order=1, mode="reflect")
        ndi.map_coordinates(labels[z], at, new_labels[z], order=0, mode="constant", cval=IGNORE)
    return new_image, new_labels


def _centred(n: int) -> npt.NDArray[np.float64]:
    return np.arange(n, dtype=np.float64) - (n - 1) / 2


def _turn_and_zoom(config: AugmentConfig, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi)
    zoom = np.exp(rng.uniform(-1, 1) * np.log1p(config.zoom))
    stretch = np.exp(rng.uniform(-0.5, 0.5) * np.log1p(config.stretch))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scaled: npt.NDArray[np.float64] = turn @ np.diag([stretch, 1 / stretch]) / zoom
    return scaled


def _flip(image: F32, labels: I32, rng: np.random.Generator) -> tuple[F32, I32]:
    for axis in range(3):
        if rng.random() < 0.5:
            image, labels = np.flip(image, axis), np.flip(labels, axis)
    if rng.random() < 0.5 and image.shape[1] == image.shape[2]:
        image, labels = image.swapaxes(1, 2), labels.swapaxes(1, 2)
    return image, labels


def _degrade(section: F32, config: AugmentConfig, rng: np.random.Generator) -> None:
    """Contrast, brightness, gamma, defocus and noise of one section, in place."""
    if rng.random() < config.section_contrast:
        section *= np.float32(rng.uniform(0.85, 1.15))
        section += np.float32(rng.uniform(-0.1, 0.1))
        np.clip(section, 0, 1, out=section)
        np.power(section, np.float32(2 ** rng.uniform(-0.7, 0.7)), out=section)
    if rng.random() < config.defocus:
        ndi.gaussian_filter(section, rng.uniform(0.5, 1.8), output=section)
    if rng.random() < config.noise:
        deviation = np.float32(rng.uniform(0, 0.08))
        section += deviation * rng.standard_normal(section.shape, dtype=np.float32)
