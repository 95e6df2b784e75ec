"""Looks through a data set row by row and lists what is wrong, with the lines of its table."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from qvla.data.examples import rows_of
from qvla.data.imagery import ImageError, open_image
from qvla.data.risc import Row
from qvla.data.special_tokens import special_tokens
from qvla.data.tables import DatasetError
from qvla.progress import progress
from qvla.words import counted

BAD_NAME = "image name"
MISSING = "missing image"
UNREADABLE = "unreadable image"
NO_CAPTION = "no caption"
DUPLICATE = "duplicate image name"
TWO_SPLITS = "same picture in two splits"
ODD_ROW = "odd row"
LINE_BREAK = "line break in a caption"
LONG = "very long row"
SPECIAL_TOKEN = "special token"

LONG_ROW = 1000  # characters of captions, and
TIMES_MEDIAN = 10  # times as many as the row in the middle has


@dataclass(frozen=True)
class Problem:
    """What is wrong with the row that begins at `line` of `table`; `kind` is one of this module's.

    In a JSON file, `line` is the number of the entry.
    """

    table: str
    line: int
    image: str
    kind: str
    message: str


@dataclass(frozen=True)
class Report:
    """What was looked through, and what was found, by row."""

    folder: Path
    rows: int
    problems: tuple[Problem, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Problems by kind."""
        return dict(Counter(problem.kind for problem in self.problems))

    @property
    def verdict(self) -> str:
        """In one sentence."""
        if not self.problems:
            return "The one row is good." if self.rows == 1 else f"All {self.rows:,} rows are good."
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in self.counts.items())
        bad = len({(problem.table, problem.line) for problem in self.problems})
        are = "is" if bad == 1 else "are"
        return f"{bad:,} of {counted(self.rows, 'row')} {are} bad ({kinds})."


def check(source: str | Path, template: str | None = None) -> Report:
    """Opens every image and looks at every row; for `source` and `template` see `rows_of`.

    Goes on after a bad row. Raises DatasetError when there are no rows to look at.
    """
    rows = rows_of(source, template)
    if not rows:
        raise DatasetError(f"The data in {source} has no rows.")
    checker = _Checker(rows)
    problems: list[Problem] = []
    with progress(len(rows), "Checking images") as bar:
        for row in rows:
            problems += checker.problems(row)
            bar.step()
    table = rows[0].table
    return Report(table if table.is_dir() else table.parent, len(rows), tuple(problems))


def captions_with_tokens(rows: Sequence[Row]) -> list[Problem]:
    """The rows whose captions a model would take for more than text."""
    return [
        Problem(str(row.table), row.line, row.image, SPECIAL_TOKEN, _token_message(found))
        for row in rows
        if (found := special_tokens(row.captions))
    ]


class _Checker:
    """Remembers the rows seen so far, for what is wrong between two of them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._names: dict[str, int] = {}  # line of the first row with that image
        self._pictures: dict[str, dict[str, Row]] = {}  # by hash: the first row in each split
        self._usual = median(map(_length, rows))

    def problems(self, row: Row) -> Iterator[Problem]:
        def problem(kind: str, message: str) -> Problem:
            return Problem(str(row.table), row.line, row.image, kind, message)

        if row.oddity:
            yield problem(ODD_ROW, row.oddity)
        if not row.captions:
            yield problem(NO_CAPTION, "there is no caption")
        if any(len(text.splitlines()) > 1 for text in row.captions):
            yield problem(
                LINE_BREAK, "a quote that is not closed does this to the rows that follow it"
            )
        if _length(row) > max(LONG_ROW, TIMES_MEDIAN * self._usual):
            yield problem(
                LONG, f"its captions have {_length(row):,} characters, others {self._usual:,.0f}"
            )
        if found := special_tokens(row.captions):
            yield problem(SPECIAL_TOKEN, _token_message(found))
        if row.name_fault:
            yield problem(BAD_NAME, row.name_fault)
            return
        if row.image in self._names:
            yield problem(DUPLICATE, f"line {self._names[row.image]} has an image of that name too")
        self._names.setdefault(row.image, row.line)
        try:
            picture = _picture(row.path)
        except FileNotFoundError:
            yield problem(MISSING, "the image file is not there")
            return
        except ImageError as error:
            yield problem(UNREADABLE, str(error))
            return
        seen = self._pictures.setdefault(picture, {})
        for split, first in seen.items():
            if split != row.split:
                yield problem(
                    TWO_SPLITS,
                    f"in split {row.split!r}, but {first.image} of line {first.line} in split "
                    f"{split!r} is the same picture",
                )
        seen.setdefault(row.split, row)


def _length(row: Row) -> int:
    return sum(map(len, row.captions))


def _token_message(found: Sequence[str]) -> str:
    return f"a caption holds {', '.join(found)}, which models do not take for text: take it out"


def _picture(path: Path) -> str:
    """A hash of the decoded pixels, so that the same picture is found in any format."""
    if not path.is_file():
        raise FileNotFoundError(path)
    photo = open_image(path)
    return hashlib.sha256(f"{photo.size}".encode() + photo.tobytes()).hexdigest()
