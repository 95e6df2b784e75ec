"""Processes for the tests of jobs: a quick stand-in for training, and a worker and an app to kill.

The stand-in leaves what a run leaves (events, checkpoints that can be torn, a result that is there
at once or not at all), but no model is loaded. Where a test has to come in between, it stands still
at a step until it is let go. In a ledger outside the job's folder it notes every start, and whether
another run of the same job was under way.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import yaml

from qvla.tuning import events
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
LEDGER = "ledger.txt"
NO_TENSORS = (2).to_bytes(8, "little") + b"{}"  # the least that a safetensors file can be
STEP_SECONDS = 0.02
OPEN = "open"  # a file in the ledger's folder, without which no held job goes on


class Plan:
    """What `Jobs.submit` needs of a recipe, without the seconds that importing Recipe takes.

    `manner` is how the run goes: plain, fails, crashes, deaf (to SIGTERM). Having done the step
    `hold`, one of those with a checkpoint, it does nothing more until `let_go`, or until it is
    asked to end.
    """

    def __init__(self, steps: int = 10, manner: str = "plain", hold: int = 0) -> None:
        self.values = {"steps": steps, "manner": manner, "hold": hold}

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return {"model": "none", "data": "none", **self.values}


def command(ledger: Path) -> Any:
    """A runner of the stand-in, as `Worker` takes it."""
    from qvla.jobs.runner import LocalRunner

    def words(folder: Path, resume: bool) -> list[str]:
        train = [sys.executable, "-m", "tests.support.toy_jobs", "train", str(ledger)]
        return [*train, str(folder / "recipe.yaml"), *(["--resume"] if resume else [])]

    return LocalRunner(words)


def note(ledger: Path, *words: object) -> None:
    """One line, in one write."""
    descriptor = os.open(ledger / LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, (" ".join(str(word) for word in words) + "\n").encode())
    os.close(descriptor)


def notes(ledger: Path) -> list[list[str]]:
    path = ledger / LEDGER
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def let_go(ledger: Path) -> None:
    """Held jobs go on, and others do not stop, until `hold_back`."""
    (ledger / OPEN).touch()


def hold_back(ledger: Path) -> None:
    (ledger / OPEN).unlink()


def said(ledger: Path, words: str) -> bool:
    """Whether any worker has said so."""
    return any(words in log.read_text() for log in ledger.glob("worker-*.log"))


def is_gone(number: int) -> bool:
    """Whether no process of that number runs any more."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def train(ledger: Path, config: Path, resume: bool) -> int:
    job = config.parent.name
    guard = os.open(ledger / job, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note(ledger, "overlap", job, os.getpid())
    recipe = yaml.safe_load(config.read_text())
    output = Path(recipe["output"])
    checkpoints, told = (
        output.with_name(output.name + end) for end in (".checkpoints", ".events.jsonl")
    )
    step = _last(checkpoints)
    if resume != (step > 0) or output.exists():
        note(ledger, "wrong", job, resume, step, output.exists())
    note(ledger, "start", job, step)

    asked = []
    manner = recipe["manner"]
    ignore = manner == "deaf"
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignore else lambda *_: asked.append(1))
    events.append(told, "start", step=step, total_steps=recipe["steps"])
    if manner == "fails":
        print("The photos are of no use: give others.", file=sys.stderr)
        return 1
    if manner == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    while step < recipe["steps"]:
        time.sleep(STEP_SECONDS)
        step += 1
        events.append(told, "step", step=step, loss=1 / step)
        if step % 3 == 0 or asked:
            _save(checkpoints, step)
            events.append(told, "checkpoint", step=step)
        while step == recipe["hold"] and not asked and not (ledger / OPEN).exists():
            time.sleep(STEP_SECONDS)
        if asked and step < recipe["steps"]:
            print("The run was ended; it can be resumed.", file=sys.stderr)
            return 143
    new = output.with_name(".new")
    new.mkdir(exist_ok=True)
    (new / "run.json").write_text("{}")
    os.replace(new, output)
    note(ledger, "done", job)
    events.append(told, "end", state="done", text="The run is done.")
    return 0


def _save(checkpoints: Path, step: int) -> None:
    folder = checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(NO_TENSORS)
    with (folder / "trainer_state.json").open("w") as file:  # torn, if killed in here
        file.write('{"step": ')
        file.flush()
        time.sleep(0.01)
        file.write(f"{step}}}")


def _last(checkpoints: Path) -> int:
    steps = [0]
    for state in checkpoints.glob("checkpoint-*/trainer_state.json"):
        try:
            steps.append(json.loads(state.read_text())["step"])
        except ValueError:
            continue
    return max(steps)


def limits(**changes: float) -> Any:
    """Quick where they say how often to look, and patient where they say when to give up."""
    from qvla.jobs.limits import Limits

    quick = {"heartbeat": 0.1, "recovery": 0.3, "idle": 0.05}
    quick |= {"grace": PATIENCE, "stale": PATIENCE}
    return Limits(**quick | changes)


def settings(jobs: Path, **changes: Any) -> Any:
    from qvla.settings import load_settings

    return load_settings(jobs=jobs, max_waiting_jobs=50, **changes)


def work(ledger: Path, once: bool, with_parent: bool, grace: float) -> None:
    from qvla.cli.worker import stop_with_parent
    from qvla.jobs.worker import Worker
    from qvla.jobs.worker import work as work_on
    from qvla.settings import load_settings

    logging.basicConfig(
        filename=ledger / f"worker-{os.getpid()}.log", level=logging.DEBUG, format="%(message)s"
    )
    if with_parent:
        threading.Thread(target=stop_with_parent, daemon=True).start()
    work_on(Worker(load_settings(), limits(grace=grace), command(ledger)), once=once)


def app(jobs: Path, number: int) -> None:
    """Submits jobs and watches them, as the app does; says which were accepted."""
    from qvla.jobs.service import Jobs

    service = Jobs(settings(jobs), limits())
    service.recover()
    while True:
        if number:
            print(service.submit(Plan(steps=12)).id, flush=True)
            number -= 1
        for job in service.all():
            service.events(job.id)
        time.sleep(0.15)


def host(jobs: Path, ledger: Path) -> None:
    """An app with a worker of its own, whose number it says."""
    from qvla.jobs.app_worker import AppWorker

    words = [sys.executable, "-m", "tests.support.toy_jobs", "work", str(ledger), "--with-parent"]
    worker = AppWorker(settings(jobs), words)
    last = None
    while True:
        if worker.pid != last:
            last = worker.pid
            print(last, flush=True)
        time.sleep(0.05)


def main() -> int | None:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    paths = {"train": ("ledger", "config"), "work": ("ledger",), "app": ("jobs",)}
    paths["host"] = ("jobs", "ledger")
    flags = {"train": ("--resume",), "work": ("--once", "--with-parent")}
    for verb, names in paths.items():
        own = verbs.add_parser(verb)
        for name in names:
            own.add_argument(name, type=Path)
        for flag in flags.get(verb, ()):
            own.add_argument(flag, action="store_true")
        if verb == "app":
            own.add_argument("number", type=int)
        if verb == "work":
            own.add_argument("--grace", type=float, default=PATIENCE)
    options = vars(parser.parse_args())
    return {"train": train, "work": work, "app": app, "host": host}[options.pop("verb")](**options)


if __name__ == "__main__":
    sys.exit(main())
