"""A file that someone uploaded to a safe RGB image: formats, limits, GeoTIFF bands and stretch.

Pillow reads what has 8 bits a sample. Everything deeper (16-bit PNG, and TIFF of any other depth or
number of bands) goes through rasterio: GDAL knows nodata, masks and the meaning of bands, and
brings LZW, deflate and JPEG with it, for which tifffile would want a second package.

Transparent pixels, and nodata in a raster that is stretched, become black, as satellite products
fill what lies outside the scene; white would look like cloud or snow. 8-bit rasters keep their fill
as it is: a nodata value of 255 also occurs in snow. Colour profiles are not applied.
"""

from __future__ import annotations

import logging
import warnings
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from qvla.errors import QvlaError

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 50_000_000
LEAST_SIDE = 8
BYTES_A_PIXEL = 16  # what decoding may take for each allowed pixel, over all bands of a raster
STRETCH = (2.0, 98.0)  # percentiles that become black and white
STRETCH_SAMPLES = 1_000_000  # values enough to find them
FILL = 1e30  # undeclared nodata is often the largest negative float
ORIENTATION = 0x0112  # EXIF and TIFF tag
ACCEPTED = "PNG, JPEG, WebP or TIFF"

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

# A header that announces more than Pillow's own limit is a fault, not a remark.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Dataset has no geotransform")
# What is wrong with a file is said once, in an ImageError.
for name in ("PIL.TiffImagePlugin", "rasterio"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


class ImageError(QvlaError):
    """The upload cannot be used as a photo; the message says why and what to do."""


def open_image(
    source: str | Path | bytes | BinaryIO | Image.Image,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """The photo as an RGB image of its own size, EXIF orientation applied, fully decoded.

    Takes a path, the bytes of a file, a file opened for reading bytes, or a Pillow image. 8-bit
    samples are taken as they are; deeper ones are stretched, band by band, from the 2nd to the
    98th percentile. A raster shows its red, green and blue bands where it names them, else the
    first three; with fewer than three, the first as grey. Pillow's own limit (about 89 million
    pixels) caps `max_pixels`. Raises ImageError.
    """
    if Image.MAX_IMAGE_PIXELS is not None:
        max_pixels = min(max_pixels, Image.MAX_IMAGE_PIXELS)
    if isinstance(source, Image.Image):
        _check_size(source.size, max_pixels)
        data = None
    else:
        data = _read(source, max_bytes)
    try:
        if data is None:
            return _to_rgb(ImageOps.exif_transpose(source))
        kind = _kind(data)
        if kind == "TIFF":
            return _decode_tiff(data, max_pixels)
        return _decode(data, kind, max_pixels)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(max_pixels) from error
    except MemoryError as error:
        raise ImageError("There is not enough memory for this image; use a smaller one.") from error
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise ImageError(
            "This image is damaged or incomplete and cannot be read; export or upload it again."
        ) from error


def _read(source: str | Path | bytes | BinaryIO, max_bytes: int) -> bytes:
    if isinstance(source, (str, Path)):
        data = _read_path(Path(source), max_bytes)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    else:
        data = source.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise _too_many_bytes(max_bytes)
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
            raise _too_many_bytes(max_bytes)
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


def _decode(data: bytes, kind: str, max_pixels: int) -> Image.Image:
    """PNG, JPEG or WebP."""
    image = Image.open(BytesIO(data), formats=(kind,))
    _check_size(image.size, max_pixels)
    # A JPEG of many pictures is a phone's photo with its preview or depth map: the first is meant.
    if kind != "JPEG" and getattr(image, "is_animated", False):
        raise ImageError("This image is animated; upload a single frame of it.")
    if kind == "PNG" and data[24] > 8:  # the header's bit depth, which Pillow's RGB mode hides
        return _upright(_decode_raster(data, "PNG", max_pixels), image)
    image.load()
    return _to_rgb(ImageOps.exif_transpose(image))


def _decode_tiff(data: bytes, max_pixels: int) -> Image.Image:
    raster = _decode_raster(data, "GTiff", max_pixels, only_deep=True)
    try:
        image = Image.open(BytesIO(data), formats=("TIFF",))
    except UnidentifiedImageError:  # bands or compression that Pillow does not know
        return raster or _decode_raster(data, "GTiff", max_pixels)
    if raster is not None:
        return _upright(raster, image)
    image.load()
    return _to_rgb(ImageOps.exif_transpose(image))


def _decode_raster(
    data: bytes, driver: str, max_pixels: int, *, only_deep: bool = False
) -> Image.Image | None:
    """A raster's bands as an RGB image; sizes are checked before anything is decoded.

    With `only_deep`, None for what Pillow reads as well or better: 8-bit samples, and CMYK.
    """
    import rasterio
    from rasterio.enums import ColorInterp

    with rasterio.MemoryFile(data) as memory, memory.open(driver=driver) as raster:
        if len(raster.subdatasets) > 1:
            raise ImageError("This TIFF has several pages; upload a single page of it.")
        _check_size((raster.width, raster.height), max_pixels)
        pixels = max(raster.width * raster.height, *(h * w for h, w in raster.block_shapes))
        a_pixel = raster.count * np.dtype(_plain(raster.dtypes[0])).itemsize
        if pixels > max_pixels or pixels * a_pixel > max_pixels * BYTES_A_PIXEL:
            raise ImageError("This raster is too large when unpacked; upload a part of it.")
        meaning = raster.colorinterp
        photo = set(raster.dtypes) == {"uint8"} and raster.count <= 4
        if only_deep and (photo or ColorInterp.cyan in meaning):
            return None
        if ColorInterp.palette in meaning:
            raise ImageError("The colour table of this TIFF cannot be read; upload it as PNG.")
        named = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        if set(named) <= set(meaning):
            chosen = [meaning.index(name) + 1 for name in named]
        else:
            bands = [i for i, name in enumerate(meaning, 1) if name != ColorInterp.alpha]
            chosen = bands[:3] if len(bands) >= 3 else bands[:1] * 3
        ready = {band: _to_uint8(raster.read(band, masked=True)) for band in set(chosen)}
        return Image.fromarray(np.dstack([ready[band] for band in chosen]))


def _to_uint8(band: np.ma.MaskedArray) -> np.ndarray:
    """One band (H, W) as uint8, stretched over its valid values unless it is uint8 already.

    Where it is stretched, masked, infinite and NaN values become black.
    """
    valid = ~np.ma.getmaskarray(band)
    values = np.ma.getdata(band)
    if values.dtype == np.uint8:
        return values
    unsigned = values.dtype.kind == "u"
    if np.iscomplexobj(values):  # radar: the magnitude is the picture
        values = np.abs(values)
    values = values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        valid &= np.abs(values) < FILL  # also false for NaN
    known = values[valid]
    if known.size == 0:
        return np.zeros(values.shape, np.uint8)
    low, high = _range(known)
    if unsigned and low == 0 < high:  # Landsat and Sentinel-2 fill with 0 and seldom say so
        low, high = _range(known[known > 0])
    values[~valid] = low
    values -= low
    values *= 255 / (high - low) if high > low else 0
    grey = values.clip(0, 255).round().astype(np.uint8)
    if low == high:
        grey[:] = 128  # a constant band says nothing: neither black nor white
    grey[~valid] = 0
    return grey


def _range(values: np.ndarray) -> tuple[float, float]:
    """The values that become black and white."""
    low, high = np.percentile(values[:: max(1, values.size // STRETCH_SAMPLES)], STRETCH)
    if low == high:  # nearly constant: what little differs still shows
        low, high = values.min(), values.max()
    return float(low), float(high)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_uint8(np.ma.asarray(np.asarray(image)))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, "black")
        return Image.alpha_composite(black, image).convert("RGB")
    return image.convert("RGB")


def _upright(picture: Image.Image, header: Image.Image) -> Image.Image:
    """The picture turned as the header's orientation says, which GDAL does not do."""
    orientation = header.getexif().get(ORIENTATION, 1)
    picture.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(picture)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if min(size) < LEAST_SIDE:
        raise ImageError(
            f"This image is {size[0]} x {size[1]} pixels; it must be at least "
            f"{LEAST_SIDE} x {LEAST_SIDE}."
        )
    if size[0] * size[1] > max_pixels:
        raise _too_many_pixels(max_pixels)


def _too_many_pixels(max_pixels: int) -> ImageError:
    return ImageError(
        f"This image has more than the {max_pixels / 1e6:.3g} million pixels allowed; "
        "upload a smaller or cropped one."
    )


def _too_many_bytes(max_bytes: int) -> ImageError:
    return ImageError(
        f"This file is larger than the {max_bytes / 2**20:.3g} MB allowed; upload a smaller one."
    )


def _plain(dtype: str) -> str:
    """A NumPy type name for a GDAL one."""
    return "complex64" if dtype == "complex_int16" else dtype
