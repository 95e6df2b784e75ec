"""A catalogue of drawn products in the layout of an image folder, with nested attributes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

TITLES = ("Bag", "Scarf", "Belt")
COLOURS = ("red", "green", "blue", "black")
PATTERNS = ("striped", "plain")


def products() -> list[dict[str, Any]]:
    """One of every title, colour and pattern."""
    return [
        {"title": title, "attributes": {"color": colour, "pattern": pattern, "sizes": ["S", "M"]}}
        for title in TITLES
        for colour in COLOURS
        for pattern in PATTERNS
    ]


def caption_of(product: dict[str, Any]) -> str:
    """What README's template says of it."""
    attributes = product["attributes"]
    return f"{product['title']}: {attributes['color']}, {attributes['pattern']}"


def write_catalogue(folder: Path) -> Path:
    """Draws the products: every fourth is in val, the others in train."""
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        with (folder / split / "metadata.jsonl").open("w", encoding="utf-8") as file:
            for number, product in enumerate(products()):
                if (number % 4 == 3) == (split == "val"):
                    name = f"{number:04}.png"
                    draw(product).save(folder / split / name)
                    file.write(json.dumps({"file_name": name, **product}) + "\n")
    return folder


def draw(product: dict[str, Any]) -> Image.Image:
    """A bag is a square, a scarf a long rectangle, a belt a ring; stripes are white."""
    picture = Image.new("RGB", (48, 48), "white")
    pen, colour = ImageDraw.Draw(picture), product["attributes"]["color"]
    if product["title"] == "Bag":
        pen.rectangle((10, 14, 38, 42), fill=colour)
    elif product["title"] == "Scarf":
        pen.rectangle((18, 2, 30, 46), fill=colour)
    else:
        pen.ellipse((6, 16, 42, 36), outline=colour, width=6)
    if product["attributes"]["pattern"] == "striped":
        for top in range(6, 48, 8):
            pen.line((0, top, 48, top), fill="white", width=3)
    return picture
