"""A file that someone uploaded to a safe RGB image: the one entry, whatever the format.

The files in `formats/` read one format each. They keep three promises: memory is bounded by what
comes out and not by what a header announces, work is counted before it is done, and whatever is
wrong with a file ends in one sentence.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from qvla.data.formats.jpeg import decode_jpeg
from qvla.data.formats.orientation import ORIENTATION, upright
from qvla.data.formats.photo import (
    ACCEPTED,
    ImageError,
    Photo,
    check_size,
    damaged,
    too_many_bytes,
    too_many_pixels,
)
from qvla.data.formats.pixels import to_rgb
from qvla.data.formats.png import decode_png
from qvla.data.formats.tiff import decode_tiff
from qvla.data.formats.webp import decode_webp

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "SIGNATURES",
    "ImageError",
    "Photo",
    "open_image",
    "read_photo",
]

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 50_000_000

SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",  # BigTIFF
    b"MM\x00+": "TIFF",
}
REFUSED_SIGNATURES = {b"GIF8": "a GIF", b"%PDF": "a PDF", b"BM": "a BMP", b"PK\x03\x04": "a ZIP"}
REFUSED_BRANDS = {b"heic", b"heix", b"mif1", b"avif"}  # of the ISO base media format
DECODERS: dict[str, Callable[[bytes, int], Photo]] = {
    "PNG": decode_png,
    "JPEG": decode_jpeg,
    "WEBP": decode_webp,
    "TIFF": decode_tiff,
}

# A header that announces more than Pillow's own limit is a fault, not a remark.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Dataset has no geotransform")
# What is wrong with a file is said once, in an ImageError.
for name in ("PIL.TiffImagePlugin", "rasterio"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

Source = str | Path | bytes | BinaryIO | Image.Image


def open_image(
    source: Source, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The photo as an RGB image, upright and fully decoded; see `read_photo`."""
    return read_photo(source, max_bytes=max_bytes, max_pixels=max_pixels).image


def read_photo(
    source: Source, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> Photo:
    """The photo as an RGB image, EXIF orientation applied, fully decoded, and remarks on it.

    Takes a path, the bytes of a file, a file opened for reading bytes, or a Pillow image. 8-bit
    samples are taken as they are; deeper ones are stretched, band by band, from the 2nd to the
    98th percentile. A raster shows its red, green and blue bands where it names them, else the
    first three; with fewer than three, the first as grey. What would take too much memory at its
    own size is read at a half, a quarter or an eighth of it. Pillow's own limit (about 89 million
    pixels) caps `max_pixels`. Raises ImageError.
    """
    if Image.MAX_IMAGE_PIXELS is not None:
        max_pixels = min(max_pixels, Image.MAX_IMAGE_PIXELS)
    try:
        if isinstance(source, Image.Image):
            check_size(source.size, max_pixels)
            image = upright(to_rgb(source), source.getexif().get(ORIENTATION, 1))
            return Photo(image.copy() if image is source else image, image.size)
        data = _read(source, max_bytes)
        return DECODERS[_kind(data)](data, max_pixels)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_many_pixels(max_pixels) from error
    except MemoryError as error:
        raise ImageError("There is not enough memory for this image; use a smaller one.") from error
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise damaged() from error


def _read(source: str | Path | bytes | BinaryIO, max_bytes: int) -> bytes:
    if isinstance(source, (str, Path)):
        data = _read_path(Path(source), max_bytes)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    else:
        data = source.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise too_many_bytes(max_bytes)
    if not data:
        raise ImageError("This file is empty (0 bytes); upload it again.")
    return data


def _read_path(path: Path, max_bytes: int) -> bytes:
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a folder, not an image; name a file in it.")
        if not path.is_file():
            raise ImageError(f"There is no file at {path}; check the name.")
        if path.stat().st_size > max_bytes:
            raise too_many_bytes(max_bytes)
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(f"{str(path)!r} cannot be read; check its name and rights.") from error


def _kind(data: bytes) -> str:
    """The Pillow name of the format, from the first bytes alone; file names are not trusted."""
    for signature, kind in SIGNATURES.items():
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for signature, name in REFUSED_SIGNATURES.items():
        if data.startswith(signature):
            raise ImageError(f"This is {name} file; upload the photo as {ACCEPTED}.")
    if data[4:8] == b"ftyp" and data[8:12] in REFUSED_BRANDS:
        raise ImageError(f"This is a HEIC or AVIF file; upload the photo as {ACCEPTED}.")
    if b"<svg" in data[:4096].lower():
        raise ImageError(f"This is an SVG drawing, not a photo; upload it as {ACCEPTED}.")
    raise ImageError(f"This file is not an image that can be read here; upload {ACCEPTED}.")
