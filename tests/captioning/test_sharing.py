"""Comparing goes first: what holds the device, and for how long, with a real other process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qvla.captioning.sharing import captioning_turn
from qvla.tuning.run_events import StepTurns

HOLDER = """
import sys, time
from pathlib import Path
from qvla.tuning.run_events import StepTurns

turns = StepTurns(Path(sys.argv[1]))
turns.on_step_begin(None, None, None)
print("holding", flush=True)
time.sleep(60)
"""


def waits(path: Path, seconds: float) -> bool:
    """Whether a step of a fine-tune has to wait at least so long."""
    turns = StepTurns(path)
    done = threading.Event()

    def step() -> None:
        turns.on_step_begin(None, None, None)
        done.set()
        turns.on_step_end(None, None, None)

    threading.Thread(target=step, daemon=True).start()
    return not done.wait(seconds)


def test_a_step_waits_while_captions_are_made_and_captions_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    path = tmp_path / "locks" / "device.lock"
    with captioning_turn(path), captioning_turn(path):
        assert waits(path, 0.3)
    time.sleep(0.1)
    assert not waits(path, 5)


def test_a_caption_waits_for_the_step_under_way_even_of_a_process_that_dies(
    tmp_path: Path,
) -> None:
    path = tmp_path / "device.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline().strip() == "holding"
        began = threading.Event()

        def caption() -> None:
            with captioning_turn(path):
                began.set()

        threading.Thread(target=caption, daemon=True).start()
        assert not began.wait(0.5)
        process.kill()
        assert began.wait(10)
    finally:
        process.kill()
        process.wait()


def test_without_a_lock_file_nobody_waits() -> None:
    with captioning_turn(None):
        assert not waits(None, 5)


def test_where_the_lock_cannot_be_had_nobody_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No caption depends on the folder of jobs, where the lock lies."""
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file" / "device.lock", tmp_path, Path("/proc/qvla/device.lock")):
        with captioning_turn(place), captioning_turn(place):
            pass
    assert caplog.text.count("cannot be locked") == 3  # each is said once


def test_a_lock_file_that_may_only_be_read_is_held_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "device.lock"
    path.touch()
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        with captioning_turn(path):
            assert waits(path, 0.3)
    finally:
        tmp_path.chmod(0o755)
