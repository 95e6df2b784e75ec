"""A decoded picture of any mode to RGB, strip by strip, so that little is held beside it.

Transparent pixels become black, as satellite products fill what lies outside the scene; white would
look like cloud or snow.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from qvla.data.formats.orientation import upright
from qvla.data.formats.photo import Photo
from qvla.data.formats.stretch import to_grey

STRIP_PIXELS = 2**20


def finish(
    image: Image.Image, orientation: int, size: tuple[int, int], notes: tuple[str, ...] = ()
) -> Photo:
    """The photo of a decoded picture that may be smaller than the file's own `size`."""
    picture = upright(to_rgb(image), orientation)
    if orientation >= 5:
        size = size[1], size[0]
    if picture.size != size:
        notes = (
            *notes,
            f"Read at {picture.width} × {picture.height} of its {size[0]} × {size[1]} pixels.",
        )
    return Photo(picture, size, notes)


def to_rgb(image: Image.Image) -> Image.Image:
    """An RGB image; the same one where it is RGB already."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(to_grey(np.asarray(image))[0]).convert("RGB")
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    picture = Image.new("RGB", image.size)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if strip.has_transparency_data:
            strip = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "black"), strip)
        picture.paste(strip.convert("RGB"), (0, top))
    return picture
