"""Photos with captions, and the RISC layout that they come in: `captions.csv` and its images.

`captions.csv` has the columns source, split, image, caption_1 … caption_5. Images lie in the same
folder or in `resized/` (the name the RISC data set uses) or `images/`, and may be named with the
folders within. Missing captions and extra columns are tolerated; a row with no image name, or whose
image leaves the folder, is not. Data in any other form becomes the same rows (`layouts`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from qvla.data.splits import split_name
from qvla.data.tables import UNCLOSED, DatasetError, csv_header, csv_records

TABLE = "captions.csv"
CAPTION_COLUMNS = tuple(f"caption_{number}" for number in range(1, 6))
REQUIRED_COLUMNS = ("source", "split", "image")
IMAGE_FOLDERS = ("resized", "images", ".")
LONGEST_NAME = 255  # bytes that common systems allow a file name, and each folder's
LONGEST_PATH = 1024
DRIVE = re.compile(r"[A-Za-z]:(/|$)")  # of Windows


@dataclass(frozen=True)
class Example:
    """One photo with its human captions, or with a question and people's answers to it.

    `name` is what its data set calls it, with the folders within where it has some: the file's own
    name if it is left out. `key` is the number by which it is known there beside the name, if any.
    With a `question` the references answer it, and the name is that of the question: a photo may
    have many. `kind` is the question's type, such as `presence`, where the data tells it.
    """

    image: Path
    source: str
    split: str
    references: tuple[str, ...]
    name: str = ""
    key: str = ""
    question: str = ""
    kind: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.image.name)


@dataclass(frozen=True)
class Row:
    """One row as it stands in a table; `image` may be no file name at all.

    Attributes:
        line: where it begins in the table, the first line being 1, or the number of its entry.
        image: the name, folders within parted by `/`.
        captions: without empty ones.
        table: the file it stands in, or the folder where there is none.
        folders: where its photo may lie, the likeliest first.
        key: the number by which the data set knows the photo beside its name, if any.
        oddity: what is wrong with the writing of the row, as a clause.
        file: the photo itself, where it was found by looking and not by its name.
    """

    line: int
    image: str
    source: str
    split: str
    captions: tuple[str, ...]
    table: Path
    folders: tuple[Path, ...]
    key: str = ""
    oddity: str = ""
    file: Path | None = None

    @property
    def name_fault(self) -> str | None:
        """Why the image column holds no name within the data's folder; None if it does."""
        return None if self.file else name_fault(self.image)

    @property
    def path(self) -> Path:
        """Where the photo lies or should; only for rows without a `name_fault`."""
        return self.file or located(self.image, self.folders)


def name_fault(image: str) -> str | None:
    """Why this is no name of a file within the data's folder; None if it is one."""
    if image in ("", "."):
        return "there is no image name"
    if image.startswith("/") or DRIVE.match(image):
        return f"{_short(image)} is no place within the data's folder: name it from there on"
    parts = PurePosixPath(image).parts
    if ".." in parts:
        return f"{_short(image)} leaves the data's folder: copy the file into it"
    try:
        sizes = [len(os.fsencode(part)) for part in parts]
    except UnicodeEncodeError:
        return f"{_short(image)} holds half a character"
    if max(sizes) > LONGEST_NAME or sum(sizes) > LONGEST_PATH:
        return f"{_short(image)} is longer than the name of a file can be"
    if "\0" in image:
        return f"{_short(image)} holds a null character"
    return None


def plain_name(image: str) -> str:
    """An image's name as it stands in a table, with `/` between folders and without `./`."""
    image = image.strip().replace("\\", "/")
    return PurePosixPath(image).as_posix() if image else ""


def located(image: str, folders: Sequence[Path]) -> Path:
    """Where an image lies, by a name without a `name_fault`; in the first folder if in none."""
    if len(folders) > 1:
        for folder in folders:
            if (folder / image).is_file():
                return folder / image
    return folders[0] / image


def image_folders(folder: Path) -> tuple[Path, ...]:
    """Where the images of a folder in the RISC layout lie, the likeliest first."""
    found = [folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()]
    return tuple(found) or (folder,)


def read_rows(folder: Path) -> Iterator[Row]:
    """All rows of the folder's `captions.csv`, usable or not. Raises DatasetError."""
    table, folders = folder / TABLE, image_folders(folder)
    header = csv_header(table)
    missing = [name for name in REQUIRED_COLUMNS if name not in header]
    if missing:
        raise DatasetError(f"{table} lacks the column(s) {', '.join(missing)}.")
    for record in csv_records(table):
        row = record.values
        captions = (row.get(name, "") for name in CAPTION_COLUMNS)
        yield Row(
            line=record.line,
            image=plain_name(row.get("image", "")),
            source=row.get("source", ""),
            split=split_name(row.get("split", "")),
            captions=tuple(caption for caption in captions if caption),
            table=table,
            folders=folders,
            oddity=record.oddity,
        )


def groups(examples: Iterable[Example]) -> dict[tuple[str, str], list[Example]]:
    """Examples by (source, split), in order of first appearance."""
    result: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        result.setdefault((example.source, example.split), []).append(example)
    return result


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 over names, sources, splits, questions, references and file sizes, whatever the
    order.
    """
    rows = sorted(
        "\t".join(
            (
                *(item.name, str(item.image.stat().st_size), item.source, item.split),
                *item.references,
                *((item.question,) if item.question else ()),
            )
        )
        for item in examples
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def example_of(row: Row) -> Example:
    """The row as an example. Raises DatasetError when its image is no name within the folder, or
    its writing swallows other rows.
    """
    if row.name_fault:
        raise DatasetError(
            f"{row.table}, line {row.line}: the image column must hold a file's name within the "
            f"data's folder, but {row.name_fault}."
        )
    if row.oddity == UNCLOSED:
        raise DatasetError(f"{row.table}, line {row.line}: {row.oddity}.")
    return Example(row.path, row.source, row.split, row.captions, row.image, row.key)


def _short(text: str, most: int = 80) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}…")
