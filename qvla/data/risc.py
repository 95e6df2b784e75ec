"""Reads the RISC layout: a folder with `captions.csv` and its images.

`captions.csv` has the columns source, split, image, caption_1 … caption_5. Images lie in the same
folder or in `resized/` (the name the RISC data set uses). Missing captions and extra columns are
tolerated; a row with no image name, or whose image leaves the folder, is not. Whatever else data
comes as is written out in this layout first (`examples`), so that this is the only reader.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvla.errors import QvlaError

TABLE = "captions.csv"
CAPTION_COLUMNS = tuple(f"caption_{number}" for number in range(1, 6))
REQUIRED_COLUMNS = ("source", "split", "image")
IMAGE_FOLDERS = ("resized", "images", ".")


class DatasetError(QvlaError):
    """The data cannot be read as the RISC layout; the message says what to mend."""


@dataclass(frozen=True)
class Example:
    """One photo with its human captions."""

    image: Path
    source: str
    split: str
    references: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.image.name


@dataclass(frozen=True)
class Row:
    """One row of `captions.csv` as it stands; `image` may be no file name at all.

    `line` is where the row begins in the file, the header's being 1. Empty captions are left out.
    """

    line: int
    image: str
    source: str
    split: str
    captions: tuple[str, ...]

    @property
    def has_plain_name(self) -> bool:
        """Whether the image is named by a file name alone, which cannot leave the folder."""
        return self.image not in ("", "..") and Path(self.image).name == self.image


def image_folder(folder: Path) -> Path:
    """Where the images of a folder in the RISC layout lie."""
    for name in IMAGE_FOLDERS:
        if (folder / name).is_dir():
            return folder / name
    return folder


def read_rows(folder: Path) -> Iterator[Row]:
    """All rows of the folder's `captions.csv`, usable or not. Raises DatasetError."""
    table = folder / TABLE
    lines = csv.reader(io.StringIO(_text(table), newline=""))
    try:
        header = next(lines, [])
        missing = [name for name in REQUIRED_COLUMNS if name not in header]
        if missing:
            raise DatasetError(f"{table} lacks the column(s) {', '.join(missing)}.")
        end = lines.line_num
        for cells in lines:
            begin, end = end + 1, lines.line_num
            if not cells:  # a blank line
                continue
            # Too few cells leave captions out, too many belong to no column.
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
            captions = (row.get(name, "") for name in CAPTION_COLUMNS)
            yield Row(
                line=begin,
                image=row.get("image", ""),
                source=row.get("source", ""),
                split=row.get("split", ""),
                captions=tuple(caption for caption in captions if caption),
            )
    except csv.Error as error:
        raise DatasetError(
            f"{table} is not a readable CSV file: {error} at line {lines.line_num}."
        ) from error


def groups(examples: Iterable[Example]) -> dict[tuple[str, str], list[Example]]:
    """Examples by (source, split), in order of first appearance."""
    result: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        result.setdefault((example.source, example.split), []).append(example)
    return result


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 over names, sources, splits, captions and file sizes, whatever the order."""
    rows = sorted(
        "\t".join(
            (item.name, str(item.image.stat().st_size), item.source, item.split, *item.references)
        )
        for item in examples
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def example_of(row: Row, images: Path, table: Path) -> Example:
    """The row as an example. Raises DatasetError when its image is no plain file name."""
    if not row.has_plain_name:
        raise DatasetError(
            f"{table}, line {row.line}: the image column must hold a plain file name, not "
            f"{row.image!r}."
        )
    return Example(images / row.image, row.source, row.split, row.captions)


def _text(table: Path) -> str:
    try:
        data = table.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DatasetError(f"{table} cannot be read: {error.strerror}.") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{table} is not in UTF-8 (see line {line}): save it with that encoding."
        ) from error
