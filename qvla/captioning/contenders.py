"""Who is compared: any number of contenders, three by default.

A contender is a title, a base in a precision, and an adapter of any method or none. `QVLA_LINEUP`
names a YAML file with a list of them:

    - title: Base
    - title: LoRA, rank 16
      name: lora16                  # default: made from the title
      base: google/paligemma-3b-pt-224    # default: QVLA_MODEL
      precision: nf4                # auto (default), fp32, bf16, fp16, int8 or nf4
      adapter: runs/lora            # folder, from where the file lies, or hub id

Without it the settings make the three of the QVLA report: base, adapter and qvla. Nothing here
imports PyTorch, so that a page can be laid out before it is there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qvla.errors import QvlaError
from qvla.settings import Settings

log = logging.getLogger(__name__)

VARIANTS = ("base", "adapter", "qvla")  # the three that the settings name
TITLES = {"base": "Base", "adapter": "Adapter", "qvla": "QVLA"}
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
MOST = 12  # contenders


class LineupError(QvlaError):
    """The line-up cannot be as it was asked for; the message says what to change."""


class Contender(BaseModel):
    """One that captions, as asked for; what came of it is a `lineup.Variant`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str = Field(pattern=f"^{NAME.pattern}$")
    title: str = Field(min_length=1, max_length=60)
    base: str = Field(min_length=1)
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8", "nf4"] = "auto"
    adapter: str | None = None
    needs_adapter: bool = False  # it has no answer of its own without one


def contenders_of(settings: Settings) -> tuple[Contender, ...]:
    """The contenders that the settings ask for, in the order of the panes. Raises LineupError."""
    if settings.lineup is not None:
        return read_contenders(settings.lineup, settings.model)
    return default_contenders(
        settings.model,
        adapter=settings.adapter,
        nf4_adapter=settings.nf4_adapter,
        precision=settings.precision,
    )


def default_contenders(
    model: str | Path,
    *,
    adapter: str | Path | None = None,
    nf4_adapter: str | Path | None = None,
    precision: str = "auto",
) -> tuple[Contender, ...]:
    """Base and adapter in a float precision or in INT8, and QVLA on NF4. Raises LineupError."""
    if precision not in ("auto", "fp32", "bf16", "fp16", "int8"):
        raise LineupError(
            f"Base and adapter run in fp32, bf16, fp16 or int8, not in {precision}; NF4 is what "
            "QVLA always runs in."
        )
    folders = {"base": None, "adapter": adapter, "qvla": nf4_adapter}
    return tuple(
        Contender(
            name=name,
            title=TITLES[name],
            base=str(model),
            precision="nf4" if name == "qvla" else precision,
            adapter=None if folder is None else str(folder),
            needs_adapter=name != "base",
        )
        for name, folder in folders.items()
    )


def read_contenders(file: Path, model: str) -> tuple[Contender, ...]:
    """The contenders of a YAML file; `model` is the base of those that name none.

    Raises LineupError with the entry that is wrong.
    """
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise LineupError(f"The line-up {file.name} is not a readable YAML file.") from error
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST:
        raise LineupError(
            f"The line-up {file.name} must be a list of 1 to {MOST} contenders, each with a title."
        )
    made = [_contender(file, number, entry, model) for number, entry in enumerate(entries, start=1)]
    for what in ("name", "title"):
        seen: set[str] = set()
        for one in made:
            value = getattr(one, what)
            if value in seen:
                raise LineupError(
                    f"Two contenders of {file.name} have the {what} {value!r}: give each its own."
                )
            seen.add(value)
    return tuple(made)


def title_of(name: str) -> str:
    """The title of one of the default three; of another, whose line-up is not at hand, the name."""
    return TITLES.get(name, name)


def base_identity(base: str) -> str:
    """The same for all spellings of one folder; a hub id as it is."""
    return str(Path(base).resolve()) if Path(base).is_dir() else base


def with_weights(contenders: Sequence[Contender]) -> list[str]:
    """Names of the contenders that lack no adapter; the others are told of on the log."""
    for one in contenders:
        if one.needs_adapter and one.adapter is None:
            log.info("%s is left out: there is no adapter for it.", one.title)
    return [one.name for one in contenders if not one.needs_adapter or one.adapter is not None]


def check_names(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names, each once, in the order given. Raises QvlaError for unknown ones, and for none."""
    unknown = [name for name in names if name not in known]
    if unknown or not names or isinstance(names, str):
        asked = names if isinstance(names, str) else ", ".join(map(str, unknown)) or "none"
        raise LineupError(f"Choose variants among {', '.join(known)}; asked for was {asked}.")
    return list(dict.fromkeys(names))


def check_new(new: Contender, others: Sequence[Contender], tasks: Sequence[Contender]) -> None:
    """Raises LineupError where a contender has no room or no name and title of its own there."""
    if len(others) >= MOST:
        raise LineupError(f"There are {MOST} panes already, and no more can be: take one back.")
    if any(new.title == one.title for one in others):
        raise LineupError(f"There is a pane with the title {new.title!r} already.")
    if any(new.name == one.name for one in (*others, *tasks)):
        raise LineupError(f"There is a pane or a task with the name {new.name!r} already.")


def _contender(file: Path, number: int, entry: Any, model: str) -> Contender:
    if not isinstance(entry, dict):
        raise LineupError(
            f"Contender {number} of {file.name} must be `name: value` lines, with a title at least."
        )
    values = {"base": model, **entry}
    made = re.sub(r"[^a-z0-9]+", "-", str(values.get("title", "")).lower()).strip("-")[:40]
    values.setdefault("name", made or f"contender-{number}")
    for key in ("base", "adapter"):
        beside = file.parent / str(values.get(key))
        if key in entry and isinstance(entry[key], str) and beside.is_dir():
            values[key] = str(beside)
    values["needs_adapter"] = values.get("adapter") is not None
    try:
        return Contender(**values)
    except (ValidationError, TypeError) as error:
        raise LineupError(f"Contender {number} of {file.name}: {_wrong(error)}") from error


def _wrong(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return "its settings must have plain names."
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"it lacks a {name}."
    if first["type"] == "extra_forbidden":
        return (
            f"there is no setting called {name}; there are title, name, base, precision, adapter."
        )
    return f"its {name} cannot be {first['input']!r}: {first['msg']}."
