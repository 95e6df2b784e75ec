"""Bands of rasters: what is shown as which colour, what is fill, what is transparency, all told."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from rasterio.enums import ColorInterp

from qvla.data.imagery import read_photo
from tests.support.made_images import encoded, geotiff

SHADES = np.random.default_rng(0)
RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def bands(count: int, dtype: str = "uint8", low: int = 20, high: int = 240) -> np.ndarray:
    return SHADES.integers(low, high, (count, 40, 48)).astype(dtype)


def bright_red(channel: int) -> np.ndarray:
    """Three bands, one of which is much brighter than the others."""
    made = bands(3, low=10, high=60)
    made[channel] += 150
    return made


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            geotiff(bands(3), photometric="RGB"),
            "Bands 1, 2 and 3 are shown as red, green and blue, as the file marks them "
            "(many programs mark any three bands so).",
        ),
        (
            geotiff(bands(3), photometric="MINISBLACK"),
            "Bands 1, 2 and 3 are shown as red, green and blue; the file does not say which they "
            "are.",
        ),
        (
            geotiff(bands(13, "uint16")),
            "Bands 1, 2 and 3 of 13 are shown as red, green and blue; the file does not say which "
            "they are.",
        ),
        (
            geotiff(bands(3), photometric="RGB", names=("Near infrared", "Red", "Green")),
            "Bands 1 (Near infrared), 2 (Red) and 3 (Green) are shown as red, green and blue, as "
            "the file marks them beside their names.",
        ),
        (
            geotiff(bands(4, "uint16"), names=("B2 blue", "B3 green", "B4 red", "B8 <b>NIR</b>")),
            "Bands 3 (B4 red), 2 (B3 green) and 1 (B2 blue) of 4 are shown as red, green and blue, "
            "as they are described.",
        ),
        (
            geotiff(
                bands(3, "uint16"), meaning=(ColorInterp.nir, ColorInterp.red, ColorInterp.green)
            ),
            "Bands 1 (nir), 2 and 3 are shown as red, green and blue in the order of the file.",
        ),
        (geotiff(bands(2, "uint16")), "Band 1 of 2 is shown in grey."),
    ],
    ids=["marked", "unmarked", "many", "false colour", "described", "meaning", "two"],
)
def test_it_is_told_which_bands_are_shown(data: bytes, told: str) -> None:
    assert read_photo(data).notes == (told,)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_ordinary_photo_has_no_notes(kind: str) -> None:
    photo = read_photo(encoded(Image.fromarray(np.moveaxis(bands(3), 0, 2)), kind))
    assert photo.notes == () and photo.size == photo.image.size == (48, 40)
    assert read_photo(geotiff(bands(1))).notes == ()


def test_names_are_followed_even_against_the_order() -> None:
    data = geotiff(bright_red(2), photometric="RGB", names=("blue", "green", "red"))
    means = np.asarray(read_photo(data).image).mean((0, 1))
    assert means[0] > 150 and max(means[1:]) < 60


FILLS = [
    ("int16", -9999),
    ("float32", -9999),
    ("float64", -9999),
    ("int16", -32768),
    ("uint16", 65535),
    ("int16", 0),
    ("float32", 1e20),
]


@pytest.mark.parametrize(("dtype", "fill"), FILLS)
def test_undeclared_fill_leaves_the_picture_as_it_would_be_without(dtype: str, fill: float) -> None:
    made = bands(3, dtype, 300, 3000)
    alone = np.asarray(read_photo(geotiff(made[:, 10:])).image)
    made[:, :10] = fill
    photo = read_photo(geotiff(made))
    pixels = np.asarray(photo.image)
    assert pixels[:10].max() == 0
    assert np.abs(pixels[10:].astype(int) - alone).max() <= 1
    told = f"{fill:.10g}, in 25% of the picture, was taken for no data and is black."
    assert photo.notes[1:] == (told,)


def test_two_kinds_of_fill_are_both_told() -> None:
    made = bands(1, "int16", 300, 3000)
    made[:, :10], made[:, 10:14] = -9999, -32768
    photo = read_photo(geotiff(made))
    assert np.asarray(photo.image)[:14].max() == 0
    assert photo.notes == (
        "-32768 and -9999, in 25% of the picture, were taken for no data and are black.",
    )


def test_another_flat_value_does_not_own_the_stretch_but_keeps_its_end_of_it() -> None:
    for value, shown in ((-1500, 0), (5000, 255)):
        made = bands(3, "int32", 300, 3000)
        alone = np.asarray(read_photo(geotiff(made[:, 10:])).image)
        made[:, :10] = value
        photo = read_photo(geotiff(made))
        pixels = np.asarray(photo.image)
        assert set(pixels[:10].ravel()) == {shown}
        assert np.abs(pixels[10:].astype(int) - alone).max() <= 1
        assert not any("no data" in note for note in photo.notes)


def test_what_is_merely_saturated_or_dark_is_no_fill() -> None:
    slope = np.linspace(-20_000, 90_000, 40 * 48).clip(0, 65535).astype(np.uint16)
    photo = read_photo(geotiff(slope.reshape(1, 40, 48)))
    pixels = np.asarray(photo.image)[..., 0].ravel()
    assert pixels[-1] == 255 and pixels[0] == 0
    assert not any("65535" in note for note in photo.notes)
    mask = (bands(1) > 128).astype(np.float32)
    assert set(np.asarray(read_photo(geotiff(mask)).image).ravel()) == {0, 255}


def test_near_infrared_in_the_fourth_band_is_no_transparency() -> None:
    made = bands(4)
    made[3, :20] = 3  # water, which near-infrared sees dark
    for data in (geotiff(made), geotiff(made, compress="DEFLATE", interleave="band")):
        photo = read_photo(data)
        assert np.array_equal(np.asarray(photo.image), np.moveaxis(made[:3], 0, 2))
        assert photo.notes[1:] == ("Band 4 is marked as transparency, but is none and left out.",)
    deep = bands(4, "uint16", 300, 3000)
    deep[3, :20] = 0
    photo = read_photo(geotiff(deep, photometric="RGB", alpha="yes"))
    assert np.asarray(photo.image)[:20].mean() > 100


def test_transparency_that_looks_like_it_or_is_named_stays() -> None:
    made = bands(4)
    made[3] = 255
    made[3, :10] = 0
    assert np.asarray(read_photo(geotiff(made)).image)[:10].max() == 0
    soft = bands(4)  # every value of alpha, but the file names it
    named = geotiff(soft, photometric="MINISBLACK", alpha="no", meaning=(*RGB, ColorInterp.alpha))
    expected = soft[:3].astype(float) * soft[3] / 255
    shown = np.moveaxis(np.asarray(read_photo(named).image), 2, 0)
    assert np.abs(shown - expected).max() <= 2
