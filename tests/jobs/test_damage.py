"""A store that is damaged, odd, or without room: what then still works, and what is said."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qvla.jobs.errors import DamagedStoreError, JobError
from qvla.jobs.job import JobState
from qvla.jobs.places import places_of
from qvla.jobs.queue import JobQueue
from qvla.jobs.recovery import Recovery
from qvla.jobs.repair import set_aside
from qvla.jobs.service import Jobs
from qvla.jobs.store import Store
from qvla.jobs.worker import Worker
from tests.support.damaged_store import change, overwrite, rubbish
from tests.support.toy_jobs import ENVIRONMENT, ROOT, Plan, command, limits, notes, settings

DAMAGE: dict[str, Callable[[Path], None]] = {
    "overwritten pages": overwrite,
    "another file": rubbish,
    "no version row": lambda folder: change(folder, "DELETE FROM qvla_version"),
    "two versions": lambda folder: change(folder, "INSERT INTO qvla_version VALUES (1)"),
    "a version that is none": lambda folder: change(folder, "UPDATE qvla_version SET version='x'"),
    "no version table": lambda folder: change(folder, "DROP TABLE qvla_version"),
    "no table": lambda folder: change(folder, "DROP TABLE qvla_jobs"),
    "too few columns": lambda folder: change(folder, "ALTER TABLE qvla_jobs DROP COLUMN log"),
    "the queue": lambda folder: (folder / "queue.sqlite3").write_bytes(b"no queue at all " * 500),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_one_sentence_until_it_is_set_aside(damage: str, tmp_path: Path) -> None:
    own = settings(tmp_path / "jobs")
    job = Jobs(own).submit(Plan())
    DAMAGE[damage](tmp_path / "jobs")

    def use() -> None:
        jobs = Jobs(own)
        jobs.all()
        jobs.recover()

    with pytest.raises(DamagedStoreError) as caught:
        use()
    said = str(caught.value)
    assert said.endswith(".") and "\n" not in said and str(tmp_path) not in said
    damaged = tmp_path / "jobs" / ("queue" if damage == "the queue" else "jobs")
    before = damaged.with_suffix(".sqlite3").stat().st_ino

    [name] = set_aside(own)
    assert ".aside-" in name
    assert (tmp_path / "jobs" / name).stat().st_ino == before  # the same file by another name
    assert (tmp_path / "jobs" / job.id / "recipe.yaml").is_file()
    use()
    expected = [job.id] if damage == "the queue" else []
    assert [one.id for one in Jobs(own).all()] == expected
    assert Jobs(own).submit(Plan()).state is JobState.QUEUED
    with pytest.raises(JobError, match="is not damaged, so nothing"):
        set_aside(own)


def test_a_store_that_is_open_goes_over_to_the_file_in_its_place(tmp_path: Path) -> None:
    """As the app and the workers have it, while somebody sets the damaged one aside."""
    own = settings(tmp_path)
    jobs, other = Jobs(own), Jobs(own)
    first = jobs.submit(Plan())
    assert [one.id for one in other.all()] == [first.id]
    change(tmp_path, "DELETE FROM qvla_version")  # which is only seen when it is opened
    set_aside(own)
    assert other.all() == []
    second = jobs.submit(Plan())
    assert [one.id for one in other.all()] == [second.id]


def test_a_worker_waits_for_a_store_and_goes_on_when_it_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("qvla.jobs.worker.RETRY_SECONDS", 0.05)
    (tmp_path / "ledger").mkdir()
    own = settings(tmp_path / "jobs")
    Jobs(own)
    rubbish(tmp_path / "jobs")
    worker = Worker(own, limits(), command(tmp_path / "ledger"))
    thread = threading.Thread(target=worker.run, kwargs={"once": False}, daemon=True)
    thread.start()
    try:
        until(lambda: "cannot be opened" in caplog.text)
        set_aside(own)
        job = Jobs(own).submit(Plan(steps=2))
        until(lambda: Jobs(own).get(job.id).over)
        assert Jobs(own).get(job.id).state is JobState.DONE
    finally:
        worker.stop()
        thread.join(30)
    assert caplog.text.count("cannot be opened") == 1  # said once, however often it tried


ODD = {
    "recipe": ["'no JSON'", "'[1]'", "'{\"a\": NaN'", "''", "x'ff00'", f"'{'[' * 100_000}'"],
    "state": ["'bogus'", "''", "7", "x'00'"],
    "created": ["'yesterday'", "1e300", "-1e300"],
    "heartbeat": ["'now'", "9e18"],
    "attempt": ["'first'"],
    "owner": ["x'ff'"],
    "id": ["'../../etc'"],
}


def test_one_bad_job_is_one_bad_row(tmp_path: Path) -> None:
    own = settings(tmp_path / "jobs")
    jobs = Jobs(own)
    good = jobs.submit(Plan(steps=2))
    expected = []
    for column, values in ODD.items():
        for value in values:
            bad = jobs.submit(Plan()).id
            change(tmp_path / "jobs", f"UPDATE qvla_jobs SET {column} = {value} WHERE id = '{bad}'")
            expected.append(column)
    jobs.recover()
    listed = jobs.all()
    assert [job.id for job in listed if job.state is JobState.QUEUED] == [good.id]
    odd = [job for job in listed if job.state is JobState.UNREADABLE]
    begin = "Its row in the store cannot be read: "
    assert sorted(job.reason.removeprefix(begin).split()[0] for job in odd) == sorted(expected)
    assert max(len(job.reason) for job in odd) < 120

    (tmp_path / "ledger").mkdir()
    Worker(own, limits(), command(tmp_path / "ledger")).run(once=True)
    assert jobs.get(good.id).state is JobState.DONE
    assert [line[1] for line in notes(tmp_path / "ledger") if line[0] == "start"] == [good.id]
    for job in odd:
        for ask in (jobs.cancel, jobs.resume):
            with pytest.raises(JobError, match=r"cannot be read: .* to delete it"):
                ask(job.id)
        jobs.delete(job.id)
    assert [job.id for job in jobs.all()] == [good.id]


def test_a_bad_job_that_says_it_runs_can_be_deleted_when_nobody_runs_it(tmp_path: Path) -> None:
    jobs = Jobs(settings(tmp_path))
    job = jobs.submit(Plan())
    change(tmp_path, "UPDATE qvla_jobs SET state = 'running', recipe = 'none'")
    jobs.recover()
    jobs.delete(job.id)
    assert jobs.all() == [] and not (tmp_path / job.id).exists()


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JobError, match="name another folder in QVLA_JOBS"):
        Jobs(settings(tmp_path / "file" / "jobs"))


# ---- a full disk ---------------------------------------------------------------------------------

FULL = """
import os, sys, tempfile
from pathlib import Path
from qvla.jobs.errors import JobError
from qvla.jobs.service import Jobs
from tests.support.damaged_store import change, overwrite, rubbish
from tests.support.toy_jobs import Plan, settings

