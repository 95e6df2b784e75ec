"""How captioning and a fine-tune share one device: comparing goes first.

Both hold a lock file for as long as they compute. Captioning shares it with other captioning, a
fine-tune takes it for itself, one step at a time. So a comparison waits for at most one step, and a
fine-tune pauses between steps for as long as captions are being made. The lock belongs to the
process: one that dies, however it dies, gives it back. Where the file cannot be had, as on a disk
that is full or read-only, nobody waits: no caption depends on it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from qvla.locks import Lock, wait_for

log = logging.getLogger(__name__)

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
    """One holder of the lock; None, or a file that cannot be had, holds nothing and never waits."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._held: Lock | None = None

    def take(self, shared: bool) -> None:
        if self._path is None or self._held is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._held = wait_for(self._path, shared=shared)
        except OSError as error:
            _say_once(self._path, error.strerror or str(error))

    def give_back(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


@lru_cache(maxsize=64)
def _say_once(path: Path, why: str) -> None:
    log.warning(
        "%s cannot be locked (%s): captions and fine-tunes on this device do not wait for each "
        "other.",
        path,
        why,
    )
