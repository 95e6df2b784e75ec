"""PNG: only the chunks that make the picture are handed on; text and profiles may be of any size.

Eight bits a sample go to Pillow. Deeper ones, which it would cut, and large ones in colour, which
it would hold whole, are read row by row by GDAL.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from qvla.data.formats.limits import BUDGET, WHOLE_PIXELS, fraction, turns
from qvla.data.formats.orientation import orientation_of
from qvla.data.formats.photo import ImageError, Photo, check_size, damaged
from qvla.data.formats.pixels import finish
from qvla.data.formats.raster import decode_raster

MAX_CHUNKS = 100_000
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a pixel, by colour type
MOST_TEXT = 2**22  # of XMP and of EXIF that is written as text
NEEDED = {b"tRNS"}  # the only chunk that changes pixels without being called critical


@dataclass(frozen=True)
class Png:
    """A PNG without its metadata."""

    data: bytes
    size: tuple[int, int]
    bits: int
    colour: int
    interlaced: bool
    orientation: int

    @property
    def unpacked(self) -> int:
        pixels = self.size[0] * self.size[1]
        return pixels * SAMPLES.get(self.colour, 4) * max(8, self.bits) // 8


def decode_png(data: bytes, max_pixels: int) -> Photo:
    png = read_png(data)
    del data
    check_size(png.size, max_pixels)
    pixels = png.size[0] * png.size[1]
    single = SAMPLES.get(png.colour) == 1  # a byte a pixel in Pillow
    a_pixel = 4 if png.colour == 2 and png.orientation == 1 else 8
    fits = pixels <= WHOLE_PIXELS and a_pixel * pixels <= BUDGET
    if png.bits > 8 or not (single or fits):
        if png.interlaced and png.unpacked > BUDGET // 2:
            raise ImageError(
                "This interlaced PNG is too large to unpack; save it without interlacing."
            )
        return decode_raster(
            png.data, "PNG", max_pixels, orientation=png.orientation, trusted_alpha=True
        )
    with turns.turn(max(png.unpacked, 4 * pixels * fits)):
        image: Image.Image = Image.open(BytesIO(png.data), formats=("PNG",))
        image.load()
        step = 1 if fits else fraction(pixels, 8, held=pixels)
        if step > 1:
            small = (image.width // step, image.height // step)
            image = image.resize(small, Image.Resampling.NEAREST)
        return finish(image, png.orientation, png.size)


def read_png(data: bytes) -> Png:
    """Walks the chunks; raises ImageError for an animation and for what is no PNG."""
    kept = [data[:8]]
    exif = xmp = profile = b""
    place = 8
    chunks = 0
    while place + 8 <= len(data):
        chunks += 1
        if chunks > MAX_CHUNKS:
            raise damaged()
        length = int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        end = place + 12 + length
        body = slice(place + 8, place + 8 + length)
        if kind == b"acTL" and int.from_bytes(data[body][:4], "big") > 1:
            raise ImageError("This image is animated; upload a single frame of it.")
        if kind == b"eXIf":
            exif = data[body]
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, text = data[body][: MOST_TEXT + 100].partition(b"\0")
            if keyword == b"XML:com.adobe.xmp":
                xmp = text
            elif keyword == b"Raw profile type exif":
                profile = profile or kind + text
        elif kind in NEEDED or not kind[0] & 32:  # a small first letter: not critical
            kept.append(data[place:end])
        if kind == b"IEND":
            break
        place = end
    header = data[16:29]
    if data[12:16] != b"IHDR" or len(header) < 13:
        raise damaged()
    size = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits, colour, interlaced = header[8], header[9], header[12] != 0
    orientation = orientation_of(exif or _raw_profile(profile[:4], profile[4:]), xmp)
    return Png(b"".join(kept), size, bits, colour, interlaced, orientation)


def _raw_profile(kind: bytes, text: bytes) -> bytes:
    """EXIF as ImageMagick writes it: a name and a length, then hexadecimal lines."""
    try:
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], MOST_TEXT)
        return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
    except (ValueError, zlib.error):
        return b""
