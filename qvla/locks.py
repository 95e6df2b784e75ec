"""Lock files that the system gives back however their holder dies.

A lock is held by one alone, or shared by many who keep out whoever wants it alone. It belongs to
the open file: on Linux and macOS, where it is a flock, a child process that inherits the descriptor
holds the lock too, and for as long as it lives. On Windows it is the process's own, and no child
inherits it.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_STEP = 0.02
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has none


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
    """The lock on a file for oneself; None when another has it for longer than `wait` seconds.

    The file is made. Raises OSError when it cannot be, or is a link, or its disk knows no locks.
    """
    deadline = time.monotonic() + wait
    while (held := _take(path, shared=False, at_once=True)) is None:
        if time.monotonic() >= deadline:
            return None
        time.sleep(_STEP)
    return held


def wait_for(path: Path, *, shared: bool) -> Lock:
    """The lock on a file, for oneself or shared, however long that takes. Raises as `take` does."""
    while (held := _take(path, shared=shared, at_once=False)) is None:
        pass  # the file was deleted meanwhile, or Windows, which asks ten times, gave up
    return held


def _take(path: Path, *, shared: bool, at_once: bool) -> Lock | None:
    import portalocker  # here, because it imports its client of Redis as well

    flags = portalocker.LockFlags.SHARED if shared else portalocker.LockFlags.EXCLUSIVE
    if at_once:
        flags |= portalocker.LockFlags.NON_BLOCKING
    descriptor = _open(path)
    try:
        portalocker.lock(descriptor, flags)
        # The file may have been deleted meanwhile, and a lock on it would keep nobody out.
        if _is_at(path, descriptor):
            return Lock(descriptor)
    except portalocker.AlreadyLocked:
        pass
    except portalocker.LockException as error:
        os.close(descriptor)
        raise OSError(errno.ENOLCK, f"it cannot be locked: {error}", str(path)) from error
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o644)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        # One that is there and may not be written to can be locked all the same.
        return os.open(path, os.O_RDONLY | _NO_LINK)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
