"""Reads captions of any system: JSON Lines, one object a photo, with `image` and `caption`.

The file may come from anywhere, so nothing about it is trusted: not its size, nor that it is JSON.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path

from qvla.scoring.checks import ScoringError

MAX_BYTES = 64 * 2**20  # about 500,000 captions
MAX_LINE_BYTES = 64 * 2**10
MAX_CAPTION = 5000  # characters
MAX_IMAGE = 255  # the longest file name that common systems allow


def read_predictions(path: str | Path) -> dict[str, str]:
    """Captions by image name, in the file's order; empty lines and other fields are passed over.

    Raises ScoringError when the file cannot be read, is too large, holds no caption or the same
    image twice, or a line is not such an object; the message names the line.
    """
    path = Path(path)
    captions: dict[str, str] = {}
    lines: dict[str, int] = {}
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ScoringError(
                f"{path.name} is larger than {MAX_BYTES // 2**20} MiB; give one line of image and "
                "caption a photo, and nothing more."
            )
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                try:
                    if _is_blank(line):
                        continue
                    image, caption = _row(line)
                except ValueError as error:
                    raise ScoringError(f"{path.name}, line {number}, {error}.") from error
                if image in captions:
                    raise ScoringError(
                        f"{path.name}, line {number}, captions {image} again, after line "
                        f"{lines[image]}; give one caption an image."
                    )
                captions[image], lines[image] = caption, number
    except OSError as error:
        raise ScoringError(f"{path} cannot be read: {error.strerror}.") from error
    if not captions:
        raise ScoringError(
            f"{path.name} holds no captions; give one JSON object a line, with image and caption."
        )
    return captions


def _is_blank(line: bytes) -> bool:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"is longer than {MAX_LINE_BYTES // 2**10} KiB")
    return not line.removeprefix(codecs.BOM_UTF8).strip()


def _row(line: bytes) -> tuple[str, str]:
    """Raises ValueError with what the line does wrong, as a clause."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise ValueError("is not JSON in UTF-8: each line must be one object") from None
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object with image and caption")
    for name, most in (("image", MAX_IMAGE), ("caption", MAX_CAPTION)):
        text = row.get(name)
        if not isinstance(text, str):
            raise ValueError(f"has no text in the field {name}")
        if len(text) > most:
            raise ValueError(f"has more than {most:,} characters in the field {name}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"has half a character in the field {name}") from None
    if not row["image"]:
        raise ValueError("has an empty field image")
    return row["image"], row["caption"]
