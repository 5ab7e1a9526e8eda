from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from napari_cad.core.errors import ConfigError, VolumeError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.volume import EMVolume


def slow_mapping(section: np.ndarray[Any, Any], mapping: IntensityMapping) -> np.ndarray[Any, Any]:
    """The definition, voxel by voxel, in Python floats."""
    assert mapping.low is not None
    assert mapping.high is not None
    out = np.empty(section.shape, np.float32)
    for i, value in np.ndenumerate(section):
        share = (float(value) - mapping.low) / (mapping.high - mapping.low)
        share = min(max(share, 0.0), 1.0)
        out[i] = np.float32(1) - np.float32(share) if mapping.invert else np.float32(share)
    return out


def volume_of(*sections: Any) -> EMVolume:
    return EMVolume(np.stack([np.asarray(section) for section in sections]), name="test volume")


@pytest.mark.parametrize("order", ["C", "F"])
def test_uint8_is_the_published_mapping_to_the_last_bit(order: Any) -> None:
    section = np.asarray(np.arange(256, dtype=np.uint8).reshape(16, 16), order=order)
    mapped = IntensityMapping().resolve(volume_of(section))(section)
    np.testing.assert_array_equal(mapped, section.astype(np.float32) / np.float32(255))
    assert mapped.dtype == np.float32
    assert mapped.flags.c_contiguous
    assert mapped.min() == 0
    assert mapped.max() == 1


