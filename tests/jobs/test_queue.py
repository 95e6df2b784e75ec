"""The queue of jobs on SQLite and on a real Redis server, and workers that share one."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvla.jobs.places import Places, new_id
from qvla.jobs.queue import JobQueue, QueueError
from qvla.jobs.service import Jobs
from qvla.jobs.store import JobState
from tests.support.toy_jobs import ENVIRONMENT, ROOT, Plan, limits, notes, settings


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of the tests' own, with a password."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    options = ["--port", str(port), "--dir", str(folder), "--save", "", "--requirepass", "secret"]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None
                time.sleep(0.05)
        yield f"redis://:secret@127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(10)


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


def test_workers_share_the_jobs_of_a_redis_queue(redis_url: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    jobs = Jobs(settings(tmp_path / "jobs", redis_url=redis_url), limits())
    names = [jobs.submit(Plan(steps=6)).id for _ in range(8)]
    assert not (tmp_path / "jobs" / "queue.sqlite3").exists()
    workers = []
    for gpu in "01":
        variables = {"QVLA_JOBS": str(tmp_path / "jobs"), "QVLA_REDIS_URL": redis_url}
        words = [sys.executable, "-m", "tests.support.toy_jobs", "work", str(ledger), "--once"]
        environment = ENVIRONMENT | variables | {"CUDA_VISIBLE_DEVICES": gpu}
        workers.append(subprocess.Popen(words, cwd=ROOT, env=environment))
    assert [worker.wait(60) for worker in workers] == [0, 0]
    done = {job.id: job for job in jobs.all()}
    assert set(done) == set(names) and {job.state for job in done.values()} == {JobState.DONE}
    assert len({job.worker for job in done.values()}) == 2
    starts = Counter(words[1] for words in notes(ledger) if words[0] == "start")
    assert starts == {name: 1 for name in names}
    assert {words[0] for words in notes(ledger)} == {"start", "done"}
