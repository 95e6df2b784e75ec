"""What was measured on what: records grouped by model and machine, the newest figure first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qvla.records import store as records
from qvla.records.reported import reported
from qvla.records.store import Kept
from qvla.settings import Settings
from qvla.ui.tables import hardware_name, record_folders


@dataclass(frozen=True)
class Value:
    """A measured number with the ends of its range, and the stem of its record's file."""

    number: float
    record: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Subject:
    """One model on one machine. `kept` holds its records, the newest first."""

    name: str
    kept: tuple[Kept, ...]

    @cached_property
    def model(self) -> str:
        return self.kept[0].record.model

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


def find_subjects(settings: Settings, whats: Iterable[str]) -> tuple[list[Subject], list[str]]:
    """All that has records of these kinds, first what to show first; and what could not be read.

    First comes what was measured here last, else the model of the report, else the newest.
    """
    problems: list[str] = []
    folders = record_folders(settings)
    wanted = frozenset(whats)
    found = [
        one
        for one in reversed(records.find(None, folders, problems.append))
        if one.record.what in wanted
    ]
    groups: dict[str, list[Kept]] = {}
    for one in found:
        groups.setdefault(f"{one.record.model} · {hardware_name(one.record)}", []).append(one)
    subjects = [Subject(name, tuple(kept)) for name, kept in groups.items()]
    here = Path(folders[-1])
    return sorted(subjects, key=lambda subject: _rank(subject, here)), problems


def chosen(subjects: Sequence[Subject], name: str | None) -> Subject | None:
    """The subject of that name, else the first."""
    by_name = {subject.name: subject for subject in subjects}
    return by_name.get(name or "") or (subjects[0] if subjects else None)


def is_reports_model(model: str) -> bool:
    return Path(reported()["model"]).name in model


def _rank(subject: Subject, here: Path) -> int:
    if subject.kept[0].path.parent == here:
        return 0
    return 1 if is_reports_model(subject.model) else 2
