"""Image files made byte by byte or by a library, honest and hostile."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp

Field = tuple[int, int, int, bytes]  # tag, type, count, value

SHORT, LONG, RATIONAL, SRATIONAL = 3, 4, 5, 10


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def geotiff(
    bands: np.ndarray,
    *,
    meaning: Sequence[ColorInterp] = (),
    names: Sequence[str] = (),
    **profile: object,
) -> bytes:
    """The bytes of a GeoTIFF of bands (C, H, W), written by rasterio."""
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    place = {"crs": "EPSG:32613", "transform": rasterio.Affine(30, 0, 4e5, 0, -30, 4.5e6)}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **shape, **place, **profile) as raster:
            raster.write(bands)
            if meaning:
                raster.colorinterp = meaning
            if names:
                raster.descriptions = names
        return memory.read()


def sparse_geotiff(side: int, count: int, dtype: str, **profile: object) -> bytes:
    """A GeoTIFF of side x side pixels in a few kilobytes: none of its blocks is there."""
    shape = {"width": side, "height": side, "count": count, "dtype": dtype}
    place = {"transform": rasterio.Affine(30, 0, 4e5, 0, -30, 4.5e6)}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", sparse_ok=True, tiled=True, **shape, **place, **profile):
            pass
        return memory.read()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def black_png(side: int, *, bits: int, colour: int, interlaced: bool = False) -> bytes:
    """side x side black pixels of any depth, packed without being laid out first."""
    row = side * bits * {0: 1, 2: 3, 4: 2, 6: 4}[colour] // 8 + 1
    total, piece = row * side, 2**20
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    block = deflate.compress(bytes(piece)) + deflate.flush(zlib.Z_FULL_FLUSH)
    last = deflate.compress(bytes(total % piece)) + deflate.flush()
    adler = (total % 65521) << 16 | 1
    body = b"\x78\x01" + block * (total // piece) + last + struct.pack(">I", adler)
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, interlaced)
    chunks = (b"IHDR", header), (b"IDAT", body), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def after_png_header(data: bytes, chunks: bytes) -> bytes:
    """A PNG with more chunks before its pixels."""
    return data[:33] + chunks + data[33:]


def exif(fields: Sequence[Field], *, pointer: int | None = None) -> bytes:
    """EXIF with just these fields; long values all at `pointer` if given, wherever that is."""
    body, entries = b"", b""
    start = 8 + 2 + 12 * len(fields) + 4
    for tag, kind, count, value in fields:
        place = value.ljust(4, b"\0")
        if pointer is not None:
            place = struct.pack("<I", pointer)
        elif len(value) > 4:
            place = struct.pack("<I", start + len(body))
            body += value
        entries += struct.pack("<HHI", tag, kind, count) + place
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4) + body


def short(value: int) -> bytes:
    return struct.pack("<H", value)


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def after_jpeg_start(data: bytes, segments: bytes) -> bytes:
    """A JPEG with more segments before all others."""
    return data[:2] + segments + data[2:]


def with_more_scans(progressive: bytes, count: int) -> bytes:
    """A progressive JPEG whose last scan comes that many times more, with next to nothing in it."""
    last = progressive.rindex(b"\xff\xda")
    [length] = struct.unpack(">H", progressive[last + 2 : last + 4])
    head = progressive[last : last + 2 + length]
    return progressive[:-2] + (head + b"\0\0") * count + b"\xff\xd9"
