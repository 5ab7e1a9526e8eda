"""What is known of the five published student checkpoints; plain facts, nothing is loaded here."""

from __future__ import annotations

from dataclasses import dataclass

#: Folder with the checkpoints in the authors' repository, on its default branch.
BASE_URL = "https://raw.githubusercontent.com/liuxy1103/CAD/HEAD/ckpt/"

#: What is known of the terms under which the published checkpoints may be used.
LICENCE_NOTE = (
    "none stated: the authors attached no licence to their checkpoints, so ask them "
    "(https://github.com/liuxy1103/CAD) before passing them on or using them commercially"
)


@dataclass(frozen=True)
class PublishedCheckpoint:
    """One published student checkpoint.

    Parameters
    ----------
    name : str
        As the authors call it.
    sha256 : str
        Of the file, 64 hexadecimal digits.
    iterations : int
        Training iterations.
    voxel_size : tuple of float
        (z, y, x) in nm of the data it was trained on.
    training_data : str
        What it was trained on.
    intensity_notes : str
        How it answers to brightness and contrast, measured.
    polarity : str
        Which structures must be dark in the intensities that go in.
    licence : str
        Terms of use.
    """

    name: str
    sha256: str
    iterations: int
    voxel_size: tuple[float, float, float]
    training_data: str
    intensity_notes: str
    polarity: str = "dark membranes"
    licence: str = LICENCE_NOTE

    @property
    def file_name(self) -> str:
        """Name of its file, here and in the authors' repository."""
        return f"{self.name}.ckpt"

    @property
    def url(self) -> str:
        """Its public address."""
        return BASE_URL + self.file_name

    @property
    def notes(self) -> str:
        """Polarity and intensity notes in one text."""
        return (
            f"Published student after {self.iterations} iterations. Wants {self.polarity}; "
            f"on inverted images it fails. {self.intensity_notes}"
        )


_BRIGHTNESS = "40 grey levels more (of 255) change the affinities by less than 0.02"


def _cremi(letter: str, iterations: int, sha256: str, notes: str) -> PublishedCheckpoint:
    return PublishedCheckpoint(
        name=f"Cremi{letter}",
        sha256=sha256,
        iterations=iterations,
        voxel_size=(40.0, 4.0, 4.0),
        training_data=f"CREMI sample {letter}, sections 0–99 of 125 (adult Drosophila, ssTEM)",
        intensity_notes=notes,
    )


#: The published checkpoints by name.
PUBLISHED: dict[str, PublishedCheckpoint] = {
    checkpoint.name: checkpoint
    for checkpoint in (
        PublishedCheckpoint(
            name="AC34",
            sha256="b3ffbbcffe07433c9d173030ec60533ccf6a8ae6551b1732f2f3c79a5ef64d64",
            iterations=151_000,
            voxel_size=(30.0, 6.0, 6.0),
            training_data="AC4, sections 0–79 of 100 (mouse somatosensory cortex, ssSEM)",
            intensity_notes=(
                f"{_BRIGHTNESS}; contrast × 1.5 breaks the affinities between sections."
            ),
        ),
        _cremi(
            "A",
            131_000,
            "d06468b6f84336e3eb66b099e89b345982d5547ae52882aa63dde26fc8ed166f",
            f"{_BRIGHTNESS}; a flat, bright image (half the contrast, mean grey 180 of 255) "
            "breaks the affinities between sections.",
        ),
        _cremi(
            "B",
            194_000,
            "866e83adc4adb9cf1c923832f5e630f0bc4702af347156b19d5d09f4aa4987cb",
            f"{_BRIGHTNESS}.",
        ),
        _cremi(
            "C",
            154_000,
            "50190441fa61a07d02a09797d715d9c1cc9ec3953b4506ef87faa23386ef301b",
            f"{_BRIGHTNESS}.",
        ),
        PublishedCheckpoint(
            name="wafer4",
            sha256="3d22925e8776493c617359f1148e2713bdf7d9a655550b70b864c05a4fcde53f",
            iterations=153_000,
            voxel_size=(35.0, 8.0, 8.0),
            training_data=(
                "Wafer4, sections 0–99 of 125 (mouse medial entorhinal cortex, multi-beam SEM)"
            ),
            intensity_notes=(
                "Wants a bright image of high contrast, mean grey about 200 of 255 or more: below "
                "about 180 the affinities between sections fall to nearly 0."
            ),
        ),
    )
}


def find_published(sha256: str) -> PublishedCheckpoint | None:
    """Tell which published checkpoint a file is.

    Parameters
    ----------
    sha256 : str
        Of the file, 64 hexadecimal digits.

    Returns
    -------
    PublishedCheckpoint or None
        None if it is none of them.
    """
    return next((p for p in PUBLISHED.values() if p.sha256 == sha256.lower()), None)
