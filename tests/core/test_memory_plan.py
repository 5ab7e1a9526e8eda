from __future__ import annotations

import pytest

from napari_cad.core.config import InferenceConfig, SegmentationConfig
from napari_cad.core.errors import ConfigError
from napari_cad.core.memory_plan import (
    CALLER,
    FRAGMENTS_PER_VOXEL,
    WORKER,
    format_memory,
    parse_memory,
    plan_memory,
    within_memory,
)

SIZE = (2048, 2048)


def plan(memory: int, workers: int = 2, **inference: int):
    return plan_memory(memory, SIZE, InferenceConfig(**inference), width=16, workers=workers)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("4GB", 4 * 10**9),
        ("900 MB", 900 * 10**6),
        ("3.5GiB", 3.5 * 2**30),
        ("2g", 2 * 10**9),
        ("512mib", 2**29),
        ("123456789", 123456789),
    ],
)
def test_amounts_of_memory_are_read(text, n_bytes):
    assert parse_memory(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GB", "4 apples", "0GB", "-1GB", "4IB"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(ConfigError, match="such as 4GB"):
        parse_memory(text)


def test_amounts_are_rounded_up_when_they_are_written():
    assert format_memory(2_991_000_000) == "3 GB"
    assert format_memory(2_981_000_000) == "2.99 GB"
    assert format_memory(591_000_000) == "600 MB"


def test_with_plenty_of_memory_nothing_is_given_up():
    made = plan(16 * 10**9)
    assert made.workers == 2
    assert made.step >= 48 * 16 * SIZE[0] * SIZE[1]


def test_workers_go_first_then_whole_sections_then_the_last_worker():
    plans = [plan(n * 10**8, workers=4) for n in range(60, 12, -1)]
    workers = [made.workers for made in plans]
    assert workers == sorted(workers, reverse=True)
    assert workers[0] > 1
    whole = 48 * 16 * SIZE[0] * SIZE[1]
    for made in plans:
        assert made.step >= whole or made.workers <= 1
    assert any(made.workers == 1 and made.step < whole for made in plans)
    assert workers[-1] == 0


def test_the_parts_of_a_plan_stay_within_the_limit():
    for memory in range(1_300_000_000, 6_000_000_000, 100_000_000):
        made = plan(memory)
        per_section = FRAGMENTS_PER_VOXEL * SIZE[0] * SIZE[1]
        fragments = made.workers * (WORKER + per_section) or per_section
        assert CALLER + fragments + made.step < memory


def test_what_cannot_be_met_is_refused_with_the_least_that_can():
    with pytest.raises(ConfigError, match=r"need at least ([\d.]+) GB") as refused:
        plan(10**9)
    text = str(refused.value)
    needed = parse_memory(text[text.index("at least") + 8 : text.index(" of memory")])
    assert plan(needed).workers == 0
    with pytest.raises(ConfigError):
        plan(needed - 2 * 10**7)


def test_a_network_elsewhere_needs_no_main_memory():
    assert plan_memory(10**9, SIZE, InferenceConfig(), width=0, workers=0).workers == 0


def test_the_size_that_the_network_sees_counts():
    half = (SIZE[0] // 2, SIZE[1] // 2)
    options = {"width": 16, "workers": 2}
    own = plan_memory(3 * 10**9, SIZE, InferenceConfig(), **options)
    assert own.workers < 2
    smaller = plan_memory(3 * 10**9, SIZE, InferenceConfig(), network_size=half, **options)
    assert smaller.workers == 2


def test_a_tile_that_the_person_chose_counts():
    whole, tiled = plan(4 * 10**9), plan(4 * 10**9, tile=512)
    assert tiled.workers > whole.workers
    with pytest.raises(ConfigError):
        plan(1_400_000_000, tile=1024)


def test_a_run_without_a_limit_is_left_alone():
    config = SegmentationConfig()
    assert within_memory(config, SIZE, SIZE, 16) is config


def test_a_run_gets_what_its_limit_allows():
    config = within_memory(SegmentationConfig(memory=2 * 10**9, workers=4), SIZE, SIZE, 16)
    assert config.n_workers < 4
    assert config.inference.memory is not None
    assert config.inference.memory < 2 * 10**9
