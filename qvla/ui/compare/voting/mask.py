"""Panes without names, in an order of chance: what the page holds until the visitor has voted."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass

from qvla.ui.panes import Pane, PaneState

HIDDEN = "hidden-"  # begins the names of panes that hide theirs
WRITING = "Being written. All appear together."
UNTOLD = "Vote to see who wrote it."


@dataclass(frozen=True)
class Mask:
    """`order` names those who answer as they are shown: A, B, C and so on."""

    order: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> Mask:
        shuffled = list(names)
        secrets.SystemRandom().shuffle(shuffled)
        return cls(tuple(shuffled))

    def hide(self, panes: Sequence[Pane]) -> tuple[Pane, ...]:
        """Panes that hold the captions alone, and those only once all are done: who is faster, or
        larger, would be known by that.
        """
        done = all(pane.state is PaneState.DONE and pane.text for pane in panes)
        return tuple(
            Pane(
                f"{HIDDEN}{letter.lower()}",
                PaneState.DONE if done else PaneState.WAITING,
                UNTOLD if done else WRITING,
                text=pane.text if done else "",
                called=letter,
            )
            for letter, pane in zip(string.ascii_uppercase, self.ordered(panes), strict=False)
        )

    def ordered(self, panes: Sequence[Pane]) -> tuple[Pane, ...]:
        """The panes as they are, in the order in which they were hidden; who came since, last."""
        place = {name: number for number, name in enumerate(self.order)}
        return tuple(sorted(panes, key=lambda pane: place.get(pane.name, len(place))))


def is_hidden(pane: Pane) -> bool:
    return pane.name.startswith(HIDDEN)
