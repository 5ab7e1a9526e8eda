from __future__ import annotations

import numpy as np
import pytest

from napari_cad.core.errors import ConfigError
from napari_cad.core.tiling import ALIGNMENT, Padding, tile_spans


@pytest.mark.parametrize("size", [16, 160, 1024, 1264])
@pytest.mark.parametrize("tile", [None, 64, 112, 400])
@pytest.mark.parametrize("halo", [0, 16])
def test_kept_parts_partition_the_axis_and_have_their_halo(size, tile, halo):
    times_kept = np.zeros(size, int)
    spans = tile_spans(size, tile, halo)
    assert len({span.read_stop - span.read_start for span in spans}) == 1
    for span in spans:
        times_kept[span.keep] += 1
        assert span.read_start <= max(0, span.keep_start - halo)
        assert span.read_stop >= min(size, span.keep_stop + halo)
        assert tile is None or span.read_stop - span.read_start <= max(tile, ALIGNMENT)
        assert not any(
            edge % ALIGNMENT
            for edge in (span.read_start, span.read_stop, span.keep_start, span.keep_stop)
        )
        axis = np.arange(size)
        assert np.array_equal(axis[span.read][span.keep_in_read], axis[span.keep])
    assert (times_kept == 1).all()


@pytest.mark.parametrize(
    ("tile", "reads"),
    [
        (2048, [(0, 2048)]),
        (1200, [(0, 1168), (880, 2048)]),  # 24 more than the half with its halo, and not needed
        (1152, [(0, 880), (592, 1472), (1168, 2048)]),
    ],
)
def test_tiles_are_as_few_and_as_small_as_possible(tile, reads):
    spans = tile_spans(2048, tile, 144)
    assert [(span.read_start, span.read_stop) for span in spans] == reads


def test_a_tile_without_inside_is_refused():
    with pytest.raises(ConfigError, match="at least 304"):
        tile_spans(1024, 288, 144)


@pytest.mark.parametrize(("size", "halo"), [(1000, 16), (1024, 10), (1024, -16)])
def test_unaligned_lengths_are_refused(size, halo):
    with pytest.raises(ConfigError, match="multiples of 16"):
        tile_spans(size, 512, halo)


def test_padding_is_shared_between_both_sides():
    assert Padding.to_multiple(1250) == Padding(7, 7)
    assert Padding.to_multiple(1) == Padding(7, 8)
    assert Padding.to_multiple(1024) == Padding(0, 0)
