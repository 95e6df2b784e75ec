"""Reads the RISC layout: a folder with `captions.csv` and its images.

`captions.csv` has the columns source, split, image, caption_1 … caption_5. Images lie in the same
folder or in `resized/` (the name the RISC data set uses). Missing captions and extra columns are
tolerated; a row with no image name, or whose image leaves the folder, is not.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvla.errors import QvlaError

CAPTION_COLUMNS = tuple(f"caption_{number}" for number in range(1, 6))
REQUIRED_COLUMNS = ("source", "split", "image")
IMAGE_FOLDERS = ("resized", "images", ".")


class DatasetError(QvlaError):
    """The folder cannot be read as the RISC layout; the message says what to mend."""


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


def read_examples(
    folder: str | Path,
    *,
    splits: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
) -> list[Example]:
    """Examples of the folder in file order, optionally only of some splits and sources.

    Raises DatasetError when the folder, its captions.csv or a needed column is missing.
    Whether each image can be opened is not checked here.
    """
    folder = Path(folder)
    table = folder / "captions.csv"
    if not folder.is_dir():
        raise DatasetError(f"There is no data folder at {folder}.")
    if not table.is_file():
        raise DatasetError(f"{folder} has no captions.csv, so it is not in the RISC layout.")
    images = _image_folder(folder)
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = [name for name in REQUIRED_COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise DatasetError(f"{table} lacks the column(s) {', '.join(missing)}.")
            examples = [
                _example(row, images, table, line) for line, row in enumerate(rows, start=2)
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table} is not a readable CSV file in UTF-8: {error}.") from error
    except OSError as error:
        raise DatasetError(f"{table} cannot be read: {error.strerror}.") from error
    return [
        example
        for example in examples
        if (splits is None or example.split in splits)
        and (sources is None or example.source in sources)
    ]


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


def _image_folder(folder: Path) -> Path:
    for name in IMAGE_FOLDERS:
        if (folder / name).is_dir():
            return folder / name
    return folder


def _example(row: dict[str, str | None], images: Path, table: Path, line: int) -> Example:
    name = (row["image"] or "").strip()
    if name in ("", "..") or Path(name).name != name:
        raise DatasetError(
            f"{table}, line {line}: the image column must hold a plain file name, not {name!r}."
        )
    references = (row.get(column) or "" for column in CAPTION_COLUMNS)
    return Example(
        image=images / name,
        source=(row["source"] or "").strip(),
        split=(row["split"] or "").strip(),
        references=tuple(text.strip() for text in references if text.strip()),
    )
