"""Entries of a file that may come from anywhere: JSON Lines, JSON, CSV.

Nothing about such a file is trusted: not its size, nor that it is what its name says.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvla.data.tables import DatasetError, csv_records, names_in
from qvla.scoring.checks import ScoringError

MAX_BYTES = 64 * 2**20  # about 500,000 captions
MAX_WHOLE = 8 * 2**20  # of what is read as a whole: CSV, and JSON that is no JSON Lines
MAX_LINE_BYTES = 64 * 2**10
SEPARATE = (b"{", b"[")  # what begins JSON


@dataclass(frozen=True)
class Entry:
    """One row, and where in the file it stands, such as `line 3`."""

    where: str
    values: Any


@dataclass(frozen=True)
class Form:
    """What a file should hold.

    columns: for each thing that a row tells, the names that it may have, in lower case. fields:
    these things in words. document: what a JSON document that is no JSON Lines is, in words, and
    its entries.
    """

    columns: Sequence[Sequence[str]]
    fields: str
    document: Callable[[Any, Path], tuple[str, Iterator[Entry]]]


def read_entries(path: Path, form: Form) -> tuple[str | None, Iterator[Entry]]:
    """The file's entries and what it is, in words; None of JSON Lines, which is what is asked.

    Raises ScoringError, naming the line, and what `reading` makes one of.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ScoringError(
            f"{path.name} is larger than {MAX_BYTES // 2**20} MiB; give {form.fields}, and nothing "
            "more."
        )
    with path.open("rb") as file:
        first = file.readline(MAX_LINE_BYTES + 1).removeprefix(codecs.BOM_UTF8).strip()
    if first and not first.startswith(SEPARATE) and _is_csv(first, form):
        _check_whole(path, size, form)
        return "a table in CSV", _of_csv(path)
    if first.startswith(b"["):
        _check_whole(path, size, form)
    if first.startswith(SEPARATE) and size <= MAX_WHOLE and not _is_row(first, form):
        try:
            document = json.loads(path.read_bytes().decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return None, _of_lines(path)  # which tell what is wrong where
        return form.document(document, path)
    return None, _of_lines(path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tells what goes wrong while a file is read as a ScoringError, by the file's name alone: it
    may be a visitor's.
    """
    try:
        yield
    except OSError as error:
        raise ScoringError(f"{path.name} cannot be read: {error.strerror}.") from error
    except DatasetError as error:  # which names the whole path
        raise ScoringError(str(error).replace(str(path), path.name)) from error


def numbered(entries: Sequence[Any]) -> Iterator[Entry]:
    """The entries of a list in JSON."""
    return (Entry(f"entry {number}", values) for number, values in enumerate(entries, start=1))


def _check_whole(path: Path, size: int, form: Form) -> None:
    if size > MAX_WHOLE:
        raise ScoringError(
            f"{path.name} is larger than the {MAX_WHOLE // 2**20} MiB allowed of this kind of "
            f"file; give JSON Lines, an object with {form.fields} a line."
        )


def _is_row(line: bytes, form: Form) -> bool:
    """Whether a line is a whole JSON object that tells something of what is wanted."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(values, dict):
        return False
    given = {name.lower() for name in values}
    return any(name in given for names in form.columns for name in names)


def _is_csv(first: bytes, form: Form) -> bool:
    try:
        given = {name.lower() for name in names_in(first.decode())}
    except (UnicodeDecodeError, csv.Error):
        return False
    return all(any(name in given for name in names) for names in form.columns)


def _of_lines(path: Path) -> Iterator[Entry]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise ScoringError(
                    f"{path.name}, line {number}, is longer than {MAX_LINE_BYTES // 2**10} KiB."
                )
            if not line.removeprefix(codecs.BOM_UTF8).strip():
                continue
            try:
                yield Entry(f"line {number}", json.loads(line.decode("utf-8-sig")))
            except (ValueError, RecursionError):
                raise ScoringError(
                    f"{path.name}, line {number}, is not JSON in UTF-8: each line must be one "
                    "object."
                ) from None


def _of_csv(path: Path) -> Iterator[Entry]:
    for record in csv_records(path):
        if record.oddity:
            raise ScoringError(f"{path.name}, line {record.line}: {record.oddity}.")
        values = {name.lower(): value for name, value in record.values.items()}
        yield Entry(f"line {record.line}", values)
