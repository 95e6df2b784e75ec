"""One job as the store has it, read from a row that may be damaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from qvla.files import parse_json
from qvla.jobs.places import is_name

LONGEST_SHOWN = 40  # letters of a value that cannot be read


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    UNREADABLE = "unreadable"  # never written: what the row says is none of the above, or no job


RESUMABLE = (JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED)


@dataclass(frozen=True)
class Job:
    """One job as the store has it. `reason` is why it ended, in one sentence; `log` is the last
    lines of what it said; `worker` and `attempt` tell who runs it, or ran it last. `name` and
    `note` are what people call it and write down about it.

    Of an UNREADABLE job only the id and the reason mean anything.
    """

    id: str
    state: JobState
    recipe: dict[str, Any]
    created: datetime
    started: datetime | None
    finished: datetime | None
    heartbeat: datetime | None
    worker: str | None
    attempt: int
    reason: str
    cancel_requested: bool
    owner: str
    log: str = ""
    name: str = ""
    note: str = ""

    @property
    def over(self) -> bool:
        return self.state not in (JobState.QUEUED, JobState.RUNNING)

    @property
    def method(self) -> str:
        return str(self.recipe.get("method", ""))

    @property
    def model(self) -> str:
        return str(self.recipe.get("model", ""))

    @property
    def data(self) -> str:
        return str(self.recipe.get("data", ""))


def job_of(row: Mapping[Any, Any]) -> Job:
    """The job of a row of the store, UNREADABLE with a reason when the row cannot be one."""
    try:
        return Job(
            id=_name(row),
            state=JobState(_text(row, "state")),
            recipe=_recipe(row),
            created=_moment(row, "created"),
            **{name: _moment_or_none(row, name) for name in ("started", "finished", "heartbeat")},
            worker=None if row["worker"] is None else _text(row, "worker"),
            attempt=_number(row, "attempt"),
            reason=_text(row, "reason"),
            cancel_requested=bool(_number(row, "cancel_requested")),
            owner=_text(row, "owner"),
            log=_text(row, "log"),
            name=_text(row, "name"),
            note=_text(row, "note"),
        )
    except _BadValue as error:
        name = str(error)
    except ValueError:
        name = "state"
    shown = repr(row[name])
    shown = shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}…"
    return Job(
        id=str(row["id"]),
        state=JobState.UNREADABLE,
        recipe={},
        created=_created(row),
        started=None,
        finished=None,
        heartbeat=None,
        worker=None,
        attempt=0,
        reason=f"Its row in the store cannot be read: {name} is {shown}.",
        cancel_requested=False,
        owner="",
    )


class _BadValue(Exception):
    """A column holds what it cannot; the text is its name."""


def _name(row: Mapping[str, Any]) -> str:
    if not is_name(_text(row, "id")):
        raise _BadValue("id")
    return row["id"]


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise _BadValue(name)
    return row[name]


def _number(row: Mapping[str, Any], name: str) -> int:
    if not isinstance(row[name], int):
        raise _BadValue(name)
    return row[name]


def _moment(row: Mapping[str, Any], name: str) -> datetime:
    try:
        return datetime.fromtimestamp(row[name], UTC)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise _BadValue(name) from error


def _moment_or_none(row: Mapping[str, Any], name: str) -> datetime | None:
    return None if row[name] is None else _moment(row, name)


def _created(row: Mapping[str, Any]) -> datetime:
    try:
        return _moment(row, "created")
    except _BadValue:
        return datetime.fromtimestamp(0, UTC)


def _recipe(row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        recipe = parse_json(row["recipe"])
    except (ValueError, TypeError) as error:
        raise _BadValue("recipe") from error
    if not isinstance(recipe, dict):
        raise _BadValue("recipe")
    return recipe