DTYPES = ["u1", "i1", "<u2", ">u2", "<i2", ">i2", "u4", ">i4", "u8", "i8", "f2", "f4", ">f4", "f8"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("invert", [False, True])
def test_every_type_agrees_with_the_definition(dtype: str, invert: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(-100, 120, (13, 7)) if np.dtype(dtype).kind != "u" else None
    section = (rng.integers(0, 120, (13, 7)) if values is None else values).astype(dtype)
    before = section.copy()
    for mapping in (
        IntensityMapping("limits", 10, 90.5, invert=invert),
        IntensityMapping("percentiles", percentiles=(5, 95), invert=invert),
        IntensityMapping("dtype", invert=invert),
    ):
        if mapping.method == "dtype" and np.dtype(dtype).kind == "f":
            section = (section.clip(0, 100) / 128).astype(dtype)
            before = section.copy()
        resolved = mapping.resolve(volume_of(section))
        assert resolved.method == "limits"
        mapped = resolved(section[:, ::2])
        np.testing.assert_array_equal(mapped, slow_mapping(section[:, ::2], resolved))
        assert mapped.dtype == np.float32
        assert mapped.flags.c_contiguous
        np.testing.assert_array_equal(section, before)


def test_integer_types_need_no_volume() -> None:
    section = np.array([[-32768, 0, 32767]], np.int16)
    np.testing.assert_array_equal(
        IntensityMapping()(section), IntensityMapping().resolve(volume_of(section))(section)
    )
    with pytest.raises(ConfigError, match=r"resolve\(volume\)"):
        IntensityMapping()(section.astype(np.float32))
    with pytest.raises(ConfigError, match=r"resolve\(volume\)"):
        IntensityMapping("percentiles")(section)


def test_blocks_of_rows_are_all_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_cad.core.intensity._BLOCK_VOXELS", 10)
    section = np.random.default_rng(0).random((11, 4)).astype(np.float32)
    mapping = IntensityMapping("limits", 0.2, 0.7)
    np.testing.assert_array_equal(mapping(section), slow_mapping(section, mapping))


def test_wide_types_keep_small_differences() -> None:
    section = np.array([[10**9, 10**9 + 1, 10**9 + 2]], np.int64)
    mapping = IntensityMapping("limits", 10**9, 10**9 + 2)
    np.testing.assert_array_equal(mapping(section), np.float32([[0, 0.5, 1]]))


def test_floating_point_data_in_the_unit_range_stays() -> None:
    section = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    mapping = IntensityMapping().resolve(volume_of(section))
    np.testing.assert_array_equal(mapping(section), section)


def test_floating_point_data_elsewhere_is_refused_with_its_range() -> None:
    section = np.linspace(-3, 250, 64, dtype=np.float32).reshape(8, 8)
    with pytest.raises(VolumeError, match=r"from -3 to 250.*percentiles.*limits"):
        IntensityMapping().resolve(volume_of(section))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["dtype", "percentiles"])
def test_what_is_not_finite_is_refused_with_its_section(bad: float, method: Any) -> None:
    sections = np.zeros((3, 4, 4), np.float32)
    sections[2, 1, 1] = bad
    with pytest.raises(VolumeError, match=r"section 2 holds 1 of 16"):
        IntensityMapping(method).resolve(EMVolume(sections))
    mapping = IntensityMapping("limits", 0, 1)
    with pytest.raises(VolumeError, match="section 7 holds 1 of 16"):
        mapping(sections[2], z=7)
    with pytest.raises(VolumeError, match="a section holds"):
        mapping(sections[2])


def test_large_finite_numbers_are_no_infinity() -> None:
    section = np.full((2, 2), 1e308)
    np.testing.assert_array_equal(IntensityMapping("limits", 0, 1)(section), 1)


@pytest.mark.parametrize("value", [0, 7, 1e30])
def test_constant_data_becomes_black(value: float) -> None:
    section = np.full((4, 4), value, np.float32)
    mapping = IntensityMapping("percentiles").resolve(volume_of(section))
    np.testing.assert_array_equal(mapping(section), 0)


def test_rare_values_still_give_a_range() -> None:
    section = np.zeros((100, 100), np.uint16)
    section[0, 0] = 500
    mapping = IntensityMapping("percentiles").resolve(volume_of(section))
    assert (mapping.low, mapping.high) == (0, 500)


def test_missing_sections_do_not_count() -> None:
    rng = np.random.default_rng(0)
    section = rng.integers(100, 201, (64, 64), dtype=np.uint8)
    mapping = IntensityMapping("percentiles", percentiles=(1, 99)).resolve(
        volume_of(section, np.zeros_like(section), section)
    )
    assert mapping.low == pytest.approx(101, abs=1)
    assert mapping.high == pytest.approx(199, abs=1)


def test_percentiles_are_of_few_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    section = EMVolume.section
    monkeypatch.setattr(EMVolume, "section", lambda self, z: read.append(z) or section(self, z))
    volume = EMVolume(np.zeros((100, 2, 2), np.uint8))
    IntensityMapping("percentiles").resolve(volume)
    assert read == [0, 14, 28, 42, 57, 71, 85, 99]


def test_subsampling_sees_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_cad.core.intensity._SAMPLED_VOXELS", 1000)
    section = np.tile(np.arange(100, dtype=np.uint8), (100, 1))
    mapping = IntensityMapping("percentiles", percentiles=(0, 100)).resolve(volume_of(section))
    assert (mapping.low, mapping.high) == (0, 99)


def test_json_keeps_everything() -> None:
    for mapping in (
        IntensityMapping(),
        IntensityMapping("percentiles", percentiles=(1, 99), invert=True),
        IntensityMapping("limits", 3, 4.5),
    ):
        assert IntensityMapping.from_json(json.loads(json.dumps(mapping.to_json()))) == mapping
    with pytest.raises(ConfigError, match="gamma"):
        IntensityMapping.from_json({"gamma": 2})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "histogram"}, "expected one of"),
        ({"method": "limits"}, "both low and high"),
        ({"method": "limits", "low": 1}, "both low and high"),
        ({"method": "limits", "low": 2, "high": 2}, "low < high"),
        ({"method": "limits", "low": 3, "high": 2}, "invert"),
        ({"method": "limits", "low": 0, "high": float("nan")}, "finite"),
        ({"percentiles": (50, 50)}, "first < second"),
        ({"percentiles": (-1, 50)}, "first < second"),
        ({"percentiles": (1, 2, 3)}, "two numbers"),
    ],
)
def test_what_is_not_allowed_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IntensityMapping(**arguments)
