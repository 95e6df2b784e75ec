"""Waiting for what must come. No test says how soon: the machine may be busy with other things."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 600.0  # seconds; only what never comes takes as long

T = TypeVar("T")


def until(what: Callable[[], T]) -> T:
    """Asks again and again, and returns the first answer that counts as true."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := what()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)
    return answer
