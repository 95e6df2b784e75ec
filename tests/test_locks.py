"""What a lock promises, with real other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qvla.jobs import lock
from qvla.locks import take, wait_for

HOLDER = """
import sys
from pathlib import Path
from qvla.locks import take, wait_for

path = Path(sys.argv[1])
held = take(path) if sys.argv[2] == "alone" else wait_for(path, shared=True)
{then}
print(held is not None, flush=True)
sys.stdin.read()
"""
HEIR = """
import subprocess
heir = subprocess.Popen(
    [sys.executable, "-c", "import sys; sys.stdin.read()"],
    stdin=int(sys.argv[3]), pass_fds=[held.descriptor], start_new_session=True,
)
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process that holds a lock until its standard input ends."""
    started: list[subprocess.Popen[str]] = []

    def holder(path: Path, how: str, then: str = "", **more: object) -> subprocess.Popen[str]:
        words = [str(one) for one in more.get("pass_fds", ())]
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER.format(then=then), str(path), how, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **more,
        )
        started.append(process)
        assert process.stdout.readline() == "True\n"
        return process

    yield holder
    for process in started:
        process.kill()
        process.communicate()


def test_one_holder_keeps_out_all_others_until_it_dies(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "lock"
    holder = start(path, "alone")
    assert take(path) is None and take(path, wait=0.05) is None
    holder.kill()
    holder.wait()
    with take(path) as held:
        assert held is not None and take(path) is None
    assert take(path) is not None


def test_many_share_a_lock_and_whoever_wants_it_alone_waits_for_the_last(
    tmp_path: Path, start: Start
) -> None:
    path = tmp_path / "lock"
    sharers = [start(path, "shared"), start(path, "shared")]
    taken = threading.Event()

    def alone() -> None:
        with wait_for(path, shared=False):
            taken.set()

    waiting = threading.Thread(target=alone)
    waiting.start()
    for sharer in sharers:
        assert not taken.is_set() and take(path) is None
        sharer.kill()
        sharer.wait()
    waiting.join(60)
    assert taken.is_set()


@pytest.mark.skipif(sys.platform == "win32", reason="there no process inherits a lock")
def test_a_process_that_inherits_a_lock_holds_it_after_its_parent_is_killed(
    tmp_path: Path, start: Start
) -> None:
    path = tmp_path / "lock"
    read, write = os.pipe()
    holder = start(path, "alone", HEIR, pass_fds=[read])
    os.close(read)
    holder.kill()
    holder.wait()
    assert take(path) is None
    os.close(write)  # which ends the heir
    assert take(path, wait=60) is not None


def test_a_lock_on_a_file_that_was_deleted_keeps_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with wait_for(path, shared=True) as held:
        path.unlink()
        with take(path) as anew:
            assert anew is not None and held is not None
            assert take(path) is None


def test_a_link_is_no_lock_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("kept")
    (tmp_path / "lock").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):
        take(tmp_path / "lock")


def test_who_holds_a_lock_signs_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert lock.signature(path) == ""
    with lock.take(path) as held:
        lock.sign(held.descriptor, "somebody with a long name")
        lock.sign(held.descriptor, "another")
        assert lock.signature(path) == "another"
