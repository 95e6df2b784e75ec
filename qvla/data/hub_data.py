"""Parquet files and data sets of the Hugging Face Hub, written out in the RISC layout.

What is read in passing lies in `data` within the settings' home, in a folder named after the data,
its revision (or its contents, where it is local) and the columns used: the same data is written
out once.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import metadata_load

from qvla.data.columns import PRESETS, Columns, find_columns
from qvla.data.risc import TABLE
from qvla.data.risc_writer import write_risc
from qvla.data.splits import DEFAULT, split_in
from qvla.data.tables import DatasetError
from qvla.files import is_there, write_json
from qvla.hub import data_set_folder, is_hub_id
from qvla.settings import load_settings

if TYPE_CHECKING:
    from datasets import Dataset

ABOUT = "about.json"  # what a folder was written from, and on what terms
CARD = "README.md"
# Tables, pictures and archives of pictures. Code and pickles are neither fetched nor run.
FETCHED = [CARD, *(f"*.{kind}" for kind in "parquet csv tsv jsonl arrow zip tar".split())]
FETCHED += [f"*.{kind}" for kind in "jpg jpeg png tif tiff webp".split()]
LAYOUT = 1  # of what is written: a new number makes older folders stale
PARQUET = ".parquet"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """Data that is on this machine by now."""

    name: str  # hub id, or name of the file or folder
    path: Path
    revision: str  # commit on the hub, or hash of the contents
    licence: str | None  # as the data set's card names it
    terms: str | None  # as far as they are known beforehand
    columns: Columns
    files: dict[str, list[Path]] | None  # of local parquet, by split; on the hub the card tells


def fetch(
    source: str | Path,
    folder: Path,
    columns: Columns | None = None,
    *,
    preset: str | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """Writes a data set into `folder` and returns what its `about.json` holds.

    Args:
        source: a data set's hub id, a parquet file, or a folder of parquet files.
        folder: must not exist.
        columns: go before those of the preset.
        preset: a key of PRESETS; without one, the one that bears the source's name, if any.
        revision: branch, tag or commit on the hub.

    Raises DatasetError with one sentence for whatever stands in the way.
    """
    folder = folder.expanduser()
    if folder.exists():
        raise DatasetError(f"{folder} is there already; name another folder with --out.")
    _write(_locate(source, columns or Columns(), preset, revision), folder)
    return about(folder)


def converted(source: str | Path) -> Path:
    """The folder that holds `source` in the RISC layout, written now if it is not there."""
    origin = _locate(source, Columns())
    identity = json.dumps([LAYOUT, origin.name, origin.revision, asdict(origin.columns)])
    readable = re.sub(r"[^A-Za-z0-9]+", "-", origin.name).strip("-")
    number = hashlib.sha256(identity.encode()).hexdigest()[:12]
    folder = load_settings().home / "data" / f"{readable}-{number}"
    if not folder.is_dir():
        try:
            _write(origin, folder)
        except DatasetError:
            if not folder.is_dir():  # unless another process was quicker
                raise
        log.info("%s was written to %s. %s", origin.name, folder, in_words(about(folder)))
    return folder


def about(folder: Path) -> dict[str, Any]:
    """What a folder that was written here holds: name, revision, rows, licence, terms, columns."""
    return json.loads((folder / ABOUT).read_text(encoding="utf-8"))


def in_words(about: dict[str, Any]) -> str:
    """The terms on which data may be used, as sentences."""
    card = f"Licence by its card: {about['licence']}." if about["licence"] else None
    unknown = "Its terms are not stated: ask its authors before you pass it on."
    return " ".join(filter(None, (card, about["terms"]))) or unknown


def _locate(
    source: str | Path, columns: Columns, preset: str | None = None, revision: str | None = None
) -> Origin:
    path = Path(source).expanduser()
    here = is_there(path)
    name = path.resolve().name if here else str(source)
    known = PRESETS.get(preset or str(source))
    if preset and known is None:
        raise DatasetError(f"There is no preset {preset}; there are {', '.join(PRESETS)}.")
    if here and (path / TABLE).is_file():
        raise DatasetError(f"{path} is in the RISC layout already: use it as it is.")
    files = None
    if here:
        path = path.resolve()
        if revision:
            raise DatasetError(f"{source} is local: --revision is for data sets on the hub.")
        files = _parquet(path)
        revision = _contents(path, files)
    elif is_hub_id(source):
        path = data_set_folder(str(source), FETCHED, revision, DatasetError)
        revision = path.name
    else:
        raise DatasetError(
            f"There is no data folder or file of captions at {source}: check the path, or name a "
            "data set on the hub."
        )
    if known:
        columns = columns.over(known.columns)
    if not columns.source_name:
        columns = replace(columns, source_name=_stem(name))
    return Origin(
        name, path, revision, _licence(path), known.terms if known else None, columns, files
    )


def _parquet(path: Path) -> dict[str, list[Path]]:
    """Local parquet files by split, which their names or their folders' tell."""
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.suffix.lower() == PARQUET)
    else:
        files = [path] if path.suffix.lower() == PARQUET else []
    if not files:
        raise DatasetError(
            f"{path} has no parquet files, so nothing has to be fetched or written out: name it "
            "as it is wherever data is named."
        )
    splits: dict[str, list[Path]] = {}
    for file in files:
        inner = file.relative_to(path) if file != path else Path(file.name)
        splits.setdefault(split_in(inner) or DEFAULT, []).append(file)
    return splits


