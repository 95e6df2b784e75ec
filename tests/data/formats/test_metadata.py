"""EXIF, text and profiles of any kind and size: the orientation counts, nothing else may harm."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from qvla.data.formats.orientation import orientation_of
from qvla.data.imagery import open_image
from tests.support.made_images import (
    LONG,
    RATIONAL,
    SHORT,
    SRATIONAL,
    after_jpeg_start,
    after_png_header,
    encoded,
    exif,
    jpeg_segment,
    png_chunk,
    short,
)

BYTE = 1
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
TURNED = (0x0112, SHORT, 1, short(6))
ODD = {
    "signed resolution": [TURNED, (0x011A, SRATIONAL, 1, struct.pack("<ii", -72, 1))],
    "compression as a fraction": [(0x0103, RATIONAL, 1, struct.pack("<II", 6, 1)), TURNED],
    "width as a byte, maker as a number": [
        (0x0100, BYTE, 1, b"\x1e"),
        (0x010F, LONG, 1, struct.pack("<I", 7)),
        TURNED,
    ],
    "a type that there is not": [(0x010F, 99, 7, b"what"), TURNED],
    "a value far outside": [(0x010E, 2, 2**31, b"abcde"), TURNED],
    "orientation as a long": [(0x0112, LONG, 1, struct.pack("<I", 6))],
    "orientation as a byte": [(0x0112, BYTE, 1, b"\x06")],
    "orientation as a fraction": [(0x0112, RATIONAL, 1, struct.pack("<II", 12, 2))],
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("fields", ODD.values(), ids=ODD)
def test_odd_exif_beside_the_orientation_does_no_harm(fields: list, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    plain = open_image(encoded(PHOTO, kind, **options))
    turned = open_image(encoded(PHOTO, kind, exif=exif(fields), **options))
    expected = plain.transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(np.asarray(turned), np.asarray(expected))


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"no EXIF",
        b"Exif\0\0II*\0",
        exif([(0x0112, SHORT, 1, short(9))]),
        exif([(0x0112, SHORT, 0, short(6))]),
        exif([(0x0112, 2, 4, b"abc\0")]),
        exif([(0x0112, RATIONAL, 1, struct.pack("<II", 6, 0))]),
        exif([TURNED])[:12],
        b"Exif\0\0MM\0*" + b"\xff" * 20,
    ],
)
def test_an_orientation_that_makes_no_sense_is_none(said: bytes) -> None:
    assert orientation_of(said) == 1
    assert open_image(encoded(PHOTO, "PNG", exif=said or b"x")).size == PHOTO.size


def test_orientation_in_other_places_counts_too() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    jpeg = encoded(PHOTO, "JPEG")
    in_xmp = jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
    assert open_image(after_jpeg_start(jpeg, in_xmp)).size == (20, 30)
    assert open_image(encoded(PHOTO, "WEBP", xmp=xmp)).size == (20, 30)
    png = encoded(PHOTO, "PNG")
    text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    assert open_image(after_png_header(png, text)).size == (20, 30)
    body = exif([TURNED])
    profile = b"\nexif\n%8d\n" % len(body) + body.hex().encode()
    plain = png_chunk(b"tEXt", b"Raw profile type exif\0" + profile)
    packed = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))
    for chunk in (plain, packed):
        assert open_image(after_png_header(png, chunk)).size == (20, 30)


def text_chunks(megabytes: int) -> dict[str, PngImagePlugin.PngInfo]:
    letters = np.random.default_rng(0).integers(97, 105, megabytes * 2**20, dtype=np.uint8)
    text = letters.tobytes().decode("ascii")
    found = {}
    for name, add in {
        "tEXt": lambda info: info.add_text("Comment", text),
        "zTXt": lambda info: info.add_text("Comment", text, zip=True),
        "iTXt": lambda info: info.add_itxt("Comment", text, zip=True),
    }.items():
        found[name] = PngImagePlugin.PngInfo()
        add(found[name])
    return found


def test_text_and_profiles_of_megabytes_are_no_damage() -> None:
    expected = np.asarray(PHOTO)
    for info in text_chunks(2).values():
        data = encoded(PHOTO, "PNG", pnginfo=info)
        assert np.array_equal(np.asarray(open_image(data)), expected)
    profile = np.random.default_rng(0).bytes(2 * 2**20)
    for kind in ("PNG", "JPEG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        plain = np.asarray(open_image(encoded(PHOTO, kind, **options)))
        data = encoded(PHOTO, kind, icc_profile=profile, **options)
        assert len(data) > 2**20
        assert np.array_equal(np.asarray(open_image(data)), plain)


def test_a_profile_that_is_broken_is_no_damage() -> None:
    bad = png_chunk(b"iCCP", b"name\0\0" + b"not packed at all") + png_chunk(b"zTXt", b"x\0\0junk")
    wrong_sum = png_chunk(b"tEXt", b"Comment\0words")[:-4] + bytes(4)
    data = after_png_header(encoded(PHOTO, "PNG"), bad + wrong_sum)
    assert np.array_equal(np.asarray(open_image(data)), np.asarray(PHOTO))
