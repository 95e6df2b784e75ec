"""Data that comes as a zip archive, or as a table with photos: put into a folder, looked through.

An archive is written by others. Nothing of it is written outside its folder, only photos and tables
are taken, and it may neither grow beyond bounds nor leave anything behind when it is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, BinaryIO

from qvla.data.check import TWO_SPLITS, Report, check
from qvla.data.layouts import PHOTOS, READ_AS_TABLES
from qvla.errors import QvlaError

MOST_FILES = 100_000
MOST_BYTES = 4 * 2**30  # unpacked, and at most
MOST_TIMES = 20  # as large as the archive: photos hardly get smaller in one, and tables that much
ALWAYS_ALLOWED = 2**24  # bytes unpacked, however small the archive is
DEEPEST = 12  # folders within folders
BLOCK = 2**20


class ArchiveError(QvlaError):
    """The archive cannot be used as data; the message says why."""


@dataclass(frozen=True)
class Taken:
    """Where the data of an archive lies, what `check` says of it, and files that were left out."""

    folder: Path
    report: Report
    left_out: int

    @property
    def sentence(self) -> str:
        left_out = f" Files that are no photos or tables were left out: {self.left_out:,}."
        return f"{self.report.verdict}{left_out if self.left_out else ''}"


def take_in(archive: Path, name: str, home: Path) -> Taken:
    """Unpacks an archive below `home`, in a folder named after it and its contents.

    Raises ArchiveError, with one sentence, for what is unsafe, too large, damaged, or no data; then
    nothing of it is left.
    """
    return _keep([archive], name, home, "archive", lambda folder: unpack(archive, folder))


def take_in_files(files: Sequence[Path], home: Path) -> Taken:
    """The same of data that was chosen as it lies: a zip alone, or a table and its photos."""
    if not files:
        raise ArchiveError("Choose a zip, or a table of captions together with its photos.")
    if len(files) == 1 and files[0].suffix.lower() not in PHOTOS | READ_AS_TABLES:
        return take_in(files[0], files[0].name, home)
    tables = [file for file in files if file.suffix.lower() in READ_AS_TABLES]
    if len(files) == len(tables):
        raise ArchiveError(
            "A table alone has no photos: choose its photos together with it, or pack both into a "
            "zip."
        )
    name = tables[0].name if tables else files[0].name
    return _keep(files, name, home, "upload", lambda folder: gather(files, folder))


def gather(files: Sequence[Path], folder: Path) -> int:
    """Copies the photos and tables among the files into a new folder, and returns how many others
    there are. Raises ArchiveError for two of one name and for too many.
    """
    wanted = [file for file in files if is_data(PurePosixPath(file.name))]
    if len({file.name.casefold() for file in wanted}) < len(wanted):
        raise ArchiveError("Two of the files have one name: rename one, or pack them into a zip.")
    if len(wanted) > MOST_FILES or sum(file.stat().st_size for file in wanted) > MOST_BYTES:
        raise ArchiveError("These are more files than may be: choose fewer photos.")
    folder.mkdir(parents=True)
    for file in wanted:
        shutil.copyfile(file, folder / file.name)
    return len(files) - len(wanted)


def _keep(
    files: Sequence[Path], name: str, home: Path, what: str, fill: Callable[[Path], int]
) -> Taken:
    """What `fill` writes into a folder, below `home` under a name of the files' contents, if it is
    data. `what` it came as is what sentences call it.
    """
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(name).stem).strip("-")[:40] or "data"
    try:
        folder = home / f"{stem}-{_digest(files)}"
        is_new = not folder.is_dir()
        left_out = 0
        if is_new:
            home.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home, prefix=".unpacking-") as place:
                left_out = fill(Path(place) / "data")
                os.rename(_innermost(Path(place) / "data"), folder)
    except OSError as error:
        raise ArchiveError(f"The {what} cannot be unpacked ({error.strerror or error}).") from error
    try:
        report = check(folder)
        if len({one.line for one in report.problems if one.kind != TWO_SPLITS}) == report.rows:
            first = report.problems[0]
            raise ArchiveError(
                f"No row of the {what} is good; line {first.line}, {first.image}: {first.message}."
            )
    except QvlaError as error:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, ArchiveError):
            raise
        said = str(error).replace(f"{folder}{os.sep}", "").replace(str(folder), f"the {what}")
        raise ArchiveError(f"{said[:1].upper()}{said[1:]}") from error
    return Taken(folder, report, left_out)


def _digest(files: Sequence[Path]) -> str:
    """Of the contents of one file, or of the names and contents of several."""
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda file: file.name):
        with path.open("rb") as file:
            own = hashlib.file_digest(file, "sha256")
        if len(files) == 1:
            return own.hexdigest()[:8]
        digest.update(os.fsencode(path.name) + own.digest())
    return digest.hexdigest()[:8]


def unpack(archive: Path, folder: Path) -> int:
    """Writes the photos and tables of an archive into a new folder, and returns how many other
    files it has. Raises ArchiveError, and OSError when the folder cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = [one for one in packed.infolist() if not one.is_dir()]
            wanted = _wanted(entries)
            left = min(MOST_BYTES, max(ALWAYS_ALLOWED, MOST_TIMES * archive.stat().st_size))
            for path, entry in wanted.items():
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(entry) as source, target.open("xb") as file:
                    left -= _copy(source, file, left)
    except (zipfile.BadZipFile, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise ArchiveError("This is no zip archive, or it is damaged: pack it again.") from error
    except (NotImplementedError, RuntimeError) as error:  # another compression, or a password
        raise ArchiveError(
            "The archive is packed in a way that cannot be read here: pack it as a plain zip, "
            "without a password."
        ) from error
    except FileExistsError as error:
        raise ArchiveError("The archive has a file and a folder of one name.") from error
    return len(entries) - len(wanted)


def _wanted(entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The photos and tables, by their paths within the folder; ArchiveError for an unsafe name."""
    if len(entries) > MOST_FILES:
        raise ArchiveError(f"The archive has {len(entries):,} files, and {MOST_FILES:,} may be.")
    wanted: dict[str, zipfile.ZipInfo] = {}
    taken: set[str] = set()
    for entry in entries:
        path = _plain_path(entry)
        if not is_data(path):
            continue
        if str(path).casefold() in taken:
            raise ArchiveError(f"The archive has {str(path)!r} twice.")
        taken.add(str(path).casefold())
        wanted[str(path)] = entry
    if not wanted:
        raise ArchiveError(
            "The archive holds neither photos nor tables: pack a folder of photos with their "
            "captions.csv."
        )
    return wanted


def _plain_path(entry: zipfile.ZipInfo) -> PurePosixPath:
    name = entry.filename.replace("\\", "/")
    path = PurePosixPath(name)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or len(path.parts) > DEEPEST
        or not name.isprintable()
        or any(":" in part or len(os.fsencode(part)) > 255 for part in path.parts)
        or kind not in (0, stat.S_IFREG)  # a link, or a device
    ):
        raise ArchiveError(
            f"The archive holds {name[:80]!r}, which is no plain file within it: pack the folder "
            "itself, without links."
        )
    return path


def is_data(path: PurePath) -> bool:
    """Whether a file of a folder, by its path within it, is taken: a photo or a table."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in PHOTOS | READ_AS_TABLES


def _copy(source: IO[bytes], target: BinaryIO, most: int) -> int:
    """Bytes written; what an entry says of its own size is not believed."""
    written = 0
    while block := source.read(BLOCK):
        written += len(block)
        if written > most:
            raise ArchiveError(
                "The archive unpacks to more than it may: pack fewer photos, and nothing else."
            )
        target.write(block)
    return written


def _innermost(folder: Path) -> Path:
    """The folder that was packed, which often stands alone in the archive."""
    inside = list(folder.iterdir())
    while len(inside) == 1 and inside[0].is_dir():
        folder, inside = inside[0], list(inside[0].iterdir())
    return folder
