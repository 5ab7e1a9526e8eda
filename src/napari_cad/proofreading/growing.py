"""Arrays that grow at their end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


class GrowingArray:
    """A numpy array with room at its end, so that appending does not copy it each time.

    Parameters
    ----------
    values : ndarray
        What it holds at first. Not copied: it becomes the array's own memory until the first
        `append`, so pass a copy where the caller goes on using it.
    """

    __slots__ = ("_buffer", "_n")

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self._buffer = values
        self._n = len(values)

    def __len__(self) -> int:
        return self._n

    @property
    def values(self) -> npt.NDArray[Any]:
        """A view of what is there now; ask again after `append`, which may move it."""
        return self._buffer[: self._n]

    def append(self, values: npt.NDArray[Any]) -> None:
        """Put `values` behind the last row."""
        needed = self._n + len(values)
        if needed > len(self._buffer):
            # an eighth more: columns of a large graph must not take twice their memory
            room = needed + needed // 8 + 64
            buffer = np.empty((room, *self._buffer.shape[1:]), self._buffer.dtype)
            buffer[: self._n] = self._buffer[: self._n]
            self._buffer = buffer
        self._buffer[self._n : needed] = values
        self._n = needed

    def truncate(self, n: int) -> None:
        """Forget all rows but the first `n`."""
        self._n = n
