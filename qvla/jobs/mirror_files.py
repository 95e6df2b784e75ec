"""What of this machine's folders a repository on the hub keeps as well, and by which names.

`records/*.json`, and of every job that is done and made an adapter: `jobs/ID/adapter/…`, its
recipe, its events and its row of the store, from which a store that is gone is filled again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qvla.files import parse_json
from qvla.jobs import folder as files
from qvla.jobs import publishing
from qvla.jobs.job import Job, JobState, job_of
from qvla.jobs.places import is_name
from qvla.jobs.store import Store
from qvla.methods.registry import KINDS
from qvla.settings import Settings

ROW = "job.json"
OWN_FIELDS = ("id", "recipe", "attempt", "owner", "log", "name", "note")
EVENTS = f"{files.OUTPUT}.events.jsonl"
BESIDE = (ROW, files.RECIPE, EVENTS)
PUBLISHED = f"jobs/{publishing.FILE}"
# No pickle and no program; what is hidden or in a folder of its own is nobody's of ours.
_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,150}"
_RECORD = re.compile(rf"records/({_PLAIN}\.json)")
_OF_JOB = re.compile(
    rf"jobs/([^/]+)/(?:({'|'.join(map(re.escape, BESIDE))})"
    rf"|{files.OUTPUT}/({_PLAIN}\.(?:safetensors|json|yaml|txt|md|jinja)))"
)


@dataclass(frozen=True)
class Item:
    """A file to keep: its name there, what it is here, and a mark that changes when it does."""

    name: str
    content: Path | bytes
    mark: str


def is_ours(name: str) -> bool:
    """Whether a file of the repository is one that could be taken in here."""
    if name == PUBLISHED or _RECORD.fullmatch(name):
        return True
    of_job = _OF_JOB.fullmatch(name)
    return of_job is not None and is_name(of_job[1])


def job_in(name: str) -> str | None:
    """The job that a name in the repository belongs to."""
    of_job = _OF_JOB.fullmatch(name)
    return of_job[1] if of_job else None


def groups(settings: Settings, store: Store) -> Iterator[list[Item]]:
    """What there is to keep, the oldest job first; each group belongs into one commit.

    Raises StoreError.
    """
    for job in reversed(store.all(JobState.DONE)):
        folder = settings.jobs / job.id
        kind = KINDS.get(job.method)
        if kind is None or not kind.method.is_adapter or not files.is_complete(folder):
            continue
        row = _row(job)
        items = [Item(f"jobs/{job.id}/{ROW}", row, hashlib.sha256(row).hexdigest())]
        for path in (*sorted((folder / files.OUTPUT).iterdir()), folder / files.RECIPE):
            items += _item(path, f"jobs/{job.id}/{path.relative_to(folder).as_posix()}")
        yield [*items, *_item(folder / EVENTS, f"jobs/{job.id}/{EVENTS}")]
    records = sorted(settings.records.glob("*.json"))
    yield [item for path in records for item in _item(path, f"records/{path.name}")]
    yield list(_item(settings.jobs / publishing.FILE, PUBLISHED))


def is_empty(settings: Settings) -> bool:
    """Whether nothing that is kept was made here."""
    if any(settings.records.glob("*.json")):
        return False
    return not settings.jobs.is_dir() or not any(
        is_name(one.name) for one in settings.jobs.iterdir()
    )


def take_in(came: Path, settings: Settings, store: Store) -> int:
    """Puts what was fetched into its places, what is there already excepted; returns how many jobs
    came back. Raises OSError and StoreError.
    """
    back = 0
    for folder in sorted((came / "jobs").glob("*")):
        place = settings.jobs / folder.name
        if not (is_name(folder.name) and files.is_complete(folder)) or place.exists():
            continue
        job = _read_row(folder)
        if job is not None:
            settings.jobs.mkdir(parents=True, exist_ok=True)
            folder.rename(place)
            back += store.put_back(job)
    for path in sorted((came / "records").glob("*.json")):
        settings.records.mkdir(parents=True, exist_ok=True)
        if not (settings.records / path.name).exists():
            path.rename(settings.records / path.name)
    publishing.put_back(settings, came / PUBLISHED)
    return back


def _item(path: Path, name: str) -> Iterator[Item]:
    """The file, if it is one that may be kept."""
    if path.is_symlink() or not path.is_file() or not is_ours(name):
        return
    seen = path.stat()
    yield Item(name, path, f"{seen.st_size}-{seen.st_mtime_ns}")


def _row(job: Job) -> bytes:
    moments = {name: getattr(job, name) for name in ("created", "started", "finished")}
    values: dict[str, Any] = {
        **{name: getattr(job, name) for name in OWN_FIELDS},
        **{name: one and one.timestamp() for name, one in moments.items()},
    }
    return (json.dumps(values, indent=1) + "\n").encode()


def _read_row(folder: Path) -> Job | None:
    """The row that was kept of a job; None when it is none, or another's."""
    try:
        values = parse_json((folder / ROW).read_bytes())
        job = job_of(
            {
                **dict.fromkeys(("heartbeat", "worker")),
                **dict.fromkeys(("name", "note"), ""),  # which older rows lack
                **{"state": JobState.DONE.value, "reason": "", "cancel_requested": 0},
                **values,
                "recipe": json.dumps(values["recipe"]),
            }
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if job.state is not JobState.DONE or job.id != folder.name:
        return None
    return replace(job, reason="")
