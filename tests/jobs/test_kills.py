"""Jobs while the app, workers and training processes are killed with -9 at random moments."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from qvla.jobs.errors import JobError
from qvla.jobs.service import Jobs
from qvla.jobs.store import RESUMABLE, JobState
from qvla.methods.recipe import make_recipe
from tests.support.toy_jobs import ENVIRONMENT, ROOT, Plan, limits, notes, settings

VICTIMS = ("app",) * 3 + ("worker",) * 4 + ("training",) * 3  # of each seed, in its order
JOBS = 8


class Killed:
    """A process that is started again whenever it has been killed."""

    def __init__(self, words: list[str], variables: dict[str, str], output: Path) -> None:
        self._words, self._environment = words, ENVIRONMENT | variables
        self._output = output.open("ab")
        self.process = self._start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def again(self) -> None:
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", *self._words]
        return subprocess.Popen(words, cwd=ROOT, env=self._environment, stdout=self._output)


def training_of(jobs: Jobs) -> list[int]:
    """The numbers of the processes that run jobs now, or did a moment ago."""
    numbers = []
    for job in jobs.all():
        if job.state is JobState.RUNNING:
            signed = jobs.folder(job.id) / "lock"
            if signed.exists() and (text := signed.read_text()):
                numbers.append(int(text.split(":")[1]))
    return numbers


def kill_a_training(jobs: Jobs, chance: random.Random) -> bool:
    """Kills the process of a job that runs; sees to it that there is work when none does."""
    for number in chance.sample(running := training_of(jobs), len(running)):
        with suppress(OSError):
            if b"tests.support.toy_jobs" in Path(f"/proc/{number}/cmdline").read_bytes():
                os.kill(number, signal.SIGKILL)
                return True
    resume_all(jobs)
    if not any(job.state in (JobState.QUEUED, JobState.RUNNING) for job in jobs.all()):
        jobs.submit(Plan(steps=30))
    return False


def resume_all(jobs: Jobs) -> None:
    for job in jobs.all():
        if job.state in RESUMABLE:
            jobs.resume(job.id)


def until(what: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_job_is_lost_and_none_runs_twice(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    folder, ledger, accepted = tmp_path / "jobs", tmp_path / "ledger", tmp_path / "accepted"
    ledger.mkdir()
    jobs = Jobs(settings(folder), limits())
    toy, where = "tests.support.toy_jobs", {"QVLA_JOBS": str(folder)}
    app = Killed([toy, "app", str(folder), str(JOBS)], where, accepted)
    workers = [
        Killed([toy, "work", str(ledger)], where | {"CUDA_VISIBLE_DEVICES": gpu}, tmp_path / "out")
        for gpu in "01"
    ]
    killed = 0
    try:
        until(accepted.read_text, 30)
        for victim in chance.sample(VICTIMS, len(VICTIMS)):
            time.sleep(chance.uniform(0.2, 1.0))
            if victim == "training":
                until(lambda: kill_a_training(jobs, chance), 30)
            else:
                process = app if victim == "app" else chance.choice(workers)
                process.kill()
                time.sleep(chance.uniform(0, 0.3))
                process.again()
            killed += 1
            if chance.random() < 0.5:
                resume_all(jobs)

        def all_done() -> bool:
            resume_all(jobs)
            return all(job.state is JobState.DONE for job in jobs.all())

        app.kill()
        until(all_done, 60)
    finally:
        for process in (app, *workers):
            process.kill()
    assert killed == len(VICTIMS)

    promised = accepted.read_text().split()
    ended = {job.id for job in jobs.all()}
    assert promised and set(promised) <= ended
    lines = notes(ledger)
    assert {line[0] for line in lines} == {"start", "done"}  # no overlap, nothing out of order
    assert {line[1] for line in lines} == ended
    for job in ended:
        own = [line for line in lines if line[1] == job]
        assert [line[0] for line in own].count("done") <= 1
        assert "done" not in [line[0] for line in own][:-1]  # nothing starts after it
        steps = [int(line[2]) for line in own if line[0] == "start"]
        assert steps == sorted(steps)  # what was saved is not lost
        assert jobs.adapter(job) is not None
    resumed = [line for line in lines if line[0] == "start" and line[2] != "0"]
    assert resumed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RISC folder of eight plain squares."""
    folder = tmp_path_factory.mktemp("risc")
    (folder / "images").mkdir()
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "split", "image", *(f"caption_{n}" for n in range(1, 6))])
        for number in range(8):
            Image.new("RGB", (40, 40), (30 * number, 90, 60)).save(
                folder / "images" / f"{number}.png"
            )
            captions = ["green trees .", "a road ."] if number % 2 else ["the sea .", "a beach ."]
            writer.writerow(["MADE", "train", f"{number}.png", *captions, "", "", ""])
    return folder


