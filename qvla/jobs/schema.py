"""The store's tables, and the steps that bring an older store up to date."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Double,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    insert,
    inspect,
    literal_column,
    select,
    text,
    update,
)

from qvla.jobs.errors import DamagedStoreError, JobError

Migration = Callable[[Connection], None]

_metadata = MetaData()
VERSION = Table("qvla_version", _metadata, Column("version", Integer, nullable=False))

# As the newest version has it. Times are seconds since 1970, UTC: every database holds those alike.
JOBS = Table(
    "qvla_jobs",
    _metadata,
    Column("id", String(32), primary_key=True),
    Column("state", String(16), nullable=False, index=True),
    Column("recipe", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("started", Double),
    Column("finished", Double),
    Column("heartbeat", Double),
    Column("worker", Text),
    Column("attempt", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("log", Text, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("name", Text, nullable=False),
    Column("note", Text, nullable=False),
)


def _first(connection: Connection) -> None:
    # Spelt out, not JOBS.create(): the first version stays what it is when JOBS changes.
    connection.execute(
        text(
            "CREATE TABLE qvla_jobs (id VARCHAR(32) NOT NULL PRIMARY KEY, "
            "state VARCHAR(16) NOT NULL, recipe TEXT NOT NULL, owner TEXT NOT NULL, "
            "created DOUBLE PRECISION NOT NULL, started DOUBLE PRECISION, "
            "finished DOUBLE PRECISION, heartbeat DOUBLE PRECISION, worker TEXT, "
            "attempt INTEGER NOT NULL, reason TEXT NOT NULL, log TEXT NOT NULL, "
            "cancel_requested BOOLEAN NOT NULL, deleted BOOLEAN NOT NULL)"
        )
    )
    connection.execute(text("CREATE INDEX ix_qvla_jobs_state ON qvla_jobs (state)"))


def _with_labels(connection: Connection) -> None:
    for column in ("name", "note"):
        connection.execute(
            text(f"ALTER TABLE qvla_jobs ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
        )


# Migration n leads from version n to n + 1. Only ever add to the end.
MIGRATIONS: tuple[Migration, ...] = (_first, _with_labels)


def migrate(connection: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Brings the store up to the newest version, within the connection's transaction.

    Raises JobError for a store that a newer release has written, and DamagedStoreError for one that
    no release has.
    """
    _version(connection)
    version = alone(connection)
    if version > len(migrations):
        raise JobError(
            f"The store of jobs has version {version} and this release knows {len(migrations)} at "
            "most: update QVLA, or name another folder in QVLA_JOBS."
        )
    if version < len(migrations):
        for migration in migrations[version:]:
            migration(connection)
        connection.execute(update(VERSION).values(version=len(migrations)))
    tables = inspect(connection)
    there = tables.get_columns(JOBS.name) if tables.has_table(JOBS.name) else []
    lacking = {column.name for column in JOBS.c} - {column["name"] for column in there}
    if lacking:
        what = f"the table {JOBS.name}"
        raise _damaged(f"{what} lacks {', '.join(sorted(lacking))}" if there else f"{what} is gone")


def _version(connection: Connection) -> int:
    """Of a new store, 0, which it is then marked with."""
    tables = inspect(connection)
    if not tables.has_table(VERSION.name):
        if tables.has_table(JOBS.name):
            raise _damaged(f"the table {VERSION.name} is gone")
        VERSION.create(connection)
        connection.execute(insert(VERSION).values(version=0))
    rows: Select[Any] = select(literal_column(VERSION.c.version.name)).select_from(VERSION)
    versions = list(connection.execute(rows).scalars())
    if len(versions) != 1 or not isinstance(versions[0], int) or versions[0] < 0:
        raise _damaged(f"its version is {', '.join(map(repr, versions)) or 'gone'}")
    return versions[0]


def _damaged(what: str) -> DamagedStoreError:
    return DamagedStoreError(f"The store of jobs is not as QVLA has written it: {what}.")


def alone(connection: Connection) -> int:
    """Keeps other processes out of what only one may do at a time until the transaction ends.

    Whoever locks the row that holds the store's version, which is returned, goes first. SQLite
    knows no such locks and needs none: there a transaction that writes is alone from its beginning.
    """
    return connection.execute(select(VERSION.c.version).with_for_update()).scalar_one()
