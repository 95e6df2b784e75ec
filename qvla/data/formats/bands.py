"""Which bands of a raster are shown as red, green and blue, and how that is told.

Names in the bands' descriptions count most, because somebody wrote them; then the colours that the
file marks its bands with, which programs do by default for any three; then the order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rasterio.enums import ColorInterp

COLOURS = ("red", "green", "blue")
MARKED = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
SILENT = {ColorInterp.undefined, ColorInterp.gray, ColorInterp.alpha, *MARKED}
LONGEST_NAME = 24


@dataclass(frozen=True)
class Choice:
    """Three band numbers, from 1, for red, green and blue; `note` is empty where nothing is odd."""

    shown: tuple[int, int, int]
    note: str


def choose_bands(meaning: Sequence[ColorInterp], descriptions: Sequence[str | None]) -> Choice:
    """`meaning` and `descriptions` are what the file says of each band; alpha is never shown."""
    colours = [i for i, mark in enumerate(meaning, 1) if mark != ColorInterp.alpha]
    words = [_name(meaning[i], descriptions[i]) for i in range(len(meaning))]
    described = [_colour(text) for text in descriptions]
    if all(described.count(colour) == 1 for colour in COLOURS):
        red, green, blue = (described.index(colour) + 1 for colour in COLOURS)
        shown = red, green, blue
        return Choice(shown, _note(shown, words, len(meaning), ", as they are described"))
    if set(MARKED) <= set(meaning):
        red, green, blue = (meaning.index(mark) + 1 for mark in MARKED)
        shown = red, green, blue
        doubt = ", as the file marks them (many programs mark any three bands so)"
        if any(words[band - 1] for band in shown):
            doubt = ", as the file marks them beside their names"
        return Choice(shown, _note(shown, words, len(meaning), doubt))
    if len(colours) >= 3:
        shown = colours[0], colours[1], colours[2]
        doubt = "; the file does not say which they are"
        if any(words[band - 1] for band in shown):
            doubt = " in the order of the file"
        return Choice(shown, _note(shown, words, len(meaning), doubt))
    band = colours[0] if colours else 1
    note = f"Band {band} of {len(colours)} is shown in grey." if len(colours) > 1 else ""
    return Choice((band, band, band), note)


def looks_like_alpha(band: np.ndarray) -> bool:
    """Whether a band (H, W) says what is visible: nothing or everything nearly everywhere.

    Programs mark any fourth band as alpha, near-infrared too, which would blacken what is dark.
    """
    visible = band[band != 0]
    return visible.size > 0 and np.mean(visible == visible.max()) >= 0.5


def fill_note(fill: dict[float, float]) -> str:
    """What is told of values, with the share of each, that were taken for no data."""
    if not fill:
        return ""
    digits = {value: 10 if abs(value) < 1e10 else 6 for value in sorted(fill)}
    values = " and ".join(f"{value:.{count}g}" for value, count in digits.items())
    share = max(fill.values())
    amount = f"{share:.0%}" if share >= 0.01 else "less than 1%"
    was, are = ("was", "is") if len(fill) == 1 else ("were", "are")
    return f"{values}, in {amount} of the picture, {was} taken for no data and {are} black."


def _note(shown: Sequence[int], words: Sequence[str], count: int, why: str) -> str:
    first, second, third = (
        f"{band} ({words[band - 1]})" if words[band - 1] else str(band) for band in shown
    )
    of = f" of {count}" if count > 3 else ""
    return f"Bands {first}, {second} and {third}{of} are shown as red, green and blue{why}."


def _name(mark: ColorInterp, description: str | None) -> str:
    """What a band is called, if anything."""
    text = " ".join(re.sub(r"[^\w .,+-]", " ", description or "").split())
    if not text and mark not in SILENT:
        text = mark.name.replace("_", " ")
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def _colour(description: str | None) -> str | None:
    """The one colour that a description names; "red edge" and "infra red" are none."""
    words = re.findall("[a-z]+", (description or "").lower())
    if {"edge", "infra", "near", "nir", "rededge"} & set(words):
        return None
    named = {word for word in words if word in COLOURS}
    return named.pop() if len(named) == 1 else None
