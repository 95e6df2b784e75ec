"""The store of jobs: states, versions, room, and who may still say something about a job.

In a SQLite file and on a real Postgres server: what holds for one holds for the other.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, inspect, text

from qvla.jobs.errors import JobError
from qvla.jobs.places import new_id
from qvla.jobs.schema import MIGRATIONS
from qvla.jobs.store import JobState, Store

ROOM = 100


def add(store: Store, owner: str = "") -> str:
    job_id = new_id()
    store.add(job_id, {"epochs": 1.5, "prefix": "légende"}, owner, ROOM)
    return job_id


def test_a_job_is_what_was_added_and_the_newest_comes_first(database_url: str) -> None:
    store = Store(database_url)
    before = datetime.now(UTC)
    first, second = add(store, "ann"), add(store)
    after = datetime.now(UTC)
    assert [job.id for job in store.all()] == [second, first]
    job = Store(database_url).find(first)  # as after a restart
    assert job.recipe == {"epochs": 1.5, "prefix": "légende"} and job.owner == "ann"
    assert job.state is JobState.QUEUED and job.attempt == 0 and job.started is None
    assert before <= job.created <= after
    assert store.find(new_id()) is None


def test_of_many_that_claim_a_job_one_gets_it(database_url: str) -> None:
    stores = [Store(database_url) for _ in range(4)]
    jobs = [add(stores[0]) for _ in range(15)]

    def claim_all(number: int) -> list[str]:
        return [job for job in jobs if stores[number].claim(job, f"worker {number}") is not None]

    with ThreadPoolExecutor(4) as pool:
        claimed = Counter(job for found in pool.map(claim_all, range(4)) for job in found)
    assert claimed == {job: 1 for job in jobs}


def test_who_lost_a_job_can_neither_keep_it_alive_nor_end_it(database_url: str) -> None:
    store = Store(database_url)
    job_id = add(store)
    old = store.claim(job_id, "a")
    assert store.finish(old, JobState.INTERRUPTED, "Gone.", "last words")
    assert store.requeue(job_id, ROOM)
    new = store.claim(job_id, "a")  # even the same worker: it is another attempt
    assert store.beat(old) is None and not store.finish(old, JobState.DONE)
    assert store.beat(new).attempt == 2
    assert store.finish(new, JobState.DONE) and store.find(job_id).state is JobState.DONE


@pytest.mark.parametrize("state", list(JobState))
def test_what_may_be_done_in_each_state(state: JobState, database_url: str) -> None:
    def made() -> tuple[Store, str]:
        store = Store(database_url)
        job_id = add(store)
        if state is not JobState.QUEUED:
            job = store.claim(job_id, "a")
            if state is not JobState.RUNNING:
                store.finish(job, state)
        return store, job_id

    store, job_id = made()
    assert (store.claim(job_id, "b") is not None) is (state is JobState.QUEUED)
    store, job_id = made()
    ended = state in (JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED)
    assert store.requeue(job_id, ROOM) is ended
    store, job_id = made()
    store.cancel(job_id)
    after = store.find(job_id)
    assert after.state is (JobState.CANCELLED if state is JobState.QUEUED else state)
    assert after.cancel_requested is (state is JobState.RUNNING)
    store, job_id = made()
    assert store.hide(job_id) is (state is not JobState.RUNNING)
    assert (store.find(job_id) is None) is (state is not JobState.RUNNING)
    assert store.claim(job_id, "b") is None  # hidden, or not queued


def test_no_more_wait_than_may(database_url: str) -> None:
    store = Store(database_url)
    jobs = [new_id() for _ in range(8)]

    def add_one(job_id: str) -> bool:
        try:
            store.add(job_id, {}, "", 3)
        except JobError as error:
            assert str(error).startswith("3 jobs wait already, and 3 may: ")
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(add_one, jobs))
    assert sum(added) == len(store.all()) == 3
    running = store.claim(jobs[added.index(True)], "a")
    assert add_one(new_id()) and not add_one(new_id())
    store.finish(running, JobState.FAILED)
    with pytest.raises(JobError, match="3 jobs wait already"):
        store.requeue(running.id, 3)


def test_an_older_store_is_brought_up_to_date_and_a_newer_one_refused(database_url: str) -> None:
    def with_priority(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE qvla_jobs ADD priority INTEGER DEFAULT 7"))

    def broken(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE qvla_jobs ADD half INTEGER"))
        connection.execute(text("SELECT nothing FROM nowhere"))

    job_id = add(Store(database_url))
    newer = (*MIGRATIONS, with_priority)
    with pytest.raises(JobError, match="cannot be opened"):
        Store(database_url, (*newer, broken))  # all of it or nothing
    with ThreadPoolExecutor(4) as pool:  # the app and workers, started together
        stores = list(pool.map(lambda _: Store(database_url, newer), range(4)))
    assert stores[0].find(job_id).id == job_id

    engine = create_engine(database_url)
    with engine.connect() as connection:
        assert list(connection.execute(text("SELECT priority FROM qvla_jobs")).scalars()) == [7]
        versions = list(connection.execute(text("SELECT version FROM qvla_version")).scalars())
    assert versions == [len(newer)]
    assert "half" not in {column["name"] for column in inspect(engine).get_columns("qvla_jobs")}
    engine.dispose()
    known = len(MIGRATIONS)
    with pytest.raises(
        JobError,
        match=rf"^The store of jobs has version {known + 1} and this release knows {known}",
    ):
        Store(database_url)


def test_jobs_of_a_store_without_names_can_be_named(tmp_path: Path) -> None:
    """A store as the first release wrote it, with a job in it."""
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    job_id, values = new_id(), "'queued', '{}', 'ada', 1.0, 0, '', '', false, false"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE qvla_version (version INTEGER NOT NULL)"))
        connection.execute(text("INSERT INTO qvla_version VALUES (1)"))
        MIGRATIONS[0](connection)
        columns = (
            "id, state, recipe, owner, created, attempt, reason, log, cancel_requested, deleted"
        )
        connection.execute(text(f"INSERT INTO qvla_jobs ({columns}) VALUES ('{job_id}', {values})"))
    engine.dispose()
    store = Store(url)
    job = store.find(job_id)
    assert (job.owner, job.name, job.note) == ("ada", "", "")
    assert store.label(job_id, "Rivers", "Rank 8\nagain")
    assert (store.find(job_id).name, store.find(job_id).note) == ("Rivers", "Rank 8\nagain")
    assert not store.label(new_id(), "x", "")
    store.close()


def test_a_store_that_cannot_be_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite3").write_text("no database, but long enough to look like one " * 50)
    damaged = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    nobody = "postgresql+psycopg://qvla:hidden@127.0.0.1:1/qvla"
    for wrong in (damaged, "nonsense", "oracle7://x", f"sqlite:///{tmp_path}/no/x.sqlite3", nobody):
        with pytest.raises(JobError) as caught:
            Store(wrong)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
        assert "hidden" not in str(caught.value)
