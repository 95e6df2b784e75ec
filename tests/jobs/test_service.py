"""Jobs and workers together: what is asked of a job, and what then becomes of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from qvla.jobs import processes
from qvla.jobs.app_worker import AppWorker, start_worker
from qvla.jobs.errors import JobError
from qvla.jobs.places import new_id, places_of
from qvla.jobs.queue import JobQueue
from qvla.jobs.runner import training_command
from qvla.jobs.service import Jobs
from qvla.jobs.store import Job, JobState, Store
from qvla.jobs.worker import Worker
from qvla.methods.flags import read_recipe
from qvla.methods.recipe import make_recipe
from tests.support.toy_jobs import (
    ENVIRONMENT,
    ROOT,
    Plan,
    command,
    hold_back,
    is_gone,
    let_go,
    limits,
    notes,
    said,
    settings,
)
from tests.support.waiting import PATIENCE, until

HELD = Plan(hold=3)


# Where workers are processes of their own, as nearly everywhere here, each turn takes seconds.
@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def database_url(request: pytest.FixtureRequest, new_database: Callable[[str], str]) -> str:
    return new_database(request.param)


class Bench:
    """A folder of jobs, the service over it, and workers on it in processes of their own."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.ledger, self.folder = folder / "ledger", folder / "jobs"
        self.ledger.mkdir()
        self.settings = settings(self.folder, database_url=database_url)
        self.jobs = Jobs(self.settings, limits())
        self.store = Store(places_of(self.settings).database_url)
        self.queue = JobQueue(places_of(self.settings))
        self.processes: list[subprocess.Popen[bytes]] = []

    def work_off(self) -> None:
        """Runs what waits, in this process."""
        Worker(self.settings, limits(), command(self.ledger)).run(once=True)

    def start(self, *words: str, gpu: str = "0") -> subprocess.Popen[bytes]:
        variables = {"QVLA_JOBS": str(self.folder), "CUDA_VISIBLE_DEVICES": gpu}
        variables["QVLA_DATABASE_URL"] = self.settings.database_url
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.toy_jobs", *words],
            cwd=ROOT,
            env=ENVIRONMENT | variables,
            stdout=subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    def worker(self, gpu: str = "0", grace: float = PATIENCE) -> subprocess.Popen[bytes]:
        return self.start("work", str(self.ledger), f"--grace={grace}", gpu=gpu)

    def training(self, job: Job) -> int:
        """The number of the process that runs the job."""
        return int((self.jobs.folder(job.id) / "lock").read_text().split(":")[1])

    def until_step(self, job: Job, step: int) -> None:
        def reached() -> bool:
            rows, _ = self.jobs.events(job.id)
            return any(row["event"] == "checkpoint" and row["step"] >= step for row in rows)

        until(reached)

    def state(self, job: Job) -> JobState:
        return self.jobs.get(job.id).state

    def starts(self, job: Job) -> list[int]:
        """The step that each attempt began with."""
        return [int(line[2]) for line in notes(self.ledger) if line[:2] == ["start", job.id]]


@pytest.fixture
def bench(tmp_path: Path, database_url: str) -> Iterator[Bench]:
    bench = Bench(tmp_path, database_url)
    yield bench
    for process in bench.processes:
        process.kill()
        process.communicate()
    assert {line[0] for line in notes(bench.ledger)} <= {"start", "done"}


def test_a_job_runs_from_the_recipe_as_it_was_when_it_was_queued(bench: Bench) -> None:
    plan = Plan()
    job = bench.jobs.submit(plan, owner="ann")
    plan.values["steps"] = 10_000
    folder = bench.jobs.folder(job.id)
    assert job.state is JobState.QUEUED and folder.parent == bench.folder
    assert bench.jobs.adapter(job.id) is None
    bench.work_off()

    job = bench.jobs.get(job.id)
    assert job.state is JobState.DONE and job.owner == "ann" and job.attempt == 1
    assert job.created <= job.started <= job.heartbeat <= job.finished
    assert bench.jobs.adapter(job.id) == folder / "adapter"
    rows, position = bench.jobs.events(job.id)
    assert [row["step"] for row in rows if row["event"] == "step"] == list(range(1, 11))
    assert bench.jobs.events(job.id, position) == ([], position)
    assert bench.jobs.log_tail(job.id) == "Attempt 1, from the start."


