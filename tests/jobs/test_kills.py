"""Jobs while the app, workers and training processes are killed with -9 at random moments."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from qvla.captioning.sharing import DeviceLock
from qvla.jobs.errors import JobError
from qvla.jobs.service import Jobs
from qvla.jobs.store import RESUMABLE, JobState
from qvla.methods.recipe import make_recipe
from tests.support.gates import Gate
from tests.support.toy_jobs import ENVIRONMENT, ROOT, Plan, is_gone, limits, notes, settings
from tests.support.waiting import until

FEW = ("app", "worker", "worker", "training")  # in an order that the seed gives
MANY = ("app",) * 3 + ("worker",) * 4 + ("training",) * 3
JOBS = 4  # of each app


class Killed:
    """A process that is started again whenever it has been killed."""

    def __init__(self, words: list[str], variables: dict[str, str], output: Path) -> None:
        self._words, self._environment = words, ENVIRONMENT | variables
        self._output = output
        self.process = self._start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def again(self) -> None:
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", *self._words]
        with self._output.open("ab") as output:
            return subprocess.Popen(words, cwd=ROOT, env=self._environment, stdout=output)


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
    see_to_work(jobs)
    return False


def see_to_work(jobs: Jobs) -> None:
    resume_all(jobs)
    if not any(job.state in (JobState.QUEUED, JobState.RUNNING) for job in jobs.all()):
        jobs.submit(Plan(steps=12))


def until_steps(jobs: Jobs, number: int) -> None:
    """Until so many more steps are done, of all jobs together."""

    def done() -> int:
        rows = [row for job in jobs.all() for row in jobs.events(job.id)[0]]
        return sum(row["event"] == "step" for row in rows)

    before = done()

    def enough() -> bool:
        see_to_work(jobs)
        return done() >= before + number

    until(enough)


def saved(jobs: Jobs, job_id: str) -> int:
    """The step of the job's last checkpoint."""
    rows, _ = jobs.events(job_id)
    return max((row["step"] for row in rows if row["event"] == "checkpoint"), default=0)


def resume_all(jobs: Jobs) -> None:
    for job in jobs.all():
        if job.state in RESUMABLE:
            jobs.resume(job.id)


@pytest.mark.parametrize(
    ("seed", "victims"),
    [
        pytest.param(1, FEW, id="few"),
        pytest.param(1, MANY, id="many", marks=pytest.mark.slow),
        pytest.param(2, MANY, id="many others", marks=pytest.mark.slow),
    ],
)
def test_no_job_is_lost_and_none_runs_twice(
    seed: int, victims: Sequence[str], tmp_path: Path
) -> None:
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
        until(accepted.read_text)
        held = jobs.submit(Plan(steps=12, hold=3))  # one that surely has what resuming begins with
        until(lambda: saved(jobs, held.id) == 3)
        os.kill(int((jobs.folder(held.id) / "lock").read_text().split(":")[1]), signal.SIGKILL)
        for victim in chance.sample(victims, len(victims)):
            until_steps(jobs, chance.randint(1, 8))
            time.sleep(chance.uniform(0, 0.05))  # at any moment within a step
            if victim == "training":
                until(lambda: kill_a_training(jobs, chance))
            else:
                process = app if victim == "app" else chance.choice(workers)
                process.kill()
                process.again()
            killed += 1
            if chance.random() < 0.5:
                resume_all(jobs)

        def all_done() -> bool:
            resume_all(jobs)
            return all(job.state is JobState.DONE for job in jobs.all())

        app.kill()
        until(all_done)
    finally:
        for process in (app, *workers):
            process.kill()
    assert killed == len(victims)

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


@pytest.mark.slow
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
    # Captions that are being made keep the run from its next step, and so from running away.
    device = DeviceLock(settings(folder).device_lock)
    gate = Gate(tmp_path / "gate", "import", "transformers")
    where = {"QVLA_JOBS": str(folder), "OMP_NUM_THREADS": "1"}
    worker = Killed(["qvla", "worker"], where | gate.variables, tmp_path / "out")

    def until_saved_beyond(step: int) -> None:
        """And then it stands still, with most of its steps to come."""
        device.give_back()
        until(lambda: saved(jobs, job.id) > step or jobs.get(job.id).over)
        device.take(shared=True)

    try:
        until(lambda: jobs.get(bad.id).over)
        failed = jobs.get(bad.id)
        assert failed.state is JobState.FAILED and failed.reason.startswith(str(tmp_path))
        assert failed.reason.endswith(".") and failed.reason in jobs.log_tail(bad.id)

        until_saved_beyond(0)
        os.kill(training_of(jobs)[0], signal.SIGKILL)
        until(lambda: jobs.get(job.id).over)
        assert jobs.get(job.id).state is JobState.INTERRUPTED
        assert "SIGKILL" in jobs.get(job.id).reason

        gate.close()
        jobs.resume(job.id)
        gate.until_somebody_waits()  # now it loads its libraries
        gate.open()
        assert jobs.log_tail(job.id, 1).startswith("Attempt 2")
        os.kill(training_of(jobs)[0], signal.SIGKILL)
        until(lambda: jobs.get(job.id).over)
        assert jobs.get(job.id).state is JobState.INTERRUPTED

        first = saved(jobs, job.id)
        jobs.resume(job.id)
        until_saved_beyond(first)
        training = training_of(jobs)[0]
        worker.kill()  # the training process hears of it, saves and ends
        device.give_back()
        worker.again()
        until(lambda: jobs.get(job.id).over)
        assert jobs.get(job.id).state is JobState.INTERRUPTED
        assert saved(jobs, job.id) > first
        until(lambda: is_gone(training))

        sentence = f"It can be resumed from step {saved(jobs, job.id)}."
        assert jobs.get(job.id).reason == f"Its worker was gone. {sentence}"
        jobs.resume(job.id)
        until(lambda: jobs.get(job.id).over)
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
