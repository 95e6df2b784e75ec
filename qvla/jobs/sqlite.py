"""What a store in a SQLite file needs: how its transactions begin, and what its errors mean."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError

from qvla.jobs.errors import DamagedStoreError, FullDiskError, StoreError

BUSY_SECONDS = 30.0  # a process waits this long for another one's transaction
LEAST_FREE = 2**16  # bytes without which SQLite's own files do not grow: "disk I/O error"
BESIDE = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a file


def file_of(url: str | URL) -> Path | None:
    """The file of a SQLite store; None for every other database."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return None
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        return None
    return Path(parsed.database)


def set_up(engine: Engine, file: Path | None) -> None:
    """Has readers not wait for a writer, and transactions begin as they go on."""
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    if file is not None:

        @event.listens_for(engine, "connect")
        def remember(_: sqlite3.Connection, record: Any) -> None:
            record.info["file"] = _identity(file)

        @event.listens_for(engine, "checkout")
        def look(_: sqlite3.Connection, record: Any, __: object) -> None:
            # One that was set aside meanwhile is not written to: the connection is made anew.
            if record.info["file"] != _identity(file):
                raise DisconnectionError("the file is another one now")


def error_of(error: Exception, file: Path | None, doing: str) -> StoreError:
    """The sentence for an error of the database, of whichever kind; `doing` is what failed."""
    cause = getattr(error, "orig", None) or error
    what = (str(cause).splitlines() or [type(cause).__name__])[0].rstrip(".")
    if file is not None and isinstance(cause, sqlite3.Error):
        if "disk is full" in what or ("disk I/O" in what and _is_full(file.parent)):
            return FullDiskError("The disk is full, so jobs cannot be changed: make room first.")
        if is_damage(cause):
            return DamagedStoreError(f"The store of jobs cannot be {doing} ({what}).")
    return StoreError(f"The store of jobs cannot be {doing} ({what}).")


def is_damage(error: Exception) -> bool:
    """Whether SQLite found something else in its file than it had written there."""
    # The class itself, not one that inherits from it, is what Python has for SQLITE_CORRUPT and
    # SQLITE_NOTADB.
    return type(error) is sqlite3.DatabaseError or (
        isinstance(error, sqlite3.OperationalError)
        and str(error).startswith(("no such table", "no such column", "malformed"))
    )


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < LEAST_FREE
    except OSError:
        return False


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _prepare(connection: sqlite3.Connection, _: object) -> None:
    """Readers do not wait for a writer, and `_begin` says when a transaction begins."""
    connection.isolation_level = None
    # Letters of a damaged row must not keep the others from being read.
    connection.text_factory = lambda text: text.decode("utf-8", "replace")
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
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
