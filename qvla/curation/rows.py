"""The answers in a file as they come: the columns `ID, Question, Answer, Filename`, in CSV or, for
a name that ends so, in JSON Lines.

Each row is written whole before the next question is asked, so what a killed run leaves is good for
the next, but for a last row that was cut off.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qvla.appending import AppendedFile, appending
from qvla.curation.keys import CurationError

COLUMNS = ("ID", "Question", "Answer", "Filename")
HEADER = (",".join(COLUMNS) + "\n").encode()
FORMATS = (".csv", ".jsonl")


@dataclass(frozen=True)
class Row:
    """One answer. No field has a line break in it."""

    id: str
    question: str
    answer: str
    filename: str

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return (self.id, self.question, self.answer, self.filename)


class AnswerFile:
    """Made by `answer_file`; `done` holds the photos and questions that have an answer."""

    def __init__(self, file: AppendedFile, as_csv: bool, rows: list[Row]) -> None:
        self.done = {(row.filename, row.question) for row in rows}
        self.path = file.path
        self._file, self._as_csv = file, as_csv

    def add(self, row: Row) -> None:
        """Appends one row in a single write. Raises QvlaError when it cannot be kept."""
        self._file.add(_csv_line(row) if self._as_csv else _json_line(row))
        self.done.add((row.filename, row.question))


@contextmanager
def answer_file(path: Path) -> Iterator[AnswerFile]:
    """The file to go on with, held by this process alone; made where there is none.

    Raises QvlaError when it cannot be written, another process writes to it, or it holds anything
    but answers.
    """
    if path.suffix.lower() not in FORMATS:
        raise CurationError(f"Name a file that ends in {' or '.join(FORMATS)} with --out.")
    as_csv = path.suffix.lower() == ".csv"
    rows: list[Row] = []

    def keep(content: bytes) -> bytes:
        whole, found = (_read_csv if as_csv else _read_json)(path, content)
        rows.extend(found)
        return whole

    with appending(path, keep, doing="curating") as file:
        yield AnswerFile(file, as_csv, rows)


def _csv_line(row: Row) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row.cells)
    return text.getvalue().encode()


def _json_line(row: Row) -> bytes:
    return json.dumps(dict(zip(COLUMNS, row.cells, strict=True))).encode() + b"\n"


def _read_csv(path: Path, content: bytes) -> tuple[bytes, list[Row]]:
    """The lines to keep, the header first, and their rows."""
    if HEADER.startswith(content):  # empty, or cut off in the header
        return HEADER, []
    if not content.startswith(HEADER):
        raise _foreign(path, 1)
    whole = content[: content.rfind(b"\n") + 1]
    rows = []
    for number, line in enumerate(_lines(path, whole)[1:], start=2):
        cells = next(csv.reader([line]), [])
        if len(cells) != len(COLUMNS):
            raise _foreign(path, number)
        rows.append(Row(*cells))
    return whole, rows


def _read_json(path: Path, content: bytes) -> tuple[bytes, list[Row]]:
    whole = content[: content.rfind(b"\n") + 1]
    rows = []
    for number, line in enumerate(_lines(path, whole), start=1):
        try:
            found = json.loads(line)
            rows.append(Row(*(str(found[name]) for name in COLUMNS)))
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise _foreign(path, number) from error
    if not _begins(content[len(whole) :]):
        raise _foreign(path, len(rows) + 1)
    return whole, rows


def _begins(last: bytes) -> bool:
    """Whether this is the half of a line of ours."""
    begin = b'{"ID": '
    return last[: len(begin)] == begin[: len(last)]


def _lines(path: Path, content: bytes) -> list[str]:
    try:
        return content.decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise _foreign(path, 1) from error


def _foreign(path: Path, line: int) -> CurationError:
    return CurationError(
        f"{path} is no file of answers made by `qvla curate` (see line {line}): name another."
    )
