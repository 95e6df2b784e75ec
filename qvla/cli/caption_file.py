"""`caption --out`: captions in a file as they are made, so that what was cut off goes on later.

A JSON object a line and photo, each written whole before the next photo's. A line says by a hash
what it was made with; captions of other weights or options are never mixed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from qvla import locks
from qvla.errors import QvlaError

Result = dict[str, Any]  # one photo's entry, as `--json` prints it
MADE_WITH = "made_with"
BEGIN = b'{"photo": '  # of every line


class CaptionFile:
    """Made by `opened`; `done` holds the results that were there, by photo."""

    def __init__(self, path: Path, file: BinaryIO, made_with: str, done: dict[str, Result]) -> None:
        self.path, self.done = path, done
        self._file, self._made_with = file, made_with

    def add(self, result: Result) -> None:
        """Appends one line in a single write. Raises QvlaError when it cannot be kept."""
        line = json.dumps({**result, MADE_WITH: self._made_with}).encode() + b"\n"
        try:
            written = self._file.write(line)
        except OSError as error:
            raise QvlaError(f"{self.path} cannot be written: {error.strerror}.") from error
        if written != len(line):
            raise QvlaError(f"{self.path} could not be written whole: make room on the disk.")
        self.done[result["photo"]] = result


@contextmanager
def opened(path: Path, made_with: str) -> Iterator[CaptionFile]:
    """The file to go on with, held by this process alone.

    A last line that was cut off, and photos that could not be read then, are taken out, to be tried
    again. Raises QvlaError when it cannot be written, another process is writing to it, it is no
    file of captions, or they were made with something else.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(_held(path))
            content = path.read_bytes() if path.exists() else b""
            whole, done = _read(path, content, made_with)
            if whole != content:
                temporary = path.with_name(f".{path.name}.tmp")
                temporary.write_bytes(whole)
                os.replace(temporary, path)
            file = stack.enter_context(path.open("ab", buffering=0))
        except OSError as error:
            raise QvlaError(
                f"{path} cannot be written ({error.strerror}): name another file with --out."
            ) from error
        yield CaptionFile(path, file, made_with, done)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keeps other processes out, by a file beside it for as long as it is written to."""
    beside = path.with_name(f".{path.name}.lock")
    lock = locks.take(beside)
    if lock is None:
        raise QvlaError(
            f"Another process is captioning into {path}: wait for it to end, or name another file "
            "with --out."
        )
    with lock:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows deletes no open file
                beside.unlink()


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
