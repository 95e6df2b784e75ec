"""Real `qvla` commands beside this process: progress, failures, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from qvla.settings import child_environment
from qvla.ui import background
from qvla.ui.background import BusyError, State, Task, Tasks
from tests.support.serving import write_risc_folder
from tests.support.waiting import PATIENCE, until

ROWS = [("UCM", "val", f"{number}.png", ["a river ."]) for number in range(5)]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX's")


@pytest.fixture
def tasks() -> Iterator[Tasks]:
    tasks = Tasks()
    yield tasks
    tasks.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_risc_folder(tmp_path / "risc", ROWS)


@pytest.fixture
def endless(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that waits for predictions that never come, and has started another process.

    Python imports `sitecustomize` wherever it finds it; that stands in for what a benchmark starts.
    """
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text(
        "import subprocess\n"
        f"child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "own"))
    os.mkfifo(tmp_path / "predictions.jsonl")
    predictions = str(tmp_path / "predictions.jsonl")
    return ["score", "--predictions", predictions, "--references", str(data / "captions.csv")]


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def child_of(tmp_path: Path) -> int:
    file = tmp_path / "child"
    until(lambda: file.exists() and file.read_text())
    return int(file.read_text())


def leader(task: Task) -> int:
    [found] = [
        process.pid
        for process in psutil.Process().children()
        if os.getpgid(process.pid) == process.pid == task._process.pid
    ]
    return found


def test_progress_comes_through_to_the_end(tasks: Tasks, data: Path) -> None:
    task = tasks.start(["data", "check", str(data)], "A check")
    assert tasks.last is task and task.label == "A check"
    status = task.wait(PATIENCE)
    assert (status.state, status.done, status.total) == (State.DONE, 5, 5)
    assert "image" in status.what.lower() and status.message == ""


def test_a_failure_is_the_sentence_of_the_command(tasks: Tasks, data: Path) -> None:
    command = ["score", "--predictions", str(data / "no.jsonl"), "--references", str(data)]
    status = tasks.start(command).wait(PATIENCE)
    assert status.state is State.FAILED
    said = subprocess.run([sys.executable, "-m", "qvla", *command], capture_output=True, text=True)
    assert said.returncode == 2 and status.message == said.stderr.strip()
    assert "no.jsonl" in status.message and "\n" not in status.message
    unknown = tasks.start(["data", "check", str(data), "--no-such-option"]).wait(PATIENCE)
    assert unknown.state is State.FAILED and "--no-such-option" in unknown.message


def test_a_photo_left_out_is_no_failure(tasks: Tasks, data: Path) -> None:
    (data / "resized" / "3.png").write_bytes(b"no picture")
    status = tasks.start(["data", "check", str(data)]).wait(PATIENCE)
    assert status.state is State.DONE and status.done == 5


def test_there_is_one_at_a_time(tasks: Tasks, endless: list[str], data: Path) -> None:
    first = tasks.start(endless, "An endless scoring")
    with pytest.raises(BusyError, match=r"^An endless scoring is being measured right now: .*\.$"):
        tasks.start(["data", "check", str(data)])
    assert tasks.last is first and not first.status.over
    first.cancel()
    assert first.wait(PATIENCE).state is State.CANCELLED
    assert tasks.start(["data", "check", str(data)]).wait(PATIENCE).state is State.DONE


def test_cancelling_ends_what_the_command_started_too(
    tasks: Tasks, endless: list[str], tmp_path: Path
) -> None:
    task = tasks.start(endless)
    child, own = child_of(tmp_path), leader(task)
    assert not gone(child) and os.getpgid(child) == own
    task.cancel()
    assert task.wait(PATIENCE).state is State.CANCELLED
    until(lambda: gone(child) and gone(own))
    task.cancel()  # a second time is nothing
    assert task.status.state is State.CANCELLED


def test_a_command_that_does_not_listen_is_ended_by_force(
    tasks: Tasks, endless: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "GRACE_SECONDS", 0.5)
    task = tasks.start(endless)
    child, own = child_of(tmp_path), leader(task)
    os.kill(own, signal.SIGSTOP)
    task.cancel()
    assert task.wait(PATIENCE).state is State.CANCELLED
    until(lambda: gone(child) and gone(own))


def test_an_end_from_outside_is_told(tasks: Tasks, endless: list[str], tmp_path: Path) -> None:
    task = tasks.start(endless)
    child = child_of(tmp_path)
    os.kill(leader(task), signal.SIGKILL)
    status = task.wait(PATIENCE)
    assert status.state is State.FAILED and "SIGKILL" in status.message
    until(lambda: gone(child))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None], ids=str)
def test_no_process_outlives_the_app(
    endless: list[str], tmp_path: Path, end: signal.Signals | None
) -> None:
    """However the app ends: killed, asked to, or by itself; and from whichever thread it began."""
    code = (
        "import os, sys, threading, time\n"
        "from qvla.ui.background import TASKS\n"
        "starter = threading.Thread(target=TASKS.start, args=[sys.argv[1:]])\n"
        "starter.start(); starter.join()\n"
        "while os.path.exists(f'/proc/self/task/{starter.native_id}'): time.sleep(0.01)\n"
        "print(TASKS.last._process.pid, TASKS.last.status.over, flush=True)\n"
        "sys.stdin.read()\n"
    )
    app = subprocess.Popen(
        [sys.executable, "-c", code, *endless],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
        start_new_session=True,
    )
    with app:
        own, over = app.stdout.readline().split()
        assert over == "False"  # the thread that started it has ended, and it lives on
        until(lambda: len(psutil.Process(int(own)).children()) == 1)
        [child] = psutil.Process(int(own)).children()
        app.stdin.close() if end is None else app.send_signal(end)
        app.wait(PATIENCE)
    until(lambda: gone(int(own)) and gone(child.pid))
    os.killpg(app.pid, signal.SIGKILL)  # the app's own sleeper
