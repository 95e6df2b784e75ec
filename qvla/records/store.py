"""Measured results on disk: one JSON file a measurement, with everything needed to judge it.

A record says what was measured, on which model, data, hardware and versions, at which commit and
when. Shipped records lie in `assets/records/`, those measured here where the
settings say.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
import subprocess
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from qvla.errors import QvlaError
from qvla.files import parse_json
from qvla.settings import ASSETS, CHECKOUT

if TYPE_CHECKING:
    JsonValue = Any  # what was written by a suite is known to that suite alone
else:
    from pydantic import JsonValue

SCHEMA: Literal[1] = 1
SHIPPED = ASSETS / "records"
PACKAGES = ("qvla", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "gradio")

log = logging.getLogger(__name__)


class RecordError(QvlaError):
    """A file that cannot be used as a record; the message says why."""


class Part(BaseModel):
    """What all parts of a record share: fixed once made, and no field that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Part):
    """What was measured on: a name in words, how many items, and a hash of their contents."""

    name: str
    items: int = Field(ge=0)
    fingerprint: str


class Hardware(Part):
    """The machine: the accelerators' names are empty on a machine that has none."""

    system: str
    processor: str
    cores: int = Field(ge=1)
    memory_bytes: int = Field(ge=0)
    accelerators: tuple[str, ...] = ()


class Record(Part):
    """One measurement.

    Names of `numbers` are paths, from what they are of to what they are, as `qvla/loaded_bytes`. A
    last step with a unit ends in it (`_seconds`, `_bytes`, `_ratio`, `_per_second`). The ends of a
    95 % interval are one step deeper: `…/CIDEr/low` and `…/CIDEr/high`. `series` are curves, by the
    same rules, and all series of one stem are of equal length. `files` are further results, by
    paths relative to the folder above the record's own.
    """

    record: Literal[1] = SCHEMA
    what: str
    model: str
    variants: tuple[str, ...]
    data: Data | None
    numbers: dict[str, int | FiniteFloat | None]
    series: dict[str, tuple[FiniteFloat, ...]] = {}
    files: dict[str, str] = {}
    protocol: dict[str, JsonValue]
    hardware: Hardware
    versions: dict[str, str]
    commit: str | None
    date: AwareDatetime

    def number(self, name: str) -> float:
        """One of the numbers; raises KeyError when it is not there or could not be measured."""
        value = self.numbers[name]
        if value is None:
            raise KeyError(name)
        return value

    @property
    def items(self) -> int:
        """How many items it was measured on."""
        return 0 if self.data is None else self.data.items


def new_record(
    what: str,
    *,
    model: str,
    variants: Iterable[str],
    data: Data | None,
    numbers: Mapping[str, int | float | None],
    protocol: Mapping[str, JsonValue],
    series: Mapping[str, Iterable[float]] | None = None,
    files: Mapping[str, str] | None = None,
) -> Record:
    """A record of something measured just now, on this machine, with this code."""
    return Record(
        what=what,
        model=model,
        variants=tuple(variants),
        data=data,
        numbers=dict(numbers),
        series={name: tuple(values) for name, values in (series or {}).items()},
        files=dict(files or {}),
        protocol=dict(protocol),
        hardware=hardware(),
        versions=versions(),
        commit=commit(),
        date=datetime.now(UTC),
    )


