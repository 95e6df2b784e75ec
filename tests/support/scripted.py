"""Comparisons that say what a test tells them to, when it tells them to."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from qvla.ui.panes import Pane, PaneState, idle_panes

Panes = tuple[Pane, ...]


class Script:
    """Stands in for `comparison.compare`: yields `steps`, the last of them once `gate` is open."""

    def __init__(self) -> None:
        self.steps: list[Panes] = []
        self.gate = threading.Event()
        self.asked: list[Sequence[str]] = []  # references of each comparison that had its turn

    def __call__(
        self,
        loader: Any,
        image: Any,
        options: Any,
        references: Sequence[str],
        stopped: threading.Event,
        names: Sequence[str] | None = None,
        *_: Any,
        **__: Any,
    ) -> Iterator[Panes]:
        self.asked.append(references)
        *first, last = [
            tuple(pane for pane in step if names is None or pane.name in names)
            for step in self.steps
        ]
        yield from first
        while not self.gate.wait(0.05):
            if stopped.is_set():
                return
        yield last


def panes(loader: Any, state: PaneState, message: str = "", text: str = "") -> Panes:
    """All panes in one state; their sentences tell them apart."""
    return tuple(
        replace(
            pane,
            state=state,
            message=f"{message} ({pane.name})" if message else "",
            text=f"{text} {pane.name}" if text else "",
            tokens=3 if text else 0,
        )
        for pane in idle_panes(loader.contenders)
    )
