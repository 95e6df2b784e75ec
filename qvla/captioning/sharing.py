"""How captioning and a fine-tune share one device: comparing goes first.

Both hold a lock file for as long as they compute. Captioning shares it with other captioning, a
fine-tune takes it for itself, one step at a time. So a comparison waits for at most one step, and a
fine-tune pauses between steps for as long as captions are being made. The lock belongs to the
process: one that dies, however it dies, gives it back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no flock: there nobody waits for anybody
    fcntl = None

RULE = (
    "Comparing goes first: a fine-tune on the same device pauses between steps while captions are "
    "made, and a comparison waits for at most one step."
)


@contextmanager
def captioning_turn(path: Path | None) -> Iterator[None]:
    """Keeps fine-tunes on the device from starting a step."""
    lock = DeviceLock(path)
    lock.take(shared=True)
    try:
        yield
    finally:
        lock.give_back()


class DeviceLock:
    """One holder of the lock; None, or a system without flock, holds nothing and never waits."""

    def __init__(self, path: Path | None) -> None:
        self._path = path if fcntl is not None else None
        self._descriptor: int | None = None

    def take(self, shared: bool) -> None:
        if self._path is None or self._descriptor is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)

    def give_back(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)  # which unlocks it
            self._descriptor = None
