"""Settings of the data: volumes with truth, patches, and how patches are varied."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from napari_cad.core.errors import ConfigError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.training.settings import Settings, is_whole, setting

if TYPE_CHECKING:
    import os

#: Names the parts of a folder of training data.
VOLUME_FILE = "volume.toml"

TRUTHS = ("dense", "sparse")


@dataclass(frozen=True)
class VolumeConfig(Settings):
    """One volume with its truth."""

    image: str = setting(text="File or folder with the EM stack.")
    labels: str = setting(text="File or folder with the labels, of the same shape.")
    image_dataset: str | None = setting(None, "Dataset within the image file (HDF5, zarr).")
    labels_dataset: str | None = setting(None, "Dataset within the labels' file (HDF5, zarr).")
    sections: tuple[int, int] | None = setting(
        None, "First section and the one after the last to use."
    )
    labelled_sections: tuple[int, ...] | None = setting(
        None,
        "Sections whose labels are truth, counted within `sections`; the labels "
        "of the others are not looked at. By default all.",
    )
    truth: str = setting(
        "dense",
        "dense: label 0 is the border between neurites. sparse: label 0 is not "
        "labelled, and no loss looks there.",
        choices=TRUTHS,
    )
    unlabelled: int | None = setting(
        None, "A further label that means not labelled, where a file has one."
    )
    complete: bool = setting(
        False,
        "Labelled neurites are whole: what is not labelled in a labelled section is none of them, "
        "as after proofreading. Without it, nothing is learned at their outside.",
    )
    weight: float = setting(1.0, "How often, relative to the other volumes.", min=0.0)
    intensity: IntensityMapping = field(
        default_factory=IntensityMapping,
        metadata={"help": "From the file's numbers to [0, 1].", "parts": IntensityMapping},
    )
    voxel_size: tuple[float, float, float] | None = setting(
        None, "(z, y, x), if the file does not say.", unit="nm"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        pair = self.sections
        if pair is not None and (
            len(pair) != 2 or not is_whole(pair[0], 0) or not is_whole(pair[1], pair[0] + 1)
        ):
            raise ConfigError(
                f"sections are the first one and the one after the last, got {self.sections}"
            )
        if self.labelled_sections is not None and (
            not self.labelled_sections or not all(is_whole(z, 0) for z in self.labelled_sections)
        ):
            raise ConfigError(
                f"labelled_sections are one or more indices, got {self.labelled_sections}"
            )

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a folder of training data: an image, labels, and `volume.toml` that names them.

        Parameters
        ----------
        folder : str or Path
            Its `volume.toml` has the settings of this class; relative paths are taken from there.
            `image` and `labels` may be left out where they are image.zarr and labels.zarr.

        Returns
        -------
        VolumeConfig

        Raises
        ------
        ConfigError
            If there is no such file, it is no TOML, or a setting is unknown or not allowed.
        """
        path = Path(folder).expanduser().absolute() / VOLUME_FILE
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(
                f"{path.parent} is no folder of training data: expected a {VOLUME_FILE} in it that "
                f"can be read ({error})"
            ) from error
        try:
            config = cls.from_json({"image": "image.zarr", "labels": "labels.zarr"} | values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        return config.relative_to(path.parent)

    def truth_in_common(self, other: VolumeConfig) -> str | None:
        """Name the sections whose truth both use, such as "70 to 79"; None if there are none."""
        if (self.image, self.image_dataset) != (other.image, other.image_dataset):
            return None
        sections = [one.sections for one in (self, other) if one.sections is not None]
        first = max((pair[0] for pair in sections), default=0)
        stop = min((pair[1] for pair in sections), default=None)
        labelled = [one._labelled() for one in (self, other)]
        known = [numbers for numbers in labelled if numbers is not None]
        if known:
            both = set.intersection(*known)
            in_range = sorted(z for z in both if z >= first and (stop is None or z < stop))
            return ", ".join(str(z) for z in in_range) or None
        if stop is None:
            return f"from {first} on"
        return f"{first} to {stop - 1}" if first < stop else None

    def _labelled(self) -> set[int] | None:
        if self.labelled_sections is None:
            return None
        first = self.sections[0] if self.sections else 0
        return {first + z for z in self.labelled_sections}

    def relative_to(self, folder: Path) -> Self:
        """Take relative paths from a folder."""
        image, labels = (str(folder / Path(p).expanduser()) for p in (self.image, self.labels))
        return dataclasses.replace(self, image=image, labels=labels)


@dataclass(frozen=True)
class DataConfig(Settings):
    """What is learned from, and how patches are drawn."""

    volumes: tuple[VolumeConfig, ...] = setting((), "Volumes to learn from.", parts=VolumeConfig)
    validation: tuple[VolumeConfig, ...] = setting(
        (),
        "Volumes, or other sections of them, to choose the best weights with.",
        parts=VolumeConfig,
    )
    patch: tuple[int, int, int] = setting(
        (2, 160, 160),
        "Sections, height and width of a patch. A teacher wants many sections "
        "(published: 18, 160, 160), a student alone learns from 2.",
        unit="voxels",
    )
    margin: int = setting(
        40,
        "Read around a patch, so that rotated and shifted patches have full corners.",
        unit="voxels",
        min=0,
        max=512,
    )
    batch: int = setting(5, "Patches per step.", min=1, max=1024)
    balanced: float = setting(
        0.5,
        "Part of the patches that are centred on a neurite drawn at random, "
        "however small it is; the others lie anywhere.",
        min=0.0,
        max=1.0,
    )
    min_labelled: float = setting(
        0.05,
        "Part of a patch that must be in a neurite; with less, another one is drawn.",
        min=0.0,
        max=1.0,
    )
    synthetic_weight: float = setting(
        0.0, "How often a synthetic volume, as `weight` of a volume.", min=0.0
    )
    synthetic_volumes: int = setting(6, "Different synthetic volumes.", min=1, max=1000)
    synthetic_shape: tuple[int, int, int] = setting(
        (24, 384, 384), "Of each of them.", unit="voxels"
    )
    memory: float = setting(
        4.0,
        "Volumes smaller than this are read into memory at the start, larger ones patch by patch.",
        unit="GiB",
        min=0.0,
    )
    workers: int = setting(
        0,
        "Processes that prepare patches; 0 prepares them between the steps. It "
        "does not change the patches.",
        min=0,
        max=256,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        patch = self.patch
        if (
            len(patch) != 3
            or not is_whole(patch[0], 2)
            or not all(is_whole(n, 16) and n % 16 == 0 for n in patch[1:])
        ):
            raise ConfigError(
                "a patch has at least 2 sections, and a height and width that are multiples of "
                f"16, got {patch}"
            )
        if self.batch * (patch[0] - 1) * (patch[1] // 16) * (patch[2] // 16) < 2:
            raise ConfigError(
                "the student's deepest batch norm would see one value: use a larger patch than "
                f"{patch}, or a larger batch than {self.batch}"
            )
        for learned in self.volumes:
            for kept in self.validation:
                both = learned.truth_in_common(kept) if learned.weight > 0 else None
                if both is not None:
                    raise ConfigError(
                        f"sections {both} of {kept.image} are both learned from and validated on: "
                        "give data.volumes and data.validation sections of their own (--sections "
                        "and --validation-sections)"
                    )
        shape = self.synthetic_shape
        if len(shape) != 3 or not all(is_whole(n, 1) for n in shape):
            raise ConfigError(f"synthetic_shape is three positive whole numbers, got {shape}")


@dataclass(frozen=True)
class AugmentConfig(Settings):
    """How patches are varied; probabilities are per patch, or per section where that is said."""

    flip: bool = setting(True, "Mirror y and x, swap them, and reverse the order of sections.")
    rotate: float = setting(
        0.5, "Probability of a turn by any angle, with zoom and stretch.", min=0.0, max=1.0
    )
    zoom: float = setting(
        0.33,
        "Largest magnification or reduction: 0.33 is between 1/1.33 and 1.33.",
        min=0.0,
        max=1.0,
    )
    stretch: float = setting(0.1, "Largest difference between y and x.", min=0.0, max=1.0)
    elastic: float = setting(0.25, "Probability of an elastic warp.", min=0.0, max=1.0)
    elastic_strength: float = setting(
        16.0, "Factor of the warp's smoothed noise; 16 displaces by about 0.65 voxels.", min=0.0
    )
    misalign: float = setting(
        0.3, "Probability that one section, or all from one on, are shifted.", min=0.0, max=1.0
    )
    misalign_most: float = setting(5.0, "Largest such shift.", unit="voxels", min=0.0)
    missing: float = setting(
        0.02,
        "Probability, per section, that it is blank; its truth is not used then.",
        min=0.0,
        max=1.0,
    )
    contrast: float = setting(
        0.5, "Probability of another contrast and brightness of the patch.", min=0.0, max=1.0
    )
    section_contrast: float = setting(
        0.5,
        "Probability, per section, of its own contrast, brightness and gamma.",
        min=0.0,
        max=1.0,
    )
    defocus: float = setting(
        0.2, "Probability, per section, that it is out of focus.", min=0.0, max=1.0
    )
    noise: float = setting(0.4, "Probability, per section, of noise.", min=0.0, max=1.0)

    @classmethod
    def none(cls) -> Self:
        """Leave patches as they are."""
        return cls(
            flip=False, rotate=0.0, zoom=0.0, stretch=0.0, elastic=0.0, misalign=0.0,
            missing=0.0, contrast=0.0, section_contrast=0.0, defocus=0.0, noise=0.0,
        )  # fmt: skip
