"""A job's folder: its recipe, its log, its adapter, and the lock that whoever runs it holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

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
    """The step of the last checkpoint that can be resumed from, None when there is none.

    What is whole is what `qvla.tuning.run_folder` says is; that module takes seconds to import.
    """
    steps = []
    for state in folder.glob(f"{OUTPUT}.checkpoints/checkpoint-*/trainer_state.json"):
        try:
            json.loads(state.read_text(encoding="utf-8"))
            steps.append(int(state.parent.name.rpartition("-")[2]))
        except (OSError, ValueError):
            continue
    return max(steps, default=None)


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
    return "\n".join(text.splitlines()[-lines:])
