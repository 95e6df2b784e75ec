"""Evaluation records as the CIDEr tab asks about them: scores, differences, captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qvla.records import store as records
from qvla.records.store import Kept, Record
from qvla.ui.panes import VARIANT_TITLES
from qvla.ui.tables import hardware_name

ALL = "all"
PAIRS = (("adapter", "base"), ("qvla", "base"), ("qvla", "adapter"))  # first minus second
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
        return (
            f"{self.record.model} on {name}, {self.photos:,} photos · "
            f"{self.record.date:%d %b %Y, %H:%M} · {hardware_name(self.record)}"
        )

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(name for name in VARIANT_TITLES if name in self.record.variants)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """All photos first, then the sources; a single source would only say the same again."""
        found = {
            name.split("/", 2)[2].removesuffix("/CIDEr")
            for name in self.record.numbers
            if name.endswith("/CIDEr") and name.split("/")[1] in VARIANT_TITLES
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
    folders: Sequence[Path], on_problem: Callable[[str], None]
) -> list[Evaluation]:
    """All evaluations, first the one to show first.

    That is the newest measured here, which is what the last folder holds; without one, the shipped
    one of the most photos.
    """
    found = [Evaluation(kept) for kept in records.find("evaluation", folders, on_problem)]
    found.reverse()
    own = Path(folders[-1]).resolve()
    here = [one for one in found if one.kept.path.parent.resolve() == own]
    shipped = [one for one in found if one not in here]
    return here + sorted(shipped, key=lambda one: -one.photos)
