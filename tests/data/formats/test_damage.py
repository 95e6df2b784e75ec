"""A hundred files cut, changed and overwritten by chance: an image or one sentence, and no more."""

from __future__ import annotations

import random
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvla.data.imagery import ImageError, open_image
from tests.support.made_images import encoded, exif, geotiff, short

SHADES = np.random.default_rng(0)


@cache
def whole() -> tuple[bytes, ...]:
    """One small file of each kind."""
    photo = Image.fromarray(SHADES.integers(0, 255, (70, 90, 3), dtype=np.uint8))
    bands = SHADES.integers(0, 250, (13, 70, 90))
    turned = exif([(0x0112, 3, 1, short(6))])
    tiles = {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "DEFLATE"}
    return (
        encoded(photo, "JPEG", exif=turned),
        encoded(photo.convert("CMYK"), "JPEG", progressive=True),
        encoded(photo, "PNG", exif=turned),
        encoded(photo.convert("P"), "PNG", transparency=1),
        encoded(Image.fromarray(bands[0].astype(np.uint16) * 200), "PNG"),
        encoded(photo, "WEBP", exif=turned),
        encoded(photo.convert("RGBA"), "WEBP", lossless=True),
        encoded(photo.convert("P"), "TIFF", compression="tiff_lzw"),
        encoded(photo.convert("CMYK"), "TIFF", compression="tiff_adobe_deflate"),
        geotiff(bands[:3].astype(np.uint16)),
        geotiff(bands.astype(np.uint16), **tiles),
        geotiff(bands[:1].astype(np.float32), nodata=-9999, compress="LZW"),
        geotiff(bands[:4].astype(np.uint8), compress="JPEG"),
        geotiff(bands[:1].astype(np.complex64), BIGTIFF="YES"),
    )


def damaged(seed: int) -> bytes:
    draw = random.Random(seed)
    data = bytearray(draw.choice(whole()))
    kind = draw.choice(("cut", "change", "change", "overwrite"))
    if kind == "cut":
        return bytes(data[: draw.randrange(len(data))])
    if kind == "change":
        reach = draw.choice((60, 300, len(data)))  # headers are where it hurts
        for _ in range(draw.choice((1, 2, 5, 20))):
            data[draw.randrange(min(reach, len(data)))] = draw.choice((0, 1, 127, 128, 255))
        return bytes(data)
    start, source, length = draw.randrange(len(data)), draw.randrange(len(data)), draw.randrange(64)
    data[start : start + length] = data[source : source + length]
    return bytes(data)


def test_a_hundred_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened, sentences = 0, set()
    for seed in range(100):
        try:
            image = open_image(damaged(seed))
        except ImageError as error:
            sentences.add(str(error))
        else:
            assert image.mode == "RGB" and min(image.size) >= 8
            assert np.asarray(image).shape == (image.height, image.width, 3)
            opened += 1
    assert opened >= 10
    assert all(text.endswith(".") and "\n" not in text and len(text) < 200 for text in sentences)
    assert not any(word in text for text in sentences for word in ("Error", "0x", "/vsi", "None"))
    assert list(tmp_path.iterdir()) == []


def test_the_whole_files_are_all_read() -> None:
    assert all(min(open_image(data).size) == 70 for data in whole())
