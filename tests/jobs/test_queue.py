"""The queue of jobs on SQLite and on a real Redis server, and workers that share one."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from qvla.jobs.places import Places, new_id
from qvla.jobs.queue import JobQueue, QueueError
from qvla.jobs.service import Jobs
from qvla.jobs.store import JobState
from tests.support.toy_jobs import ENVIRONMENT, ROOT, Plan, let_go, limits, notes, settings
from tests.support.waiting import PATIENCE, until


def places(folder: Path, redis: str | None = None) -> Places:
    return Places(folder, f"sqlite:///{folder / 'jobs.sqlite3'}", redis, folder / "device.lock")


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_the_queue_gives_each_name_once_in_order(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = places(tmp_path, request.getfixturevalue("redis_url") if kind == "redis" else None)
    queue = JobQueue(where)
    names = [new_id() for _ in range(40)]
    for name in names[:3]:
        queue.put(name)
    assert [queue.take(), queue.take()] == names[:2]
    for name in names[3:]:
        queue.put(name)
    other = JobQueue(where)  # as in another process
    assert other.names() == set(names[2:])
    assert other.take() == names[2]

    taken: list[str] = []
    lock = threading.Lock()

    def drain() -> None:
        own = JobQueue(where)
        while (name := own.take()) is not None:
            with lock:
                taken.append(name)

    threads = [threading.Thread(target=drain) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(names[3:]) and queue.take() is None


def test_a_redis_server_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    queue = JobQueue(places(tmp_path, "redis://:hidden@127.0.0.1:1/0"))
    with pytest.raises(QueueError) as caught:
        queue.put(new_id())
    assert "redis://127.0.0.1:1" in str(caught.value) and "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "database_url", [pytest.param("sqlite", marks=pytest.mark.slow), "postgres"], indirect=True
)
def test_workers_share_the_jobs_of_a_redis_queue(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    """As on several machines, where the store is a server too."""
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    where = {"redis_url": redis_url, "database_url": database_url}
    jobs = Jobs(settings(tmp_path / "jobs", **where), limits())
    names = [jobs.submit(Plan(steps=6, hold=3)).id for _ in range(4)]
    assert not (tmp_path / "jobs" / "queue.sqlite3").exists()
    assert not (tmp_path / "jobs" / "jobs.sqlite3").exists()
    workers = []
    for gpu in "01":
        variables = {f"QVLA_{name.upper()}": value for name, value in where.items()}
        variables |= {"QVLA_JOBS": str(tmp_path / "jobs"), "CUDA_VISIBLE_DEVICES": gpu}
        words = [sys.executable, "-m", "tests.support.toy_jobs", "work", str(ledger), "--once"]
        workers.append(subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT | variables))
    until(lambda: len(notes(ledger)) == 2)  # one each, neither of which can end
    assert {words[0] for words in notes(ledger)} == {"start"}
    let_go(ledger)
    assert [worker.wait(PATIENCE) for worker in workers] == [0, 0]
    done = {job.id: job for job in jobs.all()}
    assert set(done) == set(names) and {job.state for job in done.values()} == {JobState.DONE}
    assert len({job.worker for job in done.values()}) == 2
    starts = Counter(words[1] for words in notes(ledger) if words[0] == "start")
    assert starts == {name: 1 for name in names}
    assert {words[0] for words in notes(ledger)} == {"start", "done"}
