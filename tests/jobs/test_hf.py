"""Fine-tunes as Hugging Face Jobs, against a hub on this machine, through huggingface_hub's client.

The jobs of that hub are real processes, and the first test's really train.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import CommitOperationAdd, HfApi

from qvla.errors import QvlaError
from qvla.jobs.errors import JobError
from qvla.jobs.hf import state
from qvla.jobs.hf.follow import Follower, TryAgain
from qvla.jobs.hf.inside import Inside
from qvla.jobs.hf.repository import add_events
from qvla.jobs.service import Jobs
from qvla.jobs.store import Job, JobState
from qvla.jobs.worker import Worker
from qvla.methods.recipe import make_recipe
from qvla.settings import load_settings
from qvla.tuning import events
from tests.support.hub_server import TOKEN, HubServer, hub_server, known_here
from tests.support.serving import write_risc_folder
from tests.support.toy_jobs import ROOT, Plan, let_go, limits, notes
from tests.support.waiting import until

# The library's own way to put large files.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

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

# Within a job, with the stand-in of `toy_jobs` in place of training.
STAND_IN = """
import os, pathlib, sys
from qvla import commits
from qvla.jobs.hf.inside import Inside
from qvla.jobs.hf.repository import add_events
place = pathlib.Path.cwd()
train = [sys.executable, "-m", "tests.support.toy_jobs", "train", sys.argv[1]]
train.append(str(place / "recipe.yaml"))
sys.exit(Inside(commits.hub(), os.environ["QVLA_REPOSITORY"], place, None, train).run())
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

    def work(self) -> None:
        """Runs what waits, in this process."""
        self.worker = Worker(self.settings, limits())
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

    def time_out(self, repository: str, paths: list[str]) -> None:
        """Ends the first job as soon as it has pushed a checkpoint."""
        hub = self.hub.state
        if any("checkpoint-" in path for path in paths):
            hub.after_commit = lambda repository, paths: None
            next(iter(hub.jobs.values())).end("ERROR", "Job timeout")

    def check_what_was_asked(self) -> None:
        """Of two jobs; the token is their secret, and nowhere else."""
        first, second = self.hub.state.jobs.values()
        assert first.asked["flavor"] == "cpu-basic" and first.asked["timeoutSeconds"] == 7200
        for one in (first, second):
            assert one.asked["secrets"] == {"HF_TOKEN": TOKEN}
            assert TOKEN not in json.dumps({**one.asked, "secrets": None})
        files = [path for path in self.settings.home.rglob("*") if path.is_file()]
        kept = [content for one in self.hub.state.files.values() for content in one.values()]
        for content in (*(path.read_bytes() for path in files), *kept):
            assert TOKEN.encode() not in content

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


def test_a_run_that_is_cut_off_goes_on_from_the_checkpoint_at_the_hub(
    bench: Bench, tmp_path: Path
) -> None:
    """As the next test, but for the command of the job and the training in it: a stand-in."""
    hub, ledger = bench.hub.state, tmp_path / "ledger"
    ledger.mkdir()
    hub.script = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", STAND_IN, str(ledger)]
    job = bench.jobs.submit(Plan(steps=10, hold=3))
    hub.after_commit = bench.time_out
    bench.work()
    reason = bench.ended(job, JobState.INTERRUPTED)
    assert "time-out of 2 h" in reason and "resumed from step 3" in reason
    let_go(ledger)
    bench.jobs.resume(job.id)
    bench.work()
    bench.ended(job, JobState.DONE)
    assert [line[0] for line in notes(ledger)] == ["start", "start", "done"]
    assert [line[2] for line in notes(ledger)[:2]] == ["0", "3"]
    told, _ = bench.jobs.events(job.id)
    steps = [row["step"] for row in told if row["event"] == "step"]
    assert steps == list(range(1, 11)) and told[-1]["event"] == "end"
    assert (bench.jobs.adapter(job.id) / "run.json").is_file()
    bench.check_what_was_asked()


@pytest.mark.slow  # two real runs
def test_a_run_that_its_time_out_cuts_off_goes_on_from_the_checkpoint_at_the_hub(
    bench: Bench,
) -> None:
    from peft import PeftModel
    from transformers import PaliGemmaForConditionalGeneration

    hub = bench.hub.state
    job = bench.submit()
    repository = f"someone/qvla-job-{job.id}"
    hub.after_commit = bench.time_out
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

    bench.check_what_was_asked()


