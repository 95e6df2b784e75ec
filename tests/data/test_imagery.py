from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image, ImageCms, ImageOps
from rasterio.enums import ColorInterp

from qvla.data.imagery import ImageError, open_image
from qvla.errors import QvlaError
from tests.support.made_images import encoded, geotiff, png_chunk

WIDTH, HEIGHT = 40, 24
SHADES = np.random.default_rng(0)


def quarters() -> Image.Image:
    """A picture that looks different under each of the eight orientations."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:12, :20] = (200, 30, 30)
    pixels[:12, 20:] = (30, 200, 30)
    pixels[12:, :20] = (30, 30, 200)
    pixels[12:, 20:] = (230, 230, 40)
    return Image.fromarray(pixels)


def deep(count: int = 3, dtype: str = "uint16", low: int = 7000, high: int = 12000) -> np.ndarray:
    """Bands (C, H, W) of values far above 255, each band another picture."""
    return SHADES.integers(low, high, (count, 64, 48)).astype(dtype)


def stretched(band: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """The 2nd to 98th percentile stretch, written out plainly."""
    valid = np.ones(band.shape, bool) if valid is None else valid
    low, high = np.percentile(band[valid].astype(float), (2, 98))
    grey = np.interp(band, (low, high), (0, 255))
    return np.where(valid, grey, 0)


def near(image: Image.Image, expected: np.ndarray, *, within: float = 1) -> None:
    assert image.mode == "RGB"
    actual = np.asarray(image).astype(float)
    if expected.ndim == 2:
        expected = np.dstack([expected] * 3)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= within


WRITABLE = {  # what Pillow can write; YCbCr in TIFF is tested with JPEG inside
    "PNG": ("RGB", "L", "1", "P", "RGBA", "LA"),
    "JPEG": ("RGB", "L", "1", "CMYK", "YCbCr"),
    "WEBP": ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"),
    "TIFF": ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK"),
}


@pytest.mark.parametrize("kind,mode", [(k, mode) for k in WRITABLE for mode in WRITABLE[k]])
def test_every_8_bit_mode_keeps_its_picture(kind: str, mode: str) -> None:
    image = quarters().convert(mode)
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    expected = np.asarray(image.convert("RGB")).astype(float)
    actual = np.asarray(open_image(encoded(image, kind, **options))).astype(float)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).mean() < (6 if kind == "JPEG" else 0.1)


@pytest.mark.parametrize("size", [(8, 8), (9, 500), (500, 9), (1001, 777)])
def test_any_size_and_aspect(size: tuple[int, int]) -> None:
    assert open_image(encoded(Image.new("RGB", size, "green"), "PNG")).size == size


def test_lab_tiff_becomes_the_same_colours() -> None:
    to_lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(quarters(), *to_lab, outputMode="LAB")
    near(open_image(encoded(lab, "TIFF")), np.asarray(quarters()), within=15)  # 8-bit LAB is coarse


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_honoured(kind: str, orientation: int) -> None:
    undo = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    stored = quarters()
    stored.getexif()[0x0112] = undo
    stored = ImageOps.exif_transpose(stored)  # as a camera held otherwise would store it
    options = {"lossless": True} if kind == "WEBP" else {}
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(encoded(stored, kind, exif=exif, **options))
    assert image.size == (WIDTH, HEIGHT)
    corners = [image.getpixel(at) for at in ((4, 4), (36, 4), (4, 20), (36, 20))]
    expected = [quarters().getpixel(at) for at in ((4, 4), (36, 4), (4, 20), (36, 20))]
    assert np.abs(np.subtract(corners, expected)).max() < 12


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_images_are_turned_once(kind: str, orientation: int) -> None:
    values = np.arange(24 * 40, dtype=np.uint16).reshape(24, 40) * 40
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]  # a quarter turn to the left each
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(encoded(Image.fromarray(values), kind, exif=exif))
    near(image, np.rot90(stretched(values), turns))


def test_transparent_pixels_are_black_and_half_transparent_ones_darker() -> None:
    image = Image.new("RGBA", (16, 16), (200, 100, 50, 255))
    image.paste((200, 100, 50, 0), (0, 0, 8, 8))
    image.paste((200, 100, 50, 128), (8, 8, 16, 16))
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        result = open_image(encoded(image, kind, **options))
        assert result.getpixel((2, 2)) == (0, 0, 0)
        assert result.getpixel((12, 2)) == (200, 100, 50)
        assert np.abs(np.subtract(result.getpixel((12, 12)), (100, 50, 25))).max() <= 2


def test_a_transparent_palette_entry_is_black() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.paste(0, (0, 0, 8, 16))
    result = open_image(encoded(image, "PNG", transparency=0))
    assert (result.getpixel((2, 2)), result.getpixel((12, 2))) == ((0, 0, 0), (0, 255, 0))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_stretched_not_clipped(kind: str) -> None:
    values = deep(1)[0]
    near(open_image(encoded(Image.fromarray(values), kind)), stretched(values))


def test_16_bit_colour_png_is_stretched() -> None:
    bands = deep(3, high=9000)
    rows = np.moveaxis(bands, 0, 2).astype(">u2")
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 48, 64, 16, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n"
    data += b"".join(png_chunk(*chunk) for chunk in chunks)
    near(open_image(data), np.dstack([stretched(band) for band in bands]))


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_32_bit_tiff_is_stretched(dtype: str) -> None:
    values = deep(1, dtype)[0] - 9000
    near(open_image(encoded(Image.fromarray(values), "TIFF")), stretched(values))


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "RGBA", "CMYK", "P"])
def test_pillow_images_are_taken_too(mode: str) -> None:
    if mode in ("I;16", "I", "F"):
        dtype = {"I;16": "uint16", "I": "int32", "F": "float32"}[mode]
        values = deep(1, dtype)[0]
        image = Image.fromarray(values)
        assert image.mode == mode
        near(open_image(image), stretched(values))
    else:
        image = quarters().convert(mode)
        near(open_image(image), np.asarray(image.convert("RGB")))


def test_a_path_bytes_and_an_open_file_give_the_same_image(tmp_path: Path) -> None:
    path = tmp_path / "photo.weird"
    data = encoded(quarters(), "PNG")
    path.write_bytes(data)
    for source in (path, str(path), data, BytesIO(data)):
        near(open_image(source), np.asarray(quarters()), within=0)
    with path.open("rb") as file:
        near(open_image(file), np.asarray(quarters()), within=0)


def test_a_phone_photo_of_two_pictures_is_not_animated() -> None:
    data = encoded(quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert open_image(data).size == (WIDTH, HEIGHT)


# --- rasters ---


@pytest.mark.parametrize("compression", ["NONE", "LZW", "DEFLATE", "ZSTD"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_deep_bands_are_stretched_one_by_one(compression, interleave, dtype) -> None:
    bands = deep(3, dtype) * np.array([1, 2, 0.5]).reshape(3, 1, 1)
    bands = bands.astype(dtype)
    data = geotiff(bands, compress=compression, interleave=interleave)
    near(open_image(data), np.dstack([stretched(band) for band in bands]))


@pytest.mark.parametrize("profile", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
@pytest.mark.parametrize("compression", ["NONE", "LZW", "DEFLATE"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_8_bit_colour_is_taken_as_it_is(profile, compression, interleave) -> None:
    bands = SHADES.integers(10, 60, (3, 64, 48)).astype(np.uint8)
    data = geotiff(bands, compress=compression, interleave=interleave, nodata=10, **profile)
    near(open_image(data), np.moveaxis(bands, 0, 2), within=0)


@pytest.mark.parametrize("photometric", ["RGB", "YCBCR"])
def test_jpeg_inside_tiff(photometric: str) -> None:
    bands = np.moveaxis(np.asarray(quarters()), 2, 0)
    data = geotiff(bands, compress="JPEG", photometric=photometric, jpeg_quality=95)
    actual = np.asarray(open_image(data)).astype(float)
    assert np.abs(actual - np.asarray(quarters())).mean() < 8


def test_a_compression_unknown_to_pillow() -> None:
    bands = deep(3, "uint8", 10, 200)
    near(open_image(geotiff(bands, compress="LERC")), np.moveaxis(bands, 0, 2), within=0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_many_bands_show_the_first_three(dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    bands = deep(7, dtype, 20, 200) if dtype == "uint8" else deep(7, dtype)
    expected = bands[:3] if dtype == "uint8" else [stretched(band) for band in bands[:3]]
    near(open_image(geotiff(bands, photometric="MINISBLACK")), np.dstack(list(expected)))
    assert not caplog.records  # Pillow remarks on bands it cannot read


def test_named_colours_are_chosen_over_the_order() -> None:
    bands = deep(5)
    meaning = (
        ColorInterp.gray,
        ColorInterp.blue,
        ColorInterp.green,
        ColorInterp.red,
        ColorInterp.undefined,
    )
    expected = np.dstack([stretched(bands[band]) for band in (3, 2, 1)])
    near(open_image(geotiff(bands, meaning=meaning)), expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_bands_are_grey(dtype: str, count: int) -> None:
    bands = deep(count, dtype, 20, 200) if dtype == "uint8" else deep(count, dtype)
    expected = bands[0] if dtype == "uint8" else stretched(bands[0])
    near(open_image(geotiff(bands, photometric="MINISBLACK", ALPHA="NO")), expected)


@pytest.mark.parametrize("dtype,nodata", [("int16", -9999), ("uint16", 65535), ("float32", -1e38)])
def test_nodata_is_black_and_left_out_of_the_stretch(dtype: str, nodata: float) -> None:
    bands = deep(3, dtype)
    bands[:, :40, :] = nodata
    valid = np.zeros((64, 48), bool)
    valid[40:] = True
    expected = np.dstack([stretched(band, valid) for band in bands])
    near(open_image(geotiff(bands, nodata=nodata)), expected)


def test_undeclared_fill_of_zero_does_not_wash_the_picture_out() -> None:
    bands = deep(3)
    bands[:, :40, :] = 0
    expected = np.dstack([stretched(band, band > 0) for band in bands])
    near(open_image(geotiff(bands)), expected)


def test_a_deep_alpha_band_masks() -> None:
    bands = deep(4)
    bands[3] = 65535
    bands[:, :32, :] = 0
    data = geotiff(bands, photometric="RGB", alpha="yes")
    near(open_image(data), np.dstack([stretched(band, bands[3] > 0) for band in bands[:3]]))


def test_an_alpha_band_is_no_colour() -> None:
    bands = deep(3)
    bands[1] = 65535  # GDAL's alpha=yes makes it the band after grey
    data = geotiff(bands, photometric="MINISBLACK", alpha="yes")
    near(open_image(data), stretched(bands[0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -3.4e38])
def test_values_that_are_no_measurement_are_black(bad: float) -> None:
    bands = deep(3, "float32")
    bands[:, :10, :] = bad
    valid = np.ones((64, 48), bool)
    valid[:10] = False
    near(open_image(geotiff(bands)), np.dstack([stretched(band, valid) for band in bands]))


@pytest.mark.parametrize("value,nodata", [(np.nan, None), (-1, -1), (np.inf, None)])
def test_a_raster_of_nothing_is_black(value: float, nodata: float | None) -> None:
    bands = np.full((3, 16, 16), value, np.float32)
    near(open_image(geotiff(bands, nodata=nodata)), np.zeros((16, 16)), within=0)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_a_constant_band_is_an_even_grey(dtype: str) -> None:
    pixels = np.asarray(open_image(geotiff(np.full((3, 16, 16), 700, dtype))))
    assert len(np.unique(pixels)) == 1
    assert 0 < pixels[0, 0, 0] < 255


def test_a_few_odd_values_on_a_constant_band_still_show() -> None:
    band = np.full((1, 64, 64), 700, np.uint16)
    band[0, 30, 30] = 900
    assert len(np.unique(np.asarray(open_image(geotiff(band))))) == 2


def test_complex_radar_values_show_their_magnitude() -> None:
    values = deep(1, "float32")
    near(open_image(geotiff(values * np.complex64(1j))), stretched(values[0]))


def test_overviews_are_not_pages(tmp_path: Path) -> None:
    path = tmp_path / "overviews.tif"
    for bands in (deep(3), deep(3, "uint8", 10, 200)):
        path.write_bytes(geotiff(bands, tiled=True, blockxsize=16, blockysize=16))
        with rasterio.open(path, "r+") as raster:
            raster.build_overviews([2, 4])
        assert open_image(path).size == (48, 64)


# --- bad uploads ---


def crushed_png(width: int, height: int) -> bytes:
    """A valid PNG header that announces many pixels, with hardly any data."""
    data = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return data + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000)))


def frames() -> list[Image.Image]:
    return [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]


def moving(kind: str) -> bytes:
    first, *rest = frames()
    return encoded(first, kind, save_all=True, append_images=rest)


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><rect/></svg>'

BAD_UPLOADS = {
    "text": (b"this is no picture at all", "not an image"),
    "zero bytes": (b"", "empty"),
    "SVG renamed": (SVG, "SVG"),
    "GIF": (encoded(quarters(), "GIF"), "GIF"),
    "BMP": (encoded(quarters(), "BMP"), "BMP"),
    "PDF": (b"%PDF-1.7\n%nothing", "PDF"),
    "HEIC": (b"\x00\x00\x00\x18ftypheic" + bytes(40), "HEIC"),
    "PNG signature alone": (b"\x89PNG\r\n\x1a\n", "damaged"),
    "truncated PNG": (encoded(quarters(), "PNG")[:-40], "damaged"),
    "truncated JPEG": (encoded(quarters().resize((400, 240)), "JPEG")[:3000], "damaged"),
    "truncated WebP": (encoded(quarters(), "WEBP")[:-30], "damaged"),
    "truncated TIFF": (encoded(quarters(), "TIFF")[:-1500], "damaged"),
    "truncated 16-bit GeoTIFF": (geotiff(deep(3))[:-9000], "damaged"),
    "truncated 8-bit GeoTIFF": (geotiff(deep(3, "uint8", 0, 200))[:-4000], "damaged"),
    "truncated 16-bit PNG": (encoded(Image.fromarray(deep(1)[0]), "PNG")[:-2000], "damaged"),
    "PNG bomb": (crushed_png(30_000, 30_000), "million pixels"),
    "PNG beyond the limit": (crushed_png(8_000, 8_000), "million pixels"),
    "animated WebP": (moving("WEBP"), "animated"),
    "animated PNG": (moving("PNG"), "animated"),
    "several pages": (moving("TIFF"), "pages"),
    "1 x 1": (encoded(Image.new("RGB", (1, 1)), "PNG"), "at least 8 x 8"),
    "1 x 1 TIFF": (geotiff(np.ones((3, 1, 1), np.uint16)), "at least 8 x 8"),
    "one row": (encoded(Image.new("RGB", (300, 1)), "JPEG"), "at least 8 x 8"),
}


@pytest.mark.parametrize("data,says", BAD_UPLOADS.values(), ids=BAD_UPLOADS)
def test_a_bad_upload_gets_one_sentence_and_the_next_one_works(
    data: bytes,
    says: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(ImageError) as raised:
            open_image(source)
        assert says in str(raised.value)
        assert one_sentence(str(raised.value))
    near(open_image(encoded(quarters(), "PNG")), np.asarray(quarters()), within=0)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def one_sentence(text: str) -> bool:
    return "\n" not in text and text.endswith(".") and ". " not in text and len(text) < 200


def test_image_errors_are_for_users() -> None:
    assert issubclass(ImageError, QvlaError)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="There is no file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a folder"):
        open_image(str(tmp_path))
    with pytest.raises(ImageError):
        open_image("a\0b.png")
    with pytest.raises(ImageError):
        open_image("n" * 5000)


def test_the_byte_limit_is_checked_before_decoding(tmp_path: Path) -> None:
    data = encoded(quarters(), "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    for source in (path, data, BytesIO(data)):
        with pytest.raises(ImageError, match="larger than"):
            open_image(source, max_bytes=len(data) - 1)
    for source in (path, data, BytesIO(data)):
        assert open_image(source, max_bytes=len(data)).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_pixel_limit_follows_the_settings(kind: str) -> None:
    data = encoded(quarters(), kind)
    assert open_image(data, max_pixels=WIDTH * HEIGHT).size == (WIDTH, HEIGHT)
    with pytest.raises(ImageError, match="million pixels"):
        open_image(data, max_pixels=WIDTH * HEIGHT - 1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_huge_sparse_tiff_is_refused_from_its_header(dtype: str) -> None:
    with rasterio.MemoryFile() as memory:
        profile = {"width": 60_000, "height": 60_000, "count": 3, "dtype": dtype}
        with memory.open(driver="GTiff", sparse_ok=True, tiled=True, **profile):
            pass
        data = memory.read()
    with pytest.raises(ImageError, match="million pixels"):
        open_image(data, max_bytes=10**9)


@pytest.mark.parametrize("shape", [(3000, 16, 16), (1, 16, 16)], ids=["bands", "tile"])
def test_a_small_tiff_with_huge_blocks_is_refused(shape: tuple[int, int, int]) -> None:
    side = 16 if shape[0] > 1 else 4096
    tiles = {"tiled": True, "blockxsize": side, "blockysize": side, "compress": "DEFLATE"}
    data = geotiff(np.ones(shape, np.uint16), **tiles)
    with pytest.raises(ImageError, match="too large when unpacked"):
        open_image(data, max_pixels=16 * 16 * 4)


def test_warnings_of_pillow_about_bombs_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(quarters(), "PNG")
    for limit in (WIDTH * HEIGHT - 1, WIDTH * HEIGHT // 3):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError, match="million pixels"):
            open_image(data)
