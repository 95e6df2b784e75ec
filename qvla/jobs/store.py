"""What became of every job, in one database: a SQLite file, or any that SQLAlchemy knows.

A job changes its state by an UPDATE that names the state it must be in, so of two processes that
try, one succeeds. Who runs a job is its `worker` and `attempt`: one that was given up for dead and
comes back finds that its words no longer count.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Select,
    and_,
    create_engine,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from qvla.jobs import sqlite
from qvla.jobs.errors import JobError
from qvla.jobs.job import RESUMABLE, Job, JobState, job_of
from qvla.jobs.schema import JOBS, MIGRATIONS, Migration, alone, migrate
from qvla.words import counted

__all__ = ["RESUMABLE", "Job", "JobState", "Store"]


class Store:
    """Opens the store and brings it up to date. Every method may be called from any thread, and
    raises StoreError when the store cannot be read or written.
    """

    def __init__(self, url: str | URL, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        try:
            self._engine = create_engine(url)
        except (ArgumentError, ModuleNotFoundError) as error:
            what = str(error).splitlines()[0].rstrip(".")
            raise JobError(f"QVLA_DATABASE_URL cannot be used ({what}): set another.") from error
        self._file = sqlite.file_of(url)
        self._is_sqlite = self._engine.dialect.name == "sqlite"
        if self._is_sqlite:
            sqlite.set_up(self._engine, self._file)
        try:
            self._migrate(migrations)
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise sqlite.error_of(error, self._file, "opened") from error

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
                    name="",
                    note="",
                )
            )

    def put_back(self, job: Job) -> bool:
        """Adds a job that is done, as it was elsewhere; False when there is one of its name."""
        with self._writing() as connection:
            alone(connection)
            query = select(func.count()).where(JOBS.c.id == job.id)
            if connection.execute(query).scalar_one():
                return False
            times = {name: getattr(job, name) for name in ("created", "started", "finished")}
            connection.execute(
                insert(JOBS).values(
                    id=job.id,
                    state=JobState.DONE.value,
                    recipe=json.dumps(job.recipe),
                    owner=job.owner,
                    attempt=job.attempt,
                    reason=job.reason,
                    log=job.log,
                    name=job.name,
                    note=job.note,
                    cancel_requested=False,
                    deleted=False,
                    **{name: one and one.timestamp() for name, one in times.items()},
                )
            )
            return True

    def all(self, *states: JobState) -> list[Job]:
        """The jobs, newest first: all, or those in the given states."""
        query = _rows().where(~JOBS.c.deleted)
        if states:
            query = query.where(JOBS.c.state.in_([state.value for state in states]))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(JOBS.c.created.desc(), JOBS.c.id.desc()))
            jobs = [job_of(row) for row in rows.mappings()]
        return [job for job in jobs if not states or job.state in states]

    def find(self, job_id: str) -> Job | None:
        query = _rows().where(JOBS.c.id == job_id, ~JOBS.c.deleted)
        with self._reading() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else job_of(row)

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

    def label(self, job_id: str, name: str, note: str) -> bool:
        """Writes what people call a job and note of it, whatever its state."""
        return self._change(and_(JOBS.c.id == job_id, ~JOBS.c.deleted), name=name, note=note)

    def hide(self, job_id: str, *, idle: bool = False) -> bool:
        """Takes a job that does not run out of sight; what is hidden is only left to be erased.

        `idle` says that the caller knows that nobody runs it, whatever its row has for a state.
        """
        may = and_(JOBS.c.id == job_id, ~JOBS.c.deleted)
        if not idle:
            may = and_(may, JOBS.c.state != JobState.RUNNING.value)
        return self._change(may, deleted=True)

    def hidden(self) -> list[str]:
        with self._reading() as connection:
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
        alone(connection)  # or two that add a job at once would both find room for one
        query = select(func.count()).where(JOBS.c.state == JobState.QUEUED.value, ~JOBS.c.deleted)
        waiting = connection.execute(query).scalar_one()
        if waiting >= most:
            wait = "waits" if waiting == 1 else "wait"
            raise JobError(
                f"{counted(waiting, 'job')} {wait} already, and {most} may: cancel one or "
                "try again when one has begun."
            )

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._transaction("read", writes=False)

    def _writing(self) -> AbstractContextManager[Connection]:
        return self._transaction("written", writes=True)

    @contextmanager
    def _transaction(self, doing: str, *, writes: bool) -> Iterator[Connection]:
        try:
            with self._engine.execution_options(writes=writes).begin() as connection:
                yield connection
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise sqlite.error_of(error, self._file, doing) from error

    def _migrate(self, migrations: Sequence[Migration]) -> None:
        engine = self._engine.execution_options(writes=True)
        try:
            with engine.begin() as connection:
                migrate(connection, migrations)
        except (IntegrityError, OperationalError, ProgrammingError):
            if self._is_sqlite:  # there the transaction keeps others out, so it is a fault
                raise
            time.sleep(1)  # another process has made the same tables at the same moment
            with engine.begin() as connection:
                migrate(connection, migrations)


def _rows() -> Select[Any]:
    """The rows as they stand: what is in a damaged one is `job_of`'s to judge, not a type's."""
    columns: list[Any] = [literal_column(column.name) for column in JOBS.c]
    return select(*columns).select_from(JOBS)


def _is(job_id: str, state: JobState) -> ColumnElement[bool]:
    return and_(JOBS.c.id == job_id, JOBS.c.state == state.value)


def _run_of(job: Job) -> ColumnElement[bool]:
    """The job as long as it runs, and is run by whom `job` says."""
    mine = and_(JOBS.c.worker == job.worker, JOBS.c.attempt == job.attempt)
    return and_(_is(job.id, JobState.RUNNING), mine)
