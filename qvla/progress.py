"""How far a long piece of work has come: a bar for a person, lines for a program.

A process whose parent set `QVLA_PROGRESS=json` tells its progress in lines on standard error, each
a JSON object with `progress` (items done), `total` and `what`; otherwise tqdm draws a bar there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

VARIABLE = "QVLA_PROGRESS"
AS_JSON = "json"
LEAST_GAP = 0.2  # seconds between lines, but for the last


class Progress:
    """Counts items done; made by `progress`."""

    def __init__(self, total: int, what: str, done: int = 0) -> None:
        self.total, self.what, self.done = total, what, done
        self._as_json = os.environ.get(VARIABLE) == AS_JSON
        self._told = 0.0
        # disable=None: no bar where standard error is a file or a pipe.
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=what,
            file=sys.stderr,
            disable=True if self._as_json else None,
        )
        self._tell(always=True)

    def step(self, items: int = 1) -> None:
        self.done += items
        self._bar.update(items)
        self._tell(always=self.done >= self.total)

    def say(self, text: str, file: TextIO) -> None:
        """Prints a text without the bar running through it."""
        self._bar.clear()
        print(text, file=file, flush=True)
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()

    def _tell(self, always: bool) -> None:
        now = time.monotonic()
        if self._as_json and (always or now - self._told >= LEAST_GAP):
            self._told = now
            line = {"progress": self.done, "total": self.total, "what": self.what}
            print(json.dumps(line), file=sys.stderr, flush=True)


@contextmanager
def progress(total: int, what: str, done: int = 0) -> Iterator[Progress]:
    """`what` is being done to `total` items, of which `done` were done before."""
    bar = Progress(total, what, done)
    try:
        yield bar
    finally:
        bar.close()
