"""Rasters through GDAL: GeoTIFFs of any depth and number of bands, 16-bit PNG, large PNG and WebP.

A picture is read window by window, each of whole blocks, and large ones at every second, fourth or
eighth row and column, so that memory is bounded by what comes out. GDAL's own overviews are not
used: nothing makes them show the same picture.

8-bit rasters keep their fill as it is: a nodata value of 255 also occurs in snow. Colour profiles
are not applied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from qvla.data.formats.limits import fraction, turns
from qvla.data.formats.photo import ImageError, Photo, check_size
from qvla.data.formats.pixels import finish

# What unpacking may take for each allowed pixel, over all bands: about a second of work.
BYTES_A_PIXEL = {None: 16, "lzma": 4}
BYTES_A_PACKED_PIXEL = 8  # with any other compression
BLOCK_BYTES = 48_000_000  # the piece in which a file is packed, which is unpacked at once
CACHE_BYTES = 16_000_000
TIFF_CACHE_BYTES = BLOCK_BYTES  # so that no block is unpacked twice in a row
WINDOW_PIXELS = 2**19
WINDOW_SIDE = 512  # of files in tiles


def decode_raster(data: bytes, driver: str, max_pixels: int, **options: Any) -> Photo:
    """Opens the bytes of a file with one of GDAL's drivers; see `read_raster`."""
    with open_raster(data, driver) as raster:
        return read_raster(raster, max_pixels, **options)


@contextmanager
def open_raster(data: bytes, driver: str) -> Iterator[Any]:
    """The raster of rasterio; raises what that raises."""
    import rasterio

    cache = TIFF_CACHE_BYTES if driver == "GTiff" else CACHE_BYTES
    with (
        rasterio.Env(GDAL_CACHEMAX=cache),
        rasterio.MemoryFile(data) as memory,
        memory.open(driver=driver) as raster,
    ):
        yield raster


def check_raster(raster: Any, max_pixels: int) -> None:
    """Refuses what is too large or several pictures, before anything is unpacked."""
    if len(raster.subdatasets) > 1:
        raise ImageError("This TIFF has several pages; upload a single page of it.")
    check_size((raster.width, raster.height), max_pixels)
    pixels = max(raster.width * raster.height, *(h * w for h, w in raster.block_shapes))
    a_pixel = raster.count * _dtype(raster).itemsize
    allowed = BYTES_A_PIXEL.get(raster.profile.get("compress"), BYTES_A_PACKED_PIXEL)
    if pixels > max_pixels or pixels * a_pixel > max_pixels * allowed:
        raise ImageError("This raster is too large when unpacked; upload a part of it.")
    if _block_bytes(raster) > BLOCK_BYTES:
        raise ImageError(
            "This TIFF is packed in one piece that is too large to unpack; save it in tiles."
        )


def read_raster(
    raster: Any,
    max_pixels: int,
    *,
    orientation: int = 1,
    held: int = 0,
    trusted_alpha: bool = False,
) -> Photo:
    """The bands that are shown, as an RGB photo: stretched one by one unless they have 8 bits.

    `held` are bytes that the driver keeps by itself. With `trusted_alpha` a band that is called
    alpha is believed to be, without looking at it.
    """
    from rasterio.enums import ColorInterp

    from qvla.data.formats.bands import choose_bands, fill_note, looks_like_alpha

    check_raster(raster, max_pixels)
    meaning = raster.colorinterp
    if ColorInterp.palette in meaning:
        raise ImageError("The colour table of this TIFF cannot be read; upload it as PNG.")
    choice = choose_bands(meaning, raster.descriptions)
    alpha = meaning.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in meaning else None
    if alpha in choice.shown:
        alpha = None
    bands = sorted({*choice.shown, *([alpha] if alpha else [])})
    dtype = _dtype(raster)
    pixels = raster.width * raster.height
    a_pixel = _bytes_a_pixel(len(bands), dtype)
    held += 2 * _block_bytes(raster)
    step = fraction(pixels, a_pixel, held)
    notes = [choice.note] if raster.driver == "GTiff" else []
    with turns.turn(max(held + a_pixel * pixels / step**2, pixels * dtype.itemsize * len(bands))):
        masked = (dtype != np.uint8 or raster.driver == "PNG") and _is_masked(raster, choice.shown)
        values, valid = _read(raster, bands, step, masked)
        seen = None if alpha is None else values[bands.index(alpha)]
        if seen is not None and not trusted_alpha and not looks_like_alpha(seen):
            seen = None
            notes.append(f"Band {alpha} is marked as transparency, but is none and left out.")
        picture, fill = _picture(values, valid, seen, [bands.index(band) for band in choice.shown])
        notes.append(fill_note(fill))
        del values, valid, seen
        size = raster.width, raster.height
        return finish(picture, orientation, size, tuple(filter(None, notes)))


