"""Which comparison each visit has under way, so that it can be stopped from another event."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class Run:
    """One comparison. `discarded`: what it still has to say is about a photo no longer shown."""

    stopped: threading.Event = field(default_factory=threading.Event)
    discarded: bool = False


class Runs:
    """The running comparison of each visit, by Gradio's session hash."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, Run] = {}

    def begin(self, visit: str) -> Run:
        run = Run()
        with self._lock:
            self._running[visit] = run
        return run

    def end(self, visit: str, run: Run) -> None:
        with self._lock:
            if self._running.get(visit) is run:
                del self._running[visit]

    def stop(self, visit: str, *, discard: bool = False) -> None:
        with self._lock:
            run = self._running.get(visit)
            if run is not None:
                run.discarded = discard
                run.stopped.set()

    def is_running(self, visit: str) -> bool:
        with self._lock:
            return visit in self._running
