"""From the numbers in a file to the intensities in [0, 1] that the network was trained on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from napari_cad.core.errors import ConfigError, VolumeError
from napari_cad.core.volume import spread_sections

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.core.volume import EMVolume

Method = Literal["dtype", "percentiles", "limits"]

#: Sections looked at to fix a range, and at most so many voxels of each.
_SAMPLED_SECTIONS = 8
_SAMPLED_VOXELS = 1_000_000

#: Voxels converted at once where the arithmetic is in float64, so that its memory stays small.
_BLOCK_VOXELS = 1 << 20


@dataclass(frozen=True)
class IntensityMapping:
    """v → clip((v − low) / (high − low), 0, 1), then 1 − v where `invert` is set.

    Parameters
    ----------
    method : {"dtype", "percentiles", "limits"}
        Where low and high come from. "dtype": the range of the integer type (uint8: value / 255,
        as published), or [0, 1] for floating-point data that lies there. "percentiles": of sampled
        sections. "limits": as given.
    low, high : float, optional
        In units of the data, low < high; needed for "limits", None elsewhere until `resolve`.
    percentiles : tuple of float
        Two percentages, 0 ≤ first < second ≤ 100.
    invert : bool
        For data with bright membranes: the published checkpoints want dark ones.

    Raises
    ------
    ConfigError
        If a value is outside what is said here.
    """

    method: Method = "dtype"
    low: float | None = None
    high: float | None = None
    percentiles: tuple[float, float] = (0.1, 99.9)
    invert: bool = False

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(
                f"intensity method: expected one of {', '.join(get_args(Method))}, "
                f"got {self.method!r}"
            )
        if (self.low is None) != (self.high is None) or (
            self.method == "limits" and self.low is None
        ):
            raise ConfigError(
                f"intensity limits: expected both low and high, got {self.low} and {self.high}"
            )
        if self.low is not None and self.high is not None:
            low, high = float(self.low), float(self.high)
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ConfigError(
                    f"intensity limits: expected finite low < high, got {low} and {high}; "
                    "for bright membranes set invert"
                )
            object.__setattr__(self, "low", low)
            object.__setattr__(self, "high", high)
        try:
            first, second = (float(p) for p in self.percentiles)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"intensity percentiles: expected two numbers, got {self.percentiles!r}"
            ) from error
        if not 0 <= first < second <= 100:
            raise ConfigError(
                "intensity percentiles: expected 0 ≤ first < second ≤ 100, got "
                f"{first} and {second}"
            )
        object.__setattr__(self, "percentiles", (first, second))

    def to_json(self) -> dict[str, Any]:
        """Make a dictionary that `json` can write."""
        return asdict(self) | {"percentiles": list(self.percentiles)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> IntensityMapping:
        """Make a mapping from what `to_json` gave.

        Raises
        ------
        ConfigError
            If a key is unknown or a value is not allowed.
        """
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ConfigError(
                f"intensity mapping: expected {', '.join(cls.__dataclass_fields__)}, "
                f"got also {', '.join(unknown)}"
            )
        return cls(**values)

    def resolve(self, volume: EMVolume) -> IntensityMapping:
        """Fix the limits for a volume, so that every section of it is mapped alike.

        Parameters
        ----------
        volume : EMVolume
            A few sections of it are read where its type alone does not fix the limits.

        Returns
        -------
        IntensityMapping
            With method "limits" and numbers. Where all sampled voxels have one value, that value
            becomes `low`.

        Raises
        ------
        VolumeError
            If sampled sections hold NaN or infinity, or "dtype" is asked for floating-point data
            outside [0, 1].
        """
        if self.low is not None:
            return replace(self, method="limits")
        if self.method == "dtype":
            low, high = _integer_limits(volume.dtype) or _unit_limits(volume)
        else:
            values = np.concatenate(_sample(volume))
            low, high = (
                float(v) for v in np.percentile(values.astype(np.float64), self.percentiles)
            )
            if low == high:
                # the sampled values may be constant between the percentiles only
                low, high = float(values.min()), float(values.max())
            if low == high:
                high = low + max(1.0, abs(low))
        return replace(self, method="limits", low=low, high=high)

    def __call__(
        self, section: npt.NDArray[Any], *, z: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Map one section.

        Parameters
        ----------
        section : ndarray, shape (Y, X), integer or floating
            Left as it is; any byte order.
        z : int, optional
            The section's index, for error messages.

        Returns
        -------
        ndarray, shape (Y, X), float32 in [0, 1]
            C-contiguous, newly made.

        Raises
        ------
        ConfigError
            If the limits are not fixed yet and the type alone does not fix them: see `resolve`.
        VolumeError
            If the section holds NaN or infinity.
        """
        section = np.asarray(section)
        low, high = self.low, self.high
        if low is None or high is None:
            limits = _integer_limits(section.dtype) if self.method == "dtype" else None
            if limits is None:
                raise ConfigError(
                    f"an intensity mapping by {self.method} has no limits for {section.dtype} "
                    "data yet: fix them with resolve(volume)"
                )
            low, high = limits
        if section.dtype.kind not in "iuf":
            raise VolumeError(
                f"a section holds integers or floating-point numbers, got {section.dtype}"
            )
        _check_finite(section, z)
        out = np.empty(section.shape, np.float32)
        if section.dtype.kind in "iu" and section.dtype.itemsize <= 2:
            unsigned = np.dtype(f"u{section.dtype.itemsize}")
            contiguous = np.ascontiguousarray(section)
            # every value that the type can take, at the place of its bit pattern
            every = np.arange(2 ** (8 * unsigned.itemsize), dtype=unsigned).view(section.dtype)
            # no index is outside, so "clip" changes nothing; "raise" would go through a buffer
            np.take(self._map(every, low, high), contiguous.view(unsigned), out=out, mode="clip")
            return out
        rows = max(1, _BLOCK_VOXELS // max(1, int(np.prod(section.shape[1:]))))
        for start in range(0, len(section), rows):
            block = slice(start, start + rows)
            out[block] = self._map(section[block], low, high)
        return out

    def _map(self, values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.float32]:
        # A quotient in float64 that is rounded to float32 is the float32 quotient (53 ≥ 2·24 + 2
        # bits), so this is value / 255 in float32 to the last bit, and wide types lose nothing.
        quotient = (values.astype(np.float64) - low) / (high - low)
        mapped = np.clip(quotient, 0.0, 1.0).astype(np.float32)
        return np.subtract(np.float32(1), mapped) if self.invert else mapped


def _integer_limits(dtype: np.dtype[Any]) -> tuple[float, float] | None:
    if dtype.kind not in "iu":
        return None
    info = np.iinfo(dtype)
    return float(info.min), float(info.max)


def _unit_limits(volume: EMVolume) -> tuple[float, float]:
    values = np.concatenate(_sample(volume))
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise VolumeError(
            f"{volume.name}: {volume.dtype} data must lie in [0, 1] to be taken as it is, got "
            f"values from {low:g} to {high:g}: use intensity method 'percentiles', or 'limits' "
            "with the values for black and white"
        )
    return 0.0, 1.0


def _sample(volume: EMVolume) -> list[npt.NDArray[Any]]:
    """Values of a few sections; those of one value (missing ones) only if there are no others."""
    samples = []
    for z in spread_sections(volume.n_sections, _SAMPLED_SECTIONS):
        section = volume.section(z)
        _check_finite(section, z)
        # a stride over the flattened section must not share a factor with its width, or only
        # a few columns are seen
        stride = -(-section.size // _SAMPLED_VOXELS)
        while stride > 1 and math.gcd(stride, section.shape[1]) > 1:
            stride += 1
        samples.append(section.ravel()[::stride])
    varied = [values for values in samples if values.min() != values.max()]
    return varied or samples


def _check_finite(section: npt.NDArray[Any], z: int | None) -> None:
    if section.dtype.kind != "f":
        return
    # the sum is finite where all values are, unless it overflows: one cheap pass settles most
    with np.errstate(all="ignore"):
        if np.isfinite(section.sum(dtype=np.float64)):
            return
    bad = int(section.size - np.count_nonzero(np.isfinite(section)))
    if bad:
        where = "a section" if z is None else f"section {z}"
        raise VolumeError(
            f"{where} holds {bad} of {section.size} values that are NaN or infinite, and the "
            "network needs numbers: replace them, for example with numpy.nan_to_num"
        )
