"""Pictures of synthetic neuropil: membranes, textures, organelles, and what a microscope adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_cad.core.smooth_noise import SmoothNoise
from napari_cad.core.synthetic_tissue import VESICLE_RADIUS, Discs, Points, Tissue

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    F32 = npt.NDArray[np.float32]
    F64 = npt.NDArray[np.float64]
    Indices = npt.NDArray[np.intp]

# All lengths in nm.
_MEMBRANE = 8.0  # deviation of the dark profile of one membrane
_CLEFT = 7.0  # half the distance between the membranes of two neighbours
_LABEL_GAP = 13.0  # the truth keeps this distance from the middle between two neurites
_SECTION = 30.0  # what one picture integrates along z
_RISE = 6.0  # over which changes with z are measured
_MYELIN = 130.0
_FAR = 200.0  # distances to the border above this are not told apart
_REACH = 60.0  # so far from a border the second neurite must be right
_STRETCH = 2.0  # bound on how much the bends and metrics stretch distances
_CELL = 24  # pixels of the coarse grid on which neurites are sorted out

_CYTOPLASM = 0.61  # grey, 0 black to 1 white
_DARKNESS = 0.44  # of a membrane cut straight


@dataclass
class Partition:
    """Who is where in one section; arrays of shape (Y, X)."""

    first: npt.NDArray[np.int32]  # the disc that has the pixel
    second: npt.NDArray[np.int32]  # the nearest disc of another neurite
    distance: F32  # to the border between the two, nm
    smear: F32  # how far the border moves within the section's thickness, nm
    depth: F32  # into the disc from its own rim, nm


class Microscope:
    """Takes pictures of a tissue, section by section and in any order."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        seed: int,
        voxel_size: tuple[float, float, float],
        tissue: Tissue,
        jitter: float,
        noise: float,
        contrast: float,
        defocus: float,
    ) -> None:
        self._seed = seed
        self._voxel_size = voxel_size
        self._jitter, self._noise, self._contrast = jitter, noise, contrast
        self._defocus = defocus
        vz, vy, vx = voxel_size
        self._y: F64 = np.arange(shape[1], dtype=np.float64) * vy
        self._x: F64 = np.arange(shape[2], dtype=np.float64) * vx
        height = shape[0] * vz + _RISE
        self._tissue = tissue
        rng = np.random.default_rng([seed, 1])

        def smooth(spacing: float, z_spacing: float, channels: int = 1) -> SmoothNoise:
            return SmoothNoise(rng, height, self._y, self._x, spacing, z_spacing, channels)

        # amplitudes and spacings keep the bent coordinates from folding over
        self._bends = [
            (600.0, smooth(5000, 900, 2)),
            (105.0, smooth(800, 220, 2)),
            (36.0, smooth(260, 110, 2)),
            (6.0, smooth(75, 60, 2)),
        ]
        self._glia = smooth(420, 420)
        self._membranes = smooth(170, 120, 3)
        self._clouds = smooth(200, 120, 2)

    def section(self, z: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
        """Return picture and neurites (0 on membranes) of a section."""
        rng = np.random.default_rng([self._seed, 2, z])
        height = z * self._voxel_size[0]
        y, x, flow = self._coordinates(rng, height)
        discs = self._tissue.discs(height)
        partition = self._partition(discs, y, x, flow, height)
        neurite = np.append(discs.owner, len(self._tissue.grey))[partition.first]
        myelin = np.append(self._tissue.myelinated, False)[neurite]
        gap = _LABEL_GAP + 0.25 * np.minimum(partition.smear, 60)
        myelin &= partition.depth < _MYELIN
        inside = (partition.distance > gap) & ~myelin
        labels = np.where(inside, neurite + 1, 0).astype(np.uint32)
        grey = self._cytoplasm(rng, height, partition, neurite)
        self._draw_contents(grey, height, discs, partition, y, x)
        self._draw_membranes(grey, height, discs, partition)
        grey[myelin] = 0.13 + 0.15 * grey[myelin]
        return self._expose(rng, grey), labels

    def _coordinates(self, rng: np.random.Generator, height: float) -> tuple[F32, F32, F32]:
        """Where in the unbent tissue the pixels lie, y and x, and how that changes with z."""
        y = np.repeat(self._y[:, None], len(self._x), axis=1).astype(np.float32)
        x = np.repeat(self._x[None, :], len(self._y), axis=0).astype(np.float32)
        shift = rng.normal(0, 5.0, 2) * self._jitter
        warp = SmoothNoise(rng, 0, self._y, self._x, 1200, 1, 2).at(0) * (4.0 * self._jitter)
        y += warp[0] + np.float32(shift[0])
        x += warp[1] + np.float32(shift[1])
        # the bends are looked up at the pixel, not where jitter moved it: it moves by less than
        # their spacing, so this only changes the warp a little
        flow = np.zeros((2, *y.shape), np.float32)
        for amplitude, bend in self._bends:
            here = np.float32(amplitude) * bend.at(height)
            y += here[0]
            x += here[1]
            flow += np.float32(amplitude) * bend.at(height + _RISE) - here
        flow /= np.float32(_RISE)
        return y, x, flow

    def _partition(self, discs: Discs, y: F32, x: F32, flow: F32, height: float) -> Partition:
        """Share out the section among the discs."""
        n = len(discs.radius)
        nearest = np.full(y.shape, np.inf, np.float32)
        next_nearest = nearest.copy()
        first = np.full(y.shape, n, np.int32)
        second = first.copy()
        owner = np.append(discs.owner, -1)
        # the space that is far from all discs, or where glia pushes in, is the astrocyte's
        glia = (95.0 + 75.0 * self._glia.at(height)[0]).astype(np.float32)
        nearest[:] = glia
        for i, window in self._candidates(discs, y, x):
            d = _distance(discs, i, y[window], x[window])
            d1, d2, p1, p2 = nearest[window], next_nearest[window], first[window], second[window]
            mine = owner[p1] == discs.owner[i]
            closer = d < d1
            moved = closer & ~mine
            runner_up = ~closer & ~mine & (d < d2)
            np.copyto(d2, d1, where=moved)
            np.copyto(p2, p1, where=moved)
            np.copyto(d2, d, where=runner_up)
            np.copyto(p2, i, where=runner_up)
            np.copyto(d1, d, where=closer)
            np.copyto(p1, i, where=closer)
        ahead = np.minimum(next_nearest - nearest, _FAR)
        distance, normal_y, normal_x = self._to_border(ahead)
        motion = np.concatenate([discs.slope.T, [discs.growth]])
        motion = np.append(0.5 * motion, np.zeros((3, 1)), axis=1).astype(np.float32)
        # the normal points into the first disc, so that growing moves the border against it
        here, there = motion[:, first], motion[:, second]
        speed = (here[0] + there[0] - flow[0]) * normal_y
        speed += (here[1] + there[1] - flow[1]) * normal_x
        speed += there[2] - here[2]
        return Partition(first, second, distance, np.abs(speed) * np.float32(_SECTION), -nearest)

    def _candidates(
        self, discs: Discs, y: F32, x: F32
    ) -> Iterator[tuple[int, tuple[slice, slice]]]:
        """Find for every disc the window that it may own or border on, on a coarse grid."""
        rows, columns = np.arange(0, y.shape[0], _CELL), np.arange(0, y.shape[1], _CELL)
        middle_rows = np.minimum(rows + _CELL // 2, y.shape[0] - 1)
        middle_columns = np.minimum(columns + _CELL // 2, y.shape[1] - 1)
        middles = np.ix_(middle_rows, middle_columns)
        there = np.flatnonzero(discs.radius > 0)
        cell = 0.5 * _CELL * float(np.hypot(*self._voxel_size[1:])) * _STRETCH
        distances = np.stack([_distance(discs, i, y[middles], x[middles]) for i in there.tolist()])
        close = distances < distances.min(axis=0) + 2 * cell + 2 * _REACH
        for i, where in zip(there.tolist(), close, strict=True):
            in_rows = np.flatnonzero(where.any(axis=1))
            in_columns = np.flatnonzero(where.any(axis=0))
            if len(in_rows):
                yield (
                    i,
                    (
                        slice(in_rows[0] * _CELL, (in_rows[-1] + 1) * _CELL),
                        slice(in_columns[0] * _CELL, (in_columns[-1] + 1) * _CELL),
                    ),
                )

    def _to_border(self, ahead: F32) -> tuple[F32, F32, F32]:
        """Distance to the border (nm) from how much nearer the first is, and the border's normal.

        `ahead` is 0 on the border and has a crease there, so the steeper of the two one-sided
        differences is the slope.
        """
        slopes: list[F32] = []
        for axis, spacing in enumerate(self._voxel_size[1:]):
            step = np.diff(ahead, axis=axis) / np.float32(spacing)
            edge = [(1, 0) if a == axis else (0, 0) for a in (0, 1)]
            before = np.pad(step, edge)
            after = np.pad(step, [pair[::-1] for pair in edge])
            slopes.append(np.where(np.abs(before) > np.abs(after), before, after))
        rise, run = slopes
        steep: F32 = np.maximum(np.hypot(rise, run), np.float32(0.3)).astype(np.float32, copy=False)
        return ahead / steep, rise / steep, run / steep

    def _cytoplasm(
        self, rng: np.random.Generator, height: float, partition: Partition, neurite: Indices
    ) -> F32:
        """Grey of the neurites without anything in them."""
        cloud = self._clouds.at(height)
        own = np.append(self._tissue.grey, -0.5).astype(np.float32)[neurite]
        grain = self._grain(rng, partition.first.shape, 7.0)
        coarse = self._grain(rng, partition.first.shape, 16.0)
        granular = 0.85 + 0.18 * cloud[0]
        grain -= 0.12 * (grain * grain - 1)  # dark grains are small, the bright between them wide
        grey = _CYTOPLASM + 0.08 * own + 0.015 * cloud[1]
        grey += granular * (0.06 * grain + 0.035 * coarse)
        result: F32 = grey.astype(np.float32)
        return result

    def _grain(self, rng: np.random.Generator, shape: tuple[int, ...], size: float) -> F32:
        """White noise blurred to grains of a size in nm; deviation 1."""
        sigma = [size / v for v in self._voxel_size[1:]]
        white = rng.standard_normal(shape, dtype=np.float32)
        deviation = np.prod([min(1.0, (2 * np.sqrt(np.pi) * s) ** -0.5) for s in sigma])
        grain: F32 = gaussian_filter(white, sigma, mode="wrap") / np.float32(deviation)
        return grain

    def _draw_contents(
        self, grey: F32, height: float, discs: Discs, partition: Partition, y: F32, x: F32
    ) -> None:
        self._draw_points(grey, self._tissue.microtubules(height, discs), discs, partition, y, x)
        vesicles = self._tissue.vesicles(height, discs)
        self._draw_points(grey, vesicles, discs, partition, y, x, rings=True)
        for kind in ("cisternae", "mitochondria"):
            self._draw_organelles(kind, grey, height, discs, partition, y, x)

    def _pixels(self, position: F64, y: F32, x: F32) -> F64:
        """Where in the picture positions in the unbent tissue lie, in pixels, by iteration."""
        spacing = np.array(self._voxel_size[1:])
        last = np.array(y.shape) - 1
        pixel: F64 = position / spacing
        for _ in range(8):
            row, column = np.clip(np.rint(pixel), 0, last).astype(np.intp).T
            bend = np.stack([y[row, column] - self._y[row], x[row, column] - self._x[column]], 1)
            pixel = (position - bend) / spacing
        return pixel

    def _draw_points(
        self,
        grey: F32,
        points: Points,
        discs: Discs,
        partition: Partition,
        y: F32,
        x: F32,
        rings: bool = False,
    ) -> None:
        """Draw dots, or rings, that lie within their neurite and clear of its membrane."""
        spacing = np.array(self._voxel_size[1:])
        pixel = self._pixels(points.position, y, x)
        nearest = np.rint(pixel).astype(np.intp)
        inside = np.flatnonzero(((nearest >= 0) & (nearest < grey.shape)).all(axis=1))
        row, column = nearest[inside].T
        owner = np.append(discs.owner, -1)
        own = owner[partition.first[row, column]] == discs.owner[points.disc[inside]]
        room = partition.distance[row, column] > (VESICLE_RADIUS + 6 if rings else 16)
        inside = inside[own & room]
        half = np.ceil((VESICLE_RADIUS + 8) / spacing).astype(int)
        offset = np.stack(
            np.meshgrid(*(np.arange(-h, h + 1) for h in half), indexing="ij"), axis=-1
        ).reshape(-1, 2)
        place = nearest[inside, None] + offset
        distance = np.hypot(*np.moveaxis((place - pixel[inside, None]) * spacing, -1, 0))
        radius = points.radius[inside, None]
        blur = max(4.5, 0.6 * float(spacing.min()))
        if rings:
            dark = 0.6 * np.exp(-(((distance - radius + 4.0) / blur) ** 2))
            dark -= 0.08 * (distance < radius - 6.0)
        else:
            dark = 0.75 / (1 + np.exp((distance - radius) / (0.5 * blur)))
        dark *= points.strength[inside, None]
        fits = ((place >= 0) & (place < grey.shape)).all(axis=-1)
        flat = np.ravel_multi_index(tuple(place[fits].T), grey.shape)
        darkness = np.bincount(flat, dark[fits], grey.size).reshape(grey.shape)
        grey *= 1 - np.clip(darkness, -0.1, 0.8).astype(np.float32)

    def _draw_organelles(
        self,
        kind: str,
        grey: F32,
        height: float,
        discs: Discs,
        partition: Partition,
        y: F32,
        x: F32,
    ) -> None:
        some, centre, radius = self._tissue.organelles(kind, height, discs)
        spacing = np.array(self._voxel_size[1:])
        pixel = self._pixels(centre, y, x)
        extent = 2.5 * (radius * np.sqrt(some.aspect))[:, None] / spacing + 3
        low = np.maximum(np.floor(pixel - extent), 0).astype(np.intp)
        high = np.minimum(np.ceil(pixel + extent) + 1, grey.shape).astype(np.intp)
        owner = np.append(discs.owner, -1)
        rough = self._membranes.at(height)[:2]
        for i in np.flatnonzero((low < high).all(axis=1)):
            window = (slice(low[i, 0], high[i, 0]), slice(low[i, 1], high[i, 1]))
            dy, dx = y[window] - centre[i, 0], x[window] - centre[i, 1]
            sine, cosine = np.sin(some.angle[i]), np.cos(some.angle[i])
            long, root = sine * dy + cosine * dx, np.sqrt(some.aspect[i])
            short = cosine * dy - sine * dx
            depth = (1 - np.hypot(long / root, short * root) / radius[i]) * radius[i] / root
            rough_depth, rough_folds = rough[:, window[0], window[1]]
            depth += min(7.0, 0.12 * radius[i]) * rough_depth
            own = owner[partition.first[window]] == discs.owner[some.disc[i]]
            depth = np.minimum(depth, np.where(own, partition.distance[window] - 22.0, -100.0))
            rim = np.exp(-(((depth - 5.0) / 6.0) ** 2))
            if kind == "mitochondria":
                phase = (long + 0.3 * short * short / radius[i] + 20 * rough_folds) / 6.5
                folds = np.clip(np.cos(phase) + 0.6 * rough_depth, -0.4, 1) * (depth > 13.0)
                dark = np.where(depth > 0, 0.38 + 0.1 * folds, 0.0) + 0.24 * rim
            else:
                dark = 0.75 * rim - 0.08 * (depth > 10.0)
            grey[window] *= 1 - dark.astype(np.float32)

    def _draw_membranes(self, grey: F32, height: float, discs: Discs, partition: Partition) -> None:
        gap, dark, synapse = self._membranes.at(height)
        cleft = _CLEFT * (1 + 0.5 * gap)
        width = np.hypot(_MEMBRANE, 0.45 * partition.smear)
        # the same stain over a wider band
        peak = _DARKNESS * (1 + 0.25 * dark) * (_MEMBRANE / width) ** 0.7
        bouton = np.append(self._tissue.bouton(height), 0.0) > 0.25
        synapse = (synapse > 0.9) & (bouton[partition.first] != bouton[partition.second])
        width = np.where(synapse, 1.7 * width, width)
        peak = np.where(synapse, 1.35 * peak, peak)
        profile = np.exp(-0.5 * ((partition.distance - cleft) / width) ** 2)
        grey *= 1 - np.clip(peak, 0, 0.85) * profile

    def _expose(self, rng: np.random.Generator, grey: F32) -> npt.NDArray[np.uint8]:
        """Apply focus, contrast and noise."""
        blur = 4.0
        if rng.random() < self._defocus:
            blur = rng.uniform(8.0, 14.0)
        grey = gaussian_filter(grey, [blur / v for v in self._voxel_size[1:]])
        gain = np.exp(0.12 * self._contrast * rng.standard_normal())
        shade = SmoothNoise(rng, 0, self._y, self._x, 1500, 1).at(0)[0]
        bright = 0.07 * self._contrast * rng.standard_normal() + 0.012 * self._contrast * shade
        grey = 0.53 + (grey - 0.55) * np.float32(1.4 * gain) + bright
        shot = 0.028 * self._noise * np.sqrt(np.clip(grey, 0.05, None))
        grey += shot * rng.standard_normal(grey.shape, dtype=np.float32)
        picture: npt.NDArray[np.uint8] = np.clip(grey * 255 + 0.5, 0, 255).astype(np.uint8)
        return picture


def _distance(discs: Discs, i: int, y: F32, x: F32) -> F32:
    """Distance to the rim of a disc (nm), negative inside."""
    centre, metric = discs.centre[i].astype(np.float32), discs.metric[i].astype(np.float32)
    dy, dx = y - centre[0], x - centre[1]
    u = metric[0, 0] * dy + metric[0, 1] * dx
    v = metric[1, 0] * dy + metric[1, 1] * dx
    distance: F32 = np.sqrt(u * u + v * v) - np.float32(discs.radius[i])
    return distance
