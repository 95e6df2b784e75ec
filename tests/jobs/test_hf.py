"""Fine-tunes as Hugging Face Jobs, against a hub on this machine, through huggingface_hub's client.

The jobs of that hub are real processes, and the first test's really train.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import PaliGemmaForConditionalGeneration

from qvla.errors import QvlaError
from qvla.jobs.errors import JobError
from qvla.jobs.hf import state
from qvla.jobs.hf.follow import Follower, TryAgain
from qvla.jobs.runner import HfRunner
from qvla.jobs.service import Jobs
from qvla.jobs.store import Job, JobState
from qvla.jobs.worker import Worker
from qvla.methods.recipe import make_recipe
from qvla.settings import load_settings
from tests.support.hub_server import TOKEN, HubServer, hub_server, known_here
from tests.support.serving import write_risc_folder
from tests.support.toy_jobs import limits
from tests.support.waiting import until

ROWS = [("UCM", "val" if n > 3 else "train", f"{n}.png", ["green trees"]) for n in range(5)]
STEPS = 100


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server(tmp_path / "at-hub") as server:
        known_here(server, tmp_path / "hf", monkeypatch)
        monkeypatch.setenv("QVLA_JOB_FLAVOR", "cpu-basic")
        monkeypatch.setenv("QVLA_JOB_HOURS", "2")
        yield server


# A job that says something, and goes on or ends as a file tells it.
SCRIPT = """
import json, pathlib, sys, time
word = pathlib.Path(sys.argv[1])
row = {"event": "step", "time": "2026-01-01T00:00:00+00:00", "step": 7, "loss": 0.5}
print("QVLA:event " + json.dumps(row), flush=True)
print("QVLA:pushed 7", flush=True)
print("It begins.", flush=True)
while not word.exists():
    time.sleep(0.02)
