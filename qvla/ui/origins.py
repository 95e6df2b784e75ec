"""Whose records the page shows: those that ship, the owner's, a visitor's and a job's.

What ships and what the owner measured on the command line lie in the settings' folders of records.
What a visitor measured with "Measure now" lies in a folder of its own, and a job's evaluation in
the folder of the job, so that it goes when the job is deleted. These carry a name, and are shown to
who chooses them: nobody's measurement becomes what everybody sees first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qvla.jobs.publishing import shown_name
from qvla.records import store as records
from qvla.records.store import Kept, Record
from qvla.settings import Settings
from qvla.ui.tables import record_folders

VISIT = "Measured from this page"


@dataclass(frozen=True)
class Sourced:
    """A record, in words whose it is ("" for the owner's), and whether it came with QVLA."""

    kept: Kept
    whose: str = ""
    shipped: bool = False

    @property
    def record(self) -> Record:
        return self.kept.record


def visit_records(settings: Settings) -> Path:
    """Where what is measured from the page is kept."""
    return settings.records / "visits" / "records"


def job_records(settings: Settings, job_id: str) -> Path:
    """Where the evaluations of a job's adapter are kept."""
    return settings.jobs / job_id / "records"


def find_records(
    settings: Settings, on_problem: Callable[[str], None], what: str | None = None
) -> list[Sourced]:
    """All readable records of a kind, or of all kinds, the newest first."""
    found = []
    for folder in record_folders(settings):
        shipped = folder == records.SHIPPED
        found += [Sourced(one, "", shipped) for one in records.find(what, [folder], on_problem)]
    visits = records.find(what, [visit_records(settings)], on_problem)
    found += [Sourced(one, VISIT) for one in visits]
    for folder in sorted(settings.jobs.glob("*/records")):
        whose = shown_name(folder.parent.name).capitalize()
        found += [Sourced(one, whose) for one in records.find(what, [folder], on_problem)]
    return sorted(found, key=lambda one: one.record.date, reverse=True)
