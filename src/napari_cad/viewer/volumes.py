"""Volumes from layers, and on their way to a job."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_cad.core._lazy import LazyArray
from napari_cad.core.errors import VolumeError
from napari_cad.core.jobs import Served
from napari_cad.core.volume import EMVolume, VolumeSource
from napari_cad.viewer.layers import tag_of
from napari_cad.viewer.placement import in_nm, voxel_size_of

if TYPE_CHECKING:
    from napari.layers import Image, Layer


def volume_from_layer(layer: Image) -> EMVolume:
    """Make a volume of an image layer, without reading it.

    Parameters
    ----------
    layer : Image
        Of two axes (one section) or three; grey. Of a multiscale layer the finest level counts.

    Returns
    -------
    EMVolume
        With the layer's scale as voxel size and its translate as origin where its units are
        lengths. Its source is set where our reader made the layer and its array is still there.

    Raises
    ------
    VolumeError
        If the layer is coloured, has other axes or no numbers; the message says what to do.
    """
    if getattr(layer, "rgb", False):
        raise VolumeError(
            f"{layer.name} is a colour image, a grey one is needed: choose “Split RGB” from its "
            "right-click menu and segment one of the channels"
        )
    data = layer.data[0] if layer.multiscale else layer.data
    if layer.ndim not in (2, 3):
        raise VolumeError(
            f"{layer.name} has {layer.ndim} axes {tuple(data.shape)}, a stack has three (z, y, x): "
            "choose “Split Stack” from its right-click menu and segment one of the parts"
        )
    voxel_size = voxel_size_of(layer)
    origin = (in_nm(layer, layer.translate) if voxel_size else None) or (0.0, 0.0, 0.0)
    # another array in its place is no longer what the reader gave
    source = _source_of(layer) if isinstance(data, LazyArray) else None
    return EMVolume.from_array(
        data, voxel_size=voxel_size, origin=origin, name=layer.name, source=source
    )


def sendable(volume: EMVolume) -> EMVolume:
    """Make a volume an argument for a job, without copying voxels.

    Returns
    -------
    EMVolume
        The same where its array opens its file by itself in the child process; otherwise its
        array is served from this process.
    """
    if volume.source is not None and isinstance(volume.data, LazyArray):
        return volume
    return replace(volume, data=Served(volume.data))


def _source_of(layer: Layer) -> VolumeSource | None:
    source = tag_of(layer).get("source")
    return VolumeSource.from_json(source) if isinstance(source, dict) else None
