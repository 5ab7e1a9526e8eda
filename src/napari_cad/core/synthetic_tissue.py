"""The geometry of synthetic neuropil: which neurite is where, and what it holds.

Everything here is in nm and knows neither pixels of a camera nor noise; `napari_cad.core.synthetic`
takes pictures of it. Neurites are discs that move as z grows and push each other aside, so that
they keep their calibre, wander, and change neighbours; the space between them is shared out by a
Voronoi diagram of the distances to the discs' rims, on coordinates that a smooth random field
bends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    import numpy.typing as npt

    F32 = npt.NDArray[np.float32]
    F64 = npt.NDArray[np.float64]
    Indices = npt.NDArray[np.intp]

#: Distance in z between two states of the moving discs.
STEP = 30.0

#: Tissue around the picture, so that what enters it was there before; more than any radius.
MARGIN = 900.0

#: Outer radius of a vesicle.
VESICLE_RADIUS = 21.0

_LARGEST_RADIUS = 800.0
_DENDRITE_RADIUS = 240.0
_SPINE_LENGTH = 700.0  # along z
_FILLED = 0.82  # part of the plane that the discs cover
_STEEPEST = 3.0  # nm sideways per nm in z; beyond it a tube is drawn no longer than at this slope
_PUSHES = 5
_ROUNDS_AT_START = 25


@dataclass(frozen=True)
class Discs:
    """The discs of one section, arrays of length n; y and x in nm.

    A neurite is one disc or, where it carries spines, several with one `owner`.
    """

    centre: F64  # (n, 2)
    slope: F64  # (n, 2), sideways per z
    radius: F64  # 0 where the disc is not there at this z
    growth: F64  # of the radius, per z
    metric: F64  # (n, 2, 2), makes a position relative to the centre round
    owner: Indices


@dataclass(frozen=True)
class Organelles:
    """Ellipsoids that lie in a disc and go with it, arrays of length n, lengths in nm."""

    disc: Indices
    z: F64
    half_length: F64  # along z
    offset: F64  # (n, 2), parts of the room that the disc leaves
    radius: F64
    aspect: F64
    angle: F64


@dataclass(frozen=True)
class Points:
    """Vesicles or cut tubules, arrays of length n, lengths in nm."""

    position: F64  # (n, 2)
    disc: Indices
    radius: F64
    strength: F64  # darkness, 0 to 1


class Tissue:
    """Neurites in a box, and what they hold.

    Parameters
    ----------
    rng : numpy.random.Generator
    size : tuple of float
        Height (z), and extent along y and x of what will be looked at, nm.
    calibre : float
        Thickness of the neurites relative to mouse cortex.

    Attributes
    ----------
    owner : ndarray, shape (discs,), int
        The neurite of every disc.
    grey : ndarray, shape (neurites,), float
        Brightness of every neurite's cytoplasm relative to the average, about -1 to 1.
    myelinated : ndarray, shape (neurites,), bool
    """

    def __init__(
        self, rng: np.random.Generator, size: tuple[float, float, float], calibre: float
    ) -> None:
        self._box = np.array([size[1], size[2]]) + 2 * MARGIN
        self._z = np.arange(int(np.ceil(size[0] / STEP)) + 2) * STEP
        self._grow(rng, calibre)
        self._furnish(rng)

    def discs(self, z: float) -> Discs:
        """Return the discs that the plane at height `z` cuts."""
        i, part = self._step(z)
        slope = (self._track[i + 1] - self._track[i]) / STEP
        # tracks are kept unwrapped, so that slopes are right across the edge of the box
        centre = (self._track[i] + slope * STEP * part) % self._box - MARGIN
        growth = (self._radius[i + 1] - self._radius[i]) / STEP
        radius = self._radius[i] + growth * STEP * part
        metric = _metric(slope, self._angle + self._spin * z, self._aspect)
        return Discs(centre, slope, radius, growth, metric, self.owner)

    def bouton(self, z: float) -> F64:
        """Return how much of a bouton every disc is at height `z`, 0 to 1."""
        i, part = self._step(z)
        swelling: F64 = self._bouton[i] * (1 - part) + self._bouton[i + 1] * part
        return swelling

    def organelles(self, kind: str, z: float, discs: Discs) -> tuple[Organelles, F64, F64]:
        """Return the "mitochondria" or "cisternae" at height `z`, their centres and radii there."""
        every = self._mitochondria if kind == "mitochondria" else self._cisternae
        height = (z - every.z) / every.half_length
        there = np.flatnonzero((np.abs(height) < 1) & (discs.radius[every.disc] > 0))
        some = Organelles(*(column[there] for column in vars(every).values()))
        radius = np.minimum(some.radius, 0.75 * discs.radius[some.disc])
        room = discs.radius[some.disc] - radius
        centre = discs.centre[some.disc] + some.offset * room[:, None]
        return some, centre, radius * np.sqrt(1 - height[there] ** 4)

    def vesicles(self, z: float, discs: Discs) -> Points:
        """Return the vesicles at height `z`; the radius is that of the cut."""
        disc, height, offset = self._vesicles
        there = np.flatnonzero(np.abs(height - z) < VESICLE_RADIUS - 3)
        radius = np.sqrt(VESICLE_RADIUS**2 - (height[there] - z) ** 2)
        position = discs.centre[disc[there]] + offset[there]
        return Points(position, disc[there], radius, np.ones(len(there)))

    def microtubules(self, z: float, discs: Discs) -> Points:
        """Return the microtubules and thin tubules of the endoplasmic reticulum at height `z`."""
        disc, offset, phase, radius, strength = self._tubules
        wiggle = 0.15 * np.stack([np.sin(z / 210 + phase), np.cos(z / 330 + 2 * phase)], axis=1)
        position = discs.centre[disc] + (offset + wiggle) * discs.radius[disc, None]
        there = np.flatnonzero(discs.radius[disc] > 0)
        fading = 0.65 + 0.35 * np.sin(z / 90 + 3 * phase)
        return Points(position[there], disc[there], radius[there], (strength * fading)[there])

    def _step(self, z: float) -> tuple[int, float]:
        i = min(int(z / STEP), len(self._z) - 2)
        return i, z / STEP - i

    # --- growing

    def _grow(self, rng: np.random.Generator, scale: float) -> None:
        calibre = _calibres(rng, _FILLED * float(np.prod(self._box)) / scale**2)
        n, steps = len(calibre), len(self._z)
        self.is_dendrite = calibre > _DENDRITE_RADIUS
        self.myelinated = (calibre > 240) & (rng.random(n) < 0.03)
        self.grey = 0.5 - rng.gamma(2.0, 0.3, n) + np.where(self.is_dendrite, 0.25, -0.1)
        swelling = np.zeros((steps, n))
        for i in np.flatnonzero(~self.is_dendrite & ~self.myelinated & (rng.random(n) < 0.55)):
            for middle in np.arange(rng.uniform(-500, 2500), self._z[-1] + 800, 3000.0):
                middle += rng.uniform(-600, 600)
                swelling[:, i] += np.exp(-(((self._z - middle) / 330.0) ** 2))
        varicose = gaussian_filter1d(rng.standard_normal((steps + 60, n)), 12, axis=0)[30:-30]
        swollen = 1 + np.clip(140 / calibre, 0.2, 1.1) * swelling
        radius = np.clip(
            scale * calibre * np.exp(0.9 * varicose) * swollen, 40.0 * scale, _LARGEST_RADIUS
        )

        parent, born, outward = self._spines(rng)
        spine = np.zeros((steps, len(parent)))
        for k, root in enumerate(born):
            spine[:, k] = scale * _spine_radius(rng, self._z - root)
        self._bouton = np.concatenate([swelling, np.zeros_like(spine)], axis=1)
        self._radius = np.concatenate([radius, spine], axis=1)
        self.owner = np.concatenate([np.arange(n), parent])
        total = n + len(parent)
        slope = np.concatenate([_own_slopes(rng, calibre), outward])
        self._track = self._move(rng, slope, born)
        self._aspect = rng.uniform(1.0, 1.7, total)
        self._angle = rng.uniform(0, np.pi, total)
        self._spin = rng.normal(0, 0.0004, total)

    def _spines(self, rng: np.random.Generator) -> tuple[Indices, F64, F64]:
        """Choose from which dendrite, at which z and which way spines grow."""
        dendrites = np.flatnonzero(self.is_dendrite)
        height = self._z[-1] + _SPINE_LENGTH
        parent = np.repeat(dendrites, rng.poisson(height / 700.0, len(dendrites)))
        born = rng.uniform(-_SPINE_LENGTH, self._z[-1], len(parent))
        way = rng.uniform(0, 2 * np.pi, len(parent))
        slope = rng.uniform(0.8, 2.2, len(parent))[:, None]
        return parent, born, slope * np.stack([np.sin(way), np.cos(way)], axis=1)

    def _move(self, rng: np.random.Generator, slope: F64, born: F64) -> F64:
        """Let the discs go their way and push each other; shape (steps, discs, 2)."""
        first_spine = len(slope) - len(born)
        spines = np.arange(first_spine, len(slope))
        way = slope[spines] / np.hypot(*slope[spines].T)[:, None]
        place = rng.random(slope.shape) * self._box
        for _ in range(_ROUNDS_AT_START):
            place = place + self._push(place, self._radius[0], 4 * STEP)
        drift = np.zeros_like(slope)
        track = np.empty((len(self._z), *slope.shape))
        for step, z in enumerate(self._z):
            drift = 0.9 * drift + 0.09 * rng.standard_normal(drift.shape)
            move = (slope + drift) * STEP
            place = place + move + self._push(place + move, self._radius[step], STEP)
            waiting = spines[born >= z]  # under the skin of the dendrite it will grow from
            parent = self.owner[waiting]
            depth = np.maximum(0.0, self._radius[step, parent] - 60.0)[:, None]
            place[waiting] = place[parent] + way[waiting - first_spine] * depth
            track[step] = place
        smooth: F64 = gaussian_filter1d(track, 1.5, axis=0, mode="nearest")
        return smooth

    def _push(self, place: F64, radius: F64, most: float) -> F64:
        """How far the discs move when they push each other aside, up to `most` nm a time."""
        here = np.flatnonzero(radius > 0)
        # % can round up to the box itself, which the tree does not take
        wrapped = np.minimum(place[here] % self._box, np.nextafter(self._box, 0))
        reach = min(2 * float(radius.max()), 0.499 * float(self._box.min()))
        pairs = cKDTree(wrapped, boxsize=self._box).query_pairs(reach, output_type="ndarray")
        pairs = here[pairs[np.lexsort(pairs.T)]]  # sums of floats depend on the order
        a, b = pairs[self.owner[pairs[:, 0]] != self.owner[pairs[:, 1]]].T
        touching = 0.96 * (radius[a] + radius[b])
        close = np.hypot(*self._way(place, a, b).T) < touching + 2 * most * _PUSHES
        a, b, touching = a[close], b[close], touching[close]
        share = (radius[b] ** 2 / (radius[a] ** 2 + radius[b] ** 2))[:, None]  # the thin give way
        start, place = place, place.copy()
        for _ in range(_PUSHES):
            way = self._way(place, a, b)
            distance = np.maximum(np.hypot(way[:, 0], way[:, 1]), 1e-6)
            force = way * (0.7 * np.maximum(0.0, touching - distance) / distance)[:, None]
            back, forth = force * share, force * (1 - share)
            push = np.stack(
                [
                    np.bincount(b, forth[:, axis], len(place))
                    - np.bincount(a, back[:, axis], len(place))
                    for axis in (0, 1)
                ],
                axis=1,
            )
            length = np.maximum(np.hypot(push[:, 0], push[:, 1]), 1e-9)
            place += push * np.minimum(1.0, most / length)[:, None]
        return place - start

    def _way(self, place: F64, a: Indices, b: Indices) -> F64:
        """From discs `a` to discs `b`, across the edge of the box where that is nearer."""
        way = place[b] - place[a]
        nearest: F64 = way - self._box * np.round(way / self._box)
        return nearest

    # --- furnishing

    def _furnish(self, rng: np.random.Generator) -> None:
        main = np.arange(len(self.grey))
        radius = self._radius.mean(axis=0)[main]
        height = self._z[-1] + 1000.0
        rate = np.where(self.is_dendrite, radius / 250.0, 0.5) * (radius > 80) / 1500.0
        disc = np.repeat(main, rng.poisson(rate * height))
        self._mitochondria = _organelles(
            rng, disc, height, radius=(90, 210), half_length=(250, 900), aspect=(1, 2.2), lying=0.3
        )
        self._mitochondria = _apart(self._mitochondria, radius)
        disc = np.repeat(main, rng.poisson(radius / 250.0 * height / 300.0))
        self._cisternae = _organelles(
            rng, disc, height, radius=(18, 46), half_length=(50, 200), aspect=(1, 5), lying=0.0
        )
        count = np.where(self.is_dendrite, 2 + radius / 40.0, 1.6)
        disc = np.repeat(main, rng.poisson(count))
        n, faint = len(disc), self.is_dendrite[disc]
        self._tubules = (
            disc,
            _in_unit_disc(rng, n) * 0.6,
            rng.uniform(0, 2 * np.pi, n),
            np.where(faint, rng.uniform(8, 13, n), rng.uniform(9, 20, n)),
            np.where(faint, rng.uniform(0.2, 0.7, n), rng.uniform(0.4, 1.0, n)),
        )
        self._vesicles = self._fill_boutons(rng)

    def _fill_boutons(self, rng: np.random.Generator) -> tuple[Indices, F64, F64]:
        """Vesicles: their disc, z and offset; on a jittered lattice, so that few of them touch."""
        discs, heights, offsets = [], [], []
        pitch = 2.6 * VESICLE_RADIUS
        z_levels = np.arange(0.0, self._z[-1] + pitch, pitch)
        for i in np.flatnonzero(self._bouton.max(axis=0) > 0.25):
            radius = np.interp(z_levels, self._z, self._radius[:, i]) - 1.3 * VESICLE_RADIUS
            full = np.interp(z_levels, self._z, self._bouton[:, i]) > 0.25
            side = np.arange(-radius.max(), radius.max() + pitch, pitch)
            grid = np.stack(np.meshgrid(z_levels, side, side, indexing="ij"), axis=-1)
            grid = grid + rng.uniform(-0.2, 0.2, grid.shape) * pitch
            grid[..., 0] += rng.uniform(-0.5, 0.5, grid.shape[:-1]) * pitch
            grid[..., 1:] += rng.uniform(-0.5, 0.5, (len(z_levels), 1, 1, 2)) * pitch
            crowd = rng.uniform(0.3, 0.9)
            keep = np.hypot(grid[..., 1], grid[..., 2]) < radius[:, None, None]
            keep &= full[:, None, None] & (rng.random(keep.shape) < crowd)
            some = grid[keep]
            discs.append(np.full(len(some), i))
            heights.append(some[:, 0])
            offsets.append(some[:, 1:])
        if not discs:
            return np.zeros(0, np.intp), np.zeros(0), np.zeros((0, 2))
        return np.concatenate(discs), np.concatenate(heights), np.concatenate(offsets)


def _calibres(rng: np.random.Generator, area: float) -> F64:
    """Radii of discs that cover an area: many thin axons, some thick dendrites; thickest first."""
    radii: list[float] = []
    while area > 0:
        thick = rng.random() < 0.14
        radius = rng.lognormal(np.log(370), 0.5) if thick else rng.lognormal(np.log(140), 0.36)
        radii.append(float(np.clip(radius, 65, _LARGEST_RADIUS)))
        area -= np.pi * radii[-1] ** 2
    return np.sort(radii)[::-1]


def _own_slopes(rng: np.random.Generator, calibre: F64) -> F64:
    """Draw the way each neurite wants to go: mostly along z, a few nearly in the plane."""
    n = len(calibre)
    steep = np.where(rng.random(n) < 0.25, rng.uniform(1.5, 3.5, n), rng.lognormal(-0.2, 0.5, n))
    steep = np.where(calibre > _DENDRITE_RADIUS, np.minimum(steep, 1.0), steep)
    way = rng.uniform(0, 2 * np.pi, n)
    slopes: F64 = steep[:, None] * np.stack([np.sin(way), np.cos(way)], axis=1)
    return slopes


def _spine_radius(rng: np.random.Generator, height: F64) -> F64:
    """Draw a spine's radius over the height above its root: a neck, then a head."""
    neck, head = rng.uniform(45, 70), rng.uniform(130, 230)
    length = rng.uniform(0.5, 1.0) * _SPINE_LENGTH
    along = height / length
    bulb = np.sqrt(np.clip(1 - ((along - 0.72) / 0.28) ** 2, 0, None))
    radius = np.maximum(np.where(along < 0.8, neck, 0.0), head * bulb)
    return np.where((along > 0) & (along < 1), radius, 0.0)


