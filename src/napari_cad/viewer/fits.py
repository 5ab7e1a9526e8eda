"""How a student is to be fitted to an image, as a person has chosen it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_cad.core.config import FitConfig

if TYPE_CHECKING:
    from napari_cad.core.intensity import IntensityMapping


@dataclass(frozen=True)
class ChosenFit:
    """Settings of one checkpoint for one image.

    Attributes
    ----------
    fit : FitConfig
    intensity : IntensityMapping, optional
        None leaves it to the checkpoint.
    """

    fit: FitConfig = field(default_factory=FitConfig)
    intensity: IntensityMapping | None = None

    def __str__(self) -> str:
        """Write what is not as it would be by itself: adapt 0.5, smooth 1."""
        values, off = self.fit, FitConfig()
        parts = [
            f"{name} {getattr(values, name):g}"
            for name in ("adapt", "smooth", "rescale")
            if getattr(values, name) != getattr(off, name)
        ]
        if self.intensity is not None:
            parts += [_in_words(self.intensity)]
        return ", ".join(parts) or "as it is"


def _in_words(intensity: IntensityMapping) -> str:
    text = f"by {intensity.method}"
    if intensity.method == "limits":
        text = f"{intensity.low:g} to {intensity.high:g}"
    return f"intensity {text}{', inverted' if intensity.invert else ''}"
