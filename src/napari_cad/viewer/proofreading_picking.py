"""What lies under the pointer: in a section, in the volume in 3D, or on a surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari.layers import Labels, Surface

    from napari_cad.proofreading.session import ProofreadingSession
    from napari_cad.viewer.proofreading_labels import RecentSections, SegmentTable

#: Voxels around a place on a surface in which its segment is looked for: (z, y, x).
_AROUND = (3, 16, 16)

#: Voxels between two samples of a ray.
_STEP = 0.5


@dataclass(frozen=True)
class Picked:
    """What was picked.

    Attributes
    ----------
    voxel : tuple of int
        (z, y, x).
    fragment, segment : int
        0 = background.
    """

    voxel: tuple[int, int, int]
    fragment: int
    segment: int


class Picker:
    """Finds voxel, fragment and segment of a click.

    Parameters
    ----------
    session : ProofreadingSession
    fragments : RecentSections
        Of the session.
    shown : SegmentTable
        What is shown: a click passes through what is hidden.
    """

    def __init__(
        self, session: ProofreadingSession, fragments: RecentSections, shown: SegmentTable
    ) -> None:
        self._session, self._fragments, self._shown = session, fragments, shown

    def in_section(self, position: Any) -> Picked | None:
        """Look at a place; None outside of the volume.

        Parameters
        ----------
        position : array_like, shape (3,)
            (z, y, x) in voxels.
        """
        z, y, x = (int(i) for i in np.rint(np.asarray(position, float)[-3:]))
        if not all(0 <= i < n for i, n in zip((z, y, x), self._fragments.shape, strict=True)):
            return None
        return self._at((z, y, x))

    def along_ray(self, layer: Labels, event: Any) -> Picked | None:
        """Find the first segment that the line of sight meets in a labels layer."""
        start, stop = layer.get_ray_intersections(
            event.position, event.view_direction, list(event.dims_displayed), world=True
        )
        if start is None or stop is None:
            return None
        n = int(np.ceil(float(np.abs(stop - start).max()) / _STEP)) + 1
        ray = np.rint(np.linspace(start, stop, n)).astype(np.int64)
        ray = np.clip(ray, 0, np.array(self._fragments.shape) - 1)
        # section by section, as the line runs through them: it mostly ends in one of the first
        for part in np.split(ray, np.flatnonzero(np.diff(ray[:, 0])) + 1):
            z = int(part[0, 0])
            found = self._fragments.section(z)[part[:, 1], part[:, 2]]
            seen = np.flatnonzero(self._shown.values[found])
            if len(seen):
                return self._at((z, int(part[seen[0], 1]), int(part[seen[0], 2])))
        return None

    def on_surface(
        self, surface: Surface, segments: list[int], first: list[int], event: Any, factor: Any
    ) -> Picked | None:
        """Find the segment whose surface is clicked.

        Parameters
        ----------
        surface : Surface
            Of several segments, one behind the other.
        segments, first : list of int
            Their ids, and the first vertex of each.
        event : MouseEvent
            Of napari.
        factor : ndarray, shape (3,)
            From voxels to the coordinates of the surface.
        """
        hit = surface.get_value(
            event.position,
            view_direction=event.view_direction,
            dims_displayed=list(event.dims_displayed),
            world=True,
        )
        triangle = hit[1] if isinstance(hit, tuple) else None
        if triangle is None:
            return None
        corners = surface.faces[int(triangle)]
        segment = segments[int(np.searchsorted(first, corners[0], side="right")) - 1]
        place = surface.vertices[corners].mean(axis=0) / factor
        return self._nearest(segment, place)

    def _nearest(self, segment: int, place: Any) -> Picked:
        """Find the voxel of a segment that is nearest to a place; surfaces are simplified."""
        centre = np.rint(place).astype(np.int64)
        shape = np.array(self._fragments.shape)
        low = np.clip(centre - _AROUND, 0, shape - 1)
        high = np.clip(centre + np.array(_AROUND) + 1, 1, shape)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        fragments = self._fragments[box]
        there = np.argwhere(self._session.lut[fragments] == segment)
        if not len(there):
            z, y, x = np.clip(centre, 0, shape - 1).tolist()
            return Picked((z, y, x), 0, segment)
        size = np.array(self._session.source.voxel_size or (1.0, 1.0, 1.0))
        distance = (((there + low - place) * size) ** 2).sum(axis=1)
        z, y, x = (there[int(distance.argmin())] + low).tolist()
        return self._at((z, y, x))

    def _at(self, voxel: tuple[int, int, int]) -> Picked:
        fragment = self._fragments.at(voxel)
        shown = self._shown.values
        if fragment >= len(shown) or not shown[fragment]:
            return Picked(voxel, 0, 0)
        # the segment of the session, also while another threshold is tried
        return Picked(voxel, fragment, int(self._session.lut[fragment]))
