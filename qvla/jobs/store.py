"""What became of every job, in one database: a SQLite file, or any that SQLAlchemy knows.

A job changes its state by an UPDATE that names the state it must be in, so of two processes that
try, one succeeds. Who runs a job is its `worker` and `attempt`: one that was given up for dead and
comes back finds that its words no longer count.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    and_,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Row
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
)

from qvla.jobs.errors import JobError
from qvla.jobs.schema import JOBS, MIGRATIONS, Migration, migrate

BUSY_SECONDS = 30.0  # a process waits this long for another one's transaction


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


RESUMABLE = (JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED)


@dataclass(frozen=True)
class Job:
    """One job as the store has it. `reason` is why it ended, in one sentence; `log` is the last
    lines of what it said; `worker` and `attempt` tell who runs it, or ran it last.
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

    @property
    def over(self) -> bool:
        return self.state not in (JobState.QUEUED, JobState.RUNNING)


class Store:
    """Opens the store and brings it up to date. Every method may be called from any thread."""

    def __init__(self, url: str | URL, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        try:
            self._engine = create_engine(url)
        except (ArgumentError, ModuleNotFoundError) as error:
            what = str(error).splitlines()[0].rstrip(".")
            raise JobError(f"QVLA_DATABASE_URL cannot be used ({what}): set another.") from error
        self._is_file = self._engine.dialect.name == "sqlite"
        if self._is_file:
            event.listen(self._engine, "connect", _prepare)
            event.listen(self._engine, "begin", _begin)
        try:
            self._migrate(migrations)
        except (DBAPIError, sqlite3.Error) as error:
            what = str(getattr(error, "orig", error)).splitlines()[0].rstrip(".")
            raise JobError(f"The store of jobs cannot be opened ({what}).") from error

    def add(self, job_id: str, recipe: dict[str, Any], owner: str, most_waiting: int) -> None:
        """Adds a queued job; raises JobError when as many wait already."""
        with self._writing() as connection:
            self._check_room(connection, most_waiting)
            connection.execute(
                insert(JOBS).values(
                    id=job_id,
                    state=JobState.QUEUED.value,
                    recipe=json.dumps(recipe),
                    owner=owner,
                    created=time.time(),
                    attempt=0,
                    reason="",
                    log="",
                    cancel_requested=False,
                    deleted=False,
                )
            )

    def all(self, *states: JobState) -> list[Job]:
        """The jobs, newest first: all, or those in the given states."""
        query = select(JOBS).where(~JOBS.c.deleted)
        if states:
            query = query.where(JOBS.c.state.in_([state.value for state in states]))
        with self._engine.begin() as connection:
            rows = connection.execute(query.order_by(JOBS.c.created.desc(), JOBS.c.id.desc()))
            return [_job(row) for row in rows]

    def find(self, job_id: str) -> Job | None:
        query = select(JOBS).where(JOBS.c.id == job_id, ~JOBS.c.deleted)
        with self._engine.begin() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _job(row)

    def claim(self, job_id: str, worker: str) -> Job | None:
        """Makes a queued job the worker's; None when it is not there to be claimed."""
        now = time.time()
        changed = self._change(
            and_(_is(job_id, JobState.QUEUED), ~JOBS.c.deleted),
            state=JobState.RUNNING.value,
            worker=worker,
            attempt=JOBS.c.attempt + 1,
            started=now,
            heartbeat=now,
            finished=None,
            reason="",
            cancel_requested=False,
        )
        return self.find(job_id) if changed else None

    def beat(self, job: Job) -> Job | None:
        """Tells that the job is alive, and returns it; None when it is no longer the worker's."""
        return self.find(job.id) if self._change(_run_of(job), heartbeat=time.time()) else None

    def finish(self, job: Job, state: JobState, reason: str = "", log: str = "") -> bool:
        """Ends a running job, unless somebody else has."""
        return self._change(
            _run_of(job), state=state.value, finished=time.time(), reason=reason, log=log
        )

    def cancel(self, job_id: str) -> None:
        """A queued job is cancelled; the worker of a running one is asked to end it."""
        now = time.time()
        queued = _is(job_id, JobState.QUEUED)
        ended = {"state": JobState.CANCELLED.value, "finished": now}
        if not self._change(queued, **ended, reason="It was cancelled before it began."):
            self._change(_is(job_id, JobState.RUNNING), cancel_requested=True)

    def requeue(self, job_id: str, most_waiting: int) -> bool:
        """Queues a job again that has ended without being done."""
        states = JOBS.c.state.in_([state.value for state in RESUMABLE])
        with self._writing() as connection:
            self._check_room(connection, most_waiting)
            result = connection.execute(
                update(JOBS)
                .where(JOBS.c.id == job_id, states, ~JOBS.c.deleted)
                .values(
                    state=JobState.QUEUED.value,
                    finished=None,
                    reason="",
                    cancel_requested=False,
                )
            )
            return result.rowcount == 1

    def hide(self, job_id: str) -> bool:
        """Takes a job that does not run out of sight; what is hidden is only left to be erased."""
        runs = JOBS.c.state == JobState.RUNNING.value
        return self._change(and_(JOBS.c.id == job_id, ~runs), deleted=True)

    def hidden(self) -> list[str]:
        with self._engine.begin() as connection:
            return list(connection.execute(select(JOBS.c.id).where(JOBS.c.deleted)).scalars())

    def erase(self, job_id: str) -> None:
        with self._writing() as connection:
            connection.execute(delete(JOBS).where(JOBS.c.id == job_id, JOBS.c.deleted))

    def close(self) -> None:
        self._engine.dispose()

    def _change(self, condition: ColumnElement[bool], **values: Any) -> bool:
        with self._writing() as connection:
            return connection.execute(update(JOBS).where(condition).values(**values)).rowcount == 1

    def _check_room(self, connection: Connection, most: int) -> None:
        query = select(func.count()).where(JOBS.c.state == JobState.QUEUED.value, ~JOBS.c.deleted)
        waiting = connection.execute(query).scalar_one()
        if waiting >= most:
            jobs = "1 job waits" if waiting == 1 else f"{waiting} jobs wait"
            raise JobError(
                f"{jobs} already, and {most} may: cancel one or try again when one has begun."
            )

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.execution_options(writes=True).begin() as connection:
            yield connection

    def _migrate(self, migrations: Sequence[Migration]) -> None:
        try:
            with self._writing() as connection:
                migrate(connection, migrations)
        except (IntegrityError, OperationalError, ProgrammingError):
            if self._is_file:  # there the transaction keeps others out, so it is a fault
                raise
            time.sleep(1)  # another process has made the same tables at the same moment
            with self._writing() as connection:
                migrate(connection, migrations)


def _is(job_id: str, state: JobState) -> ColumnElement[bool]:
    return and_(JOBS.c.id == job_id, JOBS.c.state == state.value)


def _run_of(job: Job) -> ColumnElement[bool]:
    """The job as long as it runs, and is run by whom `job` says."""
    mine = and_(JOBS.c.worker == job.worker, JOBS.c.attempt == job.attempt)
    return and_(_is(job.id, JobState.RUNNING), mine)


def _job(row: Row[Any]) -> Job:
    values = {name: value for name, value in row._mapping.items() if name != "deleted"}
    for name in ("created", "started", "finished", "heartbeat"):
        if values[name] is not None:
            values[name] = datetime.fromtimestamp(values[name], UTC)
    values |= {"state": JobState(values["state"]), "recipe": json.loads(values["recipe"])}
    return Job(**values)


def _prepare(connection: sqlite3.Connection, _: object) -> None:
    """Readers do not wait for a writer, and `_begin` says when a transaction begins."""
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"))


def _begin(connection: Connection) -> None:
    # A transaction that begins by reading cannot always become a writing one, so say it at once.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _patiently(switch: Callable[[], object]) -> None:
    """Switching a new file to WAL heeds no busy timeout."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            switch()
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