print("It ends.", flush=True)
sys.exit(int(word.read_text()))
"""


class Bench:
    """A service of jobs, and a worker that has them run at the hub."""

    def __init__(self, folder: Path, model: Path, hub: HubServer) -> None:
        self.settings = load_settings(home=folder, model=str(model), runner="hf-jobs")
        self.jobs, self.hub = Jobs(self.settings, limits()), hub
        self.data = write_risc_folder(folder / "photos", ROWS)
        self.worker: Worker | None = None

    def submit(self, **values: Any) -> Job:
        usual = {"method": "lora", "model": self.settings.model, "data": self.data}
        usual |= {"output": "none", "device": "cpu", "bf16": False, "max_steps": STEPS}
        usual |= {"batch_size": 1, "log_steps": 25, "eval_steps": 1000, "save_steps": 2}
        return self.jobs.submit(make_recipe(**{**usual, **values}))

    def work(self, patience: float = 300.0) -> None:
        """Runs what waits, in this process."""
        self.worker = Worker(self.settings, limits(), HfRunner(patience))
        self.worker.run(once=True)

    def begin(self, tmp_path: Path) -> tuple[Job, threading.Thread]:
        """A job that only talks, followed in a thread until it has said something."""
        word = tmp_path / "word"
        self.hub.state.script = [sys.executable, "-c", SCRIPT, str(word)]
        job = self.submit()
        thread = threading.Thread(target=self.work)
        thread.start()
        until(lambda: "It begins." in self.log(job))
        return job, thread

    def log(self, job: Job) -> str:
        path = self.jobs.folder(job.id) / "log.txt"
        return path.read_text() if path.exists() else ""

    def ended(self, job: Job, ending: JobState) -> str:
        """The sentence on it, having ended so."""
        found = self.jobs.get(job.id)
        assert found.state is ending, (found.reason, self.log(job))
        return found.reason


@pytest.fixture
def bench(tmp_path: Path, tiny_checkpoint: Path, hub: HubServer) -> Bench:
    return Bench(tmp_path / "home", tiny_checkpoint, hub)


def test_a_run_that_its_time_out_cuts_off_goes_on_from_the_checkpoint_at_the_hub(
    bench: Bench,
) -> None:
    hub = bench.hub.state
    job = bench.submit()
    repository = f"someone/qvla-job-{job.id}"

    def time_out(repo: str, paths: list[str]) -> None:
        if any("checkpoint-" in path for path in paths):
            hub.after_commit = lambda repo, paths: None
            next(iter(hub.jobs.values())).end("ERROR", "Job timeout")

    hub.after_commit = time_out
    bench.work()
    reason = bench.ended(job, JobState.INTERRUPTED)
    step = state.read(bench.jobs.folder(job.id)).step
    assert step and f"resumed from step {step}" in reason and "time-out of 2 h" in reason
    assert bench.jobs.adapter(job.id) is None
    assert any(f"checkpoint-{step}/optimizer.pt" in name for name in hub.files[repository])

    bench.jobs.resume(job.id)
    bench.work()
    bench.ended(job, JobState.DONE)
    folder = bench.jobs.adapter(job.id)
    base = PaliGemmaForConditionalGeneration.from_pretrained(bench.settings.model)
    adapted = PeftModel.from_pretrained(base, folder)
    assert any(bool(one.any()) for name, one in adapted.named_parameters() if "lora_B" in name)
    told, _ = bench.jobs.events(job.id)
    starts = [row["step"] for row in told if row["event"] == "start"]
    assert starts == [0, step] and told[-1]["event"] == "end"
    assert json.loads((folder / "run.json").read_text())["steps"] == STEPS
    # What is left at the hub is the adapter alone, and nobody else may see it.
    names = hub.files[repository]
    assert hub.private[repository] and not any("checkpoint-" in name for name in names)
    assert (
        names["adapter/adapter_model.safetensors"]
        == (folder / "adapter_model.safetensors").read_bytes()
    )

    first, second = hub.jobs.values()
    assert first.asked["flavor"] == "cpu-basic" and first.asked["timeoutSeconds"] == 7200
    for one in (first, second):
        assert one.asked.pop("secrets") == {"HF_TOKEN": TOKEN}
        assert TOKEN not in json.dumps(one.asked)
    written = [path for path in bench.settings.home.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


def test_who_cancels_a_fine_tune_ends_its_job_at_the_hub(bench: Bench, tmp_path: Path) -> None:
    job, thread = bench.begin(tmp_path)
    told, _ = bench.jobs.events(job.id)
    assert [row["step"] for row in told] == [7]
    bench.jobs.cancel(job.id)
    thread.join()
    assert "It was cancelled." in bench.ended(job, JobState.CANCELLED)
    (at_hub,) = bench.hub.state.jobs.values()
    assert at_hub.stage == "CANCELED"
    bench.jobs.delete(job.id)


def test_a_job_goes_on_without_its_worker_and_is_found_again(bench: Bench, tmp_path: Path) -> None:
    hub = bench.hub
    job, thread = bench.begin(tmp_path)
    bench.worker.stop()
    thread.join()
    assert "goes on at Hugging Face" in bench.ended(job, JobState.INTERRUPTED)
    with pytest.raises(JobError, match="goes on at Hugging Face"):
        bench.jobs.delete(job.id)

    # The hub does not answer for longer than anybody is patient.
    hub.state.refuse = [("logs", 503, "Busy")]
    bench.jobs.resume(job.id)
    bench.work(patience=0)
    reason = bench.ended(job, JobState.INTERRUPTED)
    assert "no answer" in reason and "goes on at Hugging Face" in reason
    hub.state.refuse = []

    # The connection is cut, and comes back.
    bench.jobs.resume(job.id)
    thread = threading.Thread(target=bench.work)
    thread.start()
    until(lambda: len([path for _, path in hub.state.asked if path.endswith("/logs")]) == 3)
    hub.down()
    hub.up()
    (tmp_path / "word").write_text("3")
    thread.join()
    reason = bench.ended(job, JobState.FAILED)
    assert "exit code: 3" in reason and f"{hub.address}/jobs/someone/" in reason
    log = bench.log(job)
    assert log.count("It begins.") == log.count("It ends.") == 1 and len(hub.state.jobs) == 1

    # Of a job that the hub has forgotten, nothing is to be heard.
    remote = state.read(bench.jobs.folder(job.id))
    remote.over = False
    remote.write(bench.jobs.folder(job.id))
    hub.state.jobs.clear()
    bench.jobs.resume(job.id)
    bench.work()
    assert "is gone" in bench.ended(job, JobState.INTERRUPTED)
    bench.jobs.delete(job.id)


@pytest.mark.parametrize(
    ("request_", "status", "words", "sentence"),
    [
        ("GET /api/whoami", 401, "", "does not know this machine's token"),
        ("POST /api/repos/create", 403, "", "does not let this machine's token write to someone/"),
        ("POST /api/jobs", 402, "", "asks for credit"),
        ("POST /api/jobs", 403, "", "the right to start Jobs"),
        ("POST /api/jobs", 400, "Unknown flavor", r"job on cpu-basic \(Unknown flavor\)"),
    ],
)
def test_what_is_refused_at_the_start_is_one_sentence(
    bench: Bench,
    request_: str,
    status: int,
    words: str,
    sentence: str,
) -> None:
    bench.hub.state.refuse = [(request_, status, words)]
    job = bench.submit()
    follower = Follower(bench.jobs.folder(job.id), load_settings(), patience=0)
    with pytest.raises(QvlaError, match=sentence) as found:
        follower.run()
    assert not isinstance(found.value, TryAgain) and "\n" not in str(found.value)
    assert TOKEN not in str(found.value) and not bench.hub.state.jobs


def test_what_cannot_go_along_is_refused_before_anything_is_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.submit(data=bench.data / "captions.csv")
    with pytest.raises(QvlaError, match="a single file"):
        Follower(bench.jobs.folder(job.id), load_settings(), patience=0).run()
    assert not bench.hub.state.files
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(QvlaError, match="no token"):
        Follower(bench.jobs.folder(job.id), load_settings(), patience=0).run()
