"""The queue that workers take jobs from: huey's, in a SQLite file or on a Redis server.

A message is a job's name and nothing else. It goes through huey's storages directly: its tasks
would be pickled, and whoever could write to the queue could then have workers run anything.
A message may be lost or come twice, because the store decides what is run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from huey import RedisHuey, SqliteHuey
from huey.storage import BaseStorage
from redis import ConnectionPool
from redis.exceptions import RedisError

from qvla.jobs.errors import DamagedStoreError, JobError
from qvla.jobs.places import Places
from qvla.jobs.sqlite import is_damage

NAME = "qvla"
CONNECT_SECONDS = 5.0


class QueueError(JobError):
    """The queue cannot be reached; the message says where it should be."""


class JobQueue:
    """The names of waiting jobs, first come, first served.

    Every method raises QueueError, and DamagedStoreError where the file is no queue any more.
    """

    def __init__(self, places: Places) -> None:
        self._where = _without_password(places)
        with self._reaching():
            self._storage = _storage(places)

    def put(self, job_id: str) -> None:
        with self._reaching():
            self._storage.enqueue(job_id.encode())

    def take(self) -> str | None:
        """The next name, which is then gone from the queue; None when there is none."""
        with self._reaching():
            message = self._storage.dequeue()
        return None if message is None else _name(message)

    def names(self) -> set[str]:
        with self._reaching():
            return {_name(message) for message in self._storage.enqueued_items()}

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, sqlite3.Error, OSError, ValueError) as error:
            what = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            if isinstance(error, sqlite3.Error) and is_damage(error):
                raise DamagedStoreError(f"The queue of jobs is damaged ({what}).") from error
            raise QueueError(f"The queue of jobs at {self._where} fails: {what}.") from error


def _storage(places: Places) -> BaseStorage:
    if places.redis_url:
        seconds = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": CONNECT_SECONDS}
        pool = ConnectionPool.from_url(places.redis_url, **seconds)
        return RedisHuey(NAME, connection_pool=pool, blocking=False, results=False).storage
    # Without strict_fifo the file gives freed numbers out again, and so mixes up the order.
    return SqliteHuey(
        NAME, filename=str(places.queue), timeout=30, strict_fifo=True, results=False
    ).storage


def _without_password(places: Places) -> str:
    if not places.redis_url:
        return str(places.queue)
    parts = urlsplit(places.redis_url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _name(message: bytes | memoryview) -> str:
    return bytes(message).decode("ascii", "replace")
