"""Bombs: files of a few kilobytes that ask for gigabytes of memory or minutes of work."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from qvla.data.formats.jpeg import MAX_SCANS
from qvla.data.formats.limits import BUDGET, LARGE, LARGE_AT_ONCE, WHOLE_PIXELS, fraction, turns
from qvla.data.imagery import ImageError, open_image, read_photo
from tests.support.made_images import (
    after_jpeg_start,
    after_png_header,
    black_png,
    encoded,
    exif,
    geotiff,
    jpeg_segment,
    png_chunk,
    short,
    sparse_geotiff,
    with_more_scans,
)

SIDE = 7000  # nearly as many pixels as are allowed
MOST = 200 * 2**20  # bytes over the process at rest
ONE_COLOUR_WEBP = {  # lossless, by side
    4000: bytes.fromhex("524946461c000000574542505650384c0f0000002f9fcfe7030710fd8ffe0722a2ff0100"),
    7000: bytes.fromhex("524946461c000000574542505650384c0f0000002f57dbd5060710fd8ffe0722a2ff0100"),
}
SHADES = np.random.default_rng(0)

MEASURE = """
import json, resource, sys
from qvla.data.imagery import ImageError, open_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
at_rest, *bombs = sys.argv[1:]
for small in at_rest.split(","):
    open_image(small)
before = peak()
for bomb in bombs:
    try:
        outcome = open_image(bomb).size
    except ImageError as error:
        outcome = str(error)
    print(json.dumps([bomb, peak() - before, outcome]), flush=True)
