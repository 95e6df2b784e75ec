"""What happens in a fine-tune run, in one append-only file that every view of it reads.

A row is a JSON object on a line, with `event` and `time` (UTC): `start`, `step`, `evaluation`,
`checkpoint`, `note` and `end`. A run that is resumed goes on in the same file, so steps after its
last checkpoint stand there twice: the later row is the one that counts.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def append(path: Path, event: str, **values: Any) -> None:
    """Adds one row, in a single write, so that no reader and no other writer splits it."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"event": event, "time": now, **values}, ensure_ascii=False) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if _is_torn(path):
            line = "\n" + line
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read(path: Path, after: int = 0) -> tuple[list[Row], int]:
    """The whole rows from byte `after` on, and the byte to go on from at the next call.

    A last line that is still being written is left for the next call; one that was cut off by a
    killed process is passed over. A file that is not there has no rows.
    """
    try:
        with path.open("rb") as file:
            file.seek(after)
            content = file.read()
    except FileNotFoundError:
        return [], after
    whole, _, _ = content.rpartition(b"\n")
    rows = []
    for line in whole.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "event" in row:
            rows.append(row)
    return rows, after + len(whole) + (1 if whole else 0)


def by_step(rows: list[Row], event: str) -> list[Row]:
    """The rows of one kind in the order of their steps, the later of two for one step."""
    latest = {row["step"]: row for row in rows if row["event"] == event}
    return [latest[step] for step in sorted(latest)]


def _is_torn(path: Path) -> bool:
    """Whether the file ends within a line, as a process killed while writing leaves it."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