def _metric(slope: F64, angle: F64, aspect: F64) -> F64:
    """Matrices that make a disc's outline round: a tilted tube is cut in an ellipse."""
    steep = np.hypot(slope[:, 0], slope[:, 1])
    way = slope / np.maximum(steep, 1e-9)[:, None]
    shrink = 1 / np.sqrt(1 + np.minimum(steep, _STEEPEST) ** 2)
    tilt = np.eye(2) + (shrink - 1)[:, None, None] * way[:, :, None] * way[:, None, :]
    axis = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    across = np.stack([axis[:, 1], -axis[:, 0]], axis=1)
    root = np.sqrt(aspect)[:, None, None]
    own = axis[:, :, None] * axis[:, None, :] / root
    own += across[:, :, None] * across[:, None, :] * root
    metric: F64 = own @ tilt
    return metric


def _in_unit_disc(rng: np.random.Generator, n: int) -> F64:
    way, distance = rng.uniform(0, 2 * np.pi, n), np.sqrt(rng.random(n))
    return np.stack([np.sin(way) * distance, np.cos(way) * distance], axis=1)


def _organelles(
    rng: np.random.Generator,
    disc: Indices,
    height: float,
    *,
    radius: tuple[float, float],
    half_length: tuple[float, float],
    aspect: tuple[float, float],
    lying: float,
) -> Organelles:
    """Draw organelles uniformly from ranges; a part `lying` of them runs within the plane."""
    n = len(disc)
    drawn = Organelles(
        disc,
        rng.uniform(-500, height - 500, n),
        rng.uniform(*half_length, n),
        _in_unit_disc(rng, n),
        rng.uniform(*radius, n),
        rng.uniform(*aspect, n),
        rng.uniform(0, np.pi, n),
    )
    flat = rng.random(n) < lying
    drawn.aspect[flat] *= 2.5
    drawn.half_length[flat] = drawn.radius[flat] * 1.3
    return drawn


def _apart(some: Organelles, disc_radius: F64) -> Organelles:
    """Leave out what would overlap an earlier one in the same disc."""
    keep: list[int] = []
    rivals: list[int] = []
    last = -1
    for i in range(len(some.disc)):  # sorted by disc
        if some.disc[i] != last:
            last, rivals = some.disc[i], []
        for j in rivals:
            room = max(0.0, disc_radius[last] - 0.5 * (some.radius[i] + some.radius[j]))
            aside = np.hypot(*(some.offset[i] - some.offset[j])) * room
            width = sum(some.radius[k] * np.sqrt(some.aspect[k]) for k in (i, j))
            if abs(some.z[i] - some.z[j]) < some.half_length[[i, j]].sum() and aside < width:
                break
        else:
            rivals.append(i)
            keep.append(i)
    return Organelles(*(column[keep] for column in vars(some).values()))
