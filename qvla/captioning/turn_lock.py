"""A lock whose holder can see that somebody waits for it, and let go in time."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from weakref import WeakSet


class TurnLock:
    """As `threading.Lock`, and `wanted` says whether anybody waits.

    Free in a process that is forked: who held it there was a thread that stayed behind.
    """

    def __init__(self) -> None:
        self._free()
        _ALL.add(self)

    def _free(self) -> None:
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0

    @property
    def wanted(self) -> bool:
        return self._waiting > 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Whether it was to be had, within `timeout` seconds where that is not -1."""
        with self._counting:
            self._waiting += 1
        try:
            if timeout == 0:
                return self._lock.acquire(blocking=False)
            return self._lock.acquire(blocking, timeout)
        finally:
            with self._counting:
                self._waiting -= 1

    def release(self) -> None:
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> TurnLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _free_all() -> None:
    for lock in _ALL:
        lock._free()


_ALL: WeakSet[TurnLock] = WeakSet()
os.register_at_fork(after_in_child=_free_all)
