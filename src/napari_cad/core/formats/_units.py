"""Lengths in files to nanometres."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_NM = {
    "pm": 1e-3,
    "picometer": 1e-3,
    "å": 0.1,
    "a": 0.1,
    "angstrom": 0.1,
    "ångström": 0.1,
    "nm": 1.0,
    "nanometer": 1.0,
    "um": 1e3,
    "micron": 1e3,
    "micrometer": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
    "cm": 1e7,
    "centimeter": 1e7,
    "m": 1e9,
    "meter": 1e9,
    "in": 2.54e7,
    "inch": 2.54e7,
}

#: Two characters that look alike (micro sign, Greek mu), and ImageJ's escape for the first.
_MICRO = ("\\u00b5", "µ", "μ")


def nm_per(unit: Any) -> float | None:
    """Nanometres in one `unit` of length; None if it is no unit of length that we know."""
    if isinstance(unit, bytes):
        unit = unit.decode("utf-8", "replace")
    if not isinstance(unit, str):
        return None
    name = unit.strip().lower()
    for sign in _MICRO:
        name = name.replace(sign, "u")
    # the Ångström sign lower-cases to å
    name = name.replace("metre", "meter")
    if name not in _NM and name.endswith("s"):
        name = name[:-1]
    if name == "inche":
        name = "inch"
    return _NM.get(name)


def voxel_size_in_nm(sizes: Any, units: Any) -> tuple[float, float, float] | None:
    """Three sizes (z, y, x) in one unit or in one each, as nm; None unless all are known."""
    units = [units] * 3 if isinstance(units, (str, bytes)) else list(units)
    try:
        values = [float(size) for size in sizes]
    except (TypeError, ValueError):
        return None
    factors = [nm_per(unit) for unit in units]
    if len(values) != 3 or len(factors) != 3:
        return None
    result = []
    for value, factor in zip(values, factors, strict=True):
        if factor is None or not (math.isfinite(value) and value > 0):
            return None
        # 0.006 µm is 6 nm, not 6.000000000000001
        result.append(float(f"{value * factor:.12g}"))
    z, y, x = result
    return z, y, x


def from_attributes(
    attributes: Mapping[str, Any],
) -> tuple[tuple[float, float, float] | None, tuple[float, float, float]]:
    """Voxel size and origin in nm from the attributes that EM tools put on HDF5 and zarr arrays.

    `resolution` (CREMI) or `voxel_size` (funlib), with `offset`, are in nm unless `units` says
    otherwise; `element_size_um` (ilastik, PlantSeg) is in µm. All are in the order z, y, x.

    Returns
    -------
    voxel_size : tuple of float or None
    origin : tuple of float
        (0, 0, 0) where it is not given.
    """
    units = attributes.get("units", attributes.get("unit", "nm"))
    units = units if isinstance(units, (str, bytes)) else list(units)[-3:]
    for name, unit in (("voxel_size", units), ("resolution", units), ("element_size_um", "um")):
        if name not in attributes:
            continue
        voxel_size = voxel_size_in_nm(_last_three(attributes[name]), unit)
        if voxel_size is not None:
            factors = [
                nm_per(u) or 1.0 for u in ([unit] * 3 if isinstance(unit, (str, bytes)) else unit)
            ]
            return voxel_size, _origin(attributes.get("offset"), factors)
    return None, (0.0, 0.0, 0.0)


def _last_three(values: Any) -> list[Any]:
    try:
        return list(values)[-3:]
    except TypeError:
        return []


def _origin(offset: Any, factors: list[float]) -> tuple[float, float, float]:
    values = _last_three(offset)
    try:
        z, y, x = (float(v) * f for v, f in zip(values, factors, strict=True))
    except (TypeError, ValueError):
        return 0.0, 0.0, 0.0
    if not (math.isfinite(z) and math.isfinite(y) and math.isfinite(x)):
        return 0.0, 0.0, 0.0
    return z, y, x
