"""Test-time augmentation: a pair of sections seen several ways, and the affinities averaged.

An EM section has no up, no left, and a stack no top; a network that has learnt from data has
preferences all the same. Each *view* mirrors, transposes or reverses a pair; what the network says
of it is brought back to the pair as it lies, and the mean of all views is stored. That costs as
many times the time as there are views.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.errors import ConfigError
from napari_cad.core.stored_affinity import LEVELS, dequantise
from napari_cad.core.volume import EMVolume

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    import numpy.typing as npt

    from napari_cad.core.inference import AffinityPredictor, SectionAffinities
    from napari_cad.core.intensity import IntensityMapping
    from napari_cad.core.preprocessing import Preprocessing

    Section = npt.NDArray[Any]
    Affinities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """One way to look at a pair of sections: transposed, then mirrored, from above or below."""

    transpose: bool = False
    flip_y: bool = False
    flip_x: bool = False
    from_below: bool = False

    def show(self, section: Section) -> Section:
        """Give a section, shape (Y, X), as the network sees it."""
        seen = section.T if self.transpose else section
        if self.flip_y:
            seen = seen[::-1]
        if self.flip_x:
            seen = seen[:, ::-1]
        return np.ascontiguousarray(seen)

    def restore(self, affinities: Affinities) -> Affinities:
        """Bring the affinities of a view back to the section as it lies.

        Parameters
        ----------
        affinities : ndarray, shape (3, Y, X) of the view, float32
            Channels z, y, x, each value at the later voxel, as everywhere.

        Returns
        -------
        ndarray, shape (3, Y, X) of the section, float32
            Again each value at the later voxel: mirrored, the later voxel is the other one of the
            two. The first row along y and the first column along x repeat the third one, as in
            `napari_cad.core.affinity`.
        """
        z, y, x = affinities
        if self.flip_x:
            z, y, x = z[:, ::-1], y[:, ::-1], _to_later(x[:, ::-1].T).T
        if self.flip_y:
            z, y, x = z[::-1], _to_later(y[::-1]), x[::-1]
        if self.transpose:
            z, y, x = z.T, x.T, y.T
        return np.stack([z, y, x])


def _to_later(mirrored: Affinities) -> Affinities:
    """Move the values of mirrored rows from the earlier to the later of the two rows they join."""
    moved = np.empty_like(mirrored)
    moved[1:] = mirrored[:-1]
    moved[0] = moved[min(2, len(moved) - 1)] if len(moved) > 1 else 1
    return moved


def _views(*, transpose: bool, from_below: bool) -> tuple[View, ...]:
    turns = itertools.product(
        (False, True) if from_below else (False,),
        (False, True) if transpose else (False,),
        (False, True),
        (False, True),
    )
    return tuple(
        View(transpose=t, flip_y=y, flip_x=x, from_below=below) for below, t, y, x in turns
    )


#: Name of an augmentation (`napari_cad.core.config.AUGMENTATIONS`) → its views.
_VIEWS: dict[str, tuple[View, ...]] = {
    "none": (View(),),
    "order": (View(), View(from_below=True)),
    "flips": _views(transpose=False, from_below=False),
    "dihedral": _views(transpose=True, from_below=False),
    "all": _views(transpose=True, from_below=True),
}


class AugmentedPredictor:
    """Predicts as `AffinityPredictor` does, from the mean of several views.

    Parameters
    ----------
    predictor : AffinityPredictor
        Looks at each view.
    augmentation : str
        One of `napari_cad.core.config.AUGMENTATIONS`.

    Raises
    ------
    ConfigError
        If there is no augmentation of that name.
    """

    def __init__(self, predictor: AffinityPredictor, augmentation: str) -> None:
        if augmentation not in _VIEWS:
            raise ConfigError(
                f"augmentation must be one of {', '.join(_VIEWS)}, got {augmentation!r}"
            )
        self.predictor = predictor
        self.device = predictor.device
        views = _VIEWS[augmentation]
        self._above = [view for view in views if not view.from_below]
        self._below = [view for view in views if view.from_below]

    def predict(
        self,
        volume: EMVolume,
        intensity: IntensityMapping | Preprocessing,
        sections: Iterable[int] | None = None,
    ) -> Iterator[SectionAffinities]:
        """Predict sections of a volume; see `AffinityPredictor.predict`.

        From below the pair (z + 1, z) gives the in-section affinities of section z, and the pair
        (z, z − 1) its affinity to section z − 1. A first and a last section are paired with
        themselves, as the first one is from above.
        """
        from napari_cad.core.inference import SectionAffinities

        if len(self._above) + len(self._below) == 1:  # it shares the encodings of sections
            yield from self.predictor.predict(volume, intensity, sections)
            return
        wanted = range(volume.n_sections) if sections is None else sections
        below: tuple[int, Affinities] | None = None
        held: dict[int, Section] = {}  # so that a section is read once in a run of sections
        for z in wanted:
            after = min(z + 1, volume.n_sections - 1) if self._below else z
            near = {max(z - 1, 0), z, after}
            held = {i: held[i] if i in held else volume.section(i) for i in near}
            prev, current, following = held[max(z - 1, 0)], held[z], held[after]
            seen = [self._look(view, prev, current, intensity) for view in self._above]
            total = np.sum(seen, axis=0)
            if self._below:
                # (z, z − 1) was looked at with section z − 1, unless that was not asked for
                to_prev = (
                    below[1]
                    if below is not None and below[0] == z
                    else self._from_below(current, prev, intensity)
                )
                to_next = self._from_below(following, current, intensity)
                total += np.concatenate([to_prev[:1], to_next[1:]])
                below = (z + 1, to_next)
            mean = total / (len(self._above) + len(self._below))
            levels = np.minimum(np.floor(mean * LEVELS), LEVELS - 1)
            yield SectionAffinities(z, levels.astype(np.uint8))

    def _from_below(
        self, upper: Section, lower: Section, intensity: IntensityMapping | Preprocessing
    ) -> Affinities:
        """Sum over the views of a pair seen from below; `lower` is the section that is said."""
        total: Affinities = np.sum(
            [self._look(view, upper, lower, intensity) for view in self._below], axis=0
        )
        return total

    def _look(
        self,
        view: View,
        prev: Section,
        current: Section,
        intensity: IntensityMapping | Preprocessing,
    ) -> Affinities:
        pair = EMVolume.from_array(np.stack([view.show(prev), view.show(current)]))
        (made,) = self.predictor.predict(pair, intensity, [1])
        return view.restore(dequantise(made.affinities))
