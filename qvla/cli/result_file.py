"""`--out` of `caption` and `ask`: results in a file as they are made, so that what was cut off goes
on later.

A JSON object a line and result, each written whole before the next. A line says by a hash what it
was made with; results of other weights or options are never mixed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvla.appending import AppendedFile, appending
from qvla.errors import QvlaError

Result = dict[str, Any]  # one entry, as `--json` prints it
Key = tuple[str, ...]
MADE_WITH = "made_with"
BEGIN = b'{"photo": '  # of every line


@dataclass(frozen=True)
class Kind:
    """What is said of photos: the field that holds it, in the plural, what saying it is called, and
    the fields by which entries are told apart, texts all.
    """

    field: str
    many: str
    doing: str
    fields: tuple[str, ...] = ("photo",)

    def key(self, result: Mapping[str, Any]) -> Key:
        return tuple(result.get(name, "") for name in self.fields)


class ResultFile:
    """Made by `opened`; `done` holds the results that were there, by key."""

    def __init__(
        self, kind: Kind, file: AppendedFile, made_with: str, done: dict[Key, Result]
    ) -> None:
        self.done = done
        self._kind, self._file, self._made_with = kind, file, made_with

    def add(self, result: Result) -> None:
        """Appends one line in a single write. Raises QvlaError when it cannot be kept."""
        self._file.add(json.dumps({**result, MADE_WITH: self._made_with}).encode() + b"\n")
        self.done[self._kind.key(result)] = result


@contextmanager
def opened(path: Path, kind: Kind, made_with: str) -> Iterator[ResultFile]:
    """The file to go on with, held by this process alone.

    A last line that was cut off, and photos that could not be read then, are taken out, to be tried
    again. Raises QvlaError when it cannot be written, another process is writing to it, it holds
    no results of this kind, or they were made with something else.
    """
    done: dict[Key, Result] = {}

    def keep(content: bytes) -> bytes:
        whole, found = _read(path, kind, content, made_with)
        done.update(found)
        return whole

    with appending(path, keep, doing=kind.doing) as file:
        yield ResultFile(kind, file, made_with, done)


def _read(
    path: Path, kind: Kind, content: bytes, made_with: str
) -> tuple[bytes, dict[Key, Result]]:
    """The lines to keep, and their results by key."""
    *lines, last = content.split(b"\n")
    kept, done = [], {}
    for number, line in enumerate(lines, start=1):
        result = _result(line, kind)
        if result is None:
            raise _foreign(path, kind, number)
        if result.pop(MADE_WITH) != made_with:
            raise QvlaError(
                f"{path} holds {kind.many} made with other weights or options: name another file "
                "with --out, or delete it."
            )
        if "error" not in result:
            kept.append(line + b"\n")
            done[kind.key(result)] = result
    if last[: len(BEGIN)] != BEGIN[: len(last)]:  # not the half of a line of ours
        raise _foreign(path, kind, len(lines) + 1)
    return b"".join(kept), done


def _result(line: bytes, kind: Kind) -> Result | None:
    """A line as it was written by `add`; None of any other."""
    try:
        result = json.loads(line)
    except ValueError:
        return None
    if not isinstance(result, dict) or MADE_WITH not in result or "photo" not in result:
        return None
    return result if all(isinstance(part, str) for part in kind.key(result)) else None


def _foreign(path: Path, kind: Kind, line: int) -> QvlaError:
    return QvlaError(
        f"{path} is no file of {kind.many} made by --out (see line {line}): name another."
    )
