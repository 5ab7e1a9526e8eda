"""Fragments on their way to volume-unique ids: a place inside the store that is gone at the end.

::

    scratch                    attribute "run": text that the run has chosen
    scratch/fragments          (Z, Y, X) uint32: ids 1, 2, … of each section by itself
    scratch/marks              (Z,) int64: −1, or how many fragments the section has

An id of the volume is an id of the section plus the number of fragments in all sections before it.
So sections are made in any order, by any process, and only their counts travel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from zarr.codecs import BloscCodec

from napari_cad.core.errors import StoreError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import zarr

GROUP = "scratch"

_NOT_DONE = -1

#: Sections are read and written whole: few files, and packed as fast as they can be.
_CHUNK = 4096
_CODEC = BloscCodec(typesize=4, cname="lz4", clevel=1, shuffle="shuffle")


class Scratch:
    """The scratch of a store.

    Parameters
    ----------
    root : zarr.Group
        Of the store.
    shape : tuple of int
        (Z, Y, X) of the volume.
    """

    def __init__(self, root: zarr.Group, shape: tuple[int, int, int]) -> None:
        self._root = root
        self._shape = shape

    def make(self, run: str) -> None:
        """Make it where it is not there; by one process, before any other uses it.

        Parameters
        ----------
        run : str
            What other processes tell it by from one of the same name on another disk.
        """
        group = self._root.require_group(GROUP)
        group.attrs["run"] = run
        n_sections, height, width = self._shape
        if "fragments" not in group:
            group.create_array(
                "fragments",
                shape=self._shape,
                chunks=(1, min(_CHUNK, height), min(_CHUNK, width)),
                dtype="uint32",
                compressors=_CODEC,
            )
        if "marks" not in group:
            group.create_array(
                "marks",
                shape=(n_sections,),
                chunks=(1,),
                dtype="int64",
                fill_value=_NOT_DONE,
                compressors=None,
            )

    @property
    def run(self) -> str | None:
        """What `make` was given; None where there is no scratch."""
        group = self._root.get(GROUP)
        return None if group is None else cast("str | None", group.attrs.get("run"))

    def remove(self) -> None:
        """Remove all of it; nothing happens where there is none."""
        if GROUP in self._root:
            del self._root[GROUP]

    def counts(self) -> npt.NDArray[np.int64]:
        """Fragments of each section that waits here, shape (Z,); −1 where none do."""
        return cast("npt.NDArray[np.int64]", self._array("marks")[:])

    def write(self, z: int, fragments: npt.NDArray[np.uint32], count: int) -> None:
        """Write and mark the fragments of a section, shape (Y, X), with ids 1 to `count`."""
        self._array("fragments")[z] = fragments
        self._array("marks")[z] = count

    def read(self, z: int) -> npt.NDArray[np.uint32]:
        """Fragments of a section, shape (Y, X), uint32.

        Raises
        ------
        StoreError
            If they are not there, or not whole. A task that was given up for lost and goes on all
            the same can come here after `drop`; it must not take emptiness for a result.
        """
        fragments = cast("npt.NDArray[np.uint32]", self._array("fragments")[z])
        # after the voxels: `drop` takes the mark away before it touches them
        count = int(cast("Any", self._array("marks")[z]))
        if count == _NOT_DONE or int(fragments.max(initial=0)) != count:
            raise StoreError(f"section {z} has no fragments that wait for their ids")
        return fragments

    def drop(self, z: int) -> None:
        """Forget the fragments of a section."""
        self._array("marks")[z] = _NOT_DONE
        self._array("fragments")[z] = 0  # zarr keeps no chunk that is all zero

    def _array(self, name: str) -> zarr.Array[Any]:
        try:
            return cast("zarr.Array[Any]", self._root[f"{GROUP}/{name}"])
        except KeyError:
            raise StoreError("nothing waits for its ids here: the sections have theirs") from None
