"""What the QVLA report says, to stand beside what is measured here and never among it."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from qvla.settings import ASSETS

FILE = ASSETS / "reported.json"


@lru_cache(maxsize=1)
def reported() -> dict[str, Any]:
    """The figures of the report's tables I to III by variant, in the units their names end in.

    `table_2_corrected` holds what the report's own notebooks show where its table II errs, and
    `notes` says in words what to keep in mind with each figure.
    """
    return json.loads(FILE.read_text(encoding="utf-8"))