def test_a_recipe_is_frozen_with_the_jobs_folder_for_its_output(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe(
        method="qvla", model="google/any", data="photos", output="/elsewhere", epochs=2
    )
    job = bench.jobs.submit(recipe)
    folder = bench.jobs.folder(job.id)
    assert job.recipe == yaml.safe_load((folder / "recipe.yaml").read_text())
    words = training_command(tmp_path / "lock")(folder, True)
    assert words[1:4] == ["-m", "qvla", "train"] and words[-1] == "--resume"

    import argparse

    from qvla.methods.flags import add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    monkeypatch.chdir("/")
    read = read_recipe(parser.parse_args(words[4:]))
    changes = {"data": tmp_path / "photos", "output": folder / "adapter"}
    assert read == recipe.model_copy(update=changes | {"device_lock": tmp_path / "lock"})


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("fails", "The photos are of no use: give others."),
        ("crashes", "It crashed (SIGSEGV)."),
    ],
)
def test_a_job_that_fails_says_why_in_one_sentence(manner: str, reason: str, bench: Bench) -> None:
    job = bench.jobs.submit(Plan(manner=manner))
    bench.work_off()
    assert bench.state(job) is JobState.FAILED and bench.jobs.get(job.id).reason == reason
    said = bench.jobs.log_tail(job.id)
    assert said.endswith(reason) is (manner == "fails")
    (bench.jobs.folder(job.id) / "log.txt").unlink()
    kept = bench.jobs.log_tail(job.id, 1)  # what the store has kept
    assert kept == ("" if manner == "crashes" else reason)


def test_a_waiting_job_is_cancelled_at_once(bench: Bench) -> None:
    first, second = bench.jobs.submit(Plan()), bench.jobs.submit(Plan())
    assert bench.jobs.cancel(first.id).state is JobState.CANCELLED
    bench.work_off()
    assert bench.state(first) is JobState.CANCELLED and bench.starts(first) == []
    assert bench.state(second) is JobState.DONE
    assert bench.jobs.cancel(second.id).state is JobState.DONE  # too late, and no harm done
    bench.jobs.resume(first.id)
    bench.work_off()
    assert bench.state(first) is JobState.DONE


def test_a_cancelled_job_keeps_its_checkpoint_and_goes_on_from_there(bench: Bench) -> None:
    job = bench.jobs.submit(Plan(hold=6))
    bench.worker()
    bench.until_step(job, 6)
    with pytest.raises(JobError, match="still runs: cancel it"):
        bench.jobs.delete(job.id)
    with pytest.raises(JobError, match="is running, so there is nothing to resume"):
        bench.jobs.resume(job.id)
    bench.jobs.cancel(job.id)
    until(lambda: bench.jobs.get(job.id).over)
    ended = bench.jobs.get(job.id)
    assert ended.state is JobState.CANCELLED
    assert ended.reason.startswith("It was cancelled. It can be resumed from step ")
    step = int(ended.reason.rstrip(".").split()[-1])
    assert step == 6

    assert bench.jobs.resume(job.id).state is JobState.QUEUED
    until(lambda: bench.jobs.get(job.id).over)
    assert bench.state(job) is JobState.DONE and bench.jobs.get(job.id).attempt == 2
    assert bench.starts(job) == [0, step]
    with pytest.raises(JobError, match="is done"):
        bench.jobs.resume(job.id)


