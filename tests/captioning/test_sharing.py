"""Comparing goes first: what holds the device, and for how long, with a real other process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from qvla.captioning.sharing import captioning_turn
from qvla.tuning.run_events import StepTurns
from tests.support.waiting import PATIENCE

HOLDER = """
import sys
from pathlib import Path
from qvla.captioning.sharing import DeviceLock

DeviceLock(Path(sys.argv[1])).take(shared=False)  # as StepTurns does; that one imports a trainer
print("holding", flush=True)
sys.stdin.read()
"""
BLINK = 0.2  # seconds for what must not happen to happen; a busy machine only makes it less likely


class Waiting:
    """Something that has to wait for its turn, in a thread of its own."""

    def __init__(self, what: Callable[[], object]) -> None:
        self.begun, self.done = threading.Event(), threading.Event()
        self._what = what
        threading.Thread(target=self._run, daemon=True).start()
        assert self.begun.wait(PATIENCE)

    def _run(self) -> None:
        self.begun.set()
        self._what()
        self.done.set()


def step(path: Path | None) -> Waiting:
    """A step of a fine-tune."""
    turns = StepTurns(path)

    def both() -> None:
        turns.on_step_begin(None, None, None)
        turns.on_step_end(None, None, None)

    return Waiting(both)


def test_a_step_waits_while_captions_are_made_and_captions_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    path = tmp_path / "locks" / "device.lock"
    with captioning_turn(path), captioning_turn(path):
        waiting = step(path)
        assert not waiting.done.wait(BLINK)
    assert waiting.done.wait(PATIENCE)


def test_a_caption_waits_for_the_step_under_way_even_of_a_process_that_dies(
    tmp_path: Path,
) -> None:
    path = tmp_path / "device.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline().strip() == "holding"

        def caption() -> None:
            with captioning_turn(path):
                pass

        waiting = Waiting(caption)
        assert not waiting.done.wait(BLINK)
        process.kill()
        assert waiting.done.wait(PATIENCE)
    finally:
        process.kill()
        process.communicate()


def test_without_a_lock_file_nobody_waits() -> None:
    with captioning_turn(None):
        assert step(None).done.wait(PATIENCE)


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
            waiting = step(path)
            assert not waiting.done.wait(BLINK)
        assert waiting.done.wait(PATIENCE)
    finally:
        tmp_path.chmod(0o755)
