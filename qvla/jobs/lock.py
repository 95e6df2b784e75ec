"""Lock files that the system gives back however their holder dies.

A lock belongs to the open file, so a child process that inherits the descriptor holds the lock too,
and for as long as it lives. A worker takes a job's lock, and the device's, before it claims the
job, and hands both to the training process: neither is free before both processes are gone.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from qvla.jobs.errors import JobError

try:
    import fcntl
except ImportError:
    fcntl = None

_STEP = 0.02


@dataclass(frozen=True)
class Lock:
    """A lock that is held. Close it, or use it in `with`, to give it back."""

    descriptor: int

    def close(self) -> None:
        os.close(self.descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def take(path: Path, wait: float = 0.0) -> Lock | None:
    """The lock on a file, which is made; None when another has it for longer than `wait` seconds.

    Raises JobError on a system that has no such locks.
    """
    if fcntl is None:
        raise JobError("Fine-tune jobs need file locks, which Linux and macOS have.")
    deadline = time.monotonic() + wait
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been deleted meanwhile, and a lock on it would keep nobody out.
            if _is_at(path, descriptor):
                return Lock(descriptor)
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() >= deadline:
            return None
        time.sleep(_STEP)


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


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
