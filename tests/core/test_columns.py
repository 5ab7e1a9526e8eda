from __future__ import annotations

import numpy as np
import pytest
import zarr

from napari_cad.core import columns
from napari_cad.core.columns import ColumnWriter, read_column, write_column
from napari_cad.core.errors import ShapeError


@pytest.fixture(params=["disk", "elsewhere"])
def group(request, tmp_path):
    if request.param == "disk":
        return zarr.open_group(tmp_path / "group", mode="a")
    return zarr.open_group(zarr.storage.MemoryStore(), mode="a")


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("shape", [(0,), (1,), (1000,), (1000, 3)])
def test_pieces_of_any_length_become_one_column(group, mapped, shape, monkeypatch):
    monkeypatch.setattr(columns, "CHUNK_ROWS", 64)
    values = np.random.default_rng(0).random(shape).astype(np.float32)

    with ColumnWriter(group, "column", shape, np.float32, mapped=mapped) as writer:
        for piece in np.split(values, [1, 1, 63, 64, 200, 555]):
            writer.append(piece)

    read = read_column(group, "column")
    np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(group["column"][:], values)
    assert read.dtype == np.float32
    on_disk = isinstance(group.store, zarr.storage.LocalStore)
    assert isinstance(read, np.memmap) == (mapped and on_disk and shape[0] > 0)


def test_who_has_a_column_keeps_it_when_it_is_replaced(tmp_path):
    group = zarr.open_group(tmp_path / "group", mode="a")
    write_column(group, "column", np.arange(100_000), mapped=True)
    mapped = read_column(group, "column")
    write_column(group, "column", np.zeros(10, np.int64), mapped=True)

    assert mapped[-1] == 99_999
    assert len(read_column(group, "column")) == 10


@pytest.mark.parametrize("mapped", [True, False])
def test_missing_rows_are_an_error(group, mapped):
    with (
        pytest.raises(ShapeError, match="expected 5 rows of a column, got 3"),
        ColumnWriter(group, "column", (5,), np.uint32, mapped=mapped) as writer,
    ):
        writer.append(np.zeros(3))
