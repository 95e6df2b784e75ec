"""Results of a function that is cheaper for many keys at once, remembered for the next call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from threading import Lock
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")

_all: list[Remembered[Any, Any]] = []


class Remembered(Generic[Key, Result]):
    """Asks `compute` only for keys it has not met lately, for all of them in one call.

    The references of a data set are scored against again and again: by variant, group of photos and
    protocol. At most `most` results are kept; those first met go first.
    """

    def __init__(self, compute: Callable[[list[Key]], Sequence[Result]], most: int) -> None:
        self._compute, self._most = compute, most
        self._known: dict[Key, Result] = {}
        self._lock = Lock()
        _all.append(self)

    def __call__(self, keys: Iterable[Key]) -> list[Result]:
        """The result of each key, in order."""
        keys = list(keys)
        with self._lock:
            unknown = [key for key in dict.fromkeys(keys) if key not in self._known]
            if unknown:
                self._known.update(zip(unknown, self._compute(unknown), strict=True))
            results = [self._known[key] for key in keys]
            for key in list(self._known)[: max(0, len(self._known) - self._most)]:
                del self._known[key]
        return results

    def forget(self) -> None:
        with self._lock:
            self._known.clear()


def forget() -> None:
    """Forgets everything, so that the next scoring takes as long as a first one."""
    for remembered in _all:
        remembered.forget()