def test_a_run_that_does_not_heed_the_request_to_end_is_killed(bench: Bench) -> None:
    job = bench.jobs.submit(Plan(manner="deaf", hold=3))
    bench.worker(grace=0.2)
    bench.until_step(job, 3)
    number = bench.training(job)
    bench.jobs.cancel(job.id)
    until(lambda: bench.jobs.get(job.id).over)
    assert bench.state(job) is JobState.CANCELLED and is_gone(number)


def test_a_worker_that_is_stopped_ends_its_job_with_a_checkpoint(bench: Bench) -> None:
    first, second = bench.jobs.submit(HELD), bench.jobs.submit(Plan())
    worker = bench.worker()
    bench.until_step(first, 3)
    number = bench.training(first)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0 and is_gone(number)
    job = bench.jobs.get(first.id)
    assert job.state is JobState.INTERRUPTED
    assert job.reason.startswith("Its worker was stopped. It can be resumed from step ")
    assert bench.state(second) is JobState.QUEUED and bench.starts(second) == []


def test_a_training_process_that_is_killed_leaves_a_job_to_resume(bench: Bench) -> None:
    job = bench.jobs.submit(HELD)
    bench.worker()
    bench.until_step(job, 3)
    os.kill(bench.training(job), signal.SIGKILL)
    until(lambda: bench.jobs.get(job.id).over)
    reason = bench.jobs.get(job.id).reason
    assert bench.state(job) is JobState.INTERRUPTED and "SIGKILL" in reason
    bench.jobs.resume(job.id)
    until(lambda: bench.state(job) is JobState.DONE)
    assert bench.starts(job)[1] >= 3


def test_what_the_queue_lost_is_run_and_what_it_has_twice_runs_once(bench: Bench) -> None:
    lost, twice = bench.jobs.submit(Plan()), bench.jobs.submit(Plan())
    assert bench.queue.take() == lost.id
    bench.queue.put(twice.id)
    bench.queue.put(new_id())  # of a job that was deleted
    bench.queue.put("../../etc")
    bench.jobs.recover()
    bench.jobs.recover()
    assert sorted(filter(None, iter(bench.queue.take, None))).count(lost.id) == 1
    for name in (twice.id, twice.id, lost.id, lost.id):
        bench.queue.put(name)
    bench.work_off()
    assert bench.starts(lost) == bench.starts(twice) == [0]
    assert bench.state(lost) is bench.state(twice) is JobState.DONE


def test_one_job_at_a_time_runs_on_a_gpu(bench: Bench) -> None:
    jobs = [bench.jobs.submit(HELD) for _ in range(4)]
    for gpu in ("0", "0"):
        bench.worker(gpu)
    bench.until_step(jobs[0], 3)
    until(lambda: said(bench.ledger, "Another process uses the device."))  # the worker without work
    assert notes(bench.ledger) == [["start", jobs[0].id, "0"]]
    let_go(bench.ledger)
    until(lambda: all(bench.state(job) is JobState.DONE for job in jobs))
    assert [line[0] for line in notes(bench.ledger)] == ["start", "done"] * 4

    hold_back(bench.ledger)
    both = [bench.jobs.submit(HELD) for _ in range(2)]
    bench.worker("1")
    until(lambda: len(notes(bench.ledger)) == 10)  # two start, and neither can end before the other
    let_go(bench.ledger)
    until(lambda: all(bench.state(job) is JobState.DONE for job in both))
    assert [line[0] for line in notes(bench.ledger)][8:] == ["start", "start", "done", "done"]


def test_a_worker_whose_job_was_given_up_ends_its_training(bench: Bench) -> None:
    job = bench.jobs.submit(HELD)
    worker = bench.worker()
    bench.until_step(job, 3)
    number = bench.training(job)
    running = bench.jobs.get(job.id)
    assert bench.store.finish(
        running, JobState.INTERRUPTED, "Given up."
    )  # as another machine would
    until(lambda: is_gone(number))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0  # so that nothing more comes from it
    assert bench.jobs.get(job.id).reason == "Given up."


