"""Looks through a data set row by row and lists what is wrong, with lines of `captions.csv`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qvla.data.examples import risc_folder
from qvla.data.imagery import ImageError, open_image
from qvla.data.risc import DatasetError, Row, image_folder, read_rows
from qvla.progress import progress

BAD_NAME = "image name"
MISSING = "missing image"
UNREADABLE = "unreadable image"
NO_CAPTION = "no caption"
DUPLICATE = "duplicate image name"
TWO_SPLITS = "same picture in two splits"


@dataclass(frozen=True)
class Problem:
    """What is wrong with the row that begins at `line`; `kind` is one of this module's."""

    line: int
    image: str
    kind: str
    message: str


@dataclass(frozen=True)
class Report:
    """What was looked through, and what was found, by line."""

    folder: Path
    rows: int
    problems: tuple[Problem, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Problems by kind."""
        return dict(Counter(problem.kind for problem in self.problems))


def check(source: str | Path) -> Report:
    """Opens every image and looks at every row; see `read_examples` for what `source` may be.

    Goes on after a bad row. Raises DatasetError when there are no rows to look at.
    """
    folder = risc_folder(source)
    rows = list(read_rows(folder))
    if not rows:
        raise DatasetError(f"The data in {folder} has no rows.")
    checker = _Checker(image_folder(folder))
    problems: list[Problem] = []
    with progress(len(rows), "Checking images") as bar:
        for row in rows:
            problems += checker.problems(row)
            bar.step()
    return Report(folder, len(rows), tuple(problems))


class _Checker:
    """Remembers the rows seen so far, for what is wrong between two of them."""

    def __init__(self, images: Path) -> None:
        self._images = images
        self._names: dict[str, int] = {}  # line of the first row with that image
        self._pictures: dict[str, dict[str, Row]] = {}  # by hash: the first row in each split

    def problems(self, row: Row) -> Iterator[Problem]:
        def problem(kind: str, message: str) -> Problem:
            return Problem(row.line, row.image, kind, message)

        if not row.captions:
            yield problem(NO_CAPTION, "there is no caption")
        if not row.has_plain_name:
            yield problem(BAD_NAME, f"{row.image!r} is not a plain file name in the image folder")
            return
        if row.image in self._names:
            yield problem(DUPLICATE, f"line {self._names[row.image]} has an image of that name too")
        self._names.setdefault(row.image, row.line)
        try:
            picture = self._picture(row.image)
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

    def _picture(self, name: str) -> str:
        """A hash of the decoded pixels, so that the same picture is found in any format."""
        path = self._images / name
        if not path.is_file():
            raise FileNotFoundError(path)
        photo = open_image(path)
        return hashlib.sha256(f"{photo.size}".encode() + photo.tobytes()).hexdigest()
