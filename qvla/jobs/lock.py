"""The locks of jobs and devices, which a worker and the process that trains hold together.

A worker takes a job's lock, and the device's, before it claims the job, and hands both to the
training process, which inherits the descriptors: neither is free before both processes are gone.
That is why jobs do not run on Windows. There a lock is its process's own, whichever library takes
it: with the worker gone a job would look free while it still trains, and be started twice.
"""

from __future__ import annotations

import os
from pathlib import Path

from qvla import locks
from qvla.jobs.errors import JobError
from qvla.locks import Lock


def take(path: Path, wait: float = 0.0) -> Lock | None:
    """The lock on a file; None when another has it for longer than `wait` seconds.

    Raises JobError on a system whose locks no child inherits, OSError as `locks.take` does.
    """
    if os.name != "posix":
        raise JobError(
            "Fine-tune jobs need locks that processes share, which Linux and macOS have."
        )
    return locks.take(path, wait)


def sign(descriptor: int, who: str) -> None:
    """Writes into a held lock file who holds it."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, who.encode(), 0)


def signature(path: Path) -> str:
    """Who signed last; empty when nobody did."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
