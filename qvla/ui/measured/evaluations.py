"""Evaluation records as the CIDEr tab asks about them: scores, differences, captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

from qvla.records.store import Kept, Record
from qvla.settings import Settings
from qvla.ui.contenders import titles_of
from qvla.ui.origins import find_records
from qvla.ui.tables import hardware_name
from qvla.words import counted

ALL = "all"
PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Score:
    """A score with the ends of its 95 % interval; `p_value` of a difference only."""

    value: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None

    @property
    def shown_to_differ(self) -> bool:
        """Whether the interval of a difference leaves out zero."""
        return None not in (self.low, self.high) and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation record. What the record does not hold is None here."""

    kept: Kept
    whose: str = ""  # in words; nothing for what ships and for the owner's
    shipped: bool = False

    @property
    def record(self) -> Record:
        return self.kept.record

    @property
    def stem(self) -> str:
        return self.kept.path.stem

    @property
    def photos(self) -> int:
        return self.record.data.items if self.record.data else 0

    @property
    def title(self) -> str:
        """In a line, for the chooser; the time tells evaluations of one day apart."""
        name = self.record.data.name if self.record.data else "unnamed photos"
        whose = f"{self.whose}: " if self.whose else ""
        item = "question" if self.record.what == "answers" else "photo"
        return (
            f"{whose}{self.record.model} on {name}, {counted(self.photos, item)} · "
            f"{self.record.date:%d %b %Y, %H:%M} · {hardware_name(self.record)}"
        )

    @cached_property
    def titles(self) -> dict[str, str]:
        """Of the default three, and of all others that the record is of."""
        return titles_of([self.record])

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(name for name in self.titles if name in self.record.variants)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """All pairs that the record compares, the first minus the second."""
        return tuple(
            pair
            for one, other in combinations(self.variants, 2)
            for pair in ((other, one), (one, other))
            if any(name.split("/")[1:2] == ["-minus-".join(pair)] for name in self.record.numbers)
        )

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """All photos first, then the sources; a single source would only say the same again."""
        found = {
            name.split("/", 2)[2].removesuffix("/CIDEr")
            for name in self.record.numbers
            if name.endswith("/CIDEr") and name.split("/")[1] in self.titles
        }
        sources = sorted(found - {ALL})
        return (ALL, *(sources if len(sources) > 1 else ()))

    def images(self, protocol: str, group: str = ALL) -> int | None:
        return self.record.numbers.get(f"{protocol}/{group}/images")

    def score(self, protocol: str, variant: str, metric: str, group: str = ALL) -> Score | None:
        return self._at(f"{protocol}/{variant}/{group}/{metric}")

    def difference(
        self, protocol: str, first: str, second: str, metric: str = "CIDEr", group: str = ALL
    ) -> Score | None:
        """By how much the first scores more than the second."""
        return self._at(f"{protocol}/{first}-minus-{second}/{group}/{metric}")

    def predictions(self, variant: str) -> Path | None:
        """The file with a variant's captions, when it is on this machine."""
        path = self.kept.file(f"{PREDICTIONS}/{variant}")
        return path if path is not None and path.is_file() else None

    def _at(self, name: str) -> Score | None:
        numbers = self.record.numbers
        value = numbers.get(name)
        if value is None:
            return None
        ends = (numbers.get(f"{name}/{end}") for end in ("low", "high", "p_value"))
        return Score(value, *ends)


def find_evaluations(
    settings: Settings,
    on_problem: Callable[[str], None] = lambda problem: None,
    what: str = "evaluation",
) -> list[Evaluation]:
    """All evaluations of captions, or of `answers`, first the one to show first.

    That is one of the model that runs here, before those of others; and what ships, the one of the
    most photos first, before the newest of the owner's. What a visitor measured or a job's adapter
    was evaluated to comes after all these, under its name.
    """
    found = [
        Evaluation(one.kept, one.whose, one.shipped)
        for one in find_records(settings, on_problem, what)
    ]

    def rank(one: Evaluation) -> tuple[bool, bool, bool, int]:
        size = -one.photos if one.shipped else 0
        return bool(one.whose), one.record.model != settings.model_name, not one.shipped, size

    return sorted(found, key=rank)
