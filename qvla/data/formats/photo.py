"""What reading a file gives: a picture with remarks on it, or one sentence on why there is none."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from qvla.errors import QvlaError

ACCEPTED = "PNG, JPEG, WebP or TIFF"
LEAST_SIDE = 8


class ImageError(QvlaError):
    """The upload cannot be used as a photo; the message says why and what to do."""


@dataclass(frozen=True)
class Photo:
    """`image` is RGB and upright, `size` the file's own, upright too, which may be larger.

    `notes` are sentences on what was taken for what, where the file leaves room for doubt.
    """

    image: Image.Image
    size: tuple[int, int]
    notes: tuple[str, ...] = ()


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    if min(size) < LEAST_SIDE:
        raise ImageError(
            f"This image is {size[0]} x {size[1]} pixels; it must be at least "
            f"{LEAST_SIDE} x {LEAST_SIDE}."
        )
    if size[0] * size[1] > max_pixels:
        raise too_many_pixels(max_pixels)


def too_many_pixels(max_pixels: int) -> ImageError:
    return ImageError(
        f"This image has more than the {max_pixels / 1e6:.3g} million pixels allowed; "
        "upload a smaller or cropped one."
    )


def too_many_bytes(max_bytes: int) -> ImageError:
    return ImageError(
        f"This file is larger than the {max_bytes / 2**20:.3g} MB allowed; upload a smaller one."
    )


def damaged() -> ImageError:
    return ImageError(
        "This image is damaged or incomplete and cannot be read; export or upload it again."
    )
