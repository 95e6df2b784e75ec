"""JPEG: only what makes the picture is handed to the decoder, and only as many scans as it needs.

A progressive JPEG may hold any number of scans, each of which costs a pass over the whole picture
for a few bytes; and a decoder keeps the coefficients of all of them, at the full size, until the
last has come. EXIF, colour profiles, comments and previews are left out: of these only the
orientation is wanted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from qvla.data.formats.limits import BUDGET, fraction, turns
from qvla.data.formats.orientation import orientation_of
from qvla.data.formats.photo import ImageError, Photo, check_size, damaged
from qvla.data.formats.pixels import finish

MAX_SCANS = 100  # encoders write about ten
MAX_SEGMENTS = 10_000
MOST_COEFFICIENTS = BUDGET - 8_000_000  # bytes
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
SOI, EOI, SOS, APP0, APP1, APP14, COMMENT = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xFE
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}


@dataclass(frozen=True)
class Jpeg:
    """A JPEG without its metadata. `coefficients` are the bytes that a decoder has to keep."""

    data: bytes
    size: tuple[int, int]
    coefficients: int
    orientation: int


def decode_jpeg(data: bytes, max_pixels: int) -> Photo:
    """Large ones are decoded at a fraction of their size, which a JPEG's blocks lend themselves to.

    One of many pictures is a phone's photo with its preview or depth map: the first is meant.
    """
    jpeg = read_jpeg(data)
    del data
    check_size(jpeg.size, max_pixels)
    if jpeg.coefficients > MOST_COEFFICIENTS:
        raise ImageError(
            "This progressive JPEG is too large to unpack; save it as a baseline JPEG or smaller."
        )
    pixels = jpeg.size[0] * jpeg.size[1]
    a_pixel = 4 if jpeg.orientation == 1 else 8  # Pillow's RGB has four bytes; and the turned copy
    step = fraction(pixels, a_pixel, jpeg.coefficients)
    with turns.turn(jpeg.coefficients + a_pixel * pixels / step**2):
        image = Image.open(BytesIO(jpeg.data), formats=("JPEG",))
        check_size(image.size, max_pixels)
        if step > 1:
            image.draft(None, (image.width // step, image.height // step))
        image.load()
        return finish(image, jpeg.orientation, jpeg.size)


def read_jpeg(data: bytes) -> Jpeg:
    """Walks the markers as a decoder does, to the end of the picture; raises ImageError."""
    kept = [data[:2]]
    exif = xmp = b""
    frame: tuple[int, bytes] | None = None
    scans = segments = 0
    partial = False
    place = 2
    while found := MARKER.search(data, place):
        marker, begin = found[1][0], found.end()
        if marker == EOI:
            break
        length = int.from_bytes(data[begin : begin + 2], "big")
        body = data[begin + 2 : begin + length]
        place = begin + max(2, length)
        segments += 1
        if segments > MAX_SEGMENTS:
            raise damaged()
        if marker == SOS:
            scans += 1
            partial |= frame is not None and body[:1] < frame[1][5:6]
            if scans == 1:
                kept.append(data[found.end() - 2 :])
            if scans > MAX_SCANS:
                raise ImageError(
                    f"This JPEG holds its picture in more than {MAX_SCANS} passes; save it again "
                    "as an ordinary JPEG."
                )
        elif marker in FRAMES and frame is None:
            frame = marker, body
        elif marker == APP1 and body.startswith(b"Exif\0\0"):
            exif += body if not exif else body[6:]
        elif marker == APP1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = xmp or body
        if scans == 0 and _shapes_the_picture(marker, body):
            kept.append(b"\xff" + found[1] + data[begin:place])
    if frame is None or len(frame[1]) < 6:
        raise damaged()
    kind, header = frame
    size = int.from_bytes(header[3:5], "big"), int.from_bytes(header[1:3], "big")
    many = partial or kind in PROGRESSIVE
    return Jpeg(
        b"".join(kept), size, _coefficients(size, header) if many else 0, orientation_of(exif, xmp)
    )


def _shapes_the_picture(marker: int, body: bytes) -> bool:
    """Whether the decoder needs a segment before the first scan."""
    if marker == APP0:
        return body.startswith(b"JFIF\0")
    return marker == APP14 or not (APP0 < marker <= 0xEF or marker == COMMENT)


def _coefficients(size: tuple[int, int], header: bytes) -> int:
    """Two bytes for each sample of each component, after subsampling."""
    factors = [(byte >> 4, byte & 15) for byte in header[7::3][: header[5]]]
    if not factors or min(min(pair) for pair in factors) < 1:
        raise damaged()
    whole = max(across for across, _ in factors) * max(down for _, down in factors)
    samples = sum(across * down for across, down in factors)
    return 2 * size[0] * size[1] * samples // whole
