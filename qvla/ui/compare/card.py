"""A picture of one comparison: the photo, its captions and their figures, to take away."""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from qvla.ui import units
from qvla.ui.compare.history import Comparison, decoding_words
from qvla.ui.panes import Pane
from qvla.ui.sentences import as_sentence

WIDTH, EDGE, PHOTO = 1200, 48, 440  # pixels
LEFT = EDGE + PHOTO + 40  # where the captions begin
PAPER, INK, FAINT, LINE = "#fafaf6", "#17211e", "#525b56", "#dcdfd5"
# As in the style sheet: of the default three, then of any others in turn.
COLOURS = {"base": "#3f6f9f", "adapter": "#a86d12", "qvla": "#0f6f4f"}
OTHERS = ("#4d7394", "#96596a", "#667a2c", "#2c7d79", "#8f653c", "#6f6396")


def draw_card(entry: Comparison, photo: Image.Image) -> Image.Image:
    """An RGB picture 1200 pixels wide and as high as its content. `photo` is RGB."""
    height = max(EDGE + PHOTO + 96, _captions(None, entry.panes) + 56)
    card = Image.new("RGB", (WIDTH, height + EDGE), PAPER)
    draw = ImageDraw.Draw(card)
    seen = photo.copy()
    seen.thumbnail((PHOTO, PHOTO), Image.Resampling.LANCZOS)
    if max(seen.size) < PHOTO:  # what is left of one is small
        scale = PHOTO / max(seen.size)
        seen = seen.resize([round(side * scale) for side in seen.size], Image.Resampling.BICUBIC)
    card.paste(seen, (EDGE, EDGE))
    below = EDGE + seen.height + 14
    for text in (entry.photo, entry.note):
        for line in _lines(text, 18, PHOTO)[:3]:
            draw.text((EDGE, below), line, FAINT, _font(18))
            below += 25
    _captions(draw, entry.panes)
    draw.line((EDGE, height - 8, WIDTH - EDGE, height - 8), LINE, 1)
    models = ", ".join(dict.fromkeys(pane.model for pane in entry.panes if pane.model))
    foot = f"QVLA{f' · {models}' if models else ''} · {decoding_words(entry.decoding)}"
    day = entry.time[:10]
    draw.text((EDGE, height + 6), _lines(foot, 17, 900)[0], FAINT, _font(17))
    draw.text((WIDTH - EDGE, height + 6), day, FAINT, _font(17), anchor="ra")
    return card


def as_uri(card: Image.Image) -> str:
    """The picture as a PNG in a data URI: it is nowhere but in the visitor's browser."""
    buffer = io.BytesIO()
    card.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _captions(draw: ImageDraw.ImageDraw | None, panes: Sequence[Pane]) -> int:
    """Draws them, if there is something to draw on, and tells where they end."""
    y, width = EDGE, WIDTH - EDGE - LEFT
    others = [pane.name for pane in panes if pane.name not in COLOURS]
    for pane in panes:
        colour = COLOURS.get(pane.name) or OTHERS[others.index(pane.name) % len(OTHERS)]
        if draw is not None:
            draw.rectangle((LEFT, y + 6, LEFT + 13, y + 19), colour)
            draw.text((LEFT + 24, y), _lines(pane.title, 22, width - 24)[0], INK, _font(22))
        y += 34
        for line in _lines(as_sentence(pane.text) or pane.message, 26, width)[:6]:
            if draw is not None:
                draw.text((LEFT, y), line, INK if pane.text else FAINT, _font(26))
            y += 35
        if draw is not None:
            draw.text((LEFT, y + 3), _lines(_figures(pane), 17, width)[0], FAINT, _font(17))
        y += 54
    return y


def _figures(pane: Pane) -> str:
    told = [pane.precision.upper()] if pane.precision else []
    if pane.model:
        told.append(f"{pane.model} + {pane.adapter}" if pane.adapter else pane.model)
    if pane.weight_bytes:
        told.append(units.size(pane.weight_bytes))
    if pane.seconds is not None:
        told.append(units.seconds(pane.seconds))
    if pane.cider_d is not None:
        told.append(f"CIDEr-D {units.score(pane.cider_d)}")
    return " · ".join(told)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # Aileron, which comes with Pillow


def _lines(text: str, size: int, width: int) -> list[str]:
    """The text in lines of at most so many pixels, at least one; a long word is broken."""
    font, lines = _font(size), [""]
    for word in _plain(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _plain(text: str) -> str:
    """In the letters that the font has: accents go, other scripts become question marks."""
    bare = unicodedata.normalize("NFKD", text.replace("–", "-"))
    letters = (one for one in bare if not unicodedata.combining(one))
    return "".join(one if one.isascii() or one == "·" else "?" for one in letters)
