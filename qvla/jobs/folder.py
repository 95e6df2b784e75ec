"""A job's folder: its recipe, its log, its adapter, and the lock that whoever runs it holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from qvla.tuning import checkpoints

OUTPUT = "adapter"
RECIPE = "recipe.yaml"
LOG = "log.txt"
LOCK = "lock"
LINES_KEPT = 40

_TAIL_BYTES = 2**16


def write_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    """Makes the folder and writes the recipe, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{RECIPE}.{os.getpid()}"
    temporary.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    os.replace(temporary, folder / RECIPE)


def events_of(folder: Path) -> Path:
    return folder / f"{OUTPUT}.events.jsonl"


def last_step(folder: Path) -> int | None:
    """The step of the last checkpoint that can be resumed from, None when there is none."""
    found = checkpoints.find(folder / f"{OUTPUT}.checkpoints").checkpoint
    return None if found is None else checkpoints.step_of(found)


def is_complete(folder: Path) -> bool:
    """Whether the adapter is written, which happens at once or not at all."""
    return (folder / OUTPUT / "run.json").is_file()


def last_lines(path: Path, lines: int = LINES_KEPT, start: int = 0) -> str:
    """The last lines of a log from byte `start` on, of its last 64 KiB at most."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    # Of a line that was written over, as bars of progress are, a terminal shows the last as well.
    shown = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return "\n".join("\n".join(shown).splitlines()[-lines:])
