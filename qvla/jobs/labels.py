"""What people call a job and note of it: text from a form, which is looked at before it is kept."""

from __future__ import annotations

import unicodedata

from qvla.jobs.errors import JobError

MOST_NAME = 80  # characters
MOST_NOTE = 2000
# Invisible, and able to show a text in another order than it is written in.
REORDERING = {*"\u061c\u200e\u200f", *map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))}


def clean_name(text: object) -> str:
    """A line of text without space around it; raises JobError, with one sentence."""
    return _clean(text, "name", MOST_NAME)


def clean_note(text: object) -> str:
    """Text of any lines; raises JobError, with one sentence."""
    return _clean(text, "note", MOST_NOTE, breaks="\n\t")


def _clean(text: object, what: str, most: int, breaks: str = "") -> str:
    if not isinstance(text, str):
        raise JobError(f"The {what} must be text.")
    text = text.replace("\r\n", "\n").strip()
    if len(text) > most:
        raise JobError(f"The {what} has {len(text):,} characters, and {most:,} may be: shorten it.")
    if any(_is_control(letter) for letter in text if letter not in breaks):
        raise JobError(f"The {what} holds control characters: write it anew in plain text.")
    return text


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in REORDERING
