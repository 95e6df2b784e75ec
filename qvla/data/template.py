"""Captions made of a row's attributes by a template, such as `{title}: {attributes.color} bag`.

A name in braces is a column, or a path of names into objects within objects, and nothing else: no
attribute of an object is ever looked up, and formats and conversions are refused.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvla.data.tables import DatasetError

NAME = re.compile(r"[^\s.{}\[\]!:]+(?:\.[^\s.{}\[\]!:]+)*")
LISTED = 12  # names that a message lists


@dataclass(frozen=True)
class Template:
    """The parts of a template: text, and the name that comes behind it, if any does."""

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises DatasetError for what is no template, or names nothing."""
        try:
            found = list(string.Formatter().parse(text))
        except ValueError as error:
            raise DatasetError(
                f"The caption template {text!r} cannot be read ({error}): write {{{{ and }}}} for "
                "braces of its own."
            ) from error
        parts = []
        for before, name, form, conversion in found:
            if name is not None and (form or conversion or not NAME.fullmatch(name)):
                asked = "{" + name + (f"!{conversion}" if conversion else "") + "}"
                raise DatasetError(
                    f"The caption template asks for {asked[:60]!r}: put only names of columns in "
                    "braces, with points between those of nested attributes."
                )
            parts.append((before, name))
        if not any(name for _, name in parts):
            raise DatasetError(
                f"The caption template {text!r} names no column: put names in braces, such as "
                "{title}."
            )
        return cls(tuple(parts))

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it asks for, each once."""
        return tuple(dict.fromkeys(name for _, name in self.parts if name))

    def lacking(self, values: Mapping[str, Any]) -> list[str]:
        """The names for which a row has nothing to say."""
        return [name for name in self.names if not _said(values, name)]

    def check(self, rows: Sequence[Mapping[str, Any]], table: Path) -> None:
        """Raises DatasetError for a name that none of a table's rows has."""
        absent = set(self.names).intersection(*map(self.lacking, rows))
        if absent:
            raise DatasetError(
                f"The caption template asks for {', '.join(sorted(absent))}, which no row of "
                f"{table} has; the first has {_names_in(rows[0])}."
            )

    def fill(self, values: Mapping[str, Any]) -> str:
        """The caption of a row, which lacks nothing."""
        return "".join(
            before + (_said(values, name) if name else "") for before, name in self.parts
        )


def _names_in(values: Mapping[str, Any]) -> str:
    """The names that a template may ask a row for, in words."""
    names = list(_paths(values))
    return ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")


def _said(values: Mapping[str, Any], path: str) -> str:
    """What a row says under a path; lists with commas between; nothing for an object or null."""
    found: Any = values.get(path)  # a table may have a column of that whole name
    if found is None:
        found = values
        for name in path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
    if isinstance(found, list):
        return ", ".join(filter(None, map(_word, found)))
    return _word(found)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).strip() if isinstance(value, (str, int, float)) else ""


def _paths(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"
