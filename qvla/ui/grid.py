"""A grid of small pictures to pick one from, for the examples and for the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from qvla.data import imagery
from qvla.data.risc import Example
from qvla.errors import QvlaError
from qvla.settings import ASSETS
from qvla.ui.photo_folder import TRAINING
from qvla.ui.pictures import THUMBNAIL_PIXELS, data_uri

SCRIPT = (ASSETS / "ui" / "grid.js").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Tile:
    """One picture: `key` is what is picked, `source` a data URI or None where it cannot be read.

    `mark` is a word on it, as for a training photo.
    """

    key: str
    description: str
    source: str | None
    mark: str = ""


def photo_grid(tiles: str, **options: Any) -> gr.HTML:
    """Buttons with pictures, from `render_tiles`. Event: `pick`; the value is the picked key.

    New tiles are shown by returning `gr.HTML(value=None, tiles=...)` from an event.
    """
    return gr.HTML(
        None,
        tiles=tiles,
        html_template="${tiles}",
        js_on_load=SCRIPT,
        apply_default_css=False,
        **options,
    )


def tiles_of(examples: Sequence[Example]) -> list[Tile]:
    return [
        Tile(
            example.name,
            example.references[0] if example.references else example.name,
            _thumbnail(example.image),
            TRAINING if example.split == TRAINING else "",
        )
        for example in examples
    ]


def render_tiles(tiles: Sequence[Tile], label: str) -> str:
    """A list of buttons; each is described by the photo's first caption."""
    if not tiles:
        return ""
    items = "".join(
        f'<li><button type="button" class="tile" aria-pressed="false" '
        f'data-key="{escape(tile.key)}" aria-label="{escape(_name(tile))}" '
        f'title="{escape(_name(tile))}">{_face(tile)}</button></li>'
        for tile in tiles
    )
    return f'<ul class="tiles" aria-label="{escape(label)}">{items}</ul>'


def render_scored_tiles(tiles: Sequence[Tile], texts: Sequence[str], label: str) -> str:
    """A list of buttons, each with a short text below."""
    items = "".join(
        f'<li><button type="button" class="tile" aria-pressed="false" '
        f'data-key="{escape(tile.key)}" aria-label="{escape(_name(tile))}" '
        f'title="{escape(_name(tile))}">{_face(tile)}</button><span>{escape(text)}</span></li>'
        for tile, text in zip(tiles, texts, strict=True)
    )
    return f'<ul class="tiles scored" aria-label="{escape(label)}">{items}</ul>'


def _face(tile: Tile) -> str:
    if tile.source is None:
        return f'<span class="tile-missing">{escape(tile.key)} cannot be read</span>'
    mark = f'<span class="tile-mark">{escape(tile.mark)}</span>' if tile.mark else ""
    return f'<img src="{tile.source}" alt="" loading="lazy">{mark}'


def _name(tile: Tile) -> str:
    return f"{tile.description} ({tile.mark} photo)" if tile.mark else tile.description


@lru_cache(maxsize=1024)
def _thumbnail(path: Path) -> str | None:
    try:
        return data_uri(imagery.open_image(path), THUMBNAIL_PIXELS)
    except QvlaError:
        return None