disk = Path(sys.argv[1])
jobs = Jobs(settings(disk / "jobs"))
job = jobs.submit(Plan())
(jobs.folder(job.id) / "adapter.bin").write_bytes(bytes(2**16))
with (disk / "rest").open("wb", buffering=0) as rest:
    for size in (2**12, 1):
        try:
            while rest.write(bytes(size)):
                pass
        except OSError:
            pass
for ask in (lambda: jobs.submit(Plan()), lambda: jobs.cancel(job.id)):
    try:
        ask()
        print("done")
    except JobError as error:
        print(error)
print([one.state.value for one in jobs.all()])
jobs.delete(job.id)  # which makes room
print(jobs.all(), (disk / "jobs" / job.id).exists())
print(jobs.submit(Plan()).state.value)
"""


def test_a_full_disk_is_one_sentence_and_deleting_makes_room(tmp_path: Path) -> None:
    """On a file system of 640 KiB of its own, which only a namespace of its own may have."""
    inside = f"mount -t tmpfs -o size=640k none {tmp_path} && exec {sys.executable} -c '{FULL}' "
    words = ["unshare", "--map-root-user", "--user", "--mount", "sh", "-c", inside + str(tmp_path)]
    probe = [*words[:-1], f"mount -t tmpfs none {tmp_path}"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a file system of his own")
    result = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    submitted, cancelled, listed, *rest = result.stdout.splitlines()
    full = "The disk is full, so jobs cannot be changed: make room first."
    assert (submitted, cancelled, listed) == (full, full, "['queued']")
    assert rest == ["[] False", "queued"]


# ---- several at once -----------------------------------------------------------------------------


def test_a_job_that_several_delete_at_once_is_deleted_once(tmp_path: Path) -> None:
    own = settings(tmp_path / "jobs")
    jobs = Jobs(own)
    for _ in range(6):
        job = jobs.submit(Plan())
        for number in range(200):
            (jobs.folder(job.id) / str(number)).write_text("x")
        said: list[str] = []
        ready = threading.Barrier(5)

        def delete(name: str = job.id, said: list[str] = said, ready: threading.Barrier = ready):
            mine = Jobs(own)
            ready.wait()
            try:
                mine.delete(name)
                said.append("deleted")
            except JobError as error:
                said.append(str(error))

        def recover(ready: threading.Barrier = ready) -> None:
            mine = Jobs(own)
            ready.wait()
            mine.recover()

        threads = [threading.Thread(target=delete) for _ in range(4)]
        threads.append(threading.Thread(target=recover))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert said.count("deleted") >= 1 and len(said) == 4
        assert all("There is no job" in text for text in said if text != "deleted"), said
        assert jobs.all() == []
        assert [path.name for path in (tmp_path / "jobs").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(days=9000)])
def test_a_sign_of_life_from_the_future_does_not_keep_a_job_for_ever(
    ahead: timedelta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = settings(tmp_path)
    jobs = Jobs(own)
    job = jobs.submit(Plan())
    places = places_of(own)
    store = Store(places.database_url)
    claimed = store.claim(job.id, "elsewhere:1:2")
    then = (datetime.now(UTC) + ahead).timestamp()
    change(tmp_path, f"UPDATE qvla_jobs SET heartbeat = {then}")
    clock = [1000.0]
    monkeypatch.setattr("qvla.jobs.recovery.time.monotonic", lambda: clock[0])
    recovery = Recovery(places, store, JobQueue(places), limits(stale=100), command(tmp_path))
    recovery.run()
    clock[0] += 90
    change(tmp_path, f"UPDATE qvla_jobs SET heartbeat = {then + 1}")  # it still beats
    recovery.run()
    clock[0] += 90
    recovery.run()
    assert jobs.get(job.id).state is JobState.RUNNING
    clock[0] += 20
    recovery.run()
    assert jobs.get(job.id).state is JobState.INTERRUPTED
    assert store.beat(claimed) is None


def until(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.03)