def write(record: Record, folder: str | Path) -> Path:
    """Writes the record to a file of its own and returns that; the file is whole or absent."""
    folder = Path(folder)
    subject = re.sub(r"[^a-z0-9]+", "-", record.what.lower()).strip("-")
    stamp = record.date.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = folder / f"{stamp}-{subject}-{uuid.uuid4().hex[:8]}.json"
    temporary = path.with_suffix(".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise RecordError(f"The record cannot be written to {folder}: {error.strerror}.") from error
    return path


def read(path: str | Path) -> Record:
    """Reads one record. Raises RecordError when it is damaged or of a schema unknown here."""
    path = Path(path)
    try:
        seen = path.stat()
    except OSError as error:
        raise RecordError(f"The record {path} cannot be opened: {error.strerror}.") from error
    return _read(path, (seen.st_mtime_ns, seen.st_size, seen.st_ino))


@lru_cache(maxsize=1024)  # the page asks for all of them at each comparison
def _read(path: Path, stamp: tuple[int, ...]) -> Record:
    """A file as it was at its `stamp`; what cannot be read is looked at anew each time."""
    try:
        text = path.read_bytes()
        content = parse_json(text)
    except OSError as error:
        raise RecordError(f"The record {path} cannot be opened: {error.strerror}.") from error
    except ValueError as error:
        raise RecordError(f"The record {path} is damaged: it is not JSON.") from error
    schema = content.get("record") if isinstance(content, dict) else None
    if schema is None:
        raise RecordError(f"{path} is not a record of this project.")
    if schema != SCHEMA:
        raise RecordError(f"The record {path} has schema {schema}; only {SCHEMA} is known here.")
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(step) for step in first["loc"])
        at = f" at {field}" if field else ""
        raise RecordError(f"The record {path} is damaged{at}: {first['msg']}.") from error


@dataclass(frozen=True)
class Kept:
    """A record with the file it lies in."""

    path: Path
    record: Record

    def file(self, name: str) -> Path | None:
        """Where one of the record's `files` lies; None when it has none of that name.

        A path that leaves the folder above the record's own is as good as none.
        """
        root = self.path.resolve().parent.parent
        if name not in self.record.files:
            return None
        path = (root / self.record.files[name]).resolve()
        return path if path.is_relative_to(root) else None


def read_all(folder: str | Path, on_problem: Callable[[str], None] = log.warning) -> list[Record]:
    """All readable records of one folder, the oldest first. See `find`."""
    return [kept.record for kept in find(None, [folder], on_problem)]


def find(
    what: str | None,
    folders: Iterable[str | Path],
    on_problem: Callable[[str], None] = log.warning,
) -> list[Kept]:
    """All readable records of some folders, or those of one kind, the oldest first.

    Each file that is no record is told to `on_problem` and left out. A folder that does not exist
    holds no records.
    """
    found = []
    for path in (path for folder in folders for path in sorted(Path(folder).glob("*.json"))):
        try:
            kept = Kept(path, read(path))
        except RecordError as error:
            on_problem(f"{error} It was left out.")
            continue
        if what in (None, kept.record.what):
            found.append(kept)
    return sorted(found, key=lambda kept: kept.record.date)


def fingerprint(files: Iterable[Path], also: Iterable[str] = ()) -> str:
    """SHA-256 over the contents of the files and further texts, both in the order given.

    File names and places do not count, so the same photos give the same value on every machine.
    """
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    for text in also:
        digest.update(hashlib.sha256(text.encode()).digest())
    return f"sha256:{digest.hexdigest()}"


def hardware() -> Hardware:
    """This machine. Cores are those that this process may use."""
    import psutil
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Hardware(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=cores or 1,
        memory_bytes=psutil.virtual_memory().total,
        accelerators=tuple(
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        ),
    )


def versions() -> dict[str, str]:
    """Python and the packages that a figure may depend on, as far as they are installed."""
    import qvla

    found = {"python": platform.python_version(), "qvla": qvla.__version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The checkout's commit, with `+` behind it when files differ from it; None outside of git.

    A package that is installed, or unpacked, in a folder of somebody else's repository has none.
    """
    top = CHECKOUT and _git(CHECKOUT, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != CHECKOUT:
        return None
    head = _git(CHECKOUT, "rev-parse", "HEAD")
    if not head:
        return None
    return head + ("+" if _git(CHECKOUT, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _processor() -> str:
    """The processor's trade name where Linux tells it; `platform` knows only the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
