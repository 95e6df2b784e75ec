"""Images that are broken at random, from a seed: each is a photo, or one sentence that says no."""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvla.data.imagery import ImageError, open_image
from qvla.settings import ASSETS
from tests.support.made_images import encoded, geotiff

PHOTO = ASSETS / "examples" / "resized" / "airplane.jpg"
MAX_PIXELS = 4_000_000  # a broken header may announce anything; what fits is decoded
IMAGES, IN_A_TEST = 1000, 100

Mutation = Callable[[bytearray, random.Random], None]


@cache
def originals() -> tuple[bytes, ...]:
    """A real photo in each format that is read, and rasters of eight and sixteen bits."""
    photo = Image.open(PHOTO).convert("RGB").resize((96, 96))
    bands = np.asarray(photo).transpose(2, 0, 1)
    tiled = {"tiled": True, "blockxsize": 32, "blockysize": 32}
    return (
        encoded(photo, "JPEG"),
        encoded(photo, "JPEG", progressive=True),
        encoded(photo, "PNG"),
        encoded(photo.quantize(64), "PNG"),
        encoded(photo, "WEBP"),
        encoded(photo, "WEBP", lossless=True),
        encoded(photo, "TIFF", compression="tiff_lzw"),
        geotiff(bands, compress="deflate", **tiled),
        geotiff(bands.astype(np.uint16) * 40, compress="lzw", predictor=2),
        geotiff(bands[:1].astype(np.float32) / 255, nodata=0.0),
    )


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def announce(data: bytearray, rng: random.Random) -> None:
    """A number in the header becomes another, often a huge one."""
    value = rng.choice((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
    form = rng.choice((">I", "<I"))
    place = rng.randrange(min(256, len(data) - 4))
    data[place : place + 4] = struct.pack(form, value)


def blank(data: bytearray, rng: random.Random) -> None:
    start, length = rng.randrange(len(data)), rng.choice((8, 200, 2000))
    data[start : start + length] = bytes(min(length, len(data) - start))


def repeat(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start:start] = data[start : start + rng.choice((4, 64, 1024))]


def drop(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 16, 512))]


def splice(data: bytearray, rng: random.Random) -> None:
    """The rest is that of a file in another format."""
    place = rng.randrange(len(data))
    data[place:] = rng.choice(originals())[place:]


MUTATIONS: tuple[Mutation, ...] = (cut, flip, announce, announce, blank, repeat, drop, splice)


def broken(seed: int) -> bytes:
    rng = random.Random(seed)
    data = bytearray(rng.choice(originals()))
    for _ in range(rng.choice((1, 1, 2, 5))):
        if len(data) > 8:
            rng.choice(MUTATIONS)(data, rng)
    return bytes(data)


@pytest.mark.parametrize("part", range(IMAGES // IN_A_TEST))
def test_a_broken_image_is_a_photo_or_one_sentence(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    photos = refused = 0
    for seed in range(part * IN_A_TEST, (part + 1) * IN_A_TEST):
        try:
            image = open_image(broken(seed), max_pixels=MAX_PIXELS)
        except ImageError as error:
            sentence = str(error)
            assert "\n" not in sentence and len(sentence) < 300, f"seed {seed}: {sentence}"
            assert sentence[:1].isupper() and sentence.endswith("."), f"seed {seed}: {sentence}"
            refused += 1
        else:
            assert image.mode == "RGB" and image.width * image.height <= MAX_PIXELS, f"seed {seed}"
            image.load()
            photos += 1
    assert photos and refused  # or the mutations would be too mild or too rough to tell anything
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_the_originals_are_photos() -> None:
    for data in originals():
        assert open_image(data).mode == "RGB"
