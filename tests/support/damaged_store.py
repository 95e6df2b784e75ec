"""What somebody, or a dying disk, does to a store of jobs."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path


def change(folder: Path, *statements: str) -> None:
    """By hand."""
    file = sqlite3.connect(folder / "jobs.sqlite3")
    with file:
        for statement in statements:
            file.execute(statement)
    file.close()


def overwrite(folder: Path) -> None:
    """Every page but the first."""
    change(folder, "PRAGMA wal_checkpoint(TRUNCATE)")
    path = folder / "jobs.sqlite3"
    content = bytearray(path.read_bytes())
    noise = random.Random(0)
    for place in range(4096, len(content)):
        content[place] = noise.randrange(256)
    path.write_bytes(content)


def rubbish(folder: Path) -> None:
    """Something else altogether."""
    change(folder, "PRAGMA wal_checkpoint(TRUNCATE)")
    (folder / "jobs.sqlite3").write_bytes(b"no database, but long enough to look like one " * 400)