def test_a_real_run_outlives_its_killers(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    jobs = Jobs(settings(folder))
    recipe = make_recipe(
        model=str(tiny_checkpoint),
        data=data,
        output=tmp_path / "no",
        eval_splits=[],
        max_steps=240,
        save_steps=6,
        log_steps=1,
        reduction_factor=4,
        device="cpu",
        bf16=False,
    )
    bad = jobs.submit(make_recipe(model=str(tiny_checkpoint), data=tmp_path, output=tmp_path))
    job = jobs.submit(recipe)
    where = {"QVLA_JOBS": str(folder), "OMP_NUM_THREADS": "1"}
    worker = Killed(["qvla", "worker"], where, tmp_path / "out")

    def saved() -> int:
        rows, _ = jobs.events(job.id)
        return max((row["step"] for row in rows if row["event"] == "checkpoint"), default=0)

    def until_saved_beyond(step: int) -> None:
        until(lambda: saved() > step or jobs.get(job.id).over, 90)

    try:
        until(lambda: jobs.get(bad.id).over, 60)
        failed = jobs.get(bad.id)
        assert failed.state is JobState.FAILED and failed.reason.startswith(str(tmp_path))
        assert failed.reason.endswith(".") and failed.reason in jobs.log_tail(bad.id)

        until_saved_beyond(0)
        os.kill(training_of(jobs)[0], signal.SIGKILL)
        until(lambda: jobs.get(job.id).over, 20)
        assert jobs.get(job.id).state is JobState.INTERRUPTED
        assert "SIGKILL" in jobs.get(job.id).reason

        jobs.resume(job.id)
        until(lambda: jobs.get(job.id).state is JobState.RUNNING, 20)
        until(lambda: jobs.log_tail(job.id, 1).startswith("Attempt 2"), 20)
        time.sleep(1)  # now it loads its libraries
        os.kill(training_of(jobs)[0], signal.SIGKILL)
        until(lambda: jobs.get(job.id).over, 20)
        assert jobs.get(job.id).state is JobState.INTERRUPTED

        first = saved()
        jobs.resume(job.id)
        until_saved_beyond(first)
        training = training_of(jobs)[0]
        worker.kill()  # the training process hears of it, saves and ends
        worker.again()
        until(lambda: jobs.get(job.id).over, 40)
        assert jobs.get(job.id).state is JobState.INTERRUPTED
        assert saved() > first and not Path(f"/proc/{training}").exists()

        assert (
            jobs.get(job.id).reason
            == f"Its worker was gone. It can be resumed from step {saved()}."
        )
        jobs.resume(job.id)
        until(lambda: jobs.get(job.id).over, 90)
        assert jobs.get(job.id).state is JobState.DONE, jobs.log_tail(job.id)
    finally:
        worker.kill()
    rows, _ = jobs.events(job.id)
    starts = [row["step"] for row in rows if row["event"] == "start"]
    assert len(starts) == 3 and starts[0] == 0 and starts[1:] == sorted(set(starts[1:]))
    assert rows[-1]["event"] == "end" and rows[-1]["state"] == "done"
    assert jobs.adapter(job.id) == folder / job.id / "adapter"
    assert (folder / job.id / "adapter" / "adapter_model.safetensors").is_file()
    with pytest.raises(JobError, match="is done"):
        jobs.resume(job.id)