def _stem(name: str) -> str:
    """The last part of a hub id, or a file's name without the end that says parquet."""
    last = name.split("/")[-1]
    return last[: -len(PARQUET)] if last.lower().endswith(PARQUET) else last


def _contents(path: Path, splits: dict[str, list[Path]]) -> str:
    """A hash over local parquet files, their names and the card. Raises DatasetError."""
    files = [file for split in splits.values() for file in split]
    if (path / CARD).is_file():
        files.append(path / CARD)
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(f"{file.relative_to(path.parent)}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as content:
                while block := content.read(2**20):
                    digest.update(block)
    except OSError as error:
        raise DatasetError(f"{error.filename} cannot be read: {error.strerror}.") from error
    return f"sha256:{digest.hexdigest()}"


def _licence(path: Path) -> str | None:
    try:
        said = (metadata_load(path / CARD) or {}).get("license")
    except Exception:  # a card is written by hand: what cannot be read says nothing
        return None
    return ", ".join(map(str, said)) if isinstance(said, list) else said and str(said)


def _write(origin: Origin, folder: Path) -> None:
    """Writes the RISC layout under a temporary name and renames it into place."""
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary = temporary.absolute()
    cache = temporary.with_suffix(".cache")
    try:
        temporary.mkdir(parents=True)
        splits = _load(origin, cache)
        roots = [origin.path if origin.path.is_dir() else origin.path.parent]
        features = next(iter(splits.values())).features
        columns = find_columns(origin.columns, features, origin.name)
        assert columns.image is not None  # `find_columns` looks for one
        rows = write_risc(
            _undecoded(splits, columns.image, origin.name), columns, temporary, [*roots, cache]
        )
        write_json(
            temporary / ABOUT,
            {
                "name": origin.name,
                "revision": origin.revision,
                "rows": rows,
                "licence": origin.licence,
                "terms": origin.terms,
                "columns": asdict(columns),
            },
        )
        os.rename(temporary, folder)
    except OSError as error:
        raise DatasetError(
            f"{origin.name} cannot be written to {folder}: {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)


def _load(origin: Origin, cache: Path) -> dict[str, Dataset]:
    """The rows by split. The library's copy of them goes to `cache`."""
    import datasets

    kind, files = str(origin.path), None
    if origin.files is not None:  # left alone, the library passes over files with unusual names
        kind = "parquet"
        files = {
            split: [glob.escape(str(file)) for file in paths]
            for split, paths in origin.files.items()
        }
    with _quiet(datasets):
        try:
            builder = datasets.load_dataset_builder(kind, data_files=files, cache_dir=str(cache))
            # No checks, because counts in old cards are often wrong.
            builder.download_and_prepare(verification_mode="no_checks")
            full = [name for name, split in builder.info.splits.items() if split.num_examples]
            rows = {name: builder.as_dataset(split=name) for name in full}
        except OSError as error:
            if error.errno is not None and not isinstance(error, FileNotFoundError):
                raise  # such as a full disk
            raise _unreadable(origin.name, error) from error
        except Exception as error:  # of Arrow, of the library, of a card that it does not follow
            raise _unreadable(origin.name, error) from error
    if not rows:
        raise DatasetError(f"{origin.name} has no rows.")
    return rows


def _undecoded(splits: dict[str, Dataset], column: str, data: str) -> dict[str, Dataset]:
    """Pictures as the bytes of their files."""
    import datasets

    picture = datasets.Image(decode=False)
    try:
        return {name: rows.cast_column(column, picture) for name, rows in splits.items()}
    except Exception as error:  # Arrow's own
        raise DatasetError(
            f"The column {column} of {data} holds no pictures: name another with --image-column."
        ) from error


def _unreadable(data: str, error: Exception) -> DatasetError:
    while isinstance(error.__cause__, Exception):  # the library wraps what Arrow says
        error = error.__cause__
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
    return DatasetError(f"{data} cannot be read as a table of photos and captions ({said}).")


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without the library's own bars and messages: faults are told once, by us."""
    level, hidden = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not hidden:
            datasets.enable_progress_bars()
