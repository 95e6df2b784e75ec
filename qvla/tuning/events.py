"""What happens in a fine-tune run, in one append-only file that every view of it reads.

A row is a JSON object on a line, with `event` and `time` (UTC): `start`, `samples` (captions before
the first step), `step`, `evaluation`, `checkpoint`, `note` and `end`. A run that is resumed goes on
in the same file, so steps after its last checkpoint stand there twice: the later row counts.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qvla.files import parse_json

Row = dict[str, Any]

# What a row must have, by its event, and what it may have; everything is checked that a view reads.
NEEDED = {
    "start": ("step", "total_steps"),
    "step": ("step", "loss"),
    "evaluation": ("step", "loss"),
    "samples": ("step",),
    "checkpoint": ("step",),
}
WHOLE_NUMBERS = ("step", "total_steps", "trained_parameters", "memory_bytes")
NUMBERS = ("loss", "learning_rate", "images_per_second")
TEXTS = ("device", "base_precision", "state", "text")
LARGEST = 2**63


def append(path: Path, event: str, **values: Any) -> None:
    """Adds one row, in a single write, so that no reader and no other writer splits it."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    relay(path, {"event": event, "time": now, **values})


def relay(path: Path, row: Row) -> None:
    """Adds a row as it is, with the time at which it was written elsewhere."""
    line = json.dumps(row, ensure_ascii=False) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if _is_torn(path):
            line = "\n" + line
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read(path: Path, after: int = 0) -> tuple[list[Row], int]:
    """The whole rows from byte `after` on, and the byte to go on from at the next call.

    A last line that is still being written is left for the next call. What is no row is passed
    over: one that was cut off by a killed process, or that holds what a row cannot. A file that is
    not there, or cannot be read, has no rows.
    """
    try:
        with path.open("rb") as file:
            file.seek(after)
            content = file.read()
    except OSError:
        return [], after
    whole, _, _ = content.rpartition(b"\n")
    rows = []
    for line in whole.splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if is_row(row):
            rows.append(row)
    return rows, after + len(whole) + (1 if whole else 0)


def by_step(rows: list[Row], event: str) -> list[Row]:
    """The rows of one kind in the order of their steps, the later of two for one step."""
    latest = {row["step"]: row for row in rows if row["event"] == event}
    return [latest[step] for step in sorted(latest)]


def time_of(row: Row) -> datetime:
    return datetime.fromisoformat(row["time"])


def is_row(row: Any) -> bool:
    """Whether a view may rely on what it reads in it."""
    if not isinstance(row, dict) or not isinstance(row.get("event"), str):
        return False
    try:
        if time_of(row).utcoffset() is None:
            return False
    except (KeyError, TypeError, ValueError):
        return False
    known = {name: row[name] for name in row if row[name] is not None}
    return (
        all(name in known for name in NEEDED.get(row["event"], ()))
        and all(_is_number(known.get(name, 0), int) for name in WHOLE_NUMBERS)
        and all(_is_number(known.get(name, 0), int, float) for name in NUMBERS)
        and all(isinstance(known.get(name, ""), str) for name in TEXTS)
        and _are_samples(known.get("samples", []))
    )


def _is_number(value: Any, *kinds: type) -> bool:
    return type(value) in kinds and not (type(value) is int and abs(value) >= LARGEST)


def _are_samples(samples: Any) -> bool:
    """Photos with what the model said of each, and what people said."""
    return isinstance(samples, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("image"), str)
        and isinstance(one.get("caption"), str)
        and isinstance(people := one.get("references", []), list)
        and all(isinstance(text, str) for text in people)
        for one in samples
    )


def _is_torn(path: Path) -> bool:
    """Whether the file ends within a line, as a process killed while writing leaves it."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