def _picture(
    values: np.ndarray, valid: np.ndarray | None, seen: np.ndarray | None, shown: Sequence[int]
) -> tuple[Image.Image, dict[float, float]]:
    """The rows `shown` of `values` (C, H, W) as colours, and the fill that was found in them.

    What is not `valid` (C, H, W), or not `seen` (H, W) as alpha says, is black.
    """
    from qvla.data.formats.stretch import to_grey

    layers: dict[int, np.ndarray] = {}
    fill: dict[float, float] = {}
    for row in set(shown):
        here = None if valid is None else valid[row]
        layers[row], found = to_grey(values[row], here if seen is None else seen > 0)
        fill |= {value: max(share, fill.get(value, 0)) for value, share in found.items()}
    colours = [layers[row] for row in shown]
    if values.dtype == np.uint8:  # which was not stretched, and may be half transparent
        if seen is None and valid is not None:
            seen = np.where(valid.any(0), 255, 0).astype(np.uint8)
        colours += [] if seen is None else [seen]
    return Image.fromarray(np.dstack(colours)), fill


def _is_masked(raster: Any, bands: Sequence[int]) -> bool:
    """Whether the file says which pixels are valid in another way than by an alpha band."""
    from rasterio.enums import MaskFlags

    flags = [raster.mask_flag_enums[band - 1] for band in bands]
    return any(MaskFlags.all_valid not in f and MaskFlags.alpha not in f for f in flags)


def _read(
    raster: Any, bands: Sequence[int], step: int, masked: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (C, H, W), every `step`-th of each row and column, and where asked which are valid."""
    from rasterio.windows import Window

    shape = len(bands), raster.height // step, raster.width // step
    values = np.empty(shape, _dtype(raster))
    valid = np.empty(shape, bool) if masked else None
    for rows, columns in _windows(raster, step):
        window = Window.from_slices(rows, columns)
        place = (slice(None), *(slice(s.start // step, s.stop // step) for s in (rows, columns)))
        values[place] = raster.read(bands, window=window)[:, ::step, ::step]
        if valid is not None:
            valid[place] = raster.read_masks(bands, window=window)[:, ::step, ::step] > 0
    return values, valid


def _windows(raster: Any, step: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of windows of whole steps, and of whole blocks unless those are large."""
    tall, wide = raster.block_shapes[0]
    height, width = raster.height // step * step, raster.width // step * step
    wide = width if wide >= raster.width else wide * max(1, WINDOW_SIDE // wide)
    tall = min(tall * max(1, WINDOW_PIXELS // (wide * tall)), max(1, WINDOW_PIXELS // wide))
    wide, tall = -(-wide // step) * step, -(-tall // step) * step
    for top in range(0, height, tall):
        for left in range(0, width, wide):
            yield slice(top, min(top + tall, height)), slice(left, min(left + wide, width))


def _bytes_a_pixel(bands: int, dtype: np.dtype) -> int:
    """What a pixel of the result takes while it is made: samples, stacked bands, Pillow's RGB."""
    if dtype == np.uint8:
        return 2 * bands + 4
    work = {"c": 8 + dtype.itemsize, "f": dtype.itemsize}.get(dtype.kind, 0)
    return bands * (dtype.itemsize + 2) + dtype.itemsize + work + 3 + 4


def _block_bytes(raster: Any) -> int:
    tall, wide = raster.block_shapes[0]
    together = raster.count if str(raster.interleaving or "").lower().endswith("pixel") else 1
    return tall * wide * together * _dtype(raster).itemsize


def _dtype(raster: Any) -> np.dtype:
    """The NumPy type of the first band, which in these formats is that of all."""
    name = raster.dtypes[0]
    return np.dtype("complex64" if name == "complex_int16" else name)
