"""Names of splits: known synonyms of train, val and test, and what file and folder names tell."""

from __future__ import annotations

import re
from pathlib import PurePath

SYNONYMS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
DEFAULT = "train"  # of data that says nothing, as the datasets library has it


def split_name(text: str) -> str:
    """`val` of `Validation`; a name that is no synonym stays as it is."""
    plain = text.strip()
    return SYNONYMS.get(plain.lower(), plain)


def split_in(path: PurePath) -> str | None:
    """As `test` of `test-00000-of-00001.parquet` or `test/0000.parquet`; None of any other."""
    for name in (path.stem, *reversed(path.parts[:-1])):
        for word in re.split(r"[^a-z]+", name.lower()):
            if word in SYNONYMS:
                return SYNONYMS[word]
    return None
