"""What is learned from: volumes with dense or sparse truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fastremap
import numpy as np

from napari_cad.core.errors import ConfigError, ShapeError, VolumeError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.readers import open_volume
from napari_cad.core.synthetic import synthetic_em
from napari_cad.core.volume import EMVolume, spread_sections
from napari_cad.training.targets import IGNORE, OTHER, widen_borders

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from napari_cad.training.data_config import DataConfig, VolumeConfig

    F32 = npt.NDArray[np.float32]
    I32 = npt.NDArray[np.int32]

Triple = tuple[int, int, int]

#: Sections, and voxels of each, that are looked at to list the neurites of a volume.
_INDEX_SECTIONS = 64
_INDEX_VOXELS = 4096

#: How often a patch with too little truth is drawn anew before one around a neurite is taken.
_DRAWS = 10


class TrainingVolume:
    """A volume with its truth.

    Parameters
    ----------
    image : EMVolume
        The EM stack.
    labels : EMVolume
        Of the same shape, integer: a positive id per neurite. Negative values are unlabelled.
    sparse : bool
        Whether 0 means unlabelled too; otherwise it is the border between neurites.
    unlabelled : int, optional
        A further label that means unlabelled.
    complete : bool
        Whether labelled neurites are whole in the labelled sections, so that what is not labelled
        there is none of them: it is told from them, and only between itself nothing is learned.
    labelled_sections : sequence of int, optional
        Sections whose labels are truth; by default all.
    weight : float
        How often patches are drawn from it, relative to other volumes.
    intensity : IntensityMapping, optional
        From the image's numbers to [0, 1]; by default by its type.
    memory : float
        GiB; if image and labels together are smaller, they are read into memory here.

    Raises
    ------
    ShapeError
        If image and labels differ in shape.
    VolumeError
        If the labels are no integers, or none of them is positive.
    ConfigError
        If there is no such section, or the weight is negative.
    """

    def __init__(
        self,
        image: EMVolume,
        labels: EMVolume,
        *,
        sparse: bool = False,
        unlabelled: int | None = None,
        complete: bool = False,
        labelled_sections: Sequence[int] | None = None,
        weight: float = 1.0,
        intensity: IntensityMapping | None = None,
        memory: float = 4.0,
    ) -> None:
        if image.shape != labels.shape:
            raise ShapeError(
                f"{image.name}: the labels must have the image's shape {image.shape}, got "
                f"{labels.shape}: are they of another stack, or is one of them cropped?"
            )
        if labels.dtype.kind not in "iu":
            raise VolumeError(
                f"{labels.name}: labels are integers, got {labels.dtype}: is it an image?"
            )
        if weight < 0:
            raise ConfigError(f"{image.name}: weight must not be negative, got {weight}")
        self.is_labelled = np.ones(image.n_sections, bool)
        self.name = image.name
        self.weight = float(weight)
        self.sparse = sparse
        self.unlabelled = unlabelled
        self.complete = complete
        self.given_intensity = intensity or IntensityMapping()
        self.intensity = self.given_intensity.resolve(image)
        self.voxel_size = image.voxel_size
        size = image.dtype.itemsize + labels.dtype.itemsize
        fits = size * float(np.prod(image.shape, dtype=float)) <= memory * 2**30
        self.image = _in_memory(image) if fits else image
        self.labels = _in_memory(labels) if fits else labels
        self._points: list[npt.NDArray[np.intp]] | None = None
        if labelled_sections is None:
            self._check_labels()
        else:
            self.limit_to(labelled_sections)

    @property
    def shape(self) -> Triple:
        """(Z, Y, X)."""
        return self.image.shape

    def limit_to(self, labelled_sections: Sequence[int]) -> None:
        """Take the labels of these sections for truth, and of no others.

        Parameters
        ----------
        labelled_sections : sequence of int
            Indices; at least one of the sections must hold a positive label.

        Raises
        ------
        ConfigError
            If there is no such section.
        VolumeError
            If none of them has a positive label.
        """
        n = len(self.is_labelled)
        wrong = [z for z in labelled_sections if not 0 <= z < n]
        if wrong:
            raise ConfigError(f"{self.name} has sections 0 to {n - 1}, got labelled {wrong}")
        self.is_labelled = np.zeros(n, bool)
        self.is_labelled[list(labelled_sections)] = True
        self._points = None
        self._check_labels()

    def signature(self) -> dict[str, Any]:
        """Describe what tells this volume and its truth from others; `json` can write it."""
        return {
            "name": self.name,
            "image": self.image.signature(),
            "labels": self.labels.signature(),
            "sparse": self.sparse,
            "unlabelled": self.unlabelled,
            **({"complete": True} if self.complete else {}),  # runs from before do not say it
            "labelled_sections": np.flatnonzero(self.is_labelled).tolist(),
            "weight": self.weight,
            "intensity": self.intensity.to_json(),
        }

    def read_labels(self, start: Sequence[int], size: Sequence[int]) -> I32:
        """Read the truth of a box, ready for the losses.

        Parameters
        ----------
        start, size : sequence of int
            (z, y, x) in voxels. In y and x the box may reach out of the volume.

        Returns
        -------
        ndarray, shape `size`, int32
            Ids from 1 on, valid within this box only; 0 where it is border, which is widened to
            two voxels; `OTHER` where it is none of the labelled neurites, which are complete;
            `IGNORE` where there is no truth, also outside of the volume.
        """
        # one voxel more on each side, so that borders are widened as in the whole section
        inside, key, pad = _inside(start, size, self.shape, halo=1)
        raw = np.asarray(self.labels.data[key])
        unknown = raw < 0
        unknown[~self.is_labelled[key[0]]] = True
        rest = np.zeros_like(unknown)
        if self.unlabelled is not None:
            rest |= raw == self.unlabelled
        if self.sparse:
            rest |= raw == 0
        rest &= ~unknown
        nameless = rest | unknown
        ids, _ = fastremap.renumber(np.where((raw > 0) & ~nameless, raw, 0), preserve_zero=True)
        ids = ids.astype(np.int32)
        if self.complete:  # a border to the rest as to a neighbour
            ids = widen_borders(np.where(rest, ids.max(initial=0) + 1, ids))
            ids[rest & (ids > 0)] = OTHER
        else:
            ids = widen_borders(ids)
            ids[rest] = IGNORE
        ids[unknown] = IGNORE
        return np.pad(ids[inside], pad, constant_values=IGNORE)

    def read_truth(self, z: int) -> npt.NDArray[Any]:
        """Read the labels of a section as they are, for scores.

        Parameters
        ----------
        z : int
            The section.

        Returns
        -------
        ndarray, shape (Y, X), the labels' type
            0 where there is no truth. Borders are not widened.
        """
        labels = self.labels.section(z)
        if not self.is_labelled[z]:
            return np.zeros_like(labels)
        return np.where(self._is_id(labels), labels, 0).astype(labels.dtype)

    def read_image(self, start: Sequence[int], size: Sequence[int]) -> F32:
        """Read the intensities of a box.

        Parameters
        ----------
        start, size : sequence of int
            (z, y, x) in voxels. In y and x the box may reach out of the volume.

        Returns
        -------
        ndarray, shape `size`, float32 in [0, 1]
            Reflected outside of the volume.
        """
        inside, key, pad = _inside(start, size, self.shape, halo=0)
        return np.pad(self.intensity(np.asarray(self.image.data[key]))[inside], pad, mode="reflect")

    def random_start(
        self, patch: Triple, rng: np.random.Generator, *, balanced: float, min_labelled: float
    ) -> Triple:
        """Draw where a patch begins.

        Parameters
        ----------
        patch : tuple of int
            Its size.
        rng : Generator
            What chance decides with.
        balanced : float
            Probability that it is put around a voxel of a neurite, all neurites being equally
            likely, small ones as well as big ones.
        min_labelled : float
            Part of it that must be in neurites. After some draws with less, one around a neurite
            is taken as it is.

        Returns
        -------
        tuple of int
            (z, y, x) of its first voxel; it lies in the volume as a whole.
        """
        if rng.random() >= balanced:
            for _ in range(_DRAWS):
                start = tuple(
                    int(rng.integers(0, n - p + 1)) for n, p in zip(self.shape, patch, strict=True)
                )
                if min_labelled <= 0 or (self.read_labels(start, patch) > 0).mean() >= min_labelled:
                    return (start[0], start[1], start[2])
        points = self._points_of_neurites()
        of_one = points[int(rng.integers(len(points)))]
        point = of_one[int(rng.integers(len(of_one)))]
        first = [
            int(np.clip(p - rng.integers(0, s), 0, n - s))
            for p, s, n in zip(point, patch, self.shape, strict=True)
        ]
        return (first[0], first[1], first[2])

    def _points_of_neurites(self) -> list[npt.NDArray[np.intp]]:
        """List some voxels (n, 3) of each neurite that a coarse look at the labels finds."""
        if self._points is None:
            area = self.shape[1] * self.shape[2]
            coarse = max(1, int(np.sqrt(area / _INDEX_VOXELS)))
            labelled = np.flatnonzero(self.is_labelled)
            few = [int(labelled[i]) for i in spread_sections(len(labelled), _INDEX_SECTIONS)]
            # neurites that are small and rare may slip through a coarse look at some sections
            looks = ((few, coarse), (few, 1), (labelled.tolist(), 1))
            self._points = next(p for p in (self._look(*look) for look in looks) if p)
        return self._points

    def _look(self, sections: Sequence[int], step: int) -> list[npt.NDArray[np.intp]]:
        ids, points = [], []
        for z in sections:
            coarse = self.labels.section(z)[::step, ::step]
            y, x = np.nonzero(self._is_id(coarse))
            ids.append(coarse[y, x])
            points.append(np.stack([np.full(len(y), z), y * step, x * step], axis=1))
        every, where = np.concatenate(ids), np.concatenate(points)
        order = np.argsort(every, kind="stable")
        _, firsts = np.unique(every[order], return_index=True)
        return np.split(where[order], firsts[1:]) if len(every) else []

    def _is_id(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = labels > 0
        if self.unlabelled is not None:
            found &= labels != self.unlabelled
        return found

    def _check_labels(self) -> None:
        sections = np.flatnonzero(self.is_labelled).tolist()
        # the middle first: in a stack with truth it is enough
        middle = sections[len(sections) // 2]
        sections.sort(key=lambda z: abs(z - middle))
        if not any(self._is_id(self.labels.section(z)).any() for z in sections):
            raise VolumeError(
                f"{self.labels.name}: none of the {len(sections)} sections has a positive label, "
                "so there is nothing to learn from: are these the right labels and sections?"
            )


def _in_memory(volume: EMVolume) -> EMVolume:
    data = np.stack([volume.section(z) for z in range(volume.n_sections)])
    return EMVolume(data, volume.voxel_size, volume.origin, volume.name, volume.source)


def _inside(
    start: Sequence[int], size: Sequence[int], shape: Triple, halo: int
) -> tuple[tuple[slice, ...], tuple[slice, ...], list[tuple[int, int]]]:
    """Cut a box off at the volume's border.

    Gives where the box lies in what is read, what to read (with a halo in y and x where there is
    one), and what is missing on either side.
    """
    inside, key, pad = [], [], []
    for axis, (first, length, n) in enumerate(zip(start, size, shape, strict=True)):
        low, high = max(0, first), min(n, first + length)
        more = halo if axis else 0
        read = max(0, low - more), min(n, high + more)
        key.append(slice(*read))
        inside.append(slice(low - read[0], high - read[0]))
        pad.append((low - first, first + length - high))
    return tuple(inside), tuple(key), pad


# -------------------------------------------------------------------------------- from the settings


def open_training_volume(config: VolumeConfig, memory: float = 4.0) -> TrainingVolume:
    """Open a volume with its truth as the settings say.

    Parameters
    ----------
    config : VolumeConfig
        Which.
    memory : float
        GiB; see `TrainingVolume`.

    Returns
    -------
    TrainingVolume

    Raises
    ------
    VolumeError, ShapeError, ConfigError
        See `open_volume` and `TrainingVolume`.
    """
    image = open_volume(config.image, dataset=config.image_dataset, voxel_size=config.voxel_size)
    labels = open_volume(config.labels, dataset=config.labels_dataset)
    if image.shape != labels.shape:
        raise ShapeError(
            f"{config.labels}: the labels must have the shape {image.shape} of {config.image}, "
            f"got {labels.shape}"
        )
    if config.sections is not None:
        image, labels = image.crop(config.sections), labels.crop(config.sections)
    return TrainingVolume(
        image,
        labels,
        sparse=config.truth == "sparse",
        unlabelled=config.unlabelled,
        complete=config.complete,
        labelled_sections=config.labelled_sections,
        weight=config.weight,
        intensity=config.intensity,
        memory=memory,
    )


def synthetic_volumes(config: DataConfig) -> list[TrainingVolume]:
    """Make the synthetic volumes that the settings ask for; none where their weight is 0."""
    if config.synthetic_weight <= 0:
        return []
    weight = config.synthetic_weight / config.synthetic_volumes
    volumes = []
    for seed in range(config.synthetic_volumes):
        sample = synthetic_em(config.synthetic_shape, seed=seed)
        volumes.append(
            TrainingVolume(
                EMVolume(sample.raw, sample.voxel_size, name=f"synthetic {seed}"),
                EMVolume(sample.labels, sample.voxel_size, name=f"synthetic {seed}"),
                weight=weight,
            )
        )
    return volumes