"""


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(SHADES.integers(0, 255, (height, width, 3), dtype=np.uint8))


def bombs() -> dict[str, bytes]:
    red = Image.new("RGB", (6200, 4100), "red")
    turned = exif([(0x0112, 3, 1, short(6))])
    return {
        "complex.tif": sparse_geotiff(SIDE, 1, "complex128"),
        "deep.tif": sparse_geotiff(SIDE, 3, "uint16"),
        "bytes.tif": sparse_geotiff(SIDE, 4, "uint8", photometric="RGB"),
        "deep.png": black_png(5000, bits=16, colour=6),
        "clear.png": black_png(5000, bits=8, colour=6),
        "baseline.jpg": encoded(red, "JPEG", exif=turned),
        "progressive.jpg": encoded(red, "JPEG", progressive=True),
        "lossless.webp": ONE_COLOUR_WEBP[4000],
    }


def test_the_peak_of_memory_is_bounded_whatever_a_header_announces(tmp_path: Path) -> None:
    small = {
        "small.jpg": encoded(noise(64, 64), "JPEG"),
        "small.tif": geotiff(SHADES.integers(0, 9000, (3, 64, 64)).astype(np.uint16)),
    }
    made = bombs()
    for name, data in (small | made).items():
        assert len(data) < 2 * 2**20
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, ",".join(small), *made],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    outcomes = {name: outcome for name, _, outcome in lines}
    assert [name for name, _, _ in lines] == list(made)
    assert {name: peak for name, peak, _ in lines if peak > MOST} == {}
    refused = {name: said for name, said in outcomes.items() if isinstance(said, str)}
    assert refused == {}
    assert all(min(size) >= 800 for size in outcomes.values())


def test_photos_keep_their_size_up_to_25_million_pixels_and_no_result_breaks_the_budget() -> None:
    assert fraction(WHOLE_PIXELS, 4) == 1
    assert fraction(WHOLE_PIXELS + 1, 4) == 2
    for pixels in (10**6, 10**7, 5 * 10**7):
        for a_pixel in (4, 8, 20, 41):
            for held in (0, BUDGET // 2):
                step = fraction(pixels, a_pixel, held)
                assert held + a_pixel * pixels / step**2 <= BUDGET
    with pytest.raises(ImageError, match="too large when unpacked"):
        fraction(10**6, 4, BUDGET)


def test_a_large_picture_is_read_at_a_fraction_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvla.data.formats.limits.WHOLE_PIXELS", 40 * 60)
    monkeypatch.setattr("qvla.data.formats.png.WHOLE_PIXELS", 40 * 60)
    smooth = noise(6, 4).resize((120, 80), Image.Resampling.BICUBIC)
    half = np.asarray(smooth.resize((60, 40), Image.Resampling.BOX)).astype(float)
    bands = np.moveaxis(np.asarray(smooth), 2, 0)
    files = {
        "JPEG": encoded(smooth, "JPEG", quality=95, exif=exif([(0x0112, 3, 1, short(3))])),
        "PNG": encoded(smooth, "PNG", exif=exif([(0x0112, 3, 1, short(3))])),
        "GeoTIFF": geotiff(bands, photometric="RGB"),
        "tiles": geotiff(bands, photometric="RGB", tiled=True, blockxsize=16, blockysize=16),
    }
    for kind, data in files.items():
        photo = read_photo(data)
        assert photo.size == (120, 80)
        assert photo.image.size == (60, 40), kind
        assert photo.notes[-1] == "Read at 60 × 40 of its 120 × 80 pixels."
        shown = np.asarray(photo.image).astype(float)
        if kind in ("JPEG", "PNG"):
            shown = shown[::-1, ::-1]  # turned by its orientation
        assert np.abs(shown - half).mean() < 4, kind


def test_overviews_of_another_picture_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qvla.data.formats.limits.WHOLE_PIXELS", 100 * 100)
    path = tmp_path / "overviews.tif"
    slope = np.arange(128, dtype=np.uint8)
    rows = np.stack([slope, slope[::-1]] * 64)  # which an overview averages to nothing
    path.write_bytes(geotiff(np.stack([rows] * 3), photometric="RGB"))
    plain = np.asarray(open_image(path))
    assert plain.shape == (64, 64, 3) and len(np.unique(plain)) == 64
    with rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4], rasterio.enums.Resampling.average)
    assert np.array_equal(np.asarray(open_image(path)), plain)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (encoded(Image.new("L", (16, 16)), "JPEG", progressive=True), None),
        (black_png(4000, bits=16, colour=6, interlaced=True), "without interlacing"),
        (ONE_COLOUR_WEBP[7000], "WebP"),
        (
            geotiff(np.ones((3, 3000, 3000), np.uint16), compress="DEFLATE", blockysize=3000),
            "save it in tiles",
        ),
    ],
    ids=["small", "interlaced PNG", "lossless WebP", "one strip"],
)
def test_what_cannot_be_unpacked_in_parts_is_refused_or_small(data: bytes, says: str | None):
    if says is None:
        assert open_image(data).size == (16, 16)
        return
    with pytest.raises(ImageError, match=says):
        open_image(data)


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    progressive = encoded(noise(300, 300), "JPEG", progressive=True)
    scans = progressive.count(b"\xff\xda")
    for more in (MAX_SCANS - scans, 15_000):
        data = with_more_scans(progressive, more)
        hidden = data.replace(b"\xff\xda", b"\xff\xff\xff\xda")  # fill bytes before a marker
        for bomb in (data, hidden, after_jpeg_start(data, jpeg_segment(0xFE, b"\xff\xd9"))):
            if more < 15_000:
                assert open_image(bomb).size == (300, 300)
            else:
                with pytest.raises(ImageError, match="passes"):
                    open_image(bomb)


def test_scans_of_the_next_picture_in_the_file_do_not_count() -> None:
    photo = encoded(noise(64, 64), "JPEG", quality=90)
    film = b"\xff\xda" * 10_000
    assert np.array_equal(np.asarray(open_image(photo + film)), np.asarray(open_image(photo)))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff" * 4_000_000,
        b"\xff\xd8\xff\xe0" + b"\0" * 4_000_000,
        b"\xff\xd8" + b"\xff\xe5\x00\x02" * 1_000_000,
        after_png_header(encoded(noise(8, 8), "PNG"), png_chunk(b"abCD", b"") * 200_000),
        b"RIFF\0\0\0\0WEBP" + b"ABCD\0\0\0\0" * 200_000,
    ],
    ids=["fill bytes", "zeros", "JPEG segments", "PNG chunks", "WebP chunks"],
)
def test_endless_headers_are_given_up(data: bytes) -> None:
    with pytest.raises(ImageError, match="damaged"):
        open_image(data)


@pytest.mark.parametrize(("compress", "most"), [("NONE", 16), ("DEFLATE", 8), ("LZMA", 4)])
def test_what_is_slow_to_unpack_may_unpack_to_less(compress: str, most: int) -> None:
    """Bytes a pixel: work is counted from the header, before it is done."""
    within, beyond = (np.ones((bands, 64, 64), np.uint8) for bands in (most, most + 1))
    assert open_image(geotiff(within, compress=compress), max_pixels=64 * 64).size == (64, 64)
    with pytest.raises(ImageError, match="too large when unpacked"):
        open_image(geotiff(beyond, compress=compress), max_pixels=64 * 64)


def test_tags_that_all_claim_the_whole_file_are_not_read() -> None:
    """65,000 tags of 60,000 bytes each would be 4 GB in Pillow."""
    greedy = [(0x9000 + tag % 4096, 7, 60_000, b"") for tag in range(5_000)]
    body = exif([(0x0112, 3, 1, short(6))])
    hostile = exif(greedy, pointer=10)
    photo = noise(30, 20)
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(photo, kind, exif=body)
        assert open_image(data).size == (20, 30)
    large = encoded(photo, "PNG", exif=hostile.ljust(70_000, b"\0"))
    assert open_image(large).size == (30, 20)
    palette = encoded(photo.convert("P"), "TIFF")
    start = int.from_bytes(palette[4:8], "little")
    count = int.from_bytes(palette[start : start + 2], "little")
    entries = palette[start + 2 : start + 2 + 12 * count] + hostile[16 : 16 + 12 * len(greedy)]
    directory = (count + len(greedy)).to_bytes(2, "little") + entries + bytes(4)
    bomb = palette[:4] + len(palette).to_bytes(4, "little") + palette[8:] + directory
    with pytest.raises(ImageError, match="damaged"):
        open_image(bomb)


def test_a_small_photo_never_waits_for_large_ones() -> None:
    small, large = encoded(noise(64, 64), "JPEG"), sparse_geotiff(3000, 3, "uint16")
    opened: list[str] = []

    def open_as(name: str, data: bytes) -> None:
        open_image(BytesIO(data))
        opened.append(name)

    first, second = turns.turn(LARGE), turns.turn(LARGE)
    assert LARGE_AT_ONCE == 2
    with first, second:  # as if two large files were being unpacked
        waits = threading.Thread(target=open_as, args=("large", large))
        waits.start()
        while not turns.waiting:
            assert waits.is_alive()
            time.sleep(0.01)
        passes = threading.Thread(target=open_as, args=("small", small))
        passes.start()
        passes.join(60)  # it is over at once, unless it waits for those above
        assert opened == ["small"]
    waits.join()
    assert opened == ["small", "large"]
