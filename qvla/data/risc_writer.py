"""Writes rows of a foreign data set as a folder in the RISC layout."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from qvla.data.columns import Columns, label, texts
from qvla.data.imagery import SIGNATURES
from qvla.data.risc import CAPTION_COLUMNS, REQUIRED_COLUMNS, TABLE
from qvla.data.splits import split_name
from qvla.data.tables import DatasetError
from qvla.progress import progress

if TYPE_CHECKING:
    from datasets import Dataset

IMAGES = "images"
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif"}
KNOWN_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"}

log = logging.getLogger(__name__)


def write_risc(
    splits: Mapping[str, Dataset], columns: Columns, folder: Path, roots: Sequence[Path]
) -> int:
    """Writes `captions.csv` and the images, byte for byte, and returns the number of rows.

    Args:
        splits: rows by split, the image column cast to undecoded images.
        columns: complete, as `find_columns` returns them, with a `source_name`.
        folder: exists and is empty.
        roots: folders in which pictures that the rows name by path may lie; others are not read.

    A row without a picture is kept, for `qvla.data.check` to list. Raises DatasetError when no row
    has one.
    """
    images = folder / IMAGES
    images.mkdir()
    names = _Names()
    written = cut = 0
    total = sum(len(rows) for rows in splits.values())
    with (
        (folder / TABLE).open("w", newline="", encoding="utf-8") as file,
        progress(total, "Writing images") as bar,
    ):
        table = csv.writer(file)
        table.writerow([*REQUIRED_COLUMNS, *CAPTION_COLUMNS])
        for photo in _photos(splits, columns, roots):
            name = names.take(photo)
            captions = photo.captions[: len(CAPTION_COLUMNS)]
            table.writerow([photo.source, photo.split, name, *_padded(captions)])
            cut += len(photo.captions) > len(captions)
            if photo.data:
                (images / name).write_bytes(photo.data)
                written += 1
            bar.step()
    if not written:
        raise DatasetError(
            f"None of the {total} rows has a picture in the column {columns.image}: name another "
            "with --image-column."
        )
    if cut:
        log.warning(
            "Only the first %d captions are kept of photos that have more (photos: %d).",
            len(CAPTION_COLUMNS),
            cut,
        )
    return total


@dataclass(frozen=True)
class _Photo:
    data: bytes
    name: str | None  # as the data has it: may be empty, a path, or anything else
    number: int  # of the row in its split
    source: str
    split: str
    captions: list[str]


def _photos(
    splits: Mapping[str, Dataset], columns: Columns, roots: Sequence[Path]
) -> Iterator[_Photo]:
    for split, rows in splits.items():
        features = rows.features
        for number, row in enumerate(rows):
            picture = row[columns.image] or {}
            own = label(row, columns.split, features) if columns.split else split
            yield _Photo(
                data=_data(picture, roots),
                name=label(row, columns.name, features) if columns.name else picture.get("path"),
                number=number,
                source=label(row, columns.source, features)
                if columns.source
                else columns.source_name or "",
                split=split_name(own),
                captions=texts(row, columns.captions),
            )


def _data(picture: Mapping[str, Any], roots: Sequence[Path]) -> bytes:
    """A picture's file. Rows may name any path of this machine, so only some folders are read."""
    if picture.get("bytes"):
        return picture["bytes"]
    path = picture.get("path") or ""
    for root in roots:
        # Not resolved: the hub's cache is made of links that lead out of its folders.
        inside = Path(os.path.normpath(root / path))
        if "\0" not in path and inside.is_relative_to(root) and inside.is_file():
            return inside.read_bytes()
    return b""


class _Names:
    """File names, each given once, whatever the case of its letters."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, photo: _Photo) -> str:
        """The photo's own name as a plain file name, with a number where it is taken already."""
        plain = PurePosixPath((photo.name or "").replace("\\", "/").replace("\0", "")).name
        name = plain.strip().lstrip(".") or f"{photo.split or 'photo'}-{photo.number:06d}"
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in KNOWN_SUFFIXES:
            stem, suffix = name, _suffix(photo.data)
        name, again = stem + suffix, 2
        while name.casefold() in self._taken:
            name, again = f"{stem}-{again}{suffix}", again + 1
        self._taken.add(name.casefold())
        return name


def _suffix(data: bytes) -> str:
    for signature, kind in SIGNATURES.items():
        if data.startswith(signature):
            return SUFFIXES[kind]
    return ".webp" if data[8:12] == b"WEBP" else ""


def _padded(captions: Sequence[str]) -> list[str]:
    return [*captions, *[""] * (len(CAPTION_COLUMNS) - len(captions))]
