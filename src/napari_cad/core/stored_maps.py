"""Embedding maps in a store: colours of every section, and the basis that they were made with.

::

    embedding_rgb/VARIANT      attribute "basis"; VARIANT is embedding, embedding_prev, or one of
    │                          these with _raw where embeddings were not scaled to length 1
    ├─ 0                       (Z, Y, X, 3) uint8
    └─ marks                   (Z,) int64: 1 where the section is done
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from zarr.codecs import BloscCodec

from napari_cad.core.errors import StoreError
from napari_cad.core.projection import EmbeddingBasis

if TYPE_CHECKING:
    import numpy.typing as npt
    import zarr

    from napari_cad.core.projection import Which

GROUP = "embedding_rgb"

_CHUNK = 512
_CODEC = BloscCodec(typesize=1, cname="zstd", clevel=3, shuffle="shuffle")


class StoredMap:
    """The map of one of the two embeddings of a run's sections; made when it is first written.

    Parameters
    ----------
    root : zarr.Group
        Of the store.
    shape : tuple of int
        (Z, Y, X) of the volume.
    which : {"embedding", "embedding_prev"}
        Which embedding of a section.
    normalised : bool
        Whether embeddings are scaled to length 1.
    """

    def __init__(
        self, root: zarr.Group, shape: tuple[int, int, int], which: Which, *, normalised: bool
    ) -> None:
        self.shape = (*shape, 3)
        self._root = root
        self._which = which
        self._normalised = normalised
        self._name = f"{GROUP}/{which}" + ("" if normalised else "_raw")

    @property
    def basis(self) -> EmbeddingBasis | None:
        """The one basis of this map; None where none has been kept yet."""
        group = self._root.get(self._name)
        if group is None or "basis" not in group.attrs:
            return None
        return EmbeddingBasis.from_json(cast("dict[str, Any]", group.attrs["basis"]))

    def keep_basis(self, basis: EmbeddingBasis) -> None:
        """Keep a basis, once: all sections of all runs of this store have the same colours.

        Raises
        ------
        StoreError
            If it is that of another embedding, or another one is there already.
        """
        if (basis.which, basis.normalised) != (self._which, self._normalised):
            raise StoreError(
                f"{self._name} wants a basis of its own embedding, got one of {basis.which} "
                f"({'normalised' if basis.normalised else 'raw'})"
            )
        known = self.basis
        if known is not None and known != basis:
            raise StoreError(
                f"{self._name} has another basis already: its colours must not change between "
                "sections, so use that one"
            )
        self._root.require_group(self._name).attrs["basis"] = basis.to_json()

    @property
    def rgb(self) -> zarr.Array[Any] | None:
        """Array (Z, Y, X, 3) uint8, black where a section is not done; None before the first."""
        return cast("zarr.Array[Any] | None", self._root.get(f"{self._name}/0"))

    def sections_done(self) -> npt.NDArray[np.bool_]:
        """Which sections are there, shape (Z,), bool."""
        marks = self._root.get(f"{self._name}/marks")
        if marks is None:
            return np.zeros(self.shape[0], bool)
        done: npt.NDArray[np.bool_] = np.equal(cast("Any", marks)[:], 1)
        return done

    def write(self, z: int, rgb: npt.NDArray[np.uint8]) -> None:
        """Write and mark the colours of a section, shape (Y, X, 3), uint8.

        Raises
        ------
        StoreError
            If no basis has been kept: nobody could tell what the colours are.
        """
        if self.basis is None:
            raise StoreError(f"{self._name} has no basis yet: keep it before the first section")
        array = self.rgb
        if array is None:
            array = self._create()
        array[z] = rgb
        cast("Any", self._root[f"{self._name}/marks"])[z] = 1

    def read(self, z: int) -> npt.NDArray[np.uint8]:
        """Colours of a section, shape (Y, X, 3), uint8.

        Raises
        ------
        StoreError
            If it is not done.
        """
        array = self.rgb
        if array is None or not self.sections_done()[z]:
            raise StoreError(f"section {z} of {self._name} has not been made yet")
        return cast("npt.NDArray[np.uint8]", array[z])

    def _create(self) -> zarr.Array[Any]:
        n_sections, height, width, n_colours = self.shape
        group = self._root.require_group(self._name)
        if "marks" not in group:  # as one that was killed here has left it
            group.create_array(
                "marks", shape=(n_sections,), chunks=(1,), dtype="int64", compressors=None
            )
        return group.create_array(
            "0",
            shape=self.shape,
            chunks=(1, min(_CHUNK, height), min(_CHUNK, width), n_colours),
            dtype="uint8",
            compressors=_CODEC,
            dimension_names=("z", "y", "x", "c"),
        )
