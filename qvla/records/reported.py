"""What others report, to stand beside what is measured or counted here and never among it."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from qvla.settings import ASSETS

FILE = ASSETS / "reported.json"
ADAPTERS_FILE = ASSETS / "reported_adapters.json"
ANSWERS_FILE = ASSETS / "reported_answers.json"


@lru_cache(maxsize=1)
def reported() -> dict[str, Any]:
    """The figures of the QVLA report's tables I to III by variant, in the units their names end in.

    `table_2_corrected` holds what the report's own notebooks show where its table II errs, and
    `notes` says in words what to keep in mind with each figure.
    """
    return json.loads(FILE.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def reported_adapters() -> dict[str, Any]:
    """What a page on adapters for LLaVA reports: `results` by method, by `placements`, and the
    `claims` that can be counted, each with the `digits` that it gives.
    """
    return json.loads(ADAPTERS_FILE.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def reported_answers() -> dict[str, Any]:
    """What a report on BLIP with LoRA says of answers to questions about product photos: `results`
    of its tables 1 to 3, and `claims` and `notes` in words.
    """
    return json.loads(ANSWERS_FILE.read_text(encoding="utf-8"))
