"""Local data in the forms people have, found by looking, as rows where it lies.

Besides the RISC layout: captions in JSON (`captions_json`), the datasets library's `imagefolder`
(`metadata.csv` or `.jsonl` beside the photos), any CSV or JSON Lines table with a column of image
names and one of captions, and a folder of photos alone. One sentence says what was found. Parquet
and data sets of the hub are written out in the RISC layout instead (`hub_data`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qvla.data import captions_json
from qvla.data.captions_json import KEY, SOURCE, SPLIT
from qvla.data.columns import one_line
from qvla.data.risc import CAPTION_COLUMNS, TABLE, Row, name_fault, plain_name, read_rows
from qvla.data.splits import DEFAULT, split_in, split_name
from qvla.data.tables import (
    DatasetError,
    Record,
    csv_header,
    csv_records,
    json_document,
    json_lines,
    json_records,
)
from qvla.data.template import Template
from qvla.files import printable

IMAGE_NAMES = ("image", "file_name", "filename", "image_name", "image_path", "path", "photo")
CAPTION_NAMES = ("captions", "caption", "text", "texts", "sentences", "references")
PHOTOS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"}
PARQUET = ".parquet"
CSV = {".csv", ".tsv"}
TABLES = {*CSV, ".jsonl", ".ndjson"}
READ_AS_TABLES = {*TABLES, ".json", PARQUET}
METADATA = {"metadata.csv", "metadata.jsonl"}
ANNOTATIONS = "annotations"  # the folder of COCO's JSON files
BESIDE_PHOTOS = (ANNOTATIONS, "questions")  # folders of JSON that lie beside those of the photos
TRIED = 20  # photos that tell in which folder all of them lie

log = logging.getLogger(__name__)
_told: set[str] = set()


@dataclass(frozen=True)
class _Table:
    """One file of rows: what kind it is, and its records."""

    kind: str
    path: Path
    records: list[Record]


def is_parquet(path: Path) -> bool:
    """Whether data that is here has to be written out in the RISC layout before it is read."""
    if path.is_file():
        return path.suffix.lower() == PARQUET
    if (path / TABLE).is_file():
        return False
    files = list(_files(path))
    has_metadata = any(file.name.lower() in METADATA for file in files)
    return not has_metadata and any(file.suffix.lower() == PARQUET for file in files)


def is_risc(path: Path) -> bool:
    """Whether a folder is in the RISC layout, or a file is the table of one."""
    return path.name == TABLE if path.is_file() else (path / TABLE).is_file()


def local_rows(path: Path, template: Template | None = None) -> list[Row]:
    """The rows of data that is read where it lies: a folder or a file that is there, no parquet.

    A `template` makes the captions, of tables in any form but RISC's. Raises DatasetError when the
    path holds no data, or no row has what the template asks for.
    """
    if path.is_file():
        return _of_file(path, template)
    if (path / TABLE).is_file():
        return list(read_rows(path))
    files = sorted(_files(path))
    metadata = [file for file in files if file.name.lower() in METADATA]
    if metadata:
        rows = [
            row
            for file in metadata
            for row in _rows(_read_table(file), file.parent, path, template)
        ]
        return _tell(path, "an image folder (metadata beside the photos)", rows)
    documents = _json_files(path)
    if documents:
        read = [_read_json(file) for file in documents]
        rows = [row for table in read for row in _rows(table, table.path.parent, path, template)]
        return _tell(path, read[0].kind, rows)
    beside = [file for file in files if file.parent == path and _has_columns(file, template)]
    if len(beside) > 1:
        raise DatasetError(
            f"{path} holds several tables of captions ({', '.join(f.name for f in beside)}): name "
            "one of them."
        )
    if beside:
        return _of_file(beside[0], template)
    photos = [file for file in files if file.suffix.lower() in PHOTOS]
    if not photos:
        raise DatasetError(
            f"{path} has neither a {TABLE}, which the RISC layout asks for, nor captions in JSON, "
            "a metadata.csv or metadata.jsonl, parquet files or photos."
        )
    return _tell(path, "a folder of photos without captions", list(_plain(photos, path)))


def photos_in(folder: Path) -> list[Path]:
    """All photos of a folder and those within, by the ends of their names, in order."""
    return sorted(file for file in _files(folder) if file.suffix.lower() in PHOTOS)


def _of_file(path: Path, template: Template | None) -> list[Row]:
    if path.name == TABLE:
        return list(read_rows(path.parent))
    suffix = path.suffix.lower()
    if suffix in TABLES:
        table = _read_table(path)
    elif suffix == ".json":
        table = _read_json(path)
    else:
        raise DatasetError(
            f"{path} is neither a folder nor a table of captions: name a .csv, .json, .jsonl or "
            ".parquet file, or the folder that holds the data."
        )
    return _tell(path, table.kind, list(_rows(table, path.parent, path, template)))


# ---- files as records ------------------------------------------------------------------------


def _read_table(path: Path) -> _Table:
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _Table("a table in JSON Lines", path, list(json_lines(path)))
    return _Table("a table in CSV", path, list(csv_records(path)))


def _read_json(path: Path) -> _Table:
    document = json_document(path)
    if isinstance(document, list):
        return _Table("a list in JSON", path, list(json_records(document, path)))
    if not isinstance(document, dict):
        raise DatasetError(f"{path} holds neither a JSON object nor a list of them.")
    found = captions_json.read_object(document, path)
    return _Table(found.kind, path, found.records)


def _json_files(folder: Path) -> list[Path]:
    """Those that say by their names that they hold captions, else all."""
    files = [*folder.glob("*.json"), *(folder / ANNOTATIONS).glob("*.json")]
    files = sorted(file for file in files if not file.name.startswith("."))
    said = [file for file in files if _names_captions(file.stem.lower())]
    return said or [file for file in files if file.name not in ("about.json", "dataset_infos.json")]


def _names_captions(name: str) -> bool:
    return any(word in name for word in ("caption", "dataset_", "karpathy"))


def _has_columns(file: Path, template: Template | None) -> bool:
    suffix = file.suffix.lower()
    if suffix not in TABLES:
        return False
    if suffix in CSV:
        names = csv_header(file)
    else:
        names = [name for record in list(json_lines(file))[:1] for name in record.values]
    return bool(first_of(names, IMAGE_NAMES)) and bool(template or _caption_columns(names))


# ---- records as rows -------------------------------------------------------------------------


def _rows(table: _Table, folder: Path, data: Path, template: Template | None) -> Iterator[Row]:
    """One row a photo. Rows of one caption each about the same photo become one."""
    names = list(dict.fromkeys(name for record in table.records for name in record.values))
    image, captions = first_of(names, IMAGE_NAMES), _caption_columns(names)
    if template is not None and table.records:
        template.check([record.values for record in table.records], table.path)
    if table.records and (not image or not (captions or template)):
        lacking = "captions" if image else "image names"
        raise DatasetError(
            f"{table.path} has no column of {lacking} under a usual name (it has "
            f"{', '.join(names)}): call it {'caption' if image else 'image'}."
        )
    wanted = [plain_name(_text(record.values.get(image))) for record in table.records[:TRIED]]
    inner = table.path.relative_to(data) if table.path != data else Path(data.name)
    split = split_in(inner) or DEFAULT
    folders = photo_folders(folder, [name for name in wanted if not name_fault(name)], split)
    columns = _Columns(
        image, captions, template, *(first_of(names, (name,)) for name in (SPLIT, SOURCE, KEY))
    )
    source = data.stem if data.is_file() else data.resolve().name
    rows = (_row(record, columns, table, folders, split, source) for record in table.records)
    return iter(_merged(rows)) if template or len(captions) == 1 else rows


@dataclass(frozen=True)
class _Columns:
    image: str
    captions: tuple[str, ...]
    template: Template | None
    split: str
    source: str
    key: str


def _row(
    record: Record,
    columns: _Columns,
    table: _Table,
    folders: tuple[Path, ...],
    split: str,
    source: str,
) -> Row:
    values = record.values
    oddity = record.oddity
    if columns.template is None:
        texts = [one for name in columns.captions for one in _texts(values.get(name))]
    elif absent := columns.template.lacking(values):
        texts, oddity = [], oddity or f"it lacks {', '.join(absent)}, of which the caption is made"
    else:
        texts = [columns.template.fill(values)]
    # In CSV a line break may be an unclosed quote, which a check has to see.
    tidied = str.strip if table.path.suffix.lower() in CSV else one_line
    return Row(
        line=record.line,
        image=plain_name(_text(values.get(columns.image))),
        source=_text(values.get(columns.source)) or source,
        split=split_name(_text(values.get(columns.split)) or split),
        captions=tuple(tidied(text) for text in texts if text.strip()),
        table=table.path,
        folders=folders,
        key=_text(values.get(columns.key)),
        oddity=oddity or _half_character(texts),
    )


def _merged(rows: Iterable[Row]) -> list[Row]:
    photos: dict[object, Row] = {}
    for row in rows:
        key = (row.image, row.split) if row.image else row.line
        first = photos.get(key)
        if first is None:
            photos[key] = row
        else:
            photos[key] = replace(
                first, captions=first.captions + row.captions, oddity=first.oddity or row.oddity
            )
    return list(photos.values())


def _plain(photos: Iterable[Path], folder: Path) -> Iterator[Row]:
    for number, photo in enumerate(photos, start=1):
        inner = photo.relative_to(folder)
        yield Row(
            line=number,
            image=printable(inner.as_posix()),
            source=printable(folder.resolve().name),
            split=split_in(inner.parent / "x") or "",
            captions=(),
            table=folder,
            folders=(folder,),
            file=photo,
        )


def photo_folders(folder: Path, names: Sequence[str], split: str) -> tuple[Path, ...]:
    """The folder here, or beside COCO's annotations or VQAv2's questions, in which most of these
    photos lie; of several the one that is called like the split.
    """
    bases = [folder, folder.parent] if folder.name.lower() in BESIDE_PHOTOS else [folder]
    found = [one for base in bases for one in (base, *sorted(filter(Path.is_dir, base.iterdir())))]

    def fits(one: Path) -> tuple[int, bool]:
        photos = sum((one / name).is_file() for name in names)
        return photos, photos > 0 and split_in(Path(one.name)) == split

    best = max(found, key=fits)
    return (best,) if best == folder else (best, folder)


def _caption_columns(names: Iterable[str]) -> tuple[str, ...]:
    names = list(names)
    numbered = tuple(name for name in names if name.lower() in CAPTION_COLUMNS)
    one = first_of(names, CAPTION_NAMES)
    return numbered or ((one,) if one else ())


def first_of(names: Iterable[str], wanted: Sequence[str]) -> str:
    """The first of the wanted names that is there, whatever its case; else an empty text."""
    there = {name.lower(): name for name in reversed(list(names))}
    return next((there[name] for name in wanted if name in there), "")


def _texts(value: Any) -> list[str]:
    """Captions in one cell: a text, a list of texts, or of sentences as Karpathy has them."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        tokens = value.get("tokens")
        words = " ".join(map(str, tokens)) if isinstance(tokens, list) else ""
        return _texts(value.get("raw") or value.get("caption") or words)
    return [text for one in value for text in _texts(one)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return str(value).strip() if isinstance(value, (str, int)) else ""


def _half_character(texts: Iterable[str]) -> str:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return "a caption holds half a character: write it again"
    return ""


def _files(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if not hidden and file.is_file():
            yield file


def _tell(path: Path, kind: str, rows: list[Row]) -> list[Row]:
    """Says once what was found, and gives the rows back."""
    captions = sum(len(row.captions) for row in rows)
    splits = ", ".join(dict.fromkeys(row.split for row in rows if row.split))
    held = f" with {captions:,} captions" if captions else ""
    sentence = f"{path} is read as {kind}: {_count(len(rows), 'photo')}{held}" + (
        f", in {splits}." if splits else "."
    )
    if sentence not in _told:
        _told.add(sentence)
        log.info("%s", sentence)
    return rows


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
