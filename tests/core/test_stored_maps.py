from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import zarr

from napari_cad.core.stored_maps import StoredMap

if TYPE_CHECKING:
    from pathlib import Path


class Killed(BaseException):
    """What ends a process at any place."""


def test_a_map_whose_beginning_was_killed_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stored() -> StoredMap:
        root = zarr.open_group(tmp_path / "run.zarr", mode="a")
        return StoredMap(root, (2, 8, 8), "embedding", normalised=True)

    create = zarr.Group.create_array

    def killed(self: zarr.Group, name: str, **settings: Any) -> Any:
        if name == "0":
            raise Killed
        return create(self, name, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(zarr.Group, "create_array", killed)
        with pytest.raises(Killed):
            stored()._create()
    assert stored().rgb is None
    stored()._create()
    assert stored().rgb is not None
    assert not stored().sections_done().any()
