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
    for span in tile_spans(size, tile, halo):
        times_kept[span.keep] += 1
        assert span.read_start == max(0, span.keep_start - halo)
        assert span.read_stop == min(size, span.keep_stop + halo)
        assert tile is None or span.read_stop - span.read_start <= max(tile, ALIGNMENT)
        assert not any(
            edge % ALIGNMENT
            for edge in (span.read_start, span.read_stop, span.keep_start, span.keep_stop)
        )
        axis = np.arange(size)
        assert np.array_equal(axis[span.read][span.keep_in_read], axis[span.keep])
    assert (times_kept == 1).all()


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
