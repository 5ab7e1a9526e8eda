"""The fragments as they are now: those of the store, with the patches in force laid over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from napari_cad.proofreading.patch import FragmentPatch, PatchVoxels
    from napari_cad.proofreading.source import ArrayLike


class PatchedFragments:
    """A read-only array-like of fragment ids; only what is asked for is read and patched.

    Parameters
    ----------
    base : array-like, shape (Z, Y, X), integer
        Fragments of the store.
    patches : callable
        Gives the patches in force at the time of asking.
    voxels : callable
        Gives the voxels of a patch.
    """

    def __init__(
        self,
        base: ArrayLike,
        patches: Callable[[], Sequence[FragmentPatch]],
        voxels: Callable[[FragmentPatch], PatchVoxels],
    ) -> None:
        self._base = base
        self._patches = patches
        self._voxels = voxels

    def frozen(self) -> PatchedFragments:
        """Give the fragments as they are now, whatever is edited later."""
        patches = tuple(self._patches())
        return PatchedFragments(self._base, lambda: patches, self._voxels)

    @property
    def shape(self) -> tuple[int, ...]:
        """(Z, Y, X)."""
        return tuple(self._base.shape)

    @property
    def dtype(self) -> np.dtype[np.uint32]:
        """Always uint32."""
        return np.dtype(np.uint32)

    @property
    def ndim(self) -> int:
        """Always 3."""
        return len(self.shape)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        del copy  # always a new array
        return np.asarray(self[...], dtype=dtype)

    def __getitem__(self, key: Any) -> Any:
        """Fragment ids; `key` is made of integers, slices and an ellipsis.

        Raises
        ------
        IndexError
            If `key` is anything else or outside of the volume.
        """
        result = np.asarray(self._base[key]).astype(np.uint32)  # a copy, also of what is uint32
        indices = [self._positions(k, n) for k, n in self._axes(key)]
        for patch in self._patches():
            hits = [_inside(i, bounds) for i, bounds in zip(indices, patch.box, strict=True)]
            if all(len(hit) for hit in hits):
                self._lay_over(result, patch, indices, hits)
        return result if result.ndim else result[()]

    def _lay_over(
        self,
        result: npt.NDArray[np.uint32],
        patch: FragmentPatch,
        indices: list[npt.NDArray[np.int64] | int],
        hits: list[npt.NDArray[np.int64]],
    ) -> None:
        voxels = self._voxels(patch)
        new = np.zeros(voxels.mask.shape, np.uint32)
        new[voxels.mask] = voxels.new
        there = np.ix_(
            *(
                np.atleast_1d(i)[hit] - start
                for i, hit, (start, _) in zip(indices, hits, patch.box, strict=True)
            )
        )
        here = np.ix_(
            *(hit for i, hit in zip(indices, hits, strict=True) if not isinstance(i, int))
        )
        shape = tuple(len(h) for i, h in zip(indices, hits, strict=True) if not isinstance(i, int))
        mask = voxels.mask[there].reshape(shape)
        part = result[here] if result.ndim else result
        result[here if result.ndim else ()] = np.where(mask, new[there].reshape(shape), part)

    def _axes(self, key: Any) -> list[tuple[Any, int]]:
        """One integer or slice per axis, with its length."""
        keys = list(key) if isinstance(key, tuple) else [key]
        if any(k is Ellipsis for k in keys):
            at = next(i for i, k in enumerate(keys) if k is Ellipsis)
            keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        keys += [slice(None)] * (self.ndim - len(keys))
        return list(zip(keys, self.shape, strict=True))

    @staticmethod
    def _positions(key: Any, n: int) -> npt.NDArray[np.int64] | int:
        if isinstance(key, slice):
            return np.arange(*key.indices(n))
        index = int(key)
        return index + n if index < 0 else index


def _inside(index: npt.NDArray[np.int64] | int, bounds: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Which of the positions of an axis lie in a half-open range."""
    positions = np.atleast_1d(index)
    return np.flatnonzero((positions >= bounds[0]) & (positions < bounds[1]))
