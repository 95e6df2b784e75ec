"""Files that are no usable photo, and photos of odd kinds that are."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.serving import write_photo

MEGABYTE = 2**20


def write_bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """What is wrong, the file, and a word that must be in the sentence about it."""
    good = write_photo(folder / "whole.jpg", seed=1, size=(400, 300)).read_bytes()
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green")]
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    contents = {
        "text.jpg": b"this is no picture\n",
        "cut.jpg": good[: len(good) // 2],
        "empty.png": b"",
        "bomb.png": _bomb(60_000),
        "large.png": b"\x89PNG\r\n\x1a\n" + bytes(MEGABYTE),
        "drawing.png": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {
        "not an image": (folder / "text.jpg", "not an image"),
        "truncated": (folder / "cut.jpg", "damaged"),
        "zero bytes": (folder / "empty.png", "empty"),
        "bomb": (folder / "bomb.png", "pixels"),
        "beyond the limit": (folder / "large.png", "larger than"),
        "animated": (folder / "animated.webp", "animated"),
        "one pixel": (folder / "dot.png", "1 x 1"),
        "drawing": (folder / "drawing.png", "SVG"),
    }


def write_odd_photos(folder: Path) -> list[Path]:
    """CMYK, 16 bits deep, and a TIFF, which no browser can show by itself."""
    fields = np.random.default_rng(2).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    photo = Image.fromarray(fields)
    photo.convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(fields[..., 0].astype(np.uint16) * 200).save(folder / "deep.png")
    photo.save(folder / "scene.tif")
    return [folder / "print.jpg", folder / "deep.png", folder / "scene.tif"]


def _bomb(side: int) -> bytes:
    """A PNG of a few bytes that announces side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
