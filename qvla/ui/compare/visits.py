"""What each visit waits for and has under way, so that it can be stopped from another event."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from gradio.data_classes import FileData

from qvla.ui.compare.voting.mask import Mask
from qvla.ui.panes import Pane


@dataclass(frozen=True)
class Wanted:
    """A comparison that was asked for; `options` are the arguments of `Decoding`.

    `seats` names those who are to answer, empty for the default; without a `question` it is
    captions that are wanted. A `mask` hides who says what until the visitor has voted.
    """

    photo: FileData
    references: tuple[str, ...]
    options: dict[str, Any]
    seats: tuple[str, ...] = ()
    question: str = ""
    mask: Mask | None = None

    def seen(self, panes: tuple[Pane, ...]) -> tuple[Pane, ...]:
        """These panes as the page may have them."""
        return panes if self.mask is None else self.mask.hide(panes)


@dataclass
class Run:
    """One comparison. `discarded`: what it still has to say is about a photo no longer shown."""

    wanted: Wanted
    stopped: threading.Event = field(default_factory=threading.Event)
    discarded: bool = False


class Runs:
    """The waiting and the running comparison of each visit, by Gradio's session hash.

    A comparison waits here from the press of the button until its event's turn in Gradio's queue.
    An event whose turn comes when nothing waits, because the visit has left, does nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, Wanted] = {}
        self._running: dict[str, Run] = {}

    def ask(self, visit: str, wanted: Wanted) -> bool:
        """Has this comparison wait; False, without effect, when the visit has one already."""
        with self._lock:
            run = self._running.get(visit)
            if visit in self._waiting or (run is not None and not run.discarded):
                return False
            self._waiting[visit] = wanted
            return True

    def begin(self, visit: str) -> Run | None:
        """What the visit waits for begins; None when it waits for nothing."""
        with self._lock:
            wanted = self._waiting.pop(visit, None)
            if wanted is None:
                return None
            self._running[visit] = run = Run(wanted)
            return run

    def end(self, visit: str, run: Run) -> None:
        with self._lock:
            if self._running.get(visit) is run:
                del self._running[visit]

    def stop(self, visit: str, *, discard: bool = False) -> bool:
        """Ends what runs, and has the visit wait no longer; True when it waited."""
        with self._lock:
            run = self._running.get(visit)
            if run is not None:
                run.discarded = discard
                run.stopped.set()
            return self._waiting.pop(visit, None) is not None

    def is_busy(self, visit: str) -> bool:
        """Whether captions are still to come."""
        with self._lock:
            return visit in self._waiting or visit in self._running
