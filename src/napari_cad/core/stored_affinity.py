"""Affinities as they stand in a store: 256 levels, exactly the bins of the merge function.

Apart from `napari_cad.core.affinity`, so that those who only read them need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

#: Levels of a stored affinity: exactly the bins of the published merge function's histogram.
LEVELS = 256


def dequantise(stored: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Affinities as they are read.

    Parameters
    ----------
    stored : ndarray, any shape, uint8
        As `quantise` made them.

    Returns
    -------
    ndarray, same shape, float32 in (0, 1)
        (q + 0.5) / 256, the middle of the bin.
    """
    return (stored.astype(np.float32) + np.float32(0.5)) / np.float32(LEVELS)
