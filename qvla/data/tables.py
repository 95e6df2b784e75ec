"""CSV, JSON Lines and JSON as records: what a row says by column, and where it stands."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvla.errors import QvlaError

SEPARATORS = ",\t;|"
UNCLOSED = (
    "a quote is opened here and never closed, so that what follows is no row of its own: close it"
)


class DatasetError(QvlaError):
    """The data cannot be read; the message says what to mend."""


@dataclass(frozen=True)
class Record:
    """One row. `line` is where it begins in the file, the first being 1, or the number of an entry
    of a JSON list. `oddity` says, as a clause, what is wrong with the writing of the row.
    """

    line: int
    values: Mapping[str, Any]
    oddity: str = ""


def csv_header(path: Path) -> list[str]:
    """The names in the first line of a CSV file."""
    return _header(_lines(text_of(path)))[0]


def names_in(line: str) -> list[str]:
    """The names of columns in the first line of a CSV file."""
    return _header([line])[0]


def csv_records(path: Path) -> Iterator[Record]:
    """Rows of a CSV file by its header; too few cells leave columns out, blank lines are none.

    The separator is the likeliest by the header: a comma, tab, semicolon or bar. Raises
    DatasetError when it cannot be read, naming the line.
    """
    lines = _lines(text_of(path))
    header, separator = _header(lines)
    reader = csv.reader(lines, delimiter=separator)
    try:
        next(reader, None)
        end = reader.line_num
        for cells in reader:
            begin, end = end + 1, reader.line_num
            if not cells:
                continue
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
            oddity = ""
            if len(cells) > len(header):
                oddity = (
                    f"there are {len(cells)} cells, but {len(header)} columns: put quotes around "
                    "text that holds separators"
                )
            elif end - begin and end == len(lines) and _is_open(lines[begin - 1 :], separator):
                oddity = UNCLOSED
            yield Record(begin, row, oddity)
    except csv.Error as error:
        last = reader.line_num
        if "field limit" in str(error):
            raise DatasetError(
                f"{path} has a cell of more than {csv.field_size_limit():,} characters that goes "
                f"on to line {last}: close the quote that opens it."
            ) from error
        raise DatasetError(f"{path} is not a readable CSV file: {error} at line {last}.") from error


def json_lines(path: Path) -> Iterator[Record]:
    """Objects of a JSON Lines file. Raises DatasetError, naming the line."""
    for number, line in enumerate(text_of(path).split("\n"), start=1):
        if line.strip():
            yield Record(number, _object(_parsed(line, path, f", line {number},"), path, number))


def json_document(path: Path) -> Any:
    """What a JSON file holds. Raises DatasetError."""
    return _parsed(text_of(path), path, "")


def json_records(entries: list[Any], path: Path) -> Iterator[Record]:
    """Objects of a JSON list as records, numbered from 1. Raises DatasetError."""
    for number, entry in enumerate(entries, start=1):
        yield Record(number, _object(entry, path, number))


def text_of(path: Path) -> str:
    """A text file in UTF-8, with or without its mark. Raises DatasetError."""
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path} is not in UTF-8 (see line {line}): save it with that encoding."
        ) from error


def _lines(text: str) -> list[str]:
    """As the csv module counts them: carriage returns and line feeds alone end a line."""
    return list(io.StringIO(text, newline=""))


def _header(lines: list[str]) -> tuple[list[str], str]:
    """The names, and what stands between them."""
    first = lines[0] if lines else ""
    separator = max(SEPARATORS, key=first.count)  # a comma where there is none
    names = next(csv.reader(lines[:1], delimiter=separator), [])
    return [name.strip() for name in names], separator


def _is_open(lines: list[str], separator: str) -> bool:
    """Whether the last row ends within quotes, which the reader only minds when it is strict."""
    try:
        list(csv.reader(lines, delimiter=separator, strict=True))
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False


def _parsed(text: str, path: Path, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "it is nested too deep")
        raise DatasetError(f"{path}{where} is not JSON ({reason}): mend or export it again.") from (
            error
        )


def _object(value: Any, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DatasetError(f"{path}, entry {number}, is no JSON object of an image and captions.")
    return value
