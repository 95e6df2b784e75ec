"""Captions as they are read on the page: like sentences, with words marked in two ways.

What a model said is kept, scored and handed out as it said it; only what is shown comes from here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from html import escape

Pieces = Sequence[tuple[str, bool]]  # of a text, and whether each is a word of a reference too

_BEFORE_A_STOP = re.compile(r"\s+(?=[.,;:!?]+(?:\s|$))")
_WORD = re.compile(r"([\w'-]+)")


def as_sentence(text: str) -> str:
    """`a river , and trees .` as `A river, and trees.`"""
    return "".join(piece for piece, _ in _tidied([(text, False)]))


def pieces_of(text: str) -> list[tuple[str, bool]]:
    """A text as words and what stands between them, without references."""
    return [(piece, False) for piece in _WORD.split(text) if piece]


def marked(pieces: Pieces, own: Collection[str] = ()) -> str:
    """The pieces as a sentence in HTML: words of the references as `mark`, and those that are in
    `own`, in lower case, with the class `own`.
    """
    shown = []
    for text, shared in _tidied(pieces):
        tag = "mark" if shared else "span"
        kind = ' class="own"' if text.lower() in own else ""
        shown.append(f"<{tag}{kind}>{escape(text)}</{tag}>")
    return "".join(shown)


def own_words(said: Sequence[Pieces]) -> list[set[str]]:
    """Of each text the words, in lower case, that no other has; function words are left out."""
    from qvla.scoring.sentence import FUNCTION_WORDS

    words = [
        {text.lower() for text, _ in pieces if _WORD.fullmatch(text)} - FUNCTION_WORDS
        for pieces in said
    ]
    return [one.difference(*words[:place], *words[place + 1 :]) for place, one in enumerate(words)]


def _tidied(pieces: Pieces) -> list[tuple[str, bool]]:
    """Without the spaces before stops, which may be pieces of their own, and with a capital."""
    whole = "".join(text for text, _ in pieces)
    dropped = {at for space in _BEFORE_A_STOP.finditer(whole) for at in range(*space.span())}
    tidied: list[tuple[str, bool]] = []
    start = 0
    for text, shared in pieces:
        kept = "".join(letter for at, letter in enumerate(text, start) if at not in dropped)
        start += len(text)
        if kept:
            tidied.append((kept if tidied else kept[0].upper() + kept[1:], shared))
    return tidied