def test_a_worker_elsewhere_is_given_up_when_it_has_long_been_silent(bench: Bench) -> None:
    job = bench.jobs.submit(Plan())
    assert bench.store.claim(job.id, "elsewhere:1:2") is not None
    bench.jobs.recover()
    assert bench.state(job) is JobState.RUNNING
    Jobs(bench.settings, limits(stale=0)).recover()
    assert bench.state(job) is JobState.INTERRUPTED
    reason = "Its machine gave no sign of life any more. It has no checkpoint yet, so "
    assert bench.jobs.get(job.id).reason == reason + "resuming it begins anew."


@pytest.mark.parametrize("wish", ["", "cancel"])
def test_a_job_whose_worker_is_gone_is_found(wish: str, bench: Bench) -> None:
    job = bench.jobs.submit(Plan())
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    here = f"{os.uname().nodename}:{gone.pid}:1"
    assert bench.store.claim(job.id, here) is not None
    if wish:
        assert bench.jobs.cancel(job.id).state is JobState.CANCELLED
    else:
        bench.jobs.recover()
        assert bench.state(job) is JobState.INTERRUPTED


def test_a_job_that_was_done_when_its_worker_was_killed_is_done(bench: Bench) -> None:
    job = bench.jobs.submit(Plan())
    assert bench.store.claim(job.id, f"{os.uname().nodename}:999999999:1") is not None
    adapter = bench.jobs.folder(job.id) / "adapter"
    adapter.mkdir()
    (adapter / "run.json").write_text("{}")
    bench.jobs.recover()
    assert bench.state(job) is JobState.DONE and bench.jobs.adapter(job.id) == adapter
    assert bench.starts(job) == []


def test_a_job_does_not_run_again_while_its_first_run_survives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, other = bench.jobs.submit(Plan(manner="deaf", hold=3)), bench.jobs.submit(Plan())
    worker = bench.worker()
    bench.until_step(job, 3)
    number = bench.training(job)
    worker.kill()  # its training process is told, and does not heed it
    worker.wait()
    assert bench.queue.take() == other.id
    for name in (job.id, other.id):
        bench.queue.put(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    bench.work_off()
    assert bench.state(other) is JobState.DONE  # so the name before it in the queue came up too
    assert not is_gone(number)
    assert bench.state(job) is JobState.RUNNING  # so it cannot be resumed or deleted either
    with pytest.raises(JobError, match="is running, so there is nothing to resume"):
        bench.jobs.resume(job.id)
    impatient = Jobs(bench.settings, limits(grace=0))

    def given_up() -> bool:
        impatient.recover()
        return bench.jobs.get(job.id).over

    until(given_up)
    assert is_gone(number) and bench.state(job) is JobState.INTERRUPTED
    let_go(bench.ledger)
    bench.jobs.resume(job.id)
    bench.work_off()
    assert len(bench.starts(job)) == 2


def test_a_process_is_not_taken_for_another_with_its_number() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = processes.identity(process.pid)
    host, number, start = who.split(":")
    assert processes.is_alive(who)
    for other in (f"{host}:{number}:{start}0", f"else{who}", "", None, f"{host}:{number}:"):
        assert not processes.is_alive(other)
        processes.kill_group(other)  # the test's own group, if it were believed
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.is_alive(who)  # a zombie
    process.wait()
    assert not processes.is_alive(who)


def test_deleting_a_job_deletes_its_files_and_nothing_else(bench: Bench, tmp_path: Path) -> None:
    job, other = bench.jobs.submit(Plan()), bench.jobs.submit(Plan())
    bench.work_off()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_text("precious")
    folder = bench.jobs.folder(job.id)
    (folder / "adapter" / "link").symlink_to(tmp_path / "mine")
    (folder / "file").symlink_to(tmp_path / "mine" / "photo.png")

    def everything() -> set[Path]:
        databases = ("jobs.sqlite3", "queue.sqlite3")
        return {path for path in tmp_path.rglob("*") if not path.name.startswith(databases)}

    before = everything()
    inside = {path for path in before if path == folder or folder in path.parents}
    bench.jobs.delete(job.id)
    assert everything() == before - inside
    assert (tmp_path / "mine" / "photo.png").read_text() == "precious"
    assert [left.id for left in bench.jobs.all()] == [other.id]
    for ask in (bench.jobs.get, bench.jobs.delete, bench.jobs.folder, bench.jobs.resume):
        with pytest.raises(JobError, match="There is no job"):
            ask(job.id)

    folder = bench.jobs.folder(other.id)
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path / "mine")
    with pytest.raises(JobError, match="is a link to elsewhere"):
        bench.jobs.delete(other.id)
    assert (tmp_path / "mine" / "photo.png").exists() and bench.jobs.get(other.id)
    for name in ("", "..", "../mine", str(tmp_path / "mine"), f"{other.id}/../../mine"):
        for ask in (bench.jobs.delete, bench.jobs.folder, bench.jobs.log_tail, bench.jobs.events):
            with pytest.raises(JobError):
                ask(name)
    assert (tmp_path / "mine" / "photo.png").exists()


