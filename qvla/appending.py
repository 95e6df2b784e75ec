"""Files that grow by whole lines, in one process at a time, so that what was cut off can go on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from qvla import locks
from qvla.errors import QvlaError


class AppendedFile:
    """Made by `appending`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file

    def add(self, line: bytes) -> None:
        """Appends a line in a single write. Raises QvlaError when it cannot be kept."""
        try:
            written = self._file.write(line)
        except OSError as error:
            raise QvlaError(f"{self.path} cannot be written: {error.strerror}.") from error
        if written != len(line):
            raise QvlaError(f"{self.path} could not be written whole: make room on the disk.")


@contextmanager
def appending(path: Path, keep: Callable[[bytes], bytes], *, doing: str) -> Iterator[AppendedFile]:
    """The file to go on with, held by this process alone; made where there is none.

    `keep` is given what is there, and returns what of it stays, without a last line that was cut
    off; it may raise QvlaError. `doing` is what another process that has the file is said to be
    doing. Raises QvlaError when it cannot be written or another process has it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(_held(path, doing))
            content = path.read_bytes() if path.exists() else b""
            whole = keep(content)
            if whole != content:
                temporary = path.with_name(f".{path.name}.tmp")
                temporary.write_bytes(whole)
                os.replace(temporary, path)
            file = stack.enter_context(path.open("ab", buffering=0))
        except OSError as error:
            raise QvlaError(
                f"{path} cannot be written ({error.strerror}): name another file with --out."
            ) from error
        yield AppendedFile(path, file)


@contextmanager
def _held(path: Path, doing: str) -> Iterator[None]:
    """Keeps other processes out, by a file beside it for as long as it is written to."""
    beside = path.with_name(f".{path.name}.lock")
    lock = locks.take(beside)
    if lock is None:
        raise QvlaError(
            f"Another process is {doing} into {path}: wait for it to end, or name another file "
            "with --out."
        )
    with lock:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows deletes no open file
                beside.unlink()
