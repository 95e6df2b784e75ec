"""Captions on disk as they are made: one JSON object a line, `image`, `source`, `caption`, and but
for beams, `log_probability`. And where a contender looked for its answers, likewise.

A whole batch is appended in one write, so a process that is killed leaves whole batches behind. If
a last line was half-written all the same, as on a full disk, it is cut off before more comes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import TypeVar

from qvla import locks
from qvla.errors import QvlaError
from qvla.files import parse_json

LOCK = "lock"


class PredictionLogError(QvlaError):
    """A log of captions cannot be read or written; the message says what to do."""


@dataclass(frozen=True)
class Prediction:
    """One variant's caption of one photo; `log_probability` as in `captioning.generation`."""

    image: str
    source: str
    caption: str
    log_probability: float | None = None

    @property
    def is_sound(self) -> bool:
        """Whether the fields are of their types, which a file may get wrong."""
        texts = (self.image, self.source, self.caption)
        known = all(isinstance(text, str) for text in texts)
        return known and isinstance(self.log_probability, (float, NoneType))


@dataclass(frozen=True)
class Sight:
    """The image tokens that one variant looked at most, by number, for a question (`image` is its
    name, as in `Prediction`) and for its answer.
    """

    image: str
    question: list[int]
    answer: list[int]

    @property
    def is_sound(self) -> bool:
        numbers = (*self.question, *self.answer)
        return isinstance(self.image, str) and all(isinstance(one, int) for one in numbers)


Row = TypeVar("Row", Prediction, Sight)


def read(path: Path, kind: type[Row] = Prediction) -> list[Row]:  # type: ignore[assignment]
    """All whole lines of a log, none when there is no file.

    Raises PredictionLogError when a whole line is no prediction or names a photo once more.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is half a line
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PredictionLogError(f"{path} cannot be read: {error.strerror}.") from error
    found: dict[str, Row] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = kind(**parse_json(line))
            known = row.is_sound
        except (ValueError, TypeError):
            known = False
        if not known or row.image in found:
            raise PredictionLogError(
                f"{path} is damaged at line {number}: delete it to have its photos captioned again."
            )
        found[row.image] = row
    return list(found.values())


def append(path: Path, rows: Sequence[Prediction] | Sequence[Sight]) -> None:
    """Adds the rows in a single write. Raises PredictionLogError when they cannot be kept."""
    lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows).encode()
    try:
        with path.open("ab", buffering=0) as file:
            written = file.write(lines)
    except OSError as error:
        raise PredictionLogError(f"{path} cannot be written: {error.strerror}.") from error
    if written != len(lines):
        raise PredictionLogError(f"{path} could not be written whole: make room on the disk.")


def cut_half_line(path: Path) -> None:
    """Takes away what follows the last newline; only whoever holds the folder may do it."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other processes out of it; the system lets go when a process ends.

    Raises PredictionLogError when another process is at work there or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = locks.take(folder / LOCK)
    except OSError as error:
        raise PredictionLogError(
            f"{folder} cannot be written ({error.strerror}): name another folder with --out."
        ) from error
    if lock is None:
        raise PredictionLogError(
            f"Another process is captioning into {folder}: wait for it to end, or name another "
            "folder with --out."
        )
    with lock:
        yield
