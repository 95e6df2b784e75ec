"""TIFF: bands through GDAL, and through Pillow the kinds of photo that only it knows.

GDAL knows nodata, masks and the meaning of bands, and brings LZW, deflate and JPEG with it, for
which tifffile would want a second package. Pillow knows palettes, CMYK, L*a*b* and single bits.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

from PIL import Image, UnidentifiedImageError

from qvla.data.formats.limits import fraction, turns
from qvla.data.formats.orientation import ORIENTATION, XMP, TiffTags
from qvla.data.formats.photo import ImageError, Photo, damaged
from qvla.data.formats.pixels import finish
from qvla.data.formats.raster import check_raster, open_raster, read_raster

BITS, COMPRESSION, PHOTOMETRIC, EXTRA_SAMPLES = 258, 259, 262, 338  # tags, and below their values
XMP_TAG, GDAL_METADATA = 700, 42112
DARK_IS_ZERO, RGB, YCBCR = 1, 2, 6
JPEG = 7
PREMULTIPLIED = 1
NAMED_ALPHA = re.compile(rb'role="colorinterp"[^>]*>Alpha<', re.IGNORECASE)


def decode_tiff(data: bytes, max_pixels: int) -> Photo:
    """The photo, turned as its orientation says, which GDAL does not do."""
    tags = TiffTags(data)
    with open_raster(data, "GTiff") as raster:
        check_raster(raster, max_pixels)
        pillow = _is_for_pillow(raster, tags)
        if not pillow:
            return _bands(raster, tags, max_pixels)
        pixels, bands = raster.width * raster.height, raster.count
    step = fraction(pixels, 8, held=pixels if bands == 1 else 0)
    if step > 1 and bands > 1:
        raise ImageError("This TIFF is not in RGB and too large to convert; save it in RGB.")
    if tags.claimed() > 2 * len(data):  # Pillow would read them all
        raise damaged()
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=("TIFF",))
    except UnidentifiedImageError:  # a compression that Pillow does not know
        with open_raster(data, "GTiff") as raster:
            return _bands(raster, tags, max_pixels)
    with turns.turn(8 * pixels):
        image.load()  # and turns it
        size = image.size
        if step > 1:
            small = (image.width // step, image.height // step)
            image = image.resize(small, Image.Resampling.NEAREST)
        return finish(image, 1, size)


def _bands(raster: Any, tags: TiffTags, max_pixels: int) -> Photo:
    named = NAMED_ALPHA.search(tags.content(GDAL_METADATA)) is not None
    return read_raster(raster, max_pixels, orientation=_orientation(tags), trusted_alpha=named)


def _is_for_pillow(raster: Any, tags: TiffTags) -> bool:
    """Photos of 8 bits or fewer that GDAL hands over in other colours than RGB, or unscaled."""
    if set(raster.dtypes) != {"uint8"} or raster.count > 4:
        return False
    photometric = tags.number(PHOTOMETRIC)
    if photometric == YCBCR:
        return tags.number(COMPRESSION) != JPEG
    if photometric not in (DARK_IS_ZERO, RGB) or (tags.number(BITS) or 1) < 8:
        return True
    return tags.number(EXTRA_SAMPLES) == PREMULTIPLIED


def _orientation(tags: TiffTags) -> int:
    said = tags.number(ORIENTATION)
    if said is None and (found := XMP.search(tags.content(XMP_TAG))):
        said = int(found[1])
    return said if said is not None and 1 <= said <= 8 else 1
