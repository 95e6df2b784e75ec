"""Values of a recipe as people write them in a form or behind a flag: lists with commas."""

from __future__ import annotations

import re

from qvla.methods.method import TrainingError


def parts(text: str) -> list[str]:
    """Words with commas between."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str, what: str = "Layers") -> list[int]:
    """Numbers of layers and ranges of them, such as 0, 4-7; raises TrainingError."""
    found: list[int] = []
    for part in parts(text):
        ends = re.fullmatch(r"(\d{1,4})(?:\s*[-–]\s*(\d{1,4}))?", part)
        if ends is None:
            raise TrainingError(f"{what} are numbers such as 0, 4-7, not {part!r}.")
        first, last = int(ends[1]), int(ends[2] or ends[1])
        found += range(first, last + 1)
    return list(dict.fromkeys(found))
