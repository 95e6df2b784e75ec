"""`caption --out`: captions in a file as they are made, so that what was cut off goes on later.

A JSON object a line and photo, each written whole before the next photo's. A line says by a hash
what it was made with; captions of other weights or options are never mixed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qvla.appending import AppendedFile, appending
from qvla.errors import QvlaError

Result = dict[str, Any]  # one photo's entry, as `--json` prints it
MADE_WITH = "made_with"
BEGIN = b'{"photo": '  # of every line


class CaptionFile:
    """Made by `opened`; `done` holds the results that were there, by photo."""

    def __init__(self, file: AppendedFile, made_with: str, done: dict[str, Result]) -> None:
        self.path, self.done = file.path, done
        self._file, self._made_with = file, made_with

    def add(self, result: Result) -> None:
        """Appends one line in a single write. Raises QvlaError when it cannot be kept."""
        self._file.add(json.dumps({**result, MADE_WITH: self._made_with}).encode() + b"\n")
        self.done[result["photo"]] = result


@contextmanager
def opened(path: Path, made_with: str) -> Iterator[CaptionFile]:
    """The file to go on with, held by this process alone.

    A last line that was cut off, and photos that could not be read then, are taken out, to be tried
    again. Raises QvlaError when it cannot be written, another process is writing to it, it is no
    file of captions, or they were made with something else.
    """
    done: dict[str, Result] = {}

    def keep(content: bytes) -> bytes:
        whole, found = _read(path, content, made_with)
        done.update(found)
        return whole

    with appending(path, keep, doing="captioning") as file:
        yield CaptionFile(file, made_with, done)


def _read(path: Path, content: bytes, made_with: str) -> tuple[bytes, dict[str, Result]]:
    """The lines to keep, and their results by photo."""
    *lines, last = content.split(b"\n")
    kept, done = [], {}
    for number, line in enumerate(lines, start=1):
        result = _result(line)
        if result is None:
            raise _foreign(path, number)
        if result.pop(MADE_WITH) != made_with:
            raise QvlaError(
                f"{path} holds captions made with other weights or options: name another file "
                "with --out, or delete it."
            )
        if "error" not in result:
            kept.append(line + b"\n")
            done[result["photo"]] = result
    if last[: len(BEGIN)] != BEGIN[: len(last)]:  # not the half of a line of ours
        raise _foreign(path, len(lines) + 1)
    return b"".join(kept), done


def _result(line: bytes) -> Result | None:
    """A line as it was written by `add`; None of any other."""
    try:
        result = json.loads(line)
    except ValueError:
        return None
    known = isinstance(result, dict) and MADE_WITH in result
    return result if known and isinstance(result.get("photo"), str) else None


def _foreign(path: Path, line: int) -> QvlaError:
    return QvlaError(
        f"{path} is no file of captions made by --out (see line {line}): name another."
    )