def test_a_deletion_that_was_cut_off_is_finished(bench: Bench) -> None:
    job = bench.jobs.submit(Plan())
    folder = bench.jobs.folder(job.id)
    assert bench.store.hide(job.id)
    bench.jobs.recover()
    assert not folder.exists() and bench.store.hidden() == []


def test_too_many_jobs_are_refused(bench: Bench) -> None:
    few = Jobs(bench.settings.model_copy(update={"max_waiting_jobs": 1}), limits())
    few.submit(Plan())
    with pytest.raises(JobError, match=r"^1 job waits already, and 1 may: cancel one or try"):
        few.submit(Plan())
    assert len(few.all()) == 1
    assert len([path for path in bench.folder.iterdir() if path.is_dir()]) == 1


def test_a_job_that_cannot_be_queued_leaves_nothing(bench: Bench) -> None:
    url = {"redis_url": "redis://127.0.0.1:1/0"}
    jobs = Jobs(bench.settings.model_copy(update=url), limits())
    with pytest.raises(JobError, match=r"queue of jobs at redis://127\.0\.0\.1:1 fails"):
        jobs.submit(Plan())
    assert jobs.all() == [] and not [path for path in bench.folder.iterdir() if path.is_dir()]


def test_the_apps_worker_ends_its_job_with_a_checkpoint_when_it_is_closed(bench: Bench) -> None:
    words = [
        sys.executable,
        "-m",
        "tests.support.toy_jobs",
        "work",
        str(bench.ledger),
        "--with-parent",
    ]
    worker = AppWorker(bench.settings, words)
    job = bench.jobs.submit(HELD)
    bench.until_step(job, 3)
    worker.close()
    assert not worker.alive
    assert bench.state(job) is JobState.INTERRUPTED
    assert "can be resumed from step" in bench.jobs.get(job.id).reason
    assert start_worker(bench.settings.model_copy(update={"worker": "off"})) is None


def test_the_apps_worker_comes_back_when_it_dies_and_ends_with_the_app(bench: Bench) -> None:
    app = bench.start("host", str(bench.folder), str(bench.ledger))
    first = int(app.stdout.readline())
    os.kill(first, signal.SIGKILL)
    second = int(app.stdout.readline())
    assert second != first
    job = bench.jobs.submit(HELD)
    bench.until_step(job, 3)
    number = bench.training(job)
    app.kill()  # which leaves it no moment to tell anybody
    until(lambda: is_gone(number) and is_gone(second))
    ended = bench.jobs.get(job.id)
    assert ended.state is JobState.INTERRUPTED and "can be resumed from step" in ended.reason
