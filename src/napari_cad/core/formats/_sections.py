"""A folder with one image file per section, or a single image."""

from __future__ import annotations

import re
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.errors import VolumeError
from napari_cad.core.formats._files import (
    READ_ERRORS,
    FileArray,
    Opened,
    choose_axes,
    unreadable,
)
from napari_cad.core.formats._tiff import check_decoder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")

#: Pillow's modes of grey images.
_DTYPES = {"L": "u1", "P": "u1", "I;16": "u2", "I;16L": "u2", "I;16B": "u2", "I": "i4", "F": "f4"}


class SectionFiles(FileArray):
    """One image file per section; nothing stays open between reads."""

    def __init__(
        self, path: str, files: Sequence[Path], shape: tuple[int, int], dtype: Any
    ) -> None:
        super().__init__(path, (len(files), *shape), dtype)
        self._files = tuple(files)

    def _open(self) -> Any:
        return None

    def _read_from(self, handle: Any, z: slice, y: slice, x: slice) -> np.ndarray[Any, Any]:
        return np.stack([self._section(file)[y, x] for file in self._files[z]])

    def _section(self, file: Path) -> np.ndarray[Any, Any]:
        try:
            values = _read_image(file)
        except READ_ERRORS as error:
            if isinstance(error, VolumeError):
                raise
            raise unreadable(str(file), "image", error) from error
        if values.shape != self.shape[1:] or values.dtype.newbyteorder("=") != self.dtype:
            raise VolumeError(
                f"{file}: expected {self.shape[1:]} of {self.dtype}, got {values.shape} of "
                f"{values.dtype}: the file has changed since the folder was opened"
            )
        return values


def open_sections(path: Path, dataset: str | None) -> Opened:
    """Open a folder of sections in natural order; `dataset` is a pattern such as `*.png`."""
    files = section_files(path, dataset)
    first_shape, first_dtype = _image_header(files[0])
    for file in files[1:]:
        shape, dtype = _image_header(file)
        if shape != first_shape or dtype != first_dtype:
            raise VolumeError(
                f"{path}: expected all sections like {files[0].name}, {first_shape} of "
                f"{first_dtype}, got {file.name} with {shape} of {dtype}: convert or remove it"
            )
    return Opened(SectionFiles(str(path), files, first_shape, first_dtype), dataset=dataset)


def open_image(path: Path, dataset: str | None) -> Opened:
    """Open a single image as a volume of one section."""
    if dataset is not None:
        raise VolumeError(f"{path}: expected no dataset, it holds one image, got {dataset!r}")
    shape, dtype = _image_header(path)
    return Opened(SectionFiles(str(path), [path], shape, dtype))


def section_files(path: Path, pattern: str | None) -> list[Path]:
    """Image files of a folder in natural order.

    Raises
    ------
    VolumeError
        If there are none, or of several types without a pattern that says which.
    """
    readable = TIFF_SUFFIXES + IMAGE_SUFFIXES
    files = [
        entry
        for entry in path.iterdir()
        if entry.suffix.lower() in readable and not entry.name.startswith(".") and entry.is_file()
    ]
    if pattern is not None:
        files = [file for file in files if fnmatch(file.name, pattern)]
    if not files:
        wanted = "section images" if pattern is None else f"section images named {pattern}"
        raise VolumeError(
            f"{path}: expected {wanted} ({', '.join(readable)}) or a zarr, got a folder with none"
        )
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) > 1 and pattern is None:
        counts = [
            f"{sum(f.suffix.lower() == kind for f in files)} {kind}" for kind in sorted(kinds)
        ]
        raise VolumeError(
            f"{path}: expected one type of image, got {', '.join(counts)}: say which as the "
            f"dataset, such as {path.name}:*{sorted(kinds)[0]}"
        )
    return sorted(files, key=_natural)


def _natural(file: Path) -> tuple[list[tuple[int, int | str]], str]:
    """Order in which section 10 follows section 9."""
    parts = re.split(r"(\d+)", file.name.lower())
    return [(0, int(p)) if p.isdecimal() else (1, p) for p in parts if p], file.name


def _image_header(file: Path) -> tuple[tuple[int, int], np.dtype[Any]]:
    """Shape and type of an image, without decoding it."""
    try:
        if file.suffix.lower() in TIFF_SUFFIXES:
            return _tiff_header(file)
        with _pillow(file) as image:
            mode, (width, height) = image.mode, image.size
            grey_palette = mode != "P" or _palette_is_grey(image)
    except READ_ERRORS as error:
        if isinstance(error, VolumeError):
            raise
        raise unreadable(str(file), "image", error) from error
    if mode == "I" and file.suffix.lower() == ".png":
        return (height, width), np.dtype("u2")  # how older versions of Pillow open 16-bit PNG
    if mode not in _DTYPES or not grey_palette:
        what = "black and white with one bit" if mode == "1" else f"colour ({mode})"
        raise VolumeError(
            f"{file}: expected a grey image of 8 or 16 bits, got {what}: convert it first (in "
            "ImageJ: Image > Type > 8-bit; with ImageMagick: mogrify -colorspace Gray -depth 8)"
        )
    return (height, width), np.dtype(_DTYPES[mode])


def _read_image(file: Path) -> np.ndarray[Any, Any]:
    if file.suffix.lower() in TIFF_SUFFIXES:
        import tifffile

        with tifffile.TiffFile(file) as tif:
            values: np.ndarray[Any, Any] = np.squeeze(tif.series[0].asarray())
        # a single row or column would have lost an axis
        return values.reshape(_tiff_header(file)[0])
    with _pillow(file) as image:
        if image.mode == "P":
            image = image.convert("L")
        values = np.asarray(image)
    if values.dtype == np.int32 and file.suffix.lower() == ".png":
        values = values.astype(np.uint16)
    return values


def _tiff_header(file: Path) -> tuple[tuple[int, int], np.dtype[Any]]:
    import tifffile

    with tifffile.TiffFile(file) as tif:
        if len(tif.series) != 1:
            raise VolumeError(
                f"{file}: expected one image per file in a folder of sections, got "
                f"{len(tif.series)} series"
            )
        series = tif.series[0]
        check_decoder(series.keyframe, file)
        layout = choose_axes(series.shape, series.axes, {}, str(file))
        if layout.shape[0] != 1:
            raise VolumeError(
                f"{file}: expected one section per file in a folder of sections, got "
                f"{layout.shape[0]}: open the file itself"
            )
        return layout.shape[1:], series.dtype


@contextmanager
def _pillow(file: Path) -> Iterator[Any]:
    """Open an image by its suffix.

    Not with `PIL.Image.open`, which takes a section of 14,000 pixels squared for an attack.
    """
    from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin

    plugins: dict[str, Any] = {
        ".png": PngImagePlugin.PngImageFile,
        ".bmp": BmpImagePlugin.BmpImageFile,
        ".jpg": JpegImagePlugin.JpegImageFile,
        ".jpeg": JpegImagePlugin.JpegImageFile,
    }
    with file.open("rb") as stream, plugins[file.suffix.lower()](stream) as image:
        yield image


def _palette_is_grey(image: Any) -> bool:
    """Tell whether a palette has grey values only, as ImageJ writes 8-bit PNG."""
    colours = np.asarray(image.getpalette("RGB")).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())
