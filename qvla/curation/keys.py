"""A pool of API keys that are used in turn.

A key rests when its requests come too fast, and leaves the pool when it is refused or its quota is
gone. What is logged of one is its number and a short fingerprint, never the key.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qvla.errors import QvlaError

log = logging.getLogger(__name__)

LIMITED_MOST = 8  # times in a row that a key may come too fast before its quota counts as gone
LONGEST_REST = 900.0  # seconds; who is told to wait for longer has no quota left


class CurationError(QvlaError):
    """Photos cannot be asked about; the message says what to do."""


class AllKeysExhausted(CurationError):
    """No key is left in the pool."""


@dataclass
class Key:
    """One key; `ready` is the reading of the clock from which on it may be used."""

    secret: str = field(repr=False)
    number: int = 1
    ready: float = 0.0
    limited: int = 0  # times in a row that it came too fast

    @property
    def name(self) -> str:
        """What it is called: its place in the file, and eight digits of its hash."""
        digest = hashlib.sha256(self.secret.encode()).hexdigest()
        return f"Key {self.number} ({digest[:8]})"


class KeyPool:
    """Keys in a circle. `per_minute` requests may be made by each, evenly spaced; 0 is no limit."""

    def __init__(
        self,
        secrets: Sequence[str],
        per_minute: float = 0.0,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._keys = [Key(secret, number) for number, secret in enumerate(secrets, start=1)]
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._now, self._sleep = now, sleep

    def __len__(self) -> int:
        return len(self._keys)

    def take(self) -> Key:
        """The next key in the circle that may be used, waiting until there is one.

        Raises AllKeysExhausted when none is left.
        """
        if not self._keys:
            raise AllKeysExhausted("All API keys are used up or refused: name others with --keys.")
        now = self._now()
        key = next((one for one in self._keys if one.ready <= now), None)
        if key is None:
            key = min(self._keys, key=lambda one: one.ready)
            self._sleep(key.ready - now)
            now = key.ready
        key.ready = now + self._gap
        self._keys.remove(key)
        self._keys.append(key)  # whose turn is over
        return key

    def rest(self, key: Key, seconds: float) -> None:
        """Has a key that came too fast wait; one that does so for ever is dropped."""
        key.limited += 1
        if key.limited >= LIMITED_MOST or seconds > LONGEST_REST:
            self.drop(key, "its requests are turned away as too many")
        else:
            key.ready = max(key.ready, self._now() + seconds)

    def worked(self, key: Key) -> None:
        key.limited = 0

    def drop(self, key: Key, why: str) -> None:
        """Takes a key out of the circle, and says so once."""
        self._keys.remove(key)
        log.warning("%s is dropped: %s. %d left.", key.name, why, len(self._keys))


def read_keys(path: Path) -> list[str]:
    """The keys of a file, one a line; blank lines and those after `#` are none. Raises
    CurationError, which holds no key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CurationError(
            f"The keys in {path} cannot be read: name a text file, one key a line."
        ) from error
    keys: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if not key.isascii() or not key.isprintable() or " " in key:
            raise CurationError(f"Line {number} of {path} is no API key: write one key a line.")
        keys[key] = None
    if not keys:
        raise CurationError(f"There is no key in {path}: write one key a line.")
    return list(keys)
