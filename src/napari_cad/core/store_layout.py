"""What lies where in a store, and an empty one.

::

    RUN.zarr/                  attribute "napari_cad": format, signature, config, volume, ...
    ├─ affinities/0            (3, Z, Y, X) uint8, chunks (3, 1, 512, 512); an OME-Zarr image
    ├─ fragments/0             (Z, Y, X) uint32, unique over the volume, 0 = background; the same
    ├─ marks/STAGE             (Z,) int64: −1, or how many things the stage made of the section
    ├─ edges/Z                 (n, 9) float64: edges inside section Z and to section Z − 1
    ├─ fragment_table/Z        (n, 11) float64: size, bounding box and centroid of each fragment
    ├─ graph/…                 columns of the whole region graph; see `stored_graph`
    ├─ agglomeration/FUNCTION/ merge history, merge tree, join scores, and, where small segments
    │                          have been absorbed, the forest; see `stored_agglomeration`
    ├─ embedding_rgb/VARIANT   embedding maps, where asked for; see `napari_cad.core.stored_maps`
    └─ scratch                 while a run goes on only; see `napari_cad.core.scratch`

While it is made, a store has another attribute, "napari_cad_unfinished", which was there before
anything else; so one that was cut short is known for what it is, and holds nothing that anybody
would miss. On a local disk the file with that attribute is written under the same name, and then
becomes zarr.json in one step.

A section's arrays are written before its mark, and zarr replaces a chunk in one step; so what is
marked is whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import zarr
from zarr.codecs import BloscCodec

from napari_cad.core import scratch, stored_maps
from napari_cad.core.errors import StoreError
from napari_cad.core.locations import as_path, location, remote_errors

if TYPE_CHECKING:
    from napari_cad.core.checkpoint_metadata import CheckpointMetadata
    from napari_cad.core.config import SegmentationConfig
    from napari_cad.core.locations import Location
    from napari_cad.core.volume import EMVolume

#: Version of the layout; raised when an older package could not read the store rightly.
FORMAT = 2

#: Attribute of the group that makes it a store.
ATTRIBUTE = "napari_cad"

#: Attribute of the group as long as there is no more than a part of an empty store, and name of
#: the file that becomes the group's metadata.
UNFINISHED = "napari_cad_unfinished"

METADATA = "zarr.json"

Stage = Literal["affinities", "fragments", "edges"]
STAGES: tuple[Stage, ...] = ("affinities", "fragments", "edges")

#: Groups that are OME-Zarr images; the first has channels.
IMAGES = ("affinities", "fragments")

#: What a store may hold beside its metadata.
GROUPS = frozenset(
    {
        *IMAGES, "marks", "edges", "fragment_table", "graph", "agglomeration",
        stored_maps.GROUP, scratch.GROUP,
    }
)  # fmt: skip

#: Mark of a section that a stage has not finished.
NOT_DONE = -1

_CHUNK = 512
_AFFINITY_CODEC = BloscCodec(typesize=1, cname="zstd", clevel=3, shuffle="bitshuffle")
_FRAGMENT_CODEC = BloscCodec(typesize=4, cname="zstd", clevel=3, shuffle="shuffle")


def is_store(path: str | Path) -> bool:
    """Whether `path`, or URL, is the folder of a store; reads its metadata only.

    Raises
    ------
    StoreError
        If it is a URL and nothing answers there.
    """
    return ATTRIBUTE in _attributes(location(path))


def is_unfinished(path: str | Path) -> bool:
    """Whether an empty store was begun at `path`, or URL, and not made to its end.

    Raises
    ------
    StoreError
        As `is_store`.
    """
    place = location(path)
    return UNFINISHED in _attributes(place) or _is_first_file(place)


def _attributes(place: Location) -> dict[str, Any]:
    """Read the attributes of a group; empty where there is none, or not in our version of zarr."""
    file = as_path(place) / METADATA
    try:
        text = file.read_bytes() if file.is_file() else b"{}"
    except remote_errors() as error:
        raise StoreError(f"{place} cannot be looked at ({error})") from error
    try:
        metadata = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(metadata, dict) or metadata.get("node_type") != "group":
        return {}
    attributes = metadata.get("attributes")
    return attributes if isinstance(attributes, dict) else {}


def _is_first_file(place: Location) -> bool:
    """Whether a folder holds nothing but the file that is the first of a store, perhaps in part."""
    if not isinstance(place, Path) or not (place / UNFINISHED).is_file():
        return False
    return [entry.name for entry in place.iterdir()] == [UNFINISHED]


def open_root(place: Location, mode: Literal["r", "r+"]) -> zarr.Group:
    """Open the group of a store.

    Metadata that somebody has consolidated are not used: they say nothing of what came later.
    """
    return zarr.open_group(place, mode=mode, use_consolidated=False)


def _begin(place: Location) -> zarr.Group:
    """Make the group, marked as unfinished."""
    attributes: dict[str, Any] = {UNFINISHED: True}
    if not isinstance(place, Path):  # an object is there as a whole, or not at all
        return zarr.open_group(place, mode="a", zarr_format=3, attributes=attributes)
    metadata = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    place.mkdir(parents=True, exist_ok=True)
    first = place / UNFINISHED
    first.write_text(json.dumps(metadata), encoding="utf-8")
    first.replace(place / METADATA)
    return open_root(place, "r+")


def make_empty(
    place: Location,
    *,
    volume: EMVolume,
    checkpoint: CheckpointMetadata,
    config: SegmentationConfig,
    signature: dict[str, Any],
) -> zarr.Group:
    """Make an empty store at a free place; arguments as for `SectionStore.create`."""
    group = _begin(place)
    n_sections, height, width = volume.shape
    chunk = (min(_CHUNK, height), min(_CHUNK, width))
    _image_group(group, "affinities", volume).create_array(
        "0",
        shape=(3, n_sections, height, width),
        chunks=(3, 1, *chunk),
        dtype="uint8",
        compressors=_AFFINITY_CODEC,
        dimension_names=("c", "z", "y", "x"),
    )
    _image_group(group, "fragments", volume).create_array(
        "0",
        shape=(n_sections, height, width),
        chunks=(1, *chunk),
        dtype="uint32",
        compressors=_FRAGMENT_CODEC,
        dimension_names=("z", "y", "x"),
    )
    marks = group.create_group("marks")
    for stage in STAGES:
        marks.create_array(
            stage,
            shape=(n_sections,),
            chunks=(1,),
            dtype="int64",
            fill_value=NOT_DONE,
            compressors=None,
        )
    for name in ("edges", "fragment_table", "agglomeration"):
        group.create_group(name)
    settings: dict[str, Any] = {
        "format": FORMAT,
        "signature": signature,
        "config": config.to_json(),
        "volume": {
            "name": volume.name,
            "shape": list(volume.shape),
            "dtype": volume.dtype.name,
            "voxel_size": None if volume.voxel_size is None else list(volume.voxel_size),
            "origin": list(volume.origin),
            "source": None if volume.source is None else volume.source.to_json(),
            **({} if volume.bin == 1 else {"bin": volume.bin}),
        },
        "checkpoint": checkpoint.to_json(),
    }
    # last, so that a store that was cut short while it was made is not taken for one
    group.attrs.put({ATTRIBUTE: settings})
    return group


def place_images(
    group: zarr.Group,
    voxel_size: tuple[float, float, float] | None,
    origin: tuple[float, float, float],
) -> None:
    """Give the images of a store, which are there, another voxel size and origin, (z, y, x) nm."""
    for name in IMAGES:
        group[name].attrs["ome"] = _ome_metadata(name, voxel_size, origin)


def _image_group(parent: zarr.Group, name: str, volume: EMVolume) -> zarr.Group:
    group = parent.create_group(name)
    group.attrs["ome"] = _ome_metadata(name, volume.voxel_size, volume.origin)
    return group


def _ome_metadata(
    name: str,
    voxel_size: tuple[float, float, float] | None,
    first: tuple[float, float, float],
) -> dict[str, Any]:
    """Metadata of an OME-Zarr 0.5 image, so that other viewers open it."""
    space: dict[str, Any] = {"type": "space"}
    if voxel_size is not None:
        space["unit"] = "nanometer"
    axes: list[dict[str, Any]] = [{"name": axis, **space} for axis in "zyx"]
    scale = list(voxel_size or (1.0, 1.0, 1.0))
    origin = list(first)
    if name == "affinities":
        axes = [{"name": "c", "type": "channel"}, *axes]
        scale, origin = [1.0, *scale], [0.0, *origin]
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if any(origin):
        transforms.append({"type": "translation", "translation": origin})
    multiscales = {
        "name": name,
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": transforms}],
    }
    return {"version": "0.5", "multiscales": [multiscales]}
