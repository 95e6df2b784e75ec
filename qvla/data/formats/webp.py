"""WebP: small ones through Pillow, larger ones through GDAL, which holds a third as much for them.

The library behind both can only unpack the whole picture at its full size, so what it would hold
sets the limit.
"""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from qvla.data.formats.limits import BUDGET, turns
from qvla.data.formats.orientation import orientation_of
from qvla.data.formats.photo import ImageError, Photo, check_size, damaged
from qvla.data.formats.pixels import finish
from qvla.data.formats.raster import decode_raster

SMALL_PIXELS = 2**22
MAX_CHUNKS = 10_000
LOSSY, LOSSLESS = 3, 8  # bytes a pixel that libwebp holds; with transparency as many as lossless


def decode_webp(data: bytes, max_pixels: int) -> Photo:
    chunks = _chunks(data)
    size = _size(chunks)
    check_size(size, max_pixels)
    if b"ANIM" in chunks and _frames(data) > 1:
        raise ImageError("This image is animated; upload a single frame of it.")
    orientation = orientation_of(chunks.get(b"EXIF", b""), chunks.get(b"XMP ", b""))
    pixels = size[0] * size[1]
    if pixels > SMALL_PIXELS:
        held = pixels * (LOSSY if b"VP8 " in chunks and b"ALPH" not in chunks else LOSSLESS)
        if held > BUDGET - 8_000_000 or b"ANIM" in chunks:
            raise ImageError("This WebP is too large to unpack; save it as JPEG or PNG.")
        return decode_raster(
            data, "WEBP", max_pixels, orientation=orientation, held=held, trusted_alpha=True
        )
    with turns.turn(4 * LOSSLESS * pixels):
        image = Image.open(BytesIO(data), formats=("WEBP",))
        check_size(image.size, max_pixels)
        return finish(image.copy(), orientation, size)  # the original keeps its decoder's canvas


def _frames(data: bytes) -> int:
    return getattr(Image.open(BytesIO(data), formats=("WEBP",)), "n_frames", 1)


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """The first chunk of each kind; of those that hold pixels, only how they begin."""
    found: dict[bytes, bytes] = {}
    place = 12
    for _ in range(MAX_CHUNKS):
        if place + 8 > len(data):
            return found
        kind = data[place : place + 4]
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        needed = 16 if kind.startswith(b"VP8") or kind == b"ALPH" else length
        found.setdefault(kind, data[place + 8 : place + 8 + needed])
        place += 8 + length + length % 2
    raise damaged()


def _size(chunks: dict[bytes, bytes]) -> tuple[int, int]:
    """Width and height as the first header says, which decoders hold the rest to."""
    if len(head := chunks.get(b"VP8X", b"")) >= 10:
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if len(head := chunks.get(b"VP8L", b"")) >= 5:
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if len(head := chunks.get(b"VP8 ", b"")) >= 10:
        width, height = head[6:8], head[8:10]
        return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF
    raise damaged()
