"""What was measured on what: records grouped by model and machine, the newest figure first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qvla.records.reported import reported
from qvla.records.store import Kept
from qvla.settings import Settings
from qvla.ui.contenders import titles_of
from qvla.ui.origins import find_records
from qvla.ui.tables import hardware_name


@dataclass(frozen=True)
class Value:
    """A measured number with the ends of its range, and the stem of its record's file."""

    number: float
    record: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Subject:
    """One model on one machine, as the owner or else somebody (`whose`) measured it.

    `kept` holds its records, the newest first.
    """

    name: str
    kept: tuple[Kept, ...]
    whose: str = ""

    @cached_property
    def model(self) -> str:
        return self.kept[0].record.model

    @cached_property
    def titles(self) -> dict[str, str]:
        """Of all contenders that its records name, the default three first."""
        return titles_of(one.record for one in self.kept)

    def of(self, what: str) -> tuple[Kept, ...]:
        return tuple(one for one in self.kept if one.record.what == what)

    def value(self, *places: tuple[str, str]) -> Value | None:
        """The newest number at the first place (what, name) where there is one."""
        for what, name in places:
            for one in self.of(what):
                numbers = one.record.numbers
                if numbers.get(name) is not None:
                    return Value(
                        numbers[name],
                        one.path.stem,
                        numbers.get(f"{name}/lowest"),
                        numbers.get(f"{name}/highest"),
                    )
        return None

    def curve(
        self, variant: str, whats: Iterable[str]
    ) -> tuple[tuple[float, ...], tuple[float, ...], str] | None:
        """Seconds, bytes and the record of the newest training of a variant."""
        for what in whats:
            for one in self.of(what):
                series = one.record.series
                times = series.get(f"{variant}/training_seconds")
                sizes = series.get(f"{variant}/training_bytes")
                if times and sizes and len(times) == len(sizes):
                    return times, sizes, one.path.stem
        return None


def find_subjects(settings: Settings, whats: Sequence[str]) -> tuple[list[Subject], list[str]]:
    """All that has records of these kinds, first what to show first; and what could not be read.

    First comes what has records of the first kind, then what visitors did not measure, then the
    model that runs here, then the model of the report, then the newest.
    """
    problems: list[str] = []
    groups: dict[tuple[str, str], list[Kept]] = {}
    for one in find_records(settings, problems.append):
        if one.record.what in whats:
            name = f"{one.record.model} · {hardware_name(one.record)}"
            groups.setdefault((name, one.whose), []).append(one.kept)
    subjects = [
        Subject(f"{whose}: {name}" if whose else name, tuple(kept), whose)
        for (name, whose), kept in groups.items()
    ]

    def rank(one: Subject) -> tuple[bool, bool, bool, bool]:
        told = is_reports_model(one.model)
        return not one.of(whats[0]), bool(one.whose), one.model != settings.model_name, not told

    return sorted(subjects, key=rank), problems


def titles(subject: Subject | None) -> dict[str, str]:
    """Of the subject's contenders; without one, of the default three."""
    return subject.titles if subject else titles_of()


def chosen(subjects: Sequence[Subject], name: str | None) -> Subject | None:
    """The subject of that name, else the first."""
    by_name = {subject.name: subject for subject in subjects}
    return by_name.get(name or "") or (subjects[0] if subjects else None)


def is_reports_model(model: str) -> bool:
    return Path(reported()["model"]).name in model
