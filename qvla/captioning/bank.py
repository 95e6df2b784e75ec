"""The bank: a folder of adapters, each of which any request may name as a task.

Its direct subfolders are PEFT adapters, and their names are the tasks'. Those that were trained
here say in their `run.json` whether their base is held in NF4; others answer on the float base. A
`bank.yaml` beside them may say otherwise, and give titles:

    ships: {title: Ships and harbours}
    roofs: {precision: nf4}

The folder is read whenever it is asked for, so that a new adapter needs no restart. Nothing here
imports PyTorch; what is in memory is kept by `qvla.captioning.residents`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from qvla.captioning.contenders import NAME, Contender, LineupError, contenders_of
from qvla.files import parse_json
from qvla.methods.registry import KINDS
from qvla.settings import Settings

FILE, CONFIG, RUN = "bank.yaml", "adapter_config.json", "run.json"
MOST_TASKS = 256
LARGEST_FILE = 2**20  # bytes, of what is read beside an adapter


@dataclass(frozen=True)
class Bank:
    """A folder of adapters for `model`. The float base is held in `precision`.

    `limit_bytes` is how much of memory the adapters may take that are loaded at once.
    """

    folder: Path
    model: str
    precision: str = "auto"
    limit_bytes: int = 2**30

    def tasks(self, taken: Collection[str] = ()) -> dict[str, Contender]:
        """The tasks by name, in the order of their names, without those that are `taken`."""
        return self._read(taken)[0]

    def problems(self, taken: Collection[str] = ()) -> dict[str, str]:
        """Why subfolders are no tasks, in a sentence for each, by their names."""
        return self._read(taken)[1]

    def find(self, name: str) -> Contender | None:
        """One task by its name; None where there is none of that name."""
        if not NAME.fullmatch(name) or not (self.folder / name).is_dir():
            return None
        try:
            return self._task(self.folder / name, _told(self.folder).get(name, {}), ())
        except LineupError:
            return None

    def _read(self, taken: Collection[str]) -> tuple[dict[str, Contender], dict[str, str]]:
        tasks: dict[str, Contender] = {}
        problems: dict[str, str] = {}
        try:
            folders = sorted(one for one in self.folder.iterdir() if one.is_dir())
            told = _told(self.folder)
        except (OSError, LineupError) as error:
            sentence = f"The bank {self.folder} cannot be read: name another folder."
            return {}, {
                self.folder.name: str(error) if isinstance(error, LineupError) else sentence
            }
        for folder in folders:
            if folder.name.startswith("."):
                continue
            try:
                if len(tasks) == MOST_TASKS:
                    raise LineupError(f"A bank has at most {MOST_TASKS} tasks: take some out.")
                tasks[folder.name] = self._task(folder, told.get(folder.name, {}), taken)
            except LineupError as error:
                problems[folder.name] = str(error)
        return tasks, problems

    def _task(self, folder: Path, told: Any, taken: Collection[str]) -> Contender:
        name = folder.name
        if not NAME.fullmatch(name):
            raise LineupError(
                "A task's name has up to 40 small letters, digits, hyphens and underscores: rename "
                "its folder."
            )
        if name in taken:
            raise LineupError("A contender has that name already: rename the task's folder.")
        if folder.resolve() != self.folder.resolve() / name:
            raise LineupError("It is a link to elsewhere: put the adapter's own folder there.")
        if not (folder / CONFIG).is_file():
            raise LineupError(f"It is no adapter, it has no {CONFIG}.")
        made: dict[str, Any] = {"title": name, "precision": self._precision(folder)}
        if not isinstance(told, dict) or not told.keys() <= made.keys():
            raise LineupError(f"{FILE} may say its title and its precision, and nothing else.")
        try:
            return Contender(
                name=name,
                base=self.model,
                adapter=str(folder),
                needs_adapter=True,
                **{**made, **told},
            )
        except ValidationError as error:
            wrong = error.errors()[0]["loc"][0]
            raise LineupError(f"{FILE} gives it a {wrong} that cannot be: mend it.") from error

    def _precision(self, folder: Path) -> str:
        """That of the base which an adapter was trained on, where it says so."""
        try:
            run = folder / RUN
            made = parse_json(run.read_bytes()) if run.stat().st_size <= LARGEST_FILE else {}
            kind = KINDS.get(str(made["recipe"]["method"]))
        except (OSError, ValueError, TypeError, KeyError):
            kind = None
        return "nf4" if kind is not None and kind.quantised else self.precision


def bank_of(settings: Settings) -> Bank | None:
    """The bank that the settings name, None without one. Raises LineupError for no folder."""
    if settings.bank is None:
        return None
    if not settings.bank.is_dir():
        raise LineupError(f"The bank {settings.bank} is not a folder: name one of adapters.")
    return Bank(settings.bank, settings.model, settings.precision, settings.bank_mb * 2**20)


def all_known(settings: Settings) -> dict[str, Contender]:
    """The contenders that the settings ask for, and then the bank's tasks, by their names. Raises
    LineupError.
    """
    contenders = {one.name: one for one in contenders_of(settings)}
    bank = bank_of(settings)
    return contenders if bank is None else {**contenders, **bank.tasks(contenders)}


def _told(folder: Path) -> dict[Any, Any]:
    """What stands in `bank.yaml`, by the tasks' names. Raises LineupError."""
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise ValueError
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise LineupError(f"{file} is not a readable YAML file: mend it or delete it.") from error
    if told is not None and not isinstance(told, dict):
        raise LineupError(f"{file} must be lines of `task: {{title: …, precision: …}}`.")
    return told or {}
