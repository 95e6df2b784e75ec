"""Ordinary photos: the pixels that Pillow alone gives, on which every record here rests."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from qvla.data.examples import read_examples
from qvla.data.imagery import open_image
from qvla.settings import Settings
from tests.support.made_images import encoded

NOISE = np.random.default_rng(0).integers(0, 255, (30, 40, 4), dtype=np.uint8)
PHOTO = Image.fromarray(NOISE).resize((333, 222), Image.Resampling.BICUBIC)


def by_pillow(data: bytes) -> np.ndarray:
    """Decoded, turned, and laid over black, in the plainest way there is."""
    image = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return np.asarray(image.convert("RGB"))


def same(data: bytes) -> bool:
    return np.array_equal(np.asarray(open_image(data)), by_pillow(data))


def test_the_examples_of_the_page() -> None:
    examples = read_examples(Settings().examples)
    assert examples and all(same(example.image.read_bytes()) for example in examples)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 30},
        {"progressive": True},
        {"subsampling": 0, "restart_marker_rows": 1},
        {"optimize": True, "icc_profile": b"profile", "comment": "words"},
    ],
    ids=str,
)
def test_jpeg(mode: str, options: dict) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    assert same(encoded(PHOTO.convert(mode), "JPEG", **options))
    assert same(encoded(PHOTO.convert(mode), "JPEG", exif=turned, **options))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
@pytest.mark.parametrize("options", [{}, {"dpi": (72, 72), "icc_profile": b"profile"}], ids=str)
def test_png(mode: str, options: dict) -> None:
    image = PHOTO.convert(mode)
    assert same(encoded(image, "PNG", **options))
    if mode in ("L", "P"):
        assert same(encoded(image, "PNG", transparency=3, **options))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [True, False])
def test_webp_small_and_large(mode: str, lossless: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(PHOTO.convert(mode), "WEBP", lossless=lossless)
    assert same(data)
    monkeypatch.setattr("qvla.data.formats.webp.SMALL_PIXELS", 1000)
    assert same(data)


def test_pngs_too_large_for_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by GDAL at every second row and column."""
    for mode in ("RGB", "RGBA", "LA", "P", "L"):
        monkeypatch.undo()
        data = encoded(PHOTO.convert(mode), "PNG")
        whole = by_pillow(data)
        for module in ("png", "limits"):
            monkeypatch.setattr(f"qvla.data.formats.{module}.WHOLE_PIXELS", 20_000)
        half = np.asarray(open_image(data)).astype(int)
        down, across = half.shape[:2]
        starts = [whole[y::2, x::2][:down, :across] for y in (0, 1) for x in (0, 1)]
        assert min(np.abs(half - start).max() for start in starts) <= 1, mode
