"""Multi-page TIFF: a memory map where the voxels lie in one piece, else page by page."""

from __future__ import annotations

import importlib.util
import json
import weakref
import xml.etree.ElementTree as ElementTree
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.errors import VolumeError
from napari_cad.core.formats._files import (
    READ_ERRORS,
    FileArray,
    Layout,
    MappedArray,
    Opened,
    check_length,
    choose_axes,
    describe,
    join_choice,
    split_choice,
)
from napari_cad.core.formats._units import nm_per, voxel_size_in_nm

if TYPE_CHECKING:
    from pathlib import Path

#: Compressions that need no other library: none, deflate (under two numbers), packbits, LZMA.
_ALONE = (1, 8, 32773, 32946, 34925)


class TiffPages(FileArray):
    """A series of TIFF pages, decoded one by one.

    Parameters
    ----------
    path : str
        File.
    series : int
        Index of the series.
    shape : tuple of int
        Of the series, with all its axes; the last two are y and x.
    dtype : dtype
        Of one voxel.
    layout : Layout
        Which axes are z, y and x.
    """

    def __init__(
        self, path: str, series: int, shape: tuple[int, ...], dtype: Any, layout: Layout
    ) -> None:
        super().__init__(path, layout.shape, dtype)
        self._series = series
        # page number of every section
        leading = shape[:-2]
        pages = np.arange(int(np.prod(leading)), dtype=np.int64).reshape(leading)
        index = tuple(slice(None) if i is None else i for i in layout.fixed[:-2])
        self._pages = np.atleast_1d(pages[index])

    def _open(self) -> Any:
        import tifffile

        tif = tifffile.TiffFile(self.path)
        weakref.finalize(self, tif.close)
        return tif.series[self._series].pages

    def _read_from(self, handle: Any, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        shape = (len(self._pages[z]), y.stop - y.start, x.stop - x.start)
        values = np.zeros(shape, self.dtype)  # OME-TIFF may leave planes out: they are 0
        for out, index in zip(values, self._pages[z], strict=True):
            with self._lock:  # all pages share one file position
                page = handle[int(index)]
                section = None if page is None else page.asarray().reshape(self.shape[1:])
            if section is not None:
                out[:] = section[y.start : y.stop, x.start : x.stop]
        return values[:, :: y.step, :: x.step]


def open_tiff(path: Path, dataset: str | None) -> Opened:
    """Open one series of a TIFF file; `dataset` is its index, needed where there are several."""
    import tifffile

    name, choice = split_choice(dataset)
    with tifffile.TiffFile(path) as tif:
        _check_chain(tif, path)
        index = _series_index(tif, path, name)
        series = tif.series[index]
        what = f"{path}" if len(tif.series) == 1 else f"{path}:{index}"
        _check_imagej_length(tif, series, path)
        layout = choose_axes(series.shape, series.axes, choice, what)
        if series.axes[-2:] != "YX":
            raise VolumeError(f"{what}: expected pages of y and x, got axes {series.axes}")
        offset = series.dataoffset
        keyframe = series.keyframe
        data: MappedArray | TiffPages
        if offset is not None and keyframe.is_memmappable:
            dtype = np.dtype(series.dtype).newbyteorder(tif.byteorder)
            data = MappedArray(str(path), series.shape, dtype, offset, layout)
        else:
            check_decoder(keyframe, path)
            if keyframe.ndim != 2 or int(np.prod(series.shape[:-2])) != len(series.pages):
                raise VolumeError(
                    f"{what}: expected one page per section, got {len(series.pages)} pages of "
                    f"shape {keyframe.shape} for {series.shape}: save it again from ImageJ"
                )
            last = series.pages[-1]
            if last is not None:
                for start, count in zip(last.dataoffsets, last.databytecounts, strict=True):
                    check_length(str(path), start + count)
            data = TiffPages(str(path), index, series.shape, series.dtype, layout)
        voxel_size = _voxel_size(tif, index)
    return Opened(data, voxel_size, dataset=join_choice(name, choice))


def list_tiff(path: Path) -> list[str]:
    """List the indices of the series."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        return [str(i) for i in range(len(tif.series))]


def _series_index(tif: Any, path: Path, name: str | None) -> int:
    series = tif.series
    listing = ", ".join(f"{i}: {s.shape} {s.dtype}" for i, s in enumerate(series))
    if name is None:
        if len(series) != 1:
            raise VolumeError(
                f"{path}: expected pages that are all alike, got {len(series)} series ({listing}): "
                f"say which as the dataset, such as {path.name}:0"
            )
        return 0
    if not name.isdecimal() or int(name) >= len(series):
        raise VolumeError(f"{path}: expected the index of a series ({listing}), got {name!r}")
    return int(name)


def _check_chain(tif: Any, path: Path) -> None:
    """Find pages that are missing at the end: tifffile only logs that, and leaves them out."""
    n_pages = len(tif.pages)
    position = tif.pages.next_page_offset
    if n_pages and position is not None:
        tif.filehandle.seek(position)
        left = tif.filehandle.read(tif.tiff.offsetsize)
        if len(left) == tif.tiff.offsetsize and not any(left):
            return
    raise VolumeError(
        f"{path}: truncated or damaged: the chain of pages breaks after page {n_pages}: copy the "
        "file again"
    )


def _check_imagej_length(tif: Any, series: Any, path: Path) -> None:
    """Find sections that are missing where ImageJ describes all in the first page."""
    if not tif.is_imagej or series.kind == "imagej":
        return
    said = int(np.prod([tif.imagej_metadata.get(k, 1) for k in ("frames", "slices", "channels")]))
    if said > len(tif.pages):
        raise VolumeError(
            f"{path}: truncated or damaged: expected {said} images, got {len(tif.pages)}: copy the "
            "file again"
        )


def check_decoder(page: Any, path: Path) -> None:
    """Find out on opening, not at the first section, that a decoder is missing."""
    import tifffile

    missing = None
    if importlib.util.find_spec("imagecodecs") is None and page.compression not in _ALONE:
        missing = f"{page.compression!r}"
    else:
        try:
            tifffile.TIFF.DECOMPRESSORS[page.compression]
            tifffile.TIFF.UNPREDICTORS[page.predictor]
        except (KeyError, ImportError, ValueError) as error:
            missing = describe(error)
    if missing is not None:
        raise VolumeError(
            f"{path}: expected a compression that can be decoded here, got {missing}: install "
            "imagecodecs (pip install imagecodecs), or save the file uncompressed"
        )


def _voxel_size(tif: Any, series: int) -> tuple[float, float, float] | None:
    """(z, y, x) in nm where OME or ImageJ metadata give all three, else None."""
    try:
        if tif.is_ome:
            return _ome_voxel_size(tif.ome_metadata, series)
        page = tif.series[series].keyframe
        metadata = dict(tif.imagej_metadata or {}) if tif.is_imagej else _shaped_metadata(page)
        # ImageJ leaves the spacing out where it is 1; most other writers where they do not know it
        if nm_per(metadata.get("unit")) is None or "spacing" not in metadata:
            return None
        (n_y, d_y), (n_x, d_x) = page.tags["YResolution"].value, page.tags["XResolution"].value
        return voxel_size_in_nm(
            (abs(float(metadata["spacing"])), d_y / n_y, d_x / n_x), metadata["unit"]
        )
    except (*READ_ERRORS, TypeError, ZeroDivisionError, ElementTree.ParseError):
        return None  # odd metadata are no reason not to open the image


def _shaped_metadata(page: Any) -> dict[str, Any]:
    """Read what tifffile writes into files that are neither OME nor ImageJ."""
    values = json.loads(page.description) if page.is_shaped else {}
    return values if isinstance(values, dict) else {}


def _ome_voxel_size(xml: str, series: int) -> tuple[float, float, float] | None:
    images = [e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("}Pixels")]
    pixels = images[min(series, len(images) - 1)].attrib
    axes = ("Z", "Y", "X")
    if any(f"PhysicalSize{axis}" not in pixels for axis in axes):
        return None
    return voxel_size_in_nm(
        [pixels[f"PhysicalSize{axis}"] for axis in axes],
        [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in axes],
    )
