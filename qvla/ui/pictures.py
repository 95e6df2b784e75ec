"""Small pictures inside the page itself: no file of the server needs to be served for them."""

from __future__ import annotations

import base64
import io

from PIL import Image

PREVIEW_PIXELS = 900
THUMBNAIL_PIXELS = 176
HISTORY_PIXELS = 72


def data_uri(image: Image.Image, pixels: int) -> str:
    """The picture shrunk to fit a square of so many pixels, as a WebP data URI."""
    if max(image.size) > pixels:
        scale = pixels / max(image.size)
        size = [max(1, round(side * scale)) for side in image.size]
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=84)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