def test_before_its_time_out_a_job_ends_itself_with_a_checkpoint(
    hub: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A stand-in trains: it stands still behind its first checkpoint until it is asked to end."""
    place, ledger, name = tmp_path / "inside", tmp_path / "ledger", "someone/run"
    place.mkdir(), ledger.mkdir()
    api = HfApi(endpoint=hub.address)
    api.create_repo(name, private=True)
    recipe = {"output": "adapter", "data": "none", "steps": 9, "manner": "plain", "hold": 3}
    content = yaml.safe_dump(recipe).encode()
    api.create_commit(name, [CommitOperationAdd("recipe.yaml", content)], commit_message="It")
    checkpoints = place / "adapter.checkpoints"
    checkpoints.mkdir()
    (checkpoints / "recipe.json").write_text("{}")
    train = [sys.executable, "-m", "tests.support.toy_jobs", "train", str(ledger)]
    train.append(str(place / "recipe.yaml"))

    # The first try to push it is refused; training neither waits nor ends for that.
    hub.state.refused_once = [("POST .*/commit/", 403)]

    def clock() -> float:
        return 0.0 if hub.state.refused_once else 2.0  # time is up once that has happened

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert Inside(api, name, place, 1.0, train, clock).run() == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capfd.readouterr().out.splitlines()
    assert "QVLA:pushed 3" in said and said[-1] == "QVLA:out-of-time"
    assert any("checkpoint-3 is not pushed yet" in line for line in said)
    rows = [json.loads(line[len("QVLA:event ") :]) for line in said if "QVLA:event" in line]
    assert [row["step"] for row in rows if row["event"] == "step"] == [1, 2, 3]
    kept = {path for path in hub.state.files[name] if "checkpoint-3" in path}
    assert {Path(path).name for path in kept} == {"model.safetensors", "trainer_state.json"}


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


@pytest.mark.slow
def test_a_job_goes_on_without_its_worker_and_is_found_again(bench: Bench, tmp_path: Path) -> None:
    hub = bench.hub
    job, thread = bench.begin(tmp_path)
    bench.worker.stop()
    thread.join()
    assert "goes on at Hugging Face" in bench.ended(job, JobState.INTERRUPTED)
    with pytest.raises(JobError, match="goes on at Hugging Face"):
        bench.jobs.delete(job.id)

    bench.jobs.resume(job.id)
    thread = threading.Thread(target=bench.work)
    thread.start()
    until(lambda: len([path for _, path in hub.state.asked if path.endswith("/logs")]) == 2)
    hub.down()  # the connection is cut, and comes back
    hub.up()
    (tmp_path / "word").write_text("3")
    thread.join()
    reason = bench.ended(job, JobState.FAILED)
    assert "exit code: 3" in reason and f"{hub.address}/jobs/someone/" in reason
    log = bench.log(job)
    assert log.count("It begins.") == log.count("It ends.") == 1 and len(hub.state.jobs) == 1
    bench.jobs.delete(job.id)


@pytest.mark.parametrize(
    ("status", "sentence", "goes_on"),
    [
        (503, "no answer for long", True),
        (401, "does not let this machine's token see", True),
        (404, "is gone", False),
    ],
)
def test_a_job_of_which_nothing_is_to_be_heard_is_interrupted(
    bench: Bench, status: int, sentence: str, goes_on: bool
) -> None:
    job = bench.submit()
    folder = bench.jobs.folder(job.id)
    state.Remote("someone/run", "someone", "12ab", 60, over=False).write(folder)
    bench.hub.state.refuse = [("GET /api/jobs/someone/12ab", status, "")]
    with pytest.raises(TryAgain, match=sentence):
        Follower(folder, load_settings(), patience=0).run()
    assert state.read(folder).goes_on is goes_on


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


def test_what_the_log_did_not_tell_of_a_run_is_put_in_its_place(
    hub: HubServer, tmp_path: Path
) -> None:
    rows = [{"event": "step", "time": f"2026-01-01T00:00:0{n}+00:00", "step": n} for n in range(5)]
    rows = [{**row, "loss": 0.5} for row in rows]
    lines = [json.dumps(row) + "\n" for row in rows]
    api = HfApi(endpoint=hub.address)
    api.create_repo("someone/run")
    there = CommitOperationAdd("adapter.events.jsonl", "".join(lines[1:4]).encode())
    api.create_commit("someone/run", [there], commit_message="Some")
    file = tmp_path / "adapter.events.jsonl"
    file.write_text(lines[0] + lines[2] + lines[4])
    add_events(api, "someone/run", tmp_path)
    assert events.read(file)[0] == rows
    before = file.stat().st_ino
    add_events(api, "someone/run", tmp_path)
    assert file.stat().st_ino == before
