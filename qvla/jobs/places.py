"""Where jobs live: their folder, their store and their queue, as the settings say."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import URL

from qvla.jobs.errors import JobError
from qvla.settings import Settings

_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")


@dataclass(frozen=True)
class Places:
    """`jobs` is absolute, and every machine that works on these jobs sees the same folder there."""

    jobs: Path
    database_url: str | URL
    redis_url: str | None
    device_lock: Path

    @property
    def queue(self) -> Path:
        return self.jobs / "queue.sqlite3"

    def folder(self, job_id: str) -> Path:
        """The folder of one job, in `jobs` and nowhere else."""
        if not is_name(job_id):
            raise JobError(f"{job_id!r} is no job's name.")
        return self.jobs / job_id


def places_of(settings: Settings) -> Places:
    """Makes the folder, and raises JobError when it cannot be made."""
    jobs = settings.jobs.absolute()
    try:
        jobs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(
            f"{jobs} cannot be written to ({error.strerror}); name another folder in QVLA_JOBS."
        ) from error
    own = URL.create("sqlite", database=str(jobs / "jobs.sqlite3"))
    url = settings.database_url or own
    return Places(jobs, url, settings.redis_url, settings.device_lock.absolute())


def is_name(job_id: str) -> bool:
    """Whether a job could be called this."""
    return _ID.fullmatch(job_id) is not None


def new_id() -> str:
    """A name that sorts by time and that nobody guesses or repeats."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
