"""Who may vote on what: each visit on the comparison that it was shown last, and once."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from qvla.records.votes import Voted
from qvla.ui.compare.history import Comparison

MOST_OPEN = 1000  # ballots; visits that left theirs open lose the oldest
PERIOD, MOST_IN_PERIOD = 600.0, 30  # seconds, and votes of one address in them


@dataclass(frozen=True)
class Ballot:
    """What a visit was shown: `entry` has the panes, with their names, in the order shown."""

    entry: Comparison
    shown: tuple[Voted, ...]


class Ballots:
    """The open ballot of each visit, by Gradio's session hash. Any thread may ask."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Ballot] = OrderedDict()
        self._votes: dict[str, list[float]] = {}  # when each address voted, while that counts

    def hold(self, visit: str, ballot: Ballot) -> None:
        with self._lock:
            self._open[visit] = ballot
            self._open.move_to_end(visit)
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)

    def take(self, visit: str) -> Ballot | None:
        """The visit's ballot, which is no longer open; None where it has none, or had it before."""
        with self._lock:
            return self._open.pop(visit, None)

    def is_open(self, visit: str) -> bool:
        with self._lock:
            return visit in self._open

    def allows(self, address: str) -> bool:
        """Whether this address may vote now; if so, the vote counts. Addresses are not kept for
        longer than they count.
        """
        now = self._now()
        with self._lock:
            recent = {
                one: [at for at in times if now - at < PERIOD] for one, times in self._votes.items()
            }
            self._votes = {one: times for one, times in recent.items() if times}
            if len(self._votes.get(address, ())) >= MOST_IN_PERIOD:
                return False
            self._votes.setdefault(address, []).append(now)
            return True
